"""Asking the bridge, from the supervisor's loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tri_serve.errors import FleetError
from tri_serve.fleet.control import LINE_LIMIT, SILENCE, as_exception
from tri_serve.fleet.state import ErrorState


class BridgeLostError(FleetError):
    """Nobody answers for Ray: the bridge is gone, or not there yet. What it has deployed may be well."""


def refused(lines: Iterable[str]) -> str | None:
    """Why a cluster lets nobody in, from what Ray's client has logged; None if it has not refused.

    Ray itself goes on trying for half a minute then, and says only that it failed.
    """
    if any("InvalidAuthToken" in line for line in lines):
        return (
            "it asks for a token, and there is none here or another one: set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH=FILE as on its nodes"
        )
    return None


async def ask_bridge(
    path: Path, command: str, *, progress: Callable[[str], None] | None = None, **arguments: Any
) -> Any:
    """Send one command and wait for its result, however long it takes, but no longer than SILENCE for a line.

    Raises FleetError with what the other side raised, or BridgeLostError if it does not answer.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=LINE_LIMIT)
        writer.write(json.dumps({**arguments, "command": command}).encode() + b"\n")
        while True:
            # Not wait_for: before Python 3.12 it can swallow a cancellation that comes with the line, and a part
            # that is stopped would wait for its task for ever (https://github.com/python/cpython/issues/86296).
            async with asyncio.timeout(SILENCE):
                line = await reader.readline()
            if not line:
                break
            answer = json.loads(line)
            if "error" in answer:
                raised = as_exception(ErrorState.model_validate(answer["error"]))
                # Those who follow an agent wait for its return after a FleetError; any other would end them.
                raise (
                    raised if isinstance(raised, FleetError) else FleetError(raised.message, hint=raised.hint)
                )
            if "result" in answer:
                return answer["result"]
            if progress is not None and "progress" in answer:
                progress(answer["progress"])
    except (OSError, ValueError) as error:
        raise BridgeLostError(f"Ray's side does not answer: {error or type(error).__name__}") from error
    finally:
        if writer is not None:
            writer.close()
    raise BridgeLostError("Ray's side ended before it answered")
