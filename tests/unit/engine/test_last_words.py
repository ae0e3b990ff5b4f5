from __future__ import annotations

import pytest

from tri_serve.engine.last_words import describe_exit, hint_for, last_words

WORKER_FAILS = """\
(Worker pid=12) ERROR 11-23 07:07:24 [multiproc_executor.py:900] WorkerProc failed to start.
(Worker pid=12) ERROR 11-23 07:07:24 [multiproc_executor.py:900] Traceback (most recent call last):
(Worker pid=12) ERROR 11-23 07:07:24 [multiproc_executor.py:900]     raise ValueError(
(Worker pid=12) ERROR 11-23 07:07:24 [multiproc_executor.py:900] ValueError: Available memory on node 0 (2.0/8.3 GiB) on kv cache allocation is less than requested memory for kv (64.0 GiB).
(EngineCore pid=11) ERROR 11-23 07:07:25 [core.py:1000] Exception: WorkerProc initialization failed due to an exception in a background process.
(APIServer pid=10) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
/usr/lib/python3.11/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked shared_memory objects
  warnings.warn('resource_tracker: There appear to be %d '
"""  # noqa: E501 - as vLLM writes it


def test_the_cause_is_found_above_the_errors_that_follow_from_it() -> None:
    words = last_words(WORKER_FAILS.splitlines())
    assert words is not None
    assert words.startswith("ValueError: Available memory on node 0")


def test_only_a_following_error_is_better_than_nothing() -> None:
    assert last_words(["x", "RuntimeError: Executor failed."]) == "RuntimeError: Executor failed."


def test_pydantic_s_second_line_says_what_is_wrong() -> None:
    lines = [
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "  Value error, User-specified max_model_len (99999) is greater than 8192 [type=value_error]",
        "    For further information visit https://errors.pydantic.dev/2/v/value_error",
    ]
    words = last_words(lines)
    assert words is not None
    assert words.endswith("User-specified max_model_len (99999) is greater than 8192")


@pytest.mark.parametrize(
    "line",
    [
        "main.py: error: unrecognized arguments: --foo",
        "/usr/bin/python3: No module named vllm",
        "/usr/bin/python3: Error while finding module specification for 'vllm.entrypoints.cli.main' "
        "(ModuleNotFoundError: No module named 'vllm')",
        "error: bad thing",
    ],
)
def test_errors_that_are_no_exceptions_are_found(line: str) -> None:
    assert last_words(["usage: main.py [-h]", line, ""]) == line


def test_a_log_without_an_error_has_no_last_words() -> None:
    lines = [
        "(APIServer pid=1) INFO 11-23 07:07:02 [a.py:1] hello",
        "x.py:138: FutureWarning: y is deprecated",
    ]
    assert last_words(lines) is None


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("OSError: [Errno 98] Address already in use", "start again"),
        ("/p: No module named vllm", "engine.python"),
        ("ModuleNotFoundError: No module named 'vllm'", "engine.python"),
        ("RuntimeError: operator torchvision::nms does not exist", "engine check"),
        (
            "ValueError: Available memory on node 0 on kv cache allocation is less than …",
            "engine.cpu_kv_cache_gib",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried …", "gpu_memory_utilization"),
        (
            "ValueError: To serve at least one request …, 9 GiB KV cache is needed, which is larger than …",
            "max_model_len",
        ),
        ("main.py: error: unrecognized arguments: --foo", "engine.extra_args"),
        ("ValueError: Unknown quantization method: x", "model.quantization"),
        ("ValueError: Model architectures ['X'] are not supported for now.", "architecture"),
    ],
)
def test_a_known_failure_comes_with_what_to_do(words: str, hint: str) -> None:
    found = hint_for(words)
    assert found is not None
    assert hint in found


def test_an_unknown_failure_has_no_hint() -> None:
    assert hint_for("ZeroDivisionError: division by zero") is None


@pytest.mark.parametrize(
    ("status", "words"),
    [(3, "exited with status 3"), (-15, "was killed (SIGTERM)"), (-9, "ran out of memory")],
)
def test_an_exit_status_is_told_in_words(status: int, words: str) -> None:
    assert words in describe_exit(status)
