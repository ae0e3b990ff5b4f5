"""One engine: from its launch config to a server that answers, and to its end."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from tri_serve.engine.cores import engine_processes
from tri_serve.engine.http import Answer, NoAnswerError, ask
from tri_serve.engine.last_words import describe_exit, hint_for, last_words
from tri_serve.engine.log_facts import LogFacts
from tri_serve.errors import EngineStartError
from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.inherited import inherited_environment
from tri_serve.process.child import Child
from tri_serve.process.strays import ProcessIdentity, identify, is_alive

_POLL_SECONDS = 0.2
"""Between two looks at a starting engine's port and log, and at a running engine's processes."""

_HEALTH_SECONDS = 10.0
"""Between two health probes of a running engine."""

_HEALTH_TIMEOUT = 30.0
"""A saturated engine answers /health late (seen with vLLM): slow is not dead."""

_START_PROBE_TIMEOUT = 5.0
"""The same while it starts: a server that is up has nothing else to do."""

_REFUSALS = 3
"""Health probes in a row that find no server, while the process lives, until it counts as dead."""

_DYING_SECONDS = 10.0
"""vLLM's API server ends by itself after its core has died, and logs why. Measured on 0.32, CPU: 0.5 s if a
request or /health comes in meanwhile (which gets 503), 3.8 s without."""

_STOP_MARGIN = 10.0
"""Seconds beyond the shutdown timeout for the engine to close down. At the timeout vLLM kills its core, but then
waits for the connections of what was running, which nobody ends (seen with 0.32): past the margin all is killed."""

_TAIL_LINES = 15
_SEARCHED_LINES = 400


class EngineState(StrEnum):
    """Where an engine is in its life."""

    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Engine:
    """One life of one engine: ``start`` it, ``wait_dead``, ``stop`` it; it is not started twice.

    ``on_change`` is called after every change of ``state``.
    """

    def __init__(
        self,
        launch: LaunchConfig,
        *,
        name: str,
        log: Path,
        served_name: str,
        start_timeout: float,
        shutdown_timeout: float,
        on_change: Callable[[Engine], None] | None = None,
    ) -> None:
        self.launch = launch
        self.name = name
        self.log = log
        self.phase_seconds: dict[str, float] = {}
        """Seconds of the start so far: ``import`` (the engine's code), ``load`` (the model, until /health is
        200), ``warm`` (the first completion)."""
        self.core_pids: tuple[int, ...] = ()
        """The processes that hold the model; empty for engines that have none of their own."""
        self._served_name = served_name
        self._start_timeout = start_timeout
        self._shutdown_timeout = shutdown_timeout
        self._on_change = on_change
        self._state = EngineState.STARTING
        self._facts = LogFacts(log)
        self._child: Child | None = None
        self._server: ProcessIdentity | None = None
        self._processes: tuple[ProcessIdentity, ...] = ()

    @property
    def state(self) -> EngineState:
        """Where it is in its life."""
        return self._state

    @property
    def pid(self) -> int | None:
        """The API server's; None before it is started."""
        return self._child.pid if self._child is not None else None

    @property
    def kv_cache_tokens(self) -> int | None:
        """Tokens that fit into the KV cache, as the engine logged it."""
        return self._facts.kv_cache_tokens

    @property
    def linear_kernel(self) -> str | None:
        """The kernel that multiplies quantised weights, as the engine logged it."""
        return self._facts.linear_kernel

    async def start(self) -> None:
        """Spawn, wait for /health, then for one token; READY when it returns.

        Raises EngineStartError, with the engine's last words, if it ends, loses its core, refuses the
        completion, or is not ready within the start timeout. Then, and when cancelled, nothing is left of it.
        """
        launch = self.launch
        environ = inherited_environment(os.environ) | dict(launch.env) | dict(launch.secret_env)
        self._child = await Child.spawn(
            launch.argv, env=environ, log=self.log, name=self.name, nice=launch.nice
        )
        self._server = identify(self._child.pid)
        ready = False
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._become_ready()
            ready = True
        except TimeoutError as error:
            raise self._start_error(
                f"not ready within {self._start_timeout:g} s (still {self._state})",
                hint="raise engine.start_timeout if the machine is slow",
            ) from error
        finally:
            if not ready:
                await self._child.stop(grace=0.0)
                self._enter(EngineState.FAILED)

    async def _become_ready(self) -> None:
        begun = time.monotonic()
        loading_since = begun
        while not await self._healthy():
            self._facts.read()
            if self._facts.loading and self._state is EngineState.STARTING:
                loading_since = time.monotonic()
                self.phase_seconds["import"] = loading_since - begun
                self._enter(EngineState.LOADING)
            await self._check_processes()
            await asyncio.sleep(_POLL_SECONDS)
        self._facts.read()
        healthy = time.monotonic()
        self.phase_seconds["load"] = healthy - loading_since
        self._find_processes()
        self._enter(EngineState.WARMING)
        await self._complete_one_token()
        self.phase_seconds["warm"] = time.monotonic() - healthy
        self._enter(EngineState.READY)

    async def wait_dead(self) -> str:
        """Until the engine is dead, and why. It is left to be stopped: processes of it may still be there."""
        assert self._child is not None, "started before"
        ended = asyncio.ensure_future(self._child.wait())
        health = asyncio.ensure_future(self._watch_health())
        try:
            while True:
                await asyncio.wait(
                    {ended, health}, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                reason = None
                if ended.done():
                    reason = self._exit_reason(ended.result())
                elif (lost := self._lost_process()) is not None:
                    reason = await self._death_reason(lost)
                elif health.done():
                    reason = health.result()
                if reason is not None:
                    self._enter(EngineState.FAILED)
                    return reason
        finally:
            for task in (ended, health):
                task.cancel()
            await asyncio.gather(ended, health, return_exceptions=True)

    async def stop(self) -> None:
        """Let it finish what it has in flight, for at most the shutdown timeout; nothing of it is left then."""
        if self._child is None:
            self._enter(EngineState.STOPPED)
            return
        if self._state is EngineState.FAILED:
            await self._child.stop(grace=0.0)  # its answers are lost; what is left of it may hold memory
        else:
            self._enter(EngineState.DRAINING)
            await self._child.stop(grace=self._shutdown_timeout + _STOP_MARGIN)
        self._enter(EngineState.STOPPED)

    async def _healthy(self) -> bool:
        try:
            answer = await ask(
                self.launch.host, self.launch.port, "/health", seconds=_START_PROBE_TIMEOUT, key=self._key()
            )
        except (NoAnswerError, TimeoutError):
            return False
        return answer.status == 200

    async def _complete_one_token(self) -> None:
        body = {"model": self._served_name, "prompt": "1", "max_tokens": 1, "temperature": 0}
        request = asyncio.ensure_future(
            ask(
                self.launch.host,
                self.launch.port,
                "/v1/completions",
                seconds=self._start_timeout,
                body=body,
                key=self._key(),
            )
        )
        try:
            while not request.done():
                await asyncio.wait({request}, timeout=_POLL_SECONDS)
                await self._check_processes()
            answer = request.result()
        except NoAnswerError as error:
            await self._check_processes(patience=_DYING_SECONDS)
            raise self._start_error(
                f"answered /health, but broke off its first completion: {error}"
            ) from error
        finally:
            request.cancel()
        if answer.status != 200:
            raise self._start_error(
                f"answered /health, but its first completion with {answer.status}: {_error_text(answer)}"
            )

    async def _check_processes(self, *, patience: float = 0.0) -> None:
        """Raise EngineStartError if the program has ended (within ``patience`` seconds) or lost its core."""
        child = self._child
        assert child is not None, "spawned before"
        if child.returncode is None and patience:
            await _ended_within(child, patience)
        if child.returncode is None and self._lost_process() is not None:
            await _ended_within(child, _DYING_SECONDS)  # it says why while it ends
            if child.returncode is None:
                raise self._start_error("its EngineCore process died")
        if child.returncode is not None:
            raise self._start_error(describe_exit(child.returncode))
        if not self._processes:
            self._find_processes()

    def _find_processes(self) -> None:
        if self.pid is not None:
            cores, workers = engine_processes(self.pid)
            self.core_pids = tuple(core.pid for core in cores)
            self._processes = cores + workers

    def _lost_process(self) -> ProcessIdentity | None:
        return next((process for process in self._processes if not is_alive(process)), None)

    async def _death_reason(self, lost: ProcessIdentity) -> str:
        child = self._child
        assert child is not None, "started before"
        if self._server is None or not is_alive(self._server):
            # The API server went first, and the rest with it.
            return self._exit_reason(await child.wait())
        what = "EngineCore" if lost.pid in self.core_pids else "a worker process"
        words = last_words(child.tail(_SEARCHED_LINES))
        return f"{what} (pid {lost.pid}) died" + (f": {words}" if words else "")

    async def _watch_health(self) -> str:
        refusals = 0
        while True:
            await asyncio.sleep(_HEALTH_SECONDS)
            try:
                answer = await ask(
                    self.launch.host, self.launch.port, "/health", seconds=_HEALTH_TIMEOUT, key=self._key()
                )
            except TimeoutError:
                continue
            except NoAnswerError as error:
                refusals += 1
                if refusals == _REFUSALS:
                    return f"its process runs, but {refusals} health probes found no server: {error}"
                continue
            refusals = 0
            if answer.status == 503:
                return "its /health says 503: the engine behind the API server is dead"

    def _exit_reason(self, status: int) -> str:
        assert self._child is not None, "started before"
        words = last_words(self._child.tail(_SEARCHED_LINES))
        return describe_exit(status) + (f": {words}" if words else "")

    def _start_error(self, what: str, *, hint: str | None = None) -> EngineStartError:
        assert self._child is not None, "spawned before"
        lines = self._child.tail(_SEARCHED_LINES)
        words = last_words(lines)
        return EngineStartError(
            f"{self.name}: {what}" + (f": {words}" if words else ""),
            hint=(hint_for(words) if words else None) or hint or f"its log: {self.log}",
            log_tail=lines[-_TAIL_LINES:],
        )

    def _key(self) -> str | None:
        return self.launch.secret_env.get("VLLM_API_KEY")

    def _enter(self, state: EngineState) -> None:
        if state is not self._state:
            self._state = state
            if self._on_change is not None:
                self._on_change(self)


async def _ended_within(child: Child, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await child.wait()
    except TimeoutError:
        return


def _error_text(answer: Answer) -> str:
    try:
        error = json.loads(answer.body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return answer.body[:200].decode(errors="replace") or "no explanation"
