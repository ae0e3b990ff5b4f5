"""The supervisor's control socket: one JSON line asks; lines of progress and one result answer.

``{"command": "status"}`` → ``{"progress": "…"}`` any number of times, then ``{"result": …}`` or
``{"error": {…}}``. While a command runs, ``{"alive": true}`` comes every second: whoever asks can tell a
long drain from a supervisor that hangs. The socket is the user's alone, so who can connect may command.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from tri_serve import errors
from tri_serve.errors import FleetError, TriServeError
from tri_serve.fleet.state import ErrorState

LINE_LIMIT = 1_048_576
HEARTBEAT = 1.0
SILENCE = 5.0
"""Seconds without a line after which a supervisor counts as hanging."""
Progress = Callable[[str], None]
Command = Callable[[Mapping[str, Any], Progress], Awaitable[Any]]
log = logging.getLogger(__name__)


class ControlServer:
    """Answers commands on a UNIX socket."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self._path = path
        self._commands = commands
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. The caller holds the release's lock, so a socket that is there already is a dead one's."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=LINE_LIMIT)
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Stop listening; answers under way are finished by their own tasks."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(answer: Mapping[str, Any]) -> None:
            if writer.is_closing():  # nobody listens any more
                return
            writer.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")

        async def beat() -> None:
            while not writer.is_closing():
                await asyncio.sleep(HEARTBEAT)
                say({"alive": True})

        heart = asyncio.create_task(beat(), name="control heartbeat")
        try:
            request = json.loads(await reader.readline())
            command = self._commands[request.pop("command")]
            say({"result": await command(request, lambda line: say({"progress": line}))})
            await writer.drain()
        except TriServeError as error:
            say({"error": ErrorState.of(error).model_dump()})
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            log.warning("a command that was not understood: %r", error)
            say({"error": ErrorState(message=f"the supervisor did not understand: {error!r}").model_dump()})
        except ConnectionError:
            pass  # the asker left; what it asked for has been done or goes on
        except OSError as error:
            log.warning("a command failed: %s", error)
            say({"error": ErrorState(message=f"the supervisor met: {error}").model_dump()})
        finally:
            heart.cancel()
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()


def as_exception(state: ErrorState) -> TriServeError:
    """The error that the supervisor met, as an exception of the same kind."""
    kinds = {
        kind.exit_code: kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, TriServeError) and kind is not errors.MissingExtraError
    }
    kind = kinds.get(state.exit_code, TriServeError)
    if kind in (errors.EngineStartError, errors.GatewayStartError):
        return kind(state.message, hint=state.hint, log_tail=state.log_tail)
    return kind(state.message, hint=state.hint)


def ask(
    path: Path,
    command: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    silence: float = SILENCE,
    progress: Progress | None = None,
) -> Any:
    """Send one command and wait for its result, however long it takes, but no longer than ``silence`` for a line.

    Raises what the supervisor raised, or FleetError if it does not answer.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(silence)
            connection.connect(str(path))
            connection.sendall(json.dumps({**(arguments or {}), "command": command}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise as_exception(ErrorState.model_validate(answer["error"]))
                    if "result" in answer:
                        return answer["result"]
                    if progress is not None and "progress" in answer:
                        progress(answer["progress"])
    except (OSError, ValueError) as error:
        raise FleetError(f"the supervisor does not answer at {path}: {error}") from error
    raise FleetError(f"the supervisor at {path} ended before it answered")
