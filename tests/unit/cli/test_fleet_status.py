"""``status`` as people see it: whole screens, of states made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import pytest

from tri_serve.cli.columns import age, compact, rate
from tri_serve.cli.fleet_status import status_lines
from tri_serve.cli.fleet_views import status_data
from tri_serve.fleet.state import FleetState, RayState, SupervisorState

Make = Callable[..., Any]
NOTHING_YET = {
    "pid": None,
    "kv_cache_tokens": None,
    "in_flight": None,
    "waiting": None,
    "tokens_per_second": None,
    "linear_kernel": None,
}

AT_WORK = """\
tri: ready
  url         http://127.0.0.1:8000/v1
  model       tri-21b (trillionlabs/Tri-21B-AWQ) on vllm 0.32.0
  supervisor  pid 41000, up 2 h 8 min
  ray         private at 127.0.0.1:26379, gcs_server 41001, raylet 41002

replica    state  device    pid    KV    in flight  tok/s  restarts  since
replica-0  ready  cuda:0  41200  419k  12 (3 wait)   1234         0  2h07m
replica-1  ready  cuda:1  41201  419k  12 (3 wait)   1234         0  2h07m

gateway     state      pid  connections  in flight  restarts  since
gateway     running  41100           72         24         0  2h07m
  worker 1  up       41101           37         13
  worker 2  up       41102           35         11

replica-0, replica-1: MarlinLinearKernel
gateway: no client keys asked for
gateway: metrics at http://127.0.0.1:45735/metrics
"""

STARTING = """\
tri: starting
  url         http://127.0.0.1:8000/v1
  model       tri-21b (trillionlabs/Tri-21B-AWQ) on vllm 0.32.0
  supervisor  pid 41000, up 2 h 8 min
  ray         private at 127.0.0.1:26379, gcs_server 41001, raylet 41002

replica    state     device    pid  KV  in flight  tok/s  restarts  since
replica-0  loading   cuda:0  41200   -          -      -         0    12s
replica-1  starting  cuda:1      -   -          -      -         0     2s

gateway  state      pid  connections  in flight  restarts  since
gateway  running  41100            0          0         0  2h07m

gateway: no client keys asked for
gateway: metrics at http://127.0.0.1:45735/metrics
"""

CRASH_LOOP = """\
tri: degraded
  url         http://127.0.0.1:8000/v1
  model       tri-21b (trillionlabs/Tri-21B-AWQ) on vllm 0.32.0
  supervisor  pid 41000, up 2 h 8 min
  ray         private at 127.0.0.1:26379, gcs_server 41001, raylet 41002

replica    state    device    pid    KV    in flight  tok/s  restarts  since
replica-0  ready    cuda:0  41200  419k  12 (3 wait)   1234         0  2h07m
replica-1  waiting  cuda:1      -     -            -      -         4     3s

gateway     state      pid  connections  in flight  restarts  since
gateway     running  41100           72         24         0  2h07m
  worker 1  up       41101           37         13
  worker 2  up       41102           35         11

replica-0: MarlinLinearKernel
replica-1: failure: the engine died: exited with status 1: RuntimeError: CUDA
  out of memory. Tried to allocate 2.00 GiB
replica-1: next start in 8 s
gateway: no client keys asked for
gateway: metrics at http://127.0.0.1:45735/metrics
"""

RAY_DIED = """\
tri: not ready
  url         http://127.0.0.1:8000/v1
  model       tri-21b (trillionlabs/Tri-21B-AWQ) on vllm 0.32.0
  supervisor  pid 41000, up 2 h 8 min
  ray         starting, private, 1 restart

replica    state    device  pid  KV  in flight  tok/s  restarts  since
replica-0  waiting  cuda:0    -   -          -      -         0     3s

gateway  state    pid  connections  in flight  restarts  since
gateway  waiting    -            0          -         0     3s

ray: Ray died: raylet (pid 41001) is gone; it is started again by itself, and
  engines and gateway with it
gateway: no client keys asked for
"""

TWO_NODES = """\
tri: ready
  url         http://127.0.0.1:8000/v1
  model       tri-21b (trillionlabs/Tri-21B-AWQ) on vllm 0.32.0
  supervisor  pid 41000, up 2 h 8 min
  ray         your cluster at 10.0.0.11:6379, 2 nodes

