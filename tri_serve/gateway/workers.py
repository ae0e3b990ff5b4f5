"""The first process's side of its workers: start them, talk to them, replace them when they die."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from typing import Any

from tri_serve.gateway.config import CONTROL_LINE_LIMIT, GatewayConfig
from tri_serve.gateway.metrics import Totals
from tri_serve.gateway.roster import Roster

# One worker's reports: every second, and at once when somebody asks for metrics.
REPORT_SECONDS = 1.0
# Ending some thousand requests, with their error events, takes a worker well under a second.
END_SECONDS = 5.0
ENDINGS = ("ended", "retried", "refused")
# A worker that does not read what it is told (stopped, or long without a processor) is told no more rosters than
# this until it has caught up: the first process must not keep them all.
UNREAD_BYTES = 1024 * 1024
# A worker that dies at once is not started again at once; one that ran for a while is.
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
SOUND_AFTER_SECONDS = 10.0

log = logging.getLogger("tri_serve.gateway")


class WorkerProcess:
    """One worker as the first process sees it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.pid: int | None = None
        self.up = False
        self.last_report: dict[str, Any] = {}
        self.heard_at = 0.0
        """When it last said anything, or was started; loop time."""
        self.child: asyncio.subprocess.Process | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.behind = False
        """There is news of the roster that it was not told."""
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._asked = 0

    def send(self, message: dict[str, Any]) -> None:
        """Queue one message; nothing if the worker is not there."""
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def tell_roster(self, roster: list[dict[str, Any]]) -> None:
        """Tell how the replicas are now, or note that it is to be told later."""
        unread = self.writer.transport.get_write_buffer_size() if self.writer is not None else 0
        self.behind = unread > UNREAD_BYTES
        if not self.behind:
            self.send({"roster": roster})

    async def report(self, seconds: float) -> None:
        """Ask for fresh counts and wait for them, for at most ``seconds``; the last ones stay otherwise."""
        await self._ask("report", {}, seconds)

    async def end_replica(self, name: str, seconds: float) -> dict[str, Any]:
        """Have everything that runs on a replica end; how many of which ending, nothing if it does not say."""
        return await self._ask("ask", {"end": name}, seconds)

    async def _ask(self, key: str, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        if not self.up:
            return {}
        self._asked = number = self._asked + 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self.send({key: number, **message})
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            return {}
        finally:
            self._answers.pop(number, None)

    def silent_seconds(self, now: float) -> float:
        """How long nothing was heard of it; 0 for one that is not there, or still starts."""
        return max(0.0, now - self.heard_at) if self.up else 0.0

    def received(self, message: dict[str, Any]) -> None:
        """A report, another answer, or news."""
        self.heard_at = asyncio.get_running_loop().time()
        if "metrics" in message:
            self.last_report = message
        answer = self._answers.get(message.get("answer", 0))
        if answer is not None and not answer.done():
            answer.set_result(message)
        if message.get("up"):
            self.up = True

    def forget(self) -> None:
        """The process is gone."""
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result({})
        self.up = False
        self.behind = False
        self.pid = None
        self.child = None
        self.writer = None
        self.last_report = {}


class Workers:
    """All workers of one gateway."""

    def __init__(self, config: GatewayConfig, listen_fd: int, roster: Roster) -> None:
        self._config = config
        self._listen_fd = listen_fd
        self._roster = roster
        self._tasks: list[asyncio.Task[None]] = []
        self._draining: float | None = None
        self.processes = [WorkerProcess(index) for index in range(config.workers)]
        self.departed = Totals()
        self.restarts = 0

    def start(self) -> None:
        """Start every worker and keep it there."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(process)) for process in self.processes]
        self._reporter = loop.create_task(self._collect())

    def tell_roster(self) -> None:
        """Pass the roster's present state on."""
        roster = self._roster.as_json()
        for process in self.processes:
            process.tell_roster(roster)

    async def fresh_reports(self) -> None:
        """Have every worker report now; a worker that is too busy is left with its last report."""
        await asyncio.gather(*(process.report(0.5) for process in self.processes))

    async def end_replica(self, name: str) -> dict[str, int]:
        """Have every worker end what runs on a replica; how many of which ending."""
        answers = await asyncio.gather(
            *(process.end_replica(name, END_SECONDS) for process in self.processes if process.up)
        )
        if not all(answers):
            log.warning("not every worker said what it ended on %s", name)
        return {ending: sum(answer.get(ending, 0) for answer in answers) for ending in ENDINGS}

    async def drain(self, seconds: float) -> None:
        """Tell every worker to stop and wait until they have."""
        self._draining = seconds
        for process in self.processes:
            process.send({"drain": seconds})
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._reporter.cancel()
        await asyncio.gather(self._reporter, return_exceptions=True)

    async def _collect(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(REPORT_SECONDS)
            if loop.time() - before > 2 * REPORT_SECONDS:
                # This process was held up itself: what the workers said meanwhile is still to be read.
                for process in self.processes:
                    process.heard_at = loop.time()
            await self.fresh_reports()
            for process in self.processes:
                if process.behind:
                    process.tell_roster(self._roster.as_json())
                self._end_if_stuck(process)

    def _end_if_stuck(self, process: WorkerProcess) -> None:
        """A worker that says nothing serves nobody, but holds its connections: its clients are better told."""
        silent = process.silent_seconds(asyncio.get_running_loop().time())
        if silent > self._config.worker_silence and process.child is not None:
            log.error("worker %d has said nothing for %.0f s: ending it", process.index, silent)
            process.child.kill()

    async def _keep(self, process: WorkerProcess) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE_SECONDS
        while self._draining is None:
            started = loop.time()
            try:
                code = await self._run(process)
            except OSError as error:
                log.error("worker %d could not be started: %s", process.index, error)  # noqa: TRY400
                code = -1
            if process.last_report:
                self.departed.add(process.last_report["metrics"])
            process.forget()
            if self._draining is not None:
                return
            self.restarts += 1
            log.error("worker %d ended with %d; starting another", process.index, code)
            if loop.time() - started >= SOUND_AFTER_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _run(self, process: WorkerProcess) -> int:
        ours, theirs = socket.socketpair()
        with theirs:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tri_serve.gateway.worker",
                "--listen-fd",
                str(self._listen_fd),
                "--control-fd",
                str(theirs.fileno()),
                pass_fds=(self._listen_fd, theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
            )
        process.pid, process.child = child.pid, child
        process.heard_at = asyncio.get_running_loop().time()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=CONTROL_LINE_LIMIT)
        process.writer = writer
        writer.write(self._config.model_dump_json().encode() + b"\n")
        process.send({"roster": self._roster.as_json()})
        if self._draining is not None:
            process.send({"drain": self._draining})
        try:
            while line := await reader.readline():
                message = json.loads(line)
                process.received(message)
                if "doubted" in message:
                    self._roster.look_at(message["doubted"])
        except (ConnectionError, ValueError) as error:
            log.warning("worker %d's control channel broke: %s", process.index, error)
        finally:
            writer.close()
        return await child.wait()
