"""Why an engine failed, from the end of its log: the one telling line, and what to do about it."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

# "(EngineCore pid=8756) ERROR 11-23 07:07:17 [core.py:133] "
_PREFIX = re.compile(
    r"^(\(\w[\w -]*pid=\d+\) ?)?((ERROR|INFO|WARNING|CRITICAL) \d\d-\d\d [\d:]+ \[[^]]+\] ?)?"
)
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Warning|Interrupt|Exit|NotFound)\b: \S")
_FATAL = re.compile(
    r"(^|: )(fatal )?error: \S|^Fatal Python error|^\S+: (No module named |Error while finding module)",
    re.IGNORECASE,
)

# Raised by one process because of another's failure: the cause stands further up.
_FOLLOWING = (
    "Engine core initialization failed",
    "Executor failed",
    "WorkerProc initialization failed",
    "Worker failed",
    "Worker proc",
    "EngineCore encountered",
    "EngineDeadError",
    "Failed core proc",
    "cancelled",
)
_WARNING = re.compile(r"^[\w.]*Warning: ")

# What the line says → what to do. The first that fits counts.
_HINTS: tuple[tuple[str, str], ...] = (
    (r"address already in use", "another program took the engine's port: start again"),
    (
        r"No module named '?vllm\b",
        "this Python has no vllm: `tri-serve engine install`, or set engine.python to one that has",
    ),
    (r"No package metadata was found for vllm", "`tri-serve engine check` says what is missing"),
    (
        r"torchvision::nms|libcudart|libtorch_cuda",
        "a CUDA build of torchvision, torchaudio or torchcodec sits beside a CPU torch: `tri-serve engine check`",
    ),
    (
        r"on kv cache\s+allocation is less|is less than requested memory for kv",
        "lower engine.cpu_kv_cache_gib, or free memory",
    ),
    (
        r"out of memory|OutOfMemory|less than desired GPU memory utilization|No available memory for the cache",
        "lower engine.gpu_memory_utilization if others use the GPU; else engine.max_num_batched_tokens or "
        "model.max_model_len",
    ),
    (
        r"KV cache is needed, which is larger|maximum number of tokens that can be stored in KV cache|max seq len",
        "lower model.max_model_len, or give the KV cache more memory",
    ),
    (
        r"Cannot allocate memory|MemoryError|bad_alloc|DefaultCPUAllocator",
        "the machine's memory does not suffice",
    ),
    (r"No space left on device", "the disk is full, or /dev/shm is too small"),
    (r"unrecognized arguments|invalid choice|expected one argument", "see engine.extra_args"),
    (r"driver on your system is too old|CUDA driver version is insufficient", "`tri-serve engine check`"),
    (
        r"quantization method|Unknown quantization|does not support quantization|is not supported for quantization",
        "leave model.quantization at auto, or name what config.json says",
    ),
    (
        r"trust_remote_code|trust-remote-code",
        "the checkpoint brings its own code: see model.trust_remote_code",
    ),
    (r"are not supported for now|not supported by vLLM", "this vLLM does not know the model's architecture"),
    (r"PermissionError|Permission denied", "check the owner and mode of the file that is named"),
)


def last_words(lines: Sequence[str]) -> str | None:
    """The line that tells the cause best: the last error that is not merely another one's consequence."""
    stripped = [_PREFIX.sub("", line).strip() for line in lines]
    fallback = None
    for index in range(len(stripped) - 1, -1, -1):
        line = stripped[index]
        if not (_EXCEPTION.match(line) or _FATAL.search(line)) or _WARNING.match(line):
            continue
        if any(words in line for words in _FOLLOWING):
            fallback = fallback or line
            continue
        if "validation error" in line and index + 1 < len(stripped):
            # pydantic says what is wrong in the line below.
            line = f"{line}: {stripped[index + 1]}"
        return line.partition(" [type=")[0]
    return fallback


def hint_for(words: str) -> str | None:
    """The next step for a known failure."""
    return next((hint for pattern, hint in _HINTS if re.search(pattern, words, re.IGNORECASE)), None)


def describe_exit(status: int) -> str:
    """A program's end for people; ``status`` as subprocess gives it."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    if -status == signal.SIGKILL:
        return f"was killed ({name}): by hand, or because the machine ran out of memory"
    return f"was killed ({name})"
