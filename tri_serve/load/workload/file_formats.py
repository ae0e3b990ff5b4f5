"""What the files of prompts hold, read with bounds: an item, or in a few words why it is none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tri_serve.errors import UsageError
from tri_serve.load.regular import open_regular
from tri_serve.load.workload.items import Route
from tri_serve.load.workload.setting import CHAT, COMPLETIONS, asked

MOST_BYTES = 2 * 1024**3
"""ShareGPT's cleaned file has 670 MB; JSON takes some times its size in memory."""
_MOST_LINE = 64 * 1024**2

NO_JSON = "not JSON"
NO_REQUEST = "no request"
EMPTY = "empty"
SEVERAL = "asking for several answers"

_CLIENTS_OWN = frozenset({"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"})
"""Keys of a body that the client or the scenario decides on."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One item of a file. Its answer's length is ``output``, or that of ``answer``; else the file does not say."""

    route: Route
    body: dict[str, Any]
    output: int | None = None
    answer: str | None = None


def read_sharegpt(path: Path, route: Route) -> Iterator[Asked | str]:
    """A JSON list of ``{"conversations": [{"from", "value"}, …]}``: the first message is asked, and the answer is
    as long as the second, as vLLM's benchmark has it (vllm/benchmarks/datasets.py 0.32, ``ShareGPTDataset``).

    Raises UsageError for a file that cannot be read or is no such list.
    """
    try:
        entries = json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(entries, list):
        raise UsageError(f"{path}: not a ShareGPT file: that is a list of objects with the key conversations")
    for entry in entries:
        turns = entry.get("conversations") if isinstance(entry, Mapping) else None
        if (
            not isinstance(turns, list)
            or len(turns) < 2
            or not all(isinstance(turn, Mapping) for turn in turns)
        ):
            yield "without a question and an answer"
            continue
        question, answer = (turn.get("value") for turn in turns[:2])
        if not isinstance(question, str) or not isinstance(answer, str):
            yield "without a question and an answer"
        elif not question.strip() or not answer.strip():
            yield EMPTY
        else:
            yield Asked(route, asked(route, question), answer=answer)


def read_openai(path: Path) -> Iterator[Asked | str]:
    """JSON lines: bodies of requests, or lines of OpenAI's batch files (``{"custom_id", "url", "body"}``).

    Raises UsageError for a file that cannot be read.
    """
    for line in json_lines(path):
        body = line.get("body", line) if isinstance(line, Mapping) else line
        yield line if isinstance(line, str) else _request(body)


def json_lines(path: Path) -> Iterator[Any]:
    """What stands on each line that is not empty; ``NO_JSON`` for a line that is none.

    Raises UsageError for a file that cannot be read.
    """
    try:
        with open_regular(path) as file:
            while line := file.readline(_MOST_LINE):
                if file.tell() > MOST_BYTES:
                    raise UsageError(f"{path}: larger than {MOST_BYTES // 1024**3} GiB")
                if line.strip():
                    yield _parsed(line)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error


def _parsed(line: bytes) -> Any:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return NO_JSON
    # A string would be taken for a reason.
    return None if isinstance(value, str) else value


def _request(body: Any) -> Asked | str:
    if not isinstance(body, Mapping):
        return NO_REQUEST
    if body.get("n", 1) != 1:
        return SEVERAL
    if isinstance(body.get("prompt"), str):
        route: Route = COMPLETIONS
        texts: list[Any] = [body["prompt"]]
    elif _are_messages(body.get("messages")):
        route = CHAT
        texts = [message.get("content") for message in body["messages"]]
    else:
        return NO_REQUEST
    if not any(not isinstance(text, str) or text.strip() for text in texts):
        return EMPTY
    output = body.get("max_completion_tokens", body.get("max_tokens"))
    kept = {key: value for key, value in body.items() if key not in _CLIENTS_OWN}
    return Asked(route, kept, output=output if isinstance(output, int) else None)


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(message, Mapping) and isinstance(message.get("role"), str) for message in value)
    )


def _bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path}: larger than {MOST_BYTES // 1024**3} GiB")
    return data
