"""The supervisor seen from a command: start it, follow it, ask it, end it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tri_serve.errors import FleetError
from tri_serve.fleet.cluster_record import application_prefix, forget_record, read_record
from tri_serve.fleet.control import Progress, as_exception, ask
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.ray import head
from tri_serve.fleet.ray.client import refused
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import FleetPhase, FleetState, SupervisorState, read_state, write_private
from tri_serve.process import logs
from tri_serve.process.guard import signal_exactly
from tri_serve.process.strays import ProcessIdentity, command_of, identify, is_alive, sweep
from tri_serve.spec.models import Spec

_POLL = 0.1
_STOP_PATIENCE = 15.0
"""Seconds until a supervisor that has stopped its fleet, or was sent a TERM, is gone."""
_HANGING_PATIENCE = 5.0
"""Seconds after a TERM until one that did not answer is killed."""
_CLUSTER_PATIENCE = 45.0
"""Seconds for connecting to a cluster and for leaving it; both take two when it is well."""
_HURRIED_PATIENCE = 20.0
"""The same where somebody said how long a stop may take."""
_SILENT_SECONDS = 8.0
"""Without a word for so long, say that it is still tried."""
_SECRETS = frozenset({"TRI_SERVE_API_KEYS", "TRI_SERVE_API_KEY"})


Supervisor = subprocess.Popen[bytes]
"""A supervisor that this process started."""


@dataclass(frozen=True)
class Found:
    """A release as it is found: its last written state, and whether its supervisor lives."""

    state: FleetState
    alive: bool


def find_fleet(paths: ReleasePaths) -> Found | None:
    """What is known of the release; None if nothing runs. Raises FleetError for a damaged state."""
    state = read_state(paths.state)
    return None if state is None else Found(state, state.supervisor.alive)


def require_here(paths: ReleasePaths, state: FleetState) -> None:
    """Raises FleetError if the supervisor is another machine's: here it cannot be asked, nor seen to be dead."""
    if state.elsewhere is not None:
        raise FleetError(
            f"release {paths.release} is started on another machine: its supervisor runs on {state.elsewhere}",
            hint=f"do it there; if {state.elsewhere} is no more, tri-serve down -r {paths.release} --forget",
        )


def live_state(paths: ReleasePaths) -> FleetState:
    """The state as the supervisor tells it now. Raises FleetError if it does not answer."""
    return FleetState.model_validate(ask(paths.control_socket, "status"))


def current_fleet(paths: ReleasePaths) -> Found | None:
    """As ``find_fleet``, with the state as a living supervisor tells it now.

    Raises FleetError if the supervisor lives but does not answer.
    """
    found = find_fleet(paths)
    if found is None or not found.alive:
        return found
    try:
        return Found(live_state(paths), alive=True)
    except FleetError:
        again = find_fleet(paths)  # it may just have ended
        if again is None or not again.alive:
            return again
        raise


