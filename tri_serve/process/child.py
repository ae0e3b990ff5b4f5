"""One child process, with everything that descends from it, under a guard (see guard.py)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tri_serve.errors import SpawnError
from tri_serve.process import logs
from tri_serve.process.guard import KILL_PATIENCE
from tri_serve.process.strays import MARKER, sweep

_GUARD = Path(__file__).with_name("guard.py")
GUARD = f"{_GUARD.parent.name}/{_GUARD.name}"
"""Stands in the command line of every guard."""
LEFTOVER_GRACE = 1.0
"""Seconds that processes which the program left behind have to end."""
ORPHAN_GRACE = 3.0
"""Seconds that a child has to end when its parent is gone: nobody waits for what it does any more."""
_GUARD_PATIENCE = KILL_PATIENCE + 5.0
"""Seconds past the grace until a guard that has not ended is itself given up."""


def child_token(environ: Mapping[str, str] = os.environ) -> str:
    """A new token. It extends the caller's own, so that sweeping a parent's token finds its children too."""
    own = environ.get(MARKER)
    return f"{own}.{secrets.token_hex(4)}" if own else secrets.token_hex(8)


class Child:
    """A running program. Made by `spawn`; ended by `stop`, or with this process, however that ends."""

    def __init__(self, guard: Process, control: int, *, name: str, log: Path, token: str, since: int) -> None:
        self.name = name
        self.log = log
        self.token = token
        self.pid = 0
        self.returncode: int | None = None
        self._guard = guard
        self._guard_pid = 0
        self._control = control
        self._since = since
        self._clean = False
        self._ended: asyncio.Task[int] | None = None
        self._program_ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        name: str,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        token: str | None = None,
        leftover_grace: float = LEFTOVER_GRACE,
        orphan_grace: float = ORPHAN_GRACE,
        nice: int = 0,
    ) -> Self:
        """Start ``argv`` with the environment ``env`` and the marker; output is appended to ``log``.

        ``pass_fds`` keep their numbers in the program. What it leaves behind when it ends is sent a TERM, and
        a KILL after ``leftover_grace`` seconds; if this process dies, everything is, with ``orphan_grace``.
        ``nice``: how far the program stands back, on top of this process's own niceness.
        Raises SpawnError if it cannot be executed.
        """
        token = token or child_token(os.environ | env)
        # setproctitle (vLLM uses it) overwrites the environment that /proc shows, unless told not to; the
        # marker would be lost with it.
        full = {**env, MARKER: token, "SPT_NOENV": "1"}
        output = logs.open_log(log)
        since = logs.size_of(log)
        control_reader, control = os.pipe()
        report, report_writer = os.pipe()
        try:
            guard = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(_GUARD),
                str(control_reader),
                str(report_writer),
                str(leftover_grace),
                str(orphan_grace),
                str(nice),
                *argv,
                env=full,
                cwd=cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(control_reader, report_writer, *pass_fds),
                start_new_session=True,
            )
        except OSError as error:
            os.close(control)
            os.close(report)
            raise SpawnError(f"{name}: cannot start {argv[0]}: {error.strerror}") from error
        except asyncio.CancelledError:
            os.close(control)  # if a guard came to be, this ends it
            os.close(report)
            raise
        finally:
            os.close(output)
            os.close(control_reader)
            os.close(report_writer)
        child = cls(guard, control, name=name, log=log, token=token, since=since)
        await child._begin(report, argv[0])
        return child

    async def _begin(self, report: int, program: str) -> None:
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(report, "rb", buffering=0)
        )
        try:
            word, _, value = (await lines.readline()).decode().partition(" ")
        except asyncio.CancelledError:
            self._close_control()
            transport.close()
            raise
        if word == "pid":
            self.pid, self._guard_pid = map(int, value.split())
            self._ended = asyncio.create_task(self._watch(lines, transport), name=f"watch {self.name}")
            return
        transport.close()
        self._close_control()
        await self._guard.wait()
        if word == "error":
            raise SpawnError(f"{self.name}: cannot execute {program}: {os.strerror(int(value))}")
        raise SpawnError(f"{self.name}: the guard of {program} ended at once: {' / '.join(self.tail(3))}")

    async def _watch(self, lines: asyncio.StreamReader, transport: asyncio.ReadTransport) -> int:
        """Until nothing of the child is left."""
        status: int | None = None
        async for line in lines:
            word, _, value = line.decode().partition(" ")
            if word == "exit":
                status = int(value)
                self._program_ended.set_result(status)
            elif word == "done":
                self._clean = True
        transport.close()
        guard_status = await self._guard.wait()
        self._close_control()
        if not self._clean:  # the guard was killed: the program went with it, but perhaps not all below
            await sweep(self.token, grace=0.0)
        self.returncode = guard_status if status is None else status
        if not self._program_ended.done():
            self._program_ended.set_result(self.returncode)
        return self.returncode

    def _close_control(self) -> None:
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def _tell(self, line: str) -> None:
        if self._control >= 0:
            with contextlib.suppress(BrokenPipeError):  # it has ended meanwhile; _watch will see that
                os.write(self._control, line.encode() + b"\n")

    def _watching(self) -> asyncio.Task[int]:
        assert self._ended is not None, "made by spawn"
        return self._ended

    async def wait(self) -> int:
        """Until the program and all below it have ended; its exit code, or minus a signal's number."""
        return await asyncio.shield(self._watching())

    async def wait_program(self) -> int:
        """Until the program itself has ended, whatever it left behind; its exit code, as `wait` gives it."""
        return await asyncio.shield(self._program_ended)

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the program alone; nothing happens if it has ended."""
        self._tell(f"signal {number.value}")

    async def stop(self, *, grace: float) -> int:
        """SIGTERM to the program, SIGKILL to all after ``grace`` seconds; returns when all are gone.

        May be called again, with a shorter grace. Once begun, it is done even if the caller is cancelled.
        """
        self._tell(f"stop {max(0.0, grace):.3f}")
        try:
            return await asyncio.wait_for(asyncio.shield(self._watching()), grace + _GUARD_PATIENCE)
        except TimeoutError:
            # Its pid stays its own until the process that waits for it has ended.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._guard_pid, signal.SIGKILL)
            return await self.wait()

    def tail(self, lines: int) -> tuple[str, ...]:
        """The last non-empty lines that this child wrote to its log."""
        return logs.tail(self.log, lines, since=self._since)
