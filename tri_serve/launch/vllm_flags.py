"""Which flags of vLLM a spec's ``extra_args`` may not hold, and what to write instead."""

from __future__ import annotations

from collections.abc import Sequence

from tri_serve.errors import LaunchError

# Flag → the spec key that says the same. All of them are set by the launch config.
SPEC_KEYS = {
    "--model": "model.source",
    "--revision": "model.revision",
    "--served-model-name": "model.served_name",
    "--max-model-len": "model.max_model_len",
    "--quantization": "model.quantization",
    "--trust-remote-code": "model.trust_remote_code",
    "--dtype": "engine.dtype",
    "--gpu-memory-utilization": "engine.gpu_memory_utilization",
    "--tensor-parallel-size": "engine.tensor_parallel_size",
    "--kv-cache-dtype": "engine.kv_cache_dtype",
    "--max-num-seqs": "engine.max_num_seqs",
    "--max-num-batched-tokens": "engine.max_num_batched_tokens",
    "--shutdown-timeout": "engine.shutdown_timeout",
}
SHORT = {"-q": "--quantization", "-tp": "--tensor-parallel-size"}

# Flag → why no spec key stands for it.
OURS = {
    "--host": "engines listen on loopback, behind the gateway: set gateway.host",
    "--port": "tri-serve gives each engine a free port: set gateway.port for clients",
    "--uds": "the gateway reaches engines by TCP",
    "--ssl-keyfile": "the gateway reaches engines on loopback, without TLS",
    "--ssl-certfile": "the gateway reaches engines on loopback, without TLS",
    "--root-path": "the gateway asks engines for /v1/… as it is",
    "--headless": "an engine without an HTTP server cannot be a replica",
    "--api-key": (
        "every user of the machine can read a process's arguments; each fleet makes its engines' key itself, "
        "and gateway.keys_file holds the clients' keys"
    ),
    "--hf-token": "every user of the machine can read a process's arguments: set HF_TOKEN in engine.env",
    "--enable-prompt-tokens-details": "it is always set",
    "--disable-uvicorn-access-log": "it is always set: the gateway keeps the access log",
}

# Flag → what replaced it. Gone from vLLM 0.29, which refuses to start with them.
GONE = {
    "--disable-log-requests": "requests are not logged unless --enable-log-requests is given: leave it out",
    "--task": "use --runner or --convert",
    "--rope-scaling": "use --hf-overrides '{\"rope_parameters\": …}'",
    "--rope-theta": "use --hf-overrides '{\"rope_parameters\": …}'",
    "--guided-decoding-backend": "use --structured-outputs-config '{\"backend\": …}'",
    "--enable-reasoning": "--reasoning-parser alone is enough",
    "--max-seq-len-to-capture": "use --max-cudagraph-capture-size",
    "--swap-space": "preempted requests are computed again: leave it out",
    "--preemption-mode": "preempted requests are computed again: leave it out",
    "--num-scheduler-steps": "scheduling is asynchronous by default: leave it out",
    "--device": "set engine.device",
    "--worker-use-ray": "use --distributed-executor-backend ray",
    "--use-v2-block-manager": "there is only one block manager now: leave it out",
    "--num-lookahead-slots": "use --speculative-config '{\"num_speculative_tokens\": …}'",
    "--calculate-kv-scales": "scales come from the checkpoint: leave it out",
}


def check_extra_args(extra_args: Sequence[str]) -> None:
    """Refuse flags that tri-serve sets itself, that show a secret, or that vLLM no longer has.

    vLLM takes ``--max_model_len`` for ``--max-model-len`` and any unambiguous beginning of a flag; so does
    this. Raises LaunchError with every such flag and what to write instead.
    """
    found = [
        _complaint(argument.partition("=")[0], flag)
        for argument in extra_args
        if (flag := _normalized(argument))
    ]
    problems = list(dict.fromkeys(words for words in found if words is not None))
    if len(problems) == 1:
        raise LaunchError(f"engine.extra_args: {problems[0]}")
    if problems:
        lines = "\n  ".join(problems)
        raise LaunchError(f"engine.extra_args: {len(problems)} flags that cannot stand there:\n  {lines}")


def _complaint(written: str, flag: str) -> str | None:
    """What is wrong with a flag; None if nothing is."""
    if meant := _find(flag, SPEC_KEYS):
        return f"{written} belongs in {SPEC_KEYS[meant]}"
    if meant := _find(flag, OURS):
        return f"{written} cannot be given: {OURS[meant]}"
    if flag in GONE:
        return f"vLLM no longer has {written}: {GONE[flag]}"
    return None


def has_flag(extra_args: Sequence[str], *flags: str) -> bool:
    """Whether ``extra_args`` hold one of ``flags``, in whichever spelling."""
    return any(_normalized(argument) in flags for argument in extra_args)


def _normalized(argument: str) -> str | None:
    """The flag's canonical spelling; None for a value."""
    name = argument.partition("=")[0]
    if name in SHORT:
        return SHORT[name]
    # The short form of -tp=2 and -q awq; -tp2 is no form that argparse takes for a two-letter flag.
    if not name.startswith("--") or len(name) < 3:
        return None
    return name.replace("_", "-")


def _find(flag: str, known: dict[str, str]) -> str | None:
    """``flag`` itself, or the flag of ``known`` that it abbreviates (none of vLLM's begins one of these)."""
    if flag in known:
        return flag
    # Shorter than --uds nothing is unambiguous.
    return next((name for name in known if name.startswith(flag)), None) if len(flag) > 4 else None