def start_supervisor(paths: ReleasePaths, desired: Desired) -> Supervisor:
    """Start a supervisor that outlives us. The release's folder must exist."""
    write_private(paths.desired, desired.model_dump_json())
    paths.state.unlink(missing_ok=True)
    output = logs.open_log(paths.log("supervisor"))
    try:
        return subprocess.Popen(
            # -P: a folder called tri_serve in the working directory must not shadow the package.
            [sys.executable, "-P", "-m", "tri_serve.fleet.supervisor", "--state", str(paths.root)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env={name: value for name, value in os.environ.items() if name not in _SECRETS},
        )
    finally:
        os.close(output)


def follow_start(paths: ReleasePaths, supervisor: Supervisor) -> Iterator[FleetState | None]:
    """States while the fleet starts, several a second (None: not known yet); ends when it runs.

    They are those that the supervisor writes: to ask it each time would have it ask every gateway, through Ray
    perhaps, on cores that the engines need. Raises what kept it from starting.
    """
    state: FleetState | None = None
    written: tuple[int, int] | None = None
    while True:
        if supervisor.poll() is not None:
            state = read_state(paths.state)
            if state is not None and state.error is not None:
                raise as_exception(state.error)
            tail = logs.tail(paths.log("supervisor"), 3)
            raise FleetError(
                f"the supervisor ended with exit code {supervisor.returncode}: "
                + (" / ".join(tail) or "no words")
            )
        with contextlib.suppress(FileNotFoundError):
            file = paths.state.stat()
            if (file.st_ino, file.st_mtime_ns) != written:
                state, written = read_state(paths.state), (file.st_ino, file.st_mtime_ns)
        if state is not None and state.phase is FleetPhase.RUNNING:
            with contextlib.suppress(FleetError):  # it is just ending: the next round tells
                yield live_state(paths)
                return
        yield state
        time.sleep(_POLL)


def abandon(paths: ReleasePaths, supervisor: Supervisor) -> FleetError | None:
    """End a supervisor that is still starting, and everything it started; takes at most some seconds.

    Returns why something that it started on a cluster may still run there, if so.
    """
    if supervisor.poll() is None:
        try:
            ask(paths.control_socket, "stop", {"timeout": 5.0})
        except FleetError:
            supervisor.terminate()
        try:
            supervisor.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
    _tidy_up_after(paths)
    try:
        clear_cluster(paths, 5.0, lambda _line: None)
    except FleetError as error:
        return error
    return None


def leave_cluster_alone(paths: ReleasePaths, supervisor: Supervisor) -> None:
    """End a supervisor that could not take over what an earlier one runs on a cluster: that goes on."""
    supervisor.kill()  # told to stop, it would stop that, too
    supervisor.wait()
    _tidy_up_after(paths)


def _tidy_up_after(paths: ReleasePaths) -> None:
    """Remove what a supervisor that has just ended left on this machine."""
    state = read_state(paths.state)
    if state is not None:
        asyncio.run(sweep(state.supervisor.token, grace=0.0))
    _discard(paths)


def applied(paths: ReleasePaths) -> Desired:
    """What the supervisor was last asked to run, and runs; client keys as those of its own `up`."""
    return Desired.model_validate_json(ask(paths.control_socket, "applied"))


def apply(paths: ReleasePaths, desired: Desired, *, preview: bool, progress: Progress) -> AppliedChanges:
    """Ask the supervisor to get to ``desired``, or (``preview``) only what that would do."""
    answer = ask(
        paths.control_socket,
        "apply",
        {"desired": desired.model_dump_json(), "preview": preview},
        progress=progress,
    )
    return AppliedChanges(
        changed=bool(answer["changed"]),
        differences=tuple(answer["differences"]),
        actions=tuple(answer["actions"]),
        engines=bool(answer["engines"]),
        running=Spec.model_validate_json(answer["running"]),
    )


@dataclass(frozen=True)
class AppliedChanges:
    """What the supervisor says that it changed or would change."""

    changed: bool
    differences: tuple[str, ...]
    actions: tuple[str, ...]
    engines: bool
    """Every engine is replaced."""
    running: Spec
    """What the fleet runs when it answers: of a preview, the spec before the change."""


def restart(paths: ReleasePaths, name: str | None, progress: Progress) -> None:
    """Restart a replica, the gateway, or every replica."""
    ask(paths.control_socket, "restart", {"name": name}, progress=progress)


@dataclass(frozen=True)
class Stopped:
    """What a stop came to."""

    ran: bool
    """Whether there was anything of the release."""
    forgotten: tuple[str, ...] = ()
    """Places where something of it may still run."""


def stop(paths: ReleasePaths, *, timeout: float | None, progress: Progress, forget: bool = False) -> Stopped:
    """Stop everything of the release. Works on what a dead supervisor left, too.

    Bounded: after ``timeout`` (none: the spec's drain and shutdown times) everything is killed. Raises FleetError
    if it runs on a cluster that does not answer or on another machine, unless what cannot be stopped there is to be
    forgotten (``forget``).
    """
    forgotten = _forget_elsewhere(paths) if forget else ()
    ran = stop_here(paths, timeout=timeout, progress=progress) or bool(forgotten)
    if not paths.cluster.exists():  # the supervisor removes it when nothing of the release is left there
        return Stopped(ran, forgotten)
    try:
        clear_cluster(paths, timeout, progress)
    except FleetError as error:
        if not forget:
            raise
        progress(error.message)
        forgotten += (_cluster_address(paths),)
        forget_record(paths)
    return Stopped(True, forgotten)


def _forget_elsewhere(paths: ReleasePaths) -> tuple[str, ...]:
    """Know no more of a supervisor on another machine; which machine that is."""
    try:
        state = read_state(paths.state)
    except FleetError:  # damaged: it does not say where
        return ()
    if state is None or state.elsewhere is None:
        return ()
    paths.state.unlink(missing_ok=True)
    return (state.elsewhere,)


def _cluster_address(paths: ReleasePaths) -> str:
    try:
        record = read_record(paths)
    except FleetError:
        record = None
    return record.address if record is not None else "an address that is not known any more"


def stop_here(paths: ReleasePaths, *, timeout: float | None, progress: Progress) -> bool:
    """Stop what there is on this machine; what a dead supervisor had started on a cluster goes on there.

    Raises FleetError if it is another machine's.
    """
    try:
        state = read_state(paths.state)
    except FleetError as error:
        progress(error.message)
        return stop_by_folder(paths, progress)
    if state is None:
        return False
    require_here(paths, state)
    supervisor = state.supervisor
    was_alive = supervisor.alive
    if was_alive:
        _stop_supervisor(paths, supervisor, timeout, progress)
    else:
        progress("its supervisor is gone; looking for what it left behind")
    swept = asyncio.run(sweep(supervisor.token, grace=2.0))
    if swept:
        progress(f"ended {len(swept)} process{'' if len(swept) == 1 else 'es'} that were left")
    _discard(paths)
    return was_alive or bool(swept) or state.phase is not FleetPhase.FAILED


def clear_cluster(paths: ReleasePaths, timeout: float | None, progress: Progress) -> None:
    """Stop what the release runs on a cluster, without its supervisor. Raises FleetError if that cannot be."""
    record = read_record(paths)
    if record is None:
        return
    progress(f"stopping what runs on the cluster at {record.address}")
    # Gateways stop first, then engines.
    patience = record.patience if timeout is None else min(timeout / 2, record.patience)
    limit = 2 * patience + (_CLUSTER_PATIENCE if timeout is None else _HURRIED_PATIENCE)
    command = [
        *(sys.executable, "-P", "-m", "tri_serve.fleet.ray.removal"),
        f"--address={record.address}",
        f"--prefix={application_prefix(paths, record.identity)}",
        f"--patience={patience:g}",
    ]
    environ = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", env=environ
    ) as removal:

        def still_there() -> None:
            progress(f"no word from the cluster yet; waiting up to {limit:.0f} s in all")

        # A Ray that hangs must not hang this.
        alarms = [threading.Timer(limit, removal.kill), threading.Timer(_SILENT_SECONDS, still_there)]
        for alarm in alarms:
            alarm.daemon = True
            alarm.start()
        try:
            assert removal.stdout is not None, "piped"
            for line in removal.stdout:
                alarms[1].cancel()
                progress(line.rstrip("\n"))
            words = (removal.stderr.read() if removal.stderr else "").strip().splitlines()
        finally:
            for alarm in alarms:
                alarm.cancel()
    if removal.returncode != 0:
        reason = words[-1] if words and removal.returncode > 0 else "Ray there does not answer"
        reason = refused(words) or reason
        raise FleetError(
            f"release {paths.release} could not be stopped on its cluster: {reason}",
            hint="try again when it answers; if the cluster is no more, "
            f"tri-serve down -r {paths.release} --forget",
        )
    forget_record(paths)