replica     state device       pid   KV     in flight tok/s restarts since
10.0.0.11
  replica-0 ready cuda:0     41200 419k   12 (3 wait)  1234        0 2h07m
gpu-node-12.cluster.local
  replica-1 ready cuda:0,1 4194303 419k 128 (64 wait)  1234        0 2h07m

gateway     state      pid  connections  in flight  restarts  since
gateway@10.0.0.11
  process   running  41100           72         24         0  2h07m
  worker 1  up       41101           37         13
  worker 2  up       41102           35         11
gateway@gpu-node-12.cluster.local
  process   running  41100           72         24         0  2h07m
  worker 1  up       41101           37         13
  worker 2  up       41102           35         11

replica-0, replica-1: MarlinLinearKernel
gateway@10.0.0.11, gateway@gpu-node-12.cluster.local: no client keys asked for
gateway@10.0.0.11, gateway@gpu-node-12.cluster.local: metrics at
  http://127.0.0.1:45735/metrics
"""


def screen(state: FleetState, now: float, *, alive: bool = True, width: int | None = 80) -> str:
    lines = [click.unstyle(line) for line in status_lines(state, alive=alive, width=width, now=now)]
    if width is not None:
        assert max(map(len, lines)) <= 80
    return "\n".join(lines) + "\n"


def test_two_replicas_at_work(fleet: Make, now: float) -> None:
    assert screen(fleet(), now) == AT_WORK


def test_two_replicas_starting(fleet: Make, replica: Make, gateway: Make, now: float) -> None:
    loading = replica(0, **NOTHING_YET | {"phase": "loading", "since": now - 12, "pid": 41_200})
    starting = replica(1, **NOTHING_YET | {"phase": "starting", "since": now - 2})
    unready = gateway(ready=False, workers=(), in_flight=0)
    state = fleet(phase="starting", replicas=(loading, starting), gateways=(unready,))
    assert screen(state, now) == STARTING


def test_a_crash_loop_is_told_with_the_engines_last_words(fleet: Make, replica: Make, now: float) -> None:
    error = (
        "replica-1: the engine died: exited with status 1: "
        "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"
    )
    waits = {"phase": "waiting", "since": now - 3, "restarts": 4, "retry": now + 8, "error": error}
    state = fleet(replicas=(replica(0), replica(1, **NOTHING_YET | waits)))
    assert screen(state, now) == CRASH_LOOP


def test_a_replica_given_up_says_the_command_that_tries_again(fleet: Make, replica: Make, now: float) -> None:
    state = fleet(release="blue", replicas=(replica(0, **NOTHING_YET | {"phase": "failed", "error": "no"}),))
    assert "replica-0: given up; tri-serve restart replica-0 -r blue tries again\n" in screen(state, now)


def test_a_ray_that_died_is_told_with_what_happens_next(
    fleet: Make, replica: Make, gateway: Make, now: float
) -> None:
    state = fleet(
        ray=RayState(phase="starting", restarts=1, error="Ray died: raylet (pid 41001) is gone"),
        replicas=(replica(0, **NOTHING_YET | {"phase": "waiting", "since": now - 3}),),
        gateways=(
            gateway(phase="waiting", ready=False, pid=None, workers=(), in_flight=None, since=now - 3),
        ),
    )
    assert screen(state, now) == RAY_DIED


def test_a_ray_given_up_says_what_to_do(fleet: Make, now: float) -> None:
    state = fleet(
        release="blue",
        ray=RayState(phase="failed", error="Ray died: gcs_server (pid 9) is gone"),
        replicas=(),
        gateways=(),
    )
    assert screen(state, now, width=None).endswith(
        "ray: Ray died: gcs_server (pid 9) is gone; it is not tried again: "
        "tri-serve up -r blue starts all of it anew\n"
    )


def test_a_fleet_that_is_ready_without_its_ray_is_degraded(fleet: Make, now: float) -> None:
    assert screen(fleet(ray=RayState(phase="waiting")), now).startswith("tri: degraded\n")


def test_a_fleet_that_follows_its_load_says_bounds_number_and_goal(fleet: Make, now: float) -> None:
    text = screen(fleet(autoscaling=(1, 4), desired_replicas=3), now)
    assert "  autoscaling 1 to 4 replicas: 2 now, 3 wanted\n" in text


def test_nodes_are_named_where_there_are_several(
    fleet: Make, replica: Make, gateway: Make, now: float
) -> None:
    far = "gpu-node-12.cluster.local"
    state = fleet(
        target="ray",
        ray=RayState(phase="running", private=False, address="10.0.0.11:6379", nodes=2),
        replicas=(
            replica(0),
            replica(1, node=far, device="cuda:0,1", pid=4_194_303, in_flight=128, waiting=64),
        ),
        gateways=(gateway(name="gateway@10.0.0.11"), gateway(name=f"gateway@{far}")),
    )
    assert screen(state, now) == TWO_NODES


def test_in_a_pipe_a_line_stays_a_line(fleet: Make, replica: Make, now: float) -> None:
    words = "word " * 40
    text = screen(fleet(replicas=(replica(0, error=words),)), now, width=None)
    assert f"replica-0: last failure: {words}\n" in text


def test_a_fleet_whose_supervisor_is_gone_says_what_to_do(fleet: Make, now: float) -> None:
    assert screen(fleet(), now, alive=False) == (
        "tri: stale\n"
        "  its supervisor (pid 41000) is gone without a trace: killed, or a reboot\n"
        "  tri-serve down tidies up; tri-serve up does that, too, and starts it again\n"
    )


def test_what_may_serve_without_its_supervisor_is_said(fleet: Make, now: float) -> None:
    ray = RayState(phase="running", address="10.0.0.1:6379", private=False)
    text = "\n".join(status_lines(fleet(target="ray", ray=ray), alive=False, width=None, now=now))
    assert "what it ran on the cluster at 10.0.0.1:6379 may still serve: tri-serve up takes it over" in text


def test_a_fleet_of_another_machine_is_not_called_stale(fleet: Make, now: float) -> None:
    supervisor = SupervisorState(pid=1, ticks=1, boot="b", token="t", started=now, host="node-b")
    lines = status_lines(fleet(supervisor=supervisor), alive=False, now=now)
    assert lines[0] == "tri: " + click.style("elsewhere", bold=True)
    assert "its supervisor runs on node-b" in lines[1]
    data = status_data(fleet(supervisor=supervisor), alive=False)
    assert (data["condition"], data["ready"]) == ("elsewhere", False)


def test_programs_get_everything_and_nothing_that_is_no_more(fleet: Make) -> None:
    data = status_data(fleet(), alive=True)
    assert data["replicas"][1]["device"] == "cuda:1"
    assert data["gateways"][0]["workers"][1] == {
        "pid": 41_102,
        "up": True,
        "silent_seconds": 0.0,
        "connections": 35,
        "in_flight": 11,
    }
    assert data["ray"]["processes"] == {"gcs_server": 41_001, "raylet": 41_002}
    stale = status_data(fleet(), alive=False)
    assert stale["ray"]["phase"] == "unknown"
    assert [worker["up"] for worker in stale["gateways"][0]["workers"]] == [False, False]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.44, "0.4"),
        (999, "999"),
        (999.9, "1.0k"),
        (9_960, "10k"),
        (419_430, "419k"),
        (1_234_567, "1.2M"),
    ],
)
def test_large_numbers_are_short(number: float | None, text: str) -> None:
    assert compact(number) == text


@pytest.mark.parametrize(("number", "text"), [(None, "-"), (9.5, "9.5"), (84.2, "84"), (123_456, "123k")])
def test_rates_keep_their_digits_while_they_fit(number: float | None, text: str) -> None:
    assert rate(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (59.9, "59s"), (65, "1m05s"), (7_620, "2h07m"), (90_000, "1d01h")]
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_a_head_line_that_is_too_long_goes_on_under_its_value(fleet: Make, now: float) -> None:
    text = screen(fleet(source="a-long-organisation/a-long-name-of-a-checkpoint-AWQ"), now)
    assert "\n  model       tri-21b (a-long-organisation/a-long-name-of-a-checkpoint-AWQ) on\n" in text
    assert "\n              vllm 0.32.0\n" in text
