"""A child, its guard, and everything below it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tri_serve.errors import ResourceError, SpawnError
from tri_serve.process.child import Child
from tri_serve.process.strays import MARKER, find_strays, identify, sweep

ENV = {"PATH": os.environ["PATH"]}
Eventually = Callable[..., bool]


def run_python(code: str, log: Path, token: str, **kwargs: object) -> asyncio.Future[Child]:
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    return Child.spawn(argv, env=ENV, log=log, name="t", token=token, **kwargs)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("code", [0, 1, 7, 120])
def test_exit_code_is_passed_on(tmp_path: Path, token: str, code: int) -> None:
    async def scenario() -> int:
        child = await run_python(f"raise SystemExit({code})", tmp_path / "log", token)
        return await child.wait()

    assert asyncio.run(scenario()) == code


def test_a_child_stands_back_as_far_as_it_is_told_in_and_out_of_its_session(
    tmp_path: Path, token: str
) -> None:
    async def said(nice: int) -> list[str]:
        code = """
            import os
            from pathlib import Path
            group = Path("/proc/self/autogroup")
            print(os.nice(0))
            print(group.read_text().split()[-1] if group.exists() else "none")
        """
        log = tmp_path / f"log-{nice}"
        child = await run_python(code, log, token, nice=nice)
        assert await child.wait() == 0
        return log.read_text().split()

    own = os.nice(0)
    group = Path("/proc/self/autogroup").exists()
    assert asyncio.run(said(0)) == [str(own), "0" if group else "none"]
    assert asyncio.run(said(5)) == [str(min(19, own + 5)), "5" if group else "none"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_death_by_signal_is_passed_on(tmp_path: Path, token: str, number: signal.Signals) -> None:
    async def scenario() -> int:
        code = f"""
            import os, resource
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), {number.value})
        """
        child = await run_python(code, tmp_path / "log", token)
        return await child.wait()

    assert asyncio.run(scenario()) == -number


def test_missing_program_is_a_clear_error(tmp_path: Path, token: str) -> None:
    async def scenario() -> None:
        await Child.spawn(["/no/such/engine"], env=ENV, log=tmp_path / "log", name="replica-0", token=token)

    with pytest.raises(
        SpawnError, match=r"^replica-0: cannot execute /no/such/engine: No such file or directory$"
    ):
        asyncio.run(scenario())
    assert find_strays(token) == ()


def test_missing_working_directory_is_a_clear_error(tmp_path: Path, token: str) -> None:
    with pytest.raises(SpawnError, match="cannot start"):
        asyncio.run(run_python("", tmp_path / "log", token, cwd=tmp_path / "gone"))  # type: ignore[arg-type]


def test_unwritable_log_is_a_clear_error(tmp_path: Path, token: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot write the log"):
        asyncio.run(run_python("", tmp_path / "file" / "log", token))  # type: ignore[arg-type]


def test_environment_is_what_was_given_and_the_marker(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKS", "in")

    async def scenario() -> tuple[str, ...]:
        code = "import os; print(os.environ.get('LEAKS'), os.environ['GIVEN'], os.environ['TRI_SERVE_CHILD'])"
        argv = [sys.executable, "-c", code]
        child = await Child.spawn(
            argv, env={**ENV, "GIVEN": "값"}, log=tmp_path / "log", name="t", token=token
        )
        await child.wait()
        return child.tail(5)

    assert asyncio.run(scenario()) == (f"None 값 {token}",)


def test_tail_shows_only_what_this_child_wrote(tmp_path: Path, token: str) -> None:
    log = tmp_path / "log"
    log.write_text("an earlier life\n")

    async def scenario() -> tuple[str, ...]:
        child = await run_python("for n in range(5): print('line', n)", log, token)
        await child.wait()
        return child.tail(3)

    assert asyncio.run(scenario()) == ("line 2", "line 3", "line 4")
    assert log.read_text().startswith("an earlier life\n")
    assert log.stat().st_mode & 0o777 == 0o644  # ours to append to, not to re-permission


def test_passed_descriptor_arrives_and_is_not_kept_by_the_guard(
    tmp_path: Path, token: str, eventually: Eventually
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        code = f"""
            import socket
            s = socket.socket(fileno={listener.fileno()})
            c, _ = s.accept(); c.sendall(b"hello"); c.close()
            s.close()
            import time; time.sleep(600)
        """

        async def scenario() -> bytes:
            child = await run_python(code, tmp_path / "log", token, pass_fds=(listener.fileno(),))
            reader, writer = await asyncio.open_connection(*address[:2])
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            listener.close()

            def refused() -> bool:
                with socket.socket() as probe:
                    return probe.connect_ex(address) != 0

            assert await asyncio.to_thread(eventually, refused)
            await child.stop(grace=0)
            return answer

        assert asyncio.run(scenario()) == b"hello"


def test_stop_lets_the_program_finish_within_its_grace(
    tmp_path: Path, token: str, eventually: Eventually
) -> None:
    code = """
        import signal, sys, time
        def end(*_): time.sleep(0.3); print("drained", flush=True); sys.exit(0)
        signal.signal(signal.SIGTERM, end); print("up", flush=True); time.sleep(600)
    """

    async def scenario() -> tuple[int, tuple[str, ...]]:
        child = await run_python(code, tmp_path / "log", token)
        assert await asyncio.to_thread(eventually, lambda: child.tail(1))
        return await child.stop(grace=10), child.tail(1)

    assert asyncio.run(scenario()) == (0, ("drained",))


def test_stop_kills_what_outlives_the_grace_and_everything_below(
    tmp_path: Path, token: str, family: Path, eventually: Eventually
) -> None:
    async def scenario() -> float:
        child = await Child.spawn(
            [sys.executable, str(family)], env=ENV, log=tmp_path / "log", name="t", token=token
        )
        assert await asyncio.to_thread(eventually, lambda: len(child.tail(9)) == 2)
        assert len(find_strays(token)) >= 6  # guard, program, four below
        start = time.monotonic()
        await child.stop(grace=5)
        return time.monotonic() - start

    assert (
        asyncio.run(scenario()) < 4.9
    )  # not the grace: the program ends on TERM; what it leaves gets a second, then KILL
    assert find_strays(token) == ()


def test_what_a_program_leaves_behind_may_be_given_time_to_end(tmp_path: Path, token: str) -> None:
    code = """
        import os, signal, subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # inherited by what it leaves behind
        subprocess.Popen(["sh", "-c", "sleep 2; echo finished"])
        os._exit(7)
    """

    async def scenario() -> tuple[int, tuple[str, ...], tuple[str, ...]]:
        child = await run_python(code, tmp_path / "log", token, leftover_grace=30.0)
        status = await child.wait_program()
        early = child.tail(1)
        assert await child.wait() == status
        return status, early, child.tail(1)

    assert asyncio.run(scenario()) == (7, (), ("finished",))
    assert find_strays(token) == ()


def test_a_second_stop_may_be_less_patient(tmp_path: Path, token: str, eventually: Eventually) -> None:
    code = """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("up", flush=True)
        time.sleep(600)
    """

    async def scenario() -> int:
        child = await run_python(code, tmp_path / "log", token)
        assert await asyncio.to_thread(eventually, lambda: child.tail(1))
        patient = asyncio.create_task(child.stop(grace=60))
        await asyncio.sleep(0.1)
        await child.stop(grace=0)
        return await patient

    assert asyncio.run(scenario()) == -signal.SIGKILL


def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path, token: str) -> None:
    code = """
        import subprocess
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        raise SystemExit(3)
    """

    async def scenario() -> int:
        return await (await run_python(code, tmp_path / "log", token)).wait()

    assert asyncio.run(scenario()) == 3
    assert find_strays(token) == ()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


PARENT = """
import asyncio, os, pathlib, sys
from tri_serve.process.child import Child
LOG = pathlib.Path(sys.argv[2])
async def main():
    c = await Child.spawn([sys.executable, sys.argv[1]], env=dict(os.environ), log=LOG, name="t")
    print(c.pid, flush=True)
    await c.wait()
