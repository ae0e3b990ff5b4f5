"""The guard: a small program that stands between a parent and one program, so that nothing outlives either.

Run as ``python -I -S guard.py CONTROL REPORT LEFTOVERS ORPHANS NICE PROGRAM [ARG...]``; standard library only, for
it must start in milliseconds and must not depend on the package's environment. CONTROL and REPORT are inherited
pipe ends. LEFTOVERS are the seconds that what the program leaves behind when it ends has between TERM and KILL,
ORPHANS those that everything has when the parent is gone. NICE is how far the program stands back (nice(1)).

- It is a child subreaper: whatever the program starts, in whatever session or group, stays its descendant.
- CONTROL reaching end-of-file means that the parent is gone, however it died: TERM to every descendant, a
  short grace, then KILL. A parent-death signal alone would not do: it belongs to the parent's *thread*, and
  reaches neither grandchildren nor programs that clear it.
- The program gets SIGKILL as its parent-death signal, against the guard's own SIGKILL.
- It is not the parent's own child: between them stands a process that does nothing but wait. Some parents kill
  their children as they die (Ray's workers do, with SIGKILL), and a guard that dies with its parent guards nothing.
- It ends only when no descendant is left, and then as the program ended: same exit code, or same signal.

Lines read from CONTROL: ``stop SECONDS`` (TERM to the program, then KILL to everything after SECONDS; the
earliest deadline counts) and ``signal NUMBER``. Lines written to REPORT: ``pid N GUARD`` or ``error ERRNO``, then
``exit STATUS`` (negative for a signal) when the program ends, then ``left PID...`` for what could not be
killed, then ``done``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

AUTOGROUP_TRIES = 20
"""A second's worth; whoever else sets one meanwhile takes 0.1 s of it."""
KILL_PATIENCE = 30.0
"""Seconds after KILL until a process in an uninterruptible sleep (a driver, a dead mount) is given up."""
SIGNAL_GRACE = 10.0
"""Seconds between TERM and KILL when it is the guard itself that was sent a TERM."""


def prctl(option: int, value: int) -> None:
    """Call prctl(2) with one argument."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def stat_fields(pid: int) -> list[bytes] | None:
    """Fields of /proc/PID/stat from the state on (state, ppid, pgrp, session, ...); None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 -- pathlib is not imported here: start time
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def start_ticks(fields: Sequence[bytes]) -> int:
    """When a process started, in clock ticks since boot: with the pid, its identity."""
    return int(fields[19])


def descendants(root: int) -> dict[int, int]:
    """Live processes below ``root``: pid → start ticks. Zombies are left out: they only wait to be reaped."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 -- see above
        if not entry.isdigit():
            continue
        fields = stat_fields(int(entry))
        if fields is None:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry))
        if fields[0] not in (b"Z", b"X"):
            ticks[int(entry)] = start_ticks(fields)
    found: dict[int, int] = {}
    queue = list(children.get(root, ()))
    while queue:
        pid = queue.pop()
        queue.extend(children.get(pid, ()))
        if pid in ticks:
            found[pid] = ticks[pid]
    return found


def signal_exactly(pid: int, ticks: int, number: int) -> bool:
    """Signal the process that had this pid *and* start time: pids are reused. False if it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except OSError:  # a kernel or sandbox without pidfd_open: the check below narrows the race, at least
        handle = -1
    try:
        fields = stat_fields(pid)
        if fields is None or start_ticks(fields) != ticks:
            return False
        if handle >= 0:
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if handle >= 0:
            os.close(handle)
    return True


def _step_aside() -> None:
    """Go on as a child of the process that was started, which waits, and ends as this one ends."""
    pid = os.fork()
    if pid == 0:
        return
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Its pid cannot be another's before the wait is over.
        signal.signal(number, lambda number, _frame: os.kill(pid, number))
    _, status = os.waitpid(pid, 0)
    _end_as(os.waitstatus_to_exitcode(status))


def _stand_back(nice: int) -> None:
    """Lower this process's share of the cores, and its session's.

    Where the kernel groups tasks by session (CONFIG_SCHED_AUTOGROUP, the default of most distributions), niceness
    counts among the tasks of a session alone: others see the session's own, which is set in /proc (sched(7)).
    """
    os.nice(nice)
    for _ in range(AUTOGROUP_TRIES):
        try:
            with open("/proc/self/autogroup", "w") as file:  # noqa: PTH123 -- see above
                file.write(str(nice))
        except BlockingIOError:  # users other than root may set one every 0.1 s, all together
            time.sleep(0.05)
        except OSError:  # no such kernel, or /proc is read-only: its niceness has to do
            return
        else:
            return


def _start_program(argv: Sequence[str], nice: int) -> tuple[int, int]:
    """Fork and execute; returns (pid, 0), or (0, errno) if the program could not be executed."""
    guard = os.getpid()
    reader, writer = os.pipe()  # both close on exec: end-of-file says that it worked
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:
                os._exit(1)
            if nice:
                _stand_back(nice)
            signal.set_wakeup_fd(-1)
            for number in (
                signal.SIGPIPE,
                signal.SIGXFSZ,
            ):  # ignored by Python; the program expects the default
                signal.signal(number, signal.SIG_DFL)
            os.execvpe(argv[0], list(argv), os.environ)  # noqa: S606 -- starting the program is the purpose
        except OSError as error:
            os.write(writer, str(error.errno or errno.EINVAL).encode())
        finally:
            os._exit(127)
    os.close(writer)
    answer = os.read(reader, 32)
    os.close(reader)
    if answer:
        os.waitpid(pid, 0)
        return 0, int(answer)
    return pid, 0


