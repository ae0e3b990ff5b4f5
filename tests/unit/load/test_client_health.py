"""What the client finds out about itself."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tri_serve.load.client_health import (
    ClientHealth,
    Clocks,
    HealthWatch,
    Lags,
    ProcessHealth,
    waited_for_cpu,
)
from tri_serve.load.throttling import Throttled, read_throttled, throttling_files

MS = 1_000_000


@dataclass
class Machine:
    """Clocks that go on only when told to."""

    now: int = 5_000 * MS
    wall_ahead: int = 10**18
    cpu: int = 0
    throttled: Throttled | None = None
    waited: int | None = 0
    busy: float = 0.0

    def clocks(self) -> Clocks:
        return Clocks(
            monotonic=lambda: self.now,
            wall=lambda: self.now + self.wall_ahead,
            cpu=lambda: self.cpu,
            waited=lambda: self.waited,
            throttled=lambda: self.throttled,
        )

    def passes(self, ns: int) -> None:
        self.now += ns
        self.cpu += round(ns * self.busy)


def watch_for(machine: Machine, watch: HealthWatch, naps: Iterator[int]) -> None:
    """Run the watch on a loop that comes late by each of ``naps`` in turn."""

    def sleep(seconds: float) -> None:
        late = next(naps, None)
        if late is None:
            watch.stop()
            late = 0
        machine.passes(round(seconds * 1e9) + late)

    watch.run(sleep)


def test_a_loop_that_is_on_time_has_no_lag_and_a_late_one_has_its_lateness() -> None:
    machine = Machine()
    watch = HealthWatch("one", machine.clocks())
    watch_for(machine, watch, iter([0] * 80 + [3 * MS] * 20))
    health = watch.report()
    assert health.loop_lag_max_ms == 3
    assert health.loop_lag_p99_ms == pytest.approx(3, rel=0.02)
    assert health.loop_lag_p50_ms < 0.01


def test_one_long_stall_is_counted_for_all_that_was_due_in_it() -> None:
    machine = Machine()
    watch = HealthWatch("one", machine.clocks())
    watch_for(machine, watch, iter([0] * 890 + [1_000 * MS] + [0] * 9))
    health = watch.report()
    # 100 of the 1,000 moments lay in the stall: lags of 1,000, 990, … 10 ms; one sample alone would hide it.
    assert health.loop_lag_samples == pytest.approx(1_001, abs=1)
    assert health.loop_lag_p99_ms == pytest.approx(900, rel=0.04)
    assert health.loop_lag_max_ms == 1_000


def test_a_loop_that_wakes_too_early_is_not_counted_early() -> None:
    machine = Machine()
    watch = HealthWatch("one", machine.clocks())
    naps = iter([10 * MS // 2] * 10)

    def sleep(seconds: float) -> None:
        nap = next(naps, None)
        if nap is None:
            watch.stop()
        machine.passes(min(round(seconds * 1e9), 5 * MS))

    watch.run(sleep)
    assert watch.report().loop_lag_samples <= 6
    assert watch.report().loop_lag_max_ms == 0


def test_what_was_before_the_window_and_after_it_does_not_count() -> None:
    machine = Machine()
    watch = HealthWatch("one", machine.clocks())
    machine.busy = 1.0
    watch_for(machine, watch, iter([500 * MS]))
    watch.begin()
    machine.busy = 0.25
    machine.passes(1_000 * MS)
    watch.end()
    machine.busy = 1.0
    machine.passes(1_000 * MS)
    health = watch.report()
    assert health.loop_lag_samples == 0
    assert health.cpu_share == pytest.approx(0.25)
    assert health.seconds == pytest.approx(1)


def test_the_busiest_second_shows_beside_the_mean() -> None:
    machine = Machine()
    watch = HealthWatch("one", machine.clocks())

    def naps() -> Iterator[int]:
        for second in range(4):
            machine.busy = 0.9 if second == 2 else 0.1
            yield from [0] * 100

    watch_for(machine, watch, naps())
    health = watch.report()
    assert health.cpu_share == pytest.approx(0.3, abs=0.02)
    assert health.cpu_share_worst == pytest.approx(0.9, abs=0.02)


def test_a_step_of_the_wall_clock_is_seen_and_slow_steering_is_not_added_up() -> None:
    machine = Machine()
    watch = HealthWatch("one", machine.clocks())

    def naps(seconds: int) -> Iterator[int]:
        for _ in range(seconds):
            machine.wall_ahead += MS // 2  # NTP's steepest steering
            yield from [0] * 100

    watch_for(machine, watch, naps(60))
    assert watch.report().clock_step_ms <= 1.0
    machine.wall_ahead -= 1_500 * MS
    watch.sample(machine.now, machine.now + 1_001 * MS, 10 * MS)
    machine.passes(1_001 * MS)
    watch.sample(machine.now, machine.now + 1_001 * MS, 10 * MS)
    assert watch.report().clock_step_ms == pytest.approx(1_500, rel=0.01)


def test_throttling_is_the_change_within_the_window_and_unknown_is_said() -> None:
    machine = Machine(throttled=Throttled(periods=10, seconds=4.0))
    watch = HealthWatch("one", machine.clocks())
    machine.throttled = Throttled(periods=13, seconds=4.5)
    assert (watch.report().throttled_periods, watch.report().throttled_seconds) == (3, 0.5)
    machine.throttled = None
    watch.begin()
    assert watch.report().throttled_seconds is None


def test_time_without_a_cpu_is_that_of_the_window() -> None:
    machine = Machine(waited=700 * MS)
    watch = HealthWatch("one", machine.clocks())
    machine.passes(1_000 * MS)
    machine.waited = 950 * MS
    assert watch.report().cpu_wait_share == pytest.approx(0.25)
    machine.waited = None
    assert watch.report().cpu_wait_share is None


def test_the_kernels_own_count_of_waiting_is_read(tmp_path: Path) -> None:
    file = tmp_path / "schedstat"
    file.write_text("123 456 7\n")
    assert waited_for_cpu(file) == 456
    file.write_text("")
    assert waited_for_cpu(file) is None
    assert waited_for_cpu(tmp_path / "none") is None


def test_garbage_collections_are_timed_while_the_watch_is_on() -> None:
    with HealthWatch("one") as watch:
        gc.collect()
        seen = watch.report()
        assert seen.gc_pauses >= 1
        assert 0 < seen.gc_longest_ms <= seen.gc_seconds * 1_000 + 1e-6
    gc.collect()
    assert watch.report().gc_pauses == seen.gc_pauses


def health(process: str, lag: float, share: float, throttled: float | None) -> ProcessHealth:
    return ProcessHealth(
        process=process,
        seconds=10,
        loop_lag_p50_ms=0.1,
        loop_lag_p99_ms=lag,
        loop_lag_max_ms=lag,
        loop_lag_samples=1_000,
        cpu_share=share,
        cpu_share_worst=share,
        throttled_seconds=throttled,
        throttled_periods=None if throttled is None else 1,
        clock_step_ms=0,
        gc_pauses=0,
        gc_seconds=0,
        gc_longest_ms=0,
    )


def test_the_client_is_as_well_as_its_worst_process() -> None:
    whole = ClientHealth(processes=(health("a", 1, 0.9, None), health("b", 7, 0.2, 0.3)))
    assert (whole.loop_lag_p99_ms, whole.cpu_share, whole.throttled_seconds) == (7, 0.9, 0.3)
    assert ClientHealth(processes=()).loop_lag_p99_ms is None


def test_a_message_survives_json() -> None:
    one = health("a", 1, 0.5, None)
    assert ProcessHealth.from_message(json.loads(json.dumps(one.to_message()))) == one


def test_lags_beyond_the_buckets_are_kept_as_the_longest() -> None:
    lags = Lags()
    lags.add(-5)
    lags.add(10**14)
    assert lags.percentile_ms(0.4) < 0.01
    assert lags.longest_ns == 10**14


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


V2 = "nr_periods 9\nnr_throttled {n}\nthrottled_usec {t}\n"


def test_every_group_above_that_can_be_seen_is_read_on_cgroup_v2(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "proc/self/mountinfo": "31 23 0:28 / /cg rw - cgroup2 cgroup2 rw\n",
            "cg/cpu.stat": "usage_usec 5\n",
            "cg/pod/cpu.stat": V2.format(n=2, t=1_000_000),
            "cg/pod/box/cpu.stat": V2.format(n=3, t=500_000),
        },
    )
    assert read_throttled(throttling_files(root)) == Throttled(periods=5, seconds=1.5)


def test_a_container_that_sees_only_its_own_top_reads_that(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/docker/abc\n0::/\n",
            "proc/self/mountinfo": "32 31 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
            "33 31 0:30 / /cg/memory rw - cgroup cgroup rw,memory\n",
            "cg/cpu/cpu.stat": "nr_periods 7\nnr_throttled 4\nthrottled_time 2500000000\n",
            "cg/memory/cpu.stat": V2.format(n=99, t=99),
        },
    )
    assert read_throttled(throttling_files(root)) == Throttled(periods=4, seconds=2.5)


def test_a_machine_without_control_groups_tells_nothing(tmp_path: Path) -> None:
    assert throttling_files(tmp_path) == ()
    assert read_throttled(()) is None