asyncio.run(main())
"""


def start_parent(family: Path, log: Path, token: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, str(family), str(log)],
        env={**os.environ, MARKER: token},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_parent_leaves_nothing(
    tmp_path: Path, token: str, family: Path, eventually: Eventually
) -> None:
    log = tmp_path / "log"
    with start_parent(family, log, token) as parent:
        assert eventually(lambda: log.exists() and log.read_text().count("\n") == 2)
        assert len(find_strays(token)) >= 7
        parent.kill()
        parent.wait()
        assert eventually(lambda: find_strays(token) == (), 6)


def test_a_parent_that_kills_its_children_as_it_dies_leaves_nothing(
    tmp_path: Path, token: str, family: Path, eventually: Eventually
) -> None:
    log = tmp_path / "log"
    with start_parent(family, log, token) as parent:
        assert eventually(lambda: log.exists() and log.read_text().count("\n") == 2)
        own = [stray.pid for stray in find_strays(token) if parent_of(stray.pid) == parent.pid]
        assert len(own) == 1
        parent.kill()
        os.kill(own[0], signal.SIGKILL)
        parent.wait()
        assert eventually(lambda: find_strays(token) == (), 6)


def test_a_killed_guard_takes_the_program_along_and_a_sweep_finds_the_rest(
    tmp_path: Path, token: str, family: Path, eventually: Eventually
) -> None:
    log = tmp_path / "log"
    with start_parent(family, log, token) as parent:
        assert parent.stdout is not None
        program = int(parent.stdout.readline())
        assert eventually(lambda: log.read_text().count("\n") == 2)
        guard = parent_of(program)
        os.kill(guard, signal.SIGSTOP)  # both at once, or the guard begins to tidy up
        parent.kill()
        os.kill(guard, signal.SIGKILL)
        parent.wait()
        assert eventually(lambda: identify(program) is None)
        assert eventually(lambda: len(find_strays(token)) == 4)  # the guard may be on its way out
        found = asyncio.run(sweep(token, grace=0.3))
    assert len(found) == 4
    assert find_strays(token) == ()


def test_when_the_guard_alone_is_killed_the_parent_sweeps(
    tmp_path: Path, token: str, family: Path, eventually: Eventually
) -> None:
    async def scenario() -> int:
        child = await Child.spawn(
            [sys.executable, str(family)], env=ENV, log=tmp_path / "log", name="t", token=token
        )
        assert await asyncio.to_thread(eventually, lambda: len(child.tail(9)) == 2)
        os.kill(parent_of(child.pid), signal.SIGKILL)
        return await child.wait()

    assert asyncio.run(scenario()) == -signal.SIGKILL
    assert find_strays(token) == ()


def test_output_to_a_full_disk_does_not_end_the_program(tmp_path: Path, token: str) -> None:
    code = """
        import logging, time
        logging.basicConfig(); logging.raiseExceptions = False
        for n in range(20): logging.warning("line")
        import os; os._exit(5)
    """

    async def scenario() -> int:
        return await (await run_python(code, Path("/dev/full"), token)).wait()

    assert asyncio.run(scenario()) == 5


def test_many_spawns_leave_no_descriptors_and_no_zombies(tmp_path: Path, token: str) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def scenario() -> tuple[int, int]:
        await (await run_python("", tmp_path / "log", token)).wait()
        before = descriptors()
        for _ in range(5):
            children = [
                await Child.spawn(["sleep", "600"], env=ENV, log=tmp_path / "log", name="t", token=token)
                for _ in range(4)
            ]
            await asyncio.gather(*(c.stop(grace=5) for c in children))
            with pytest.raises(SpawnError):
                await Child.spawn(["/no/such"], env=ENV, log=tmp_path / "log", name="t", token=token)
        await asyncio.sleep(0.05)
        return before, descriptors()

    before, after = asyncio.run(scenario())
    assert after == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