def _discard(paths: ReleasePaths) -> None:
    """Remove what a supervisor that is gone has left on the disk."""
    paths.state.unlink(missing_ok=True)
    paths.discard_sockets()
    head.discard(paths)


def stop_by_folder(paths: ReleasePaths, progress: Progress) -> bool:
    """Without a readable state: end the supervisor that was started for this very folder."""
    found = False
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        words = command_of(int(entry.name))
        process = identify(int(entry.name))
        if process and "tri_serve.fleet.supervisor" in words and words.endswith(f"--state {paths.root}"):
            found = True
            progress(f"ending its supervisor, pid {process.pid}")
            _end(process, _STOP_PATIENCE, progress)
    _discard(paths)
    return found


def _stop_supervisor(
    paths: ReleasePaths, supervisor: SupervisorState, timeout: float | None, progress: Progress
) -> None:
    process = ProcessIdentity(supervisor.pid, supervisor.ticks)
    try:
        ask(paths.control_socket, "stop", {"timeout": timeout}, progress=progress)
    except FleetError as error:
        if is_alive(process):
            progress(f"{error.message}; sending it a SIGTERM")
            _end(process, _HANGING_PATIENCE, progress)
        return
    _wait_gone(process, _STOP_PATIENCE)
    _end(process, _HANGING_PATIENCE, progress)


def _end(process: ProcessIdentity, patience: float, progress: Progress) -> None:
    """TERM, then KILL after ``patience`` seconds; returns when the process is gone."""
    if not signal_exactly(process.pid, process.ticks, signal.SIGTERM) or _wait_gone(process, patience):
        return
    progress("it does not end: killing it")
    signal_exactly(process.pid, process.ticks, signal.SIGKILL)
    _wait_gone(process, patience)


def _wait_gone(process: ProcessIdentity, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.03)
    return True