class Guard:
    """The guard's state: the program, and when what is left of it will be killed."""

    def __init__(self, control: int, report: int, leftovers: float, orphans: float, program: int) -> None:
        self.control = control
        self.report_fd = report
        self.leftovers = leftovers
        self.orphans = orphans
        self.program = program
        self.status: int | None = None
        self.kill_at: float | None = None
        self.killing_since: float | None = None
        self._pending = b""

    def report(self, line: str) -> None:
        """Tell the parent; it may be gone."""
        with contextlib.suppress(OSError):
            os.write(self.report_fd, line.encode() + b"\n")

    def kill_after(self, seconds: float) -> None:
        """KILL everything after ``seconds``, unless that is due earlier already."""
        at = time.monotonic() + seconds
        self.kill_at = at if self.kill_at is None else min(self.kill_at, at)

    def signal_program(self, number: int) -> None:
        """Signal the program itself. Its pid is ours until we reap it, so it cannot be another's."""
        if self.status is None:
            os.kill(self.program, number)

    def signal_all(self, number: int) -> dict[int, int]:
        """Signal every descendant; returns them."""
        found = descendants(os.getpid())
        for pid, ticks in found.items():
            signal_exactly(pid, ticks, number)
        return found

    def parent_gone(self) -> None:
        """The parent has closed its end, by dying or on purpose."""
        os.close(self.control)
        self.control = -1
        self.signal_all(signal.SIGTERM)
        self.kill_after(self.orphans)

    def read_control(self) -> None:
        """Act on what the parent says."""
        data = os.read(self.control, 4096)
        if not data:
            self.parent_gone()
            return
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            word, _, value = line.partition(b" ")
            if word == b"stop":
                self.signal_program(signal.SIGTERM)
                self.kill_after(float(value))
            elif word == b"signal":
                self.signal_program(int(value))

    def reap(self) -> bool:
        """Collect the dead; True when no child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.program:
                self.status = os.waitstatus_to_exitcode(status)
                self.report(f"exit {self.status}")
                self.signal_all(signal.SIGTERM)
                self.kill_after(self.leftovers)

    def kill_round(self) -> bool:
        """One round of KILL; False when what is left does not die."""
        now = time.monotonic()
        if self.killing_since is None:
            self.killing_since = now
        left = self.signal_all(signal.SIGKILL)
        if now - self.killing_since < KILL_PATIENCE:
            return True
        self.report("left " + " ".join(map(str, left)))
        return False

    def run(self, wakeup: int) -> int:
        """Until no descendant is left; returns the program's exit status."""
        while not self.reap():
            timeout: float | None = None
            if self.kill_at is not None:
                timeout = self.kill_at - time.monotonic()
                if timeout <= 0:
                    if not self.kill_round():
                        break
                    timeout = 0.05
            poll = select.poll()  # not select(): descriptors may be past 1,023
            for source in (wakeup, self.control):
                if source >= 0:
                    poll.register(source, select.POLLIN)
            ready = [source for source, _ in poll.poll(None if timeout is None else timeout * 1_000)]
            if wakeup in ready and any(n != signal.SIGCHLD for n in os.read(wakeup, 64)):
                self.signal_program(signal.SIGTERM)
                self.kill_after(SIGNAL_GRACE)
            if self.control in ready:
                self.read_control()
        self.report("done")
        return -signal.SIGKILL if self.status is None else self.status


def _end_as(status: int) -> None:
    """End this process as the program ended."""
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program's core dump is enough
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status if status >= 0 else 128 - status)


def _noted(_number: int, _frame: object) -> None:
    """Signals arrive through the wakeup pipe."""


def main(arguments: Sequence[str]) -> None:
    """Start the program and stay until nothing of it is left."""
    control, report, argv = int(arguments[0]), int(arguments[1]), arguments[5:]
    leftovers, orphans, nice = float(arguments[2]), float(arguments[3]), int(arguments[4])
    os.set_inheritable(control, False)
    os.set_inheritable(report, False)
    _step_aside()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wakeup, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_writer, False)
    signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _noted)
    program, failure = _start_program(argv, nice)
    if failure:
        os.write(report, f"error {failure}\n".encode())
        os._exit(127)
    # The program has its inherited descriptors (a listening socket, say) and its working directory; the guard
    # must not keep them alive.
    keep = sorted({0, 1, 2, control, report, wakeup, wakeup_writer})
    for low, high in zip(keep, [*keep[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)
    os.chdir("/")
    guard = Guard(control, report, leftovers, orphans, program)
    guard.report(f"pid {program} {os.getpid()}")
    _end_as(guard.run(wakeup))


if __name__ == "__main__":
    main(sys.argv[1:])
