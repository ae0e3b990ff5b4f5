"""What the fleet commands print."""

from __future__ import annotations

import re

import pytest

from tri_serve.cli.fleet_views import (
    after_failed_change,
    duration,
    print_usage,
    release_flag,
    status_data,
    word,
)
from tri_serve.fleet.state import (
    FleetPhase,
    FleetState,
    GatewayState,
    ReplicaPhase,
    ReplicaState,
    SupervisorState,
    WorkerState,
)


def fleet(
    phase: FleetPhase = FleetPhase.RUNNING,
    *,
    replicas: tuple[ReplicaPhase, ...] = (ReplicaPhase.READY,),
    ready: bool = True,
    client_keys: int = 0,
) -> FleetState:
    return FleetState(
        release="tri",
        phase=phase,
        url="http://127.0.0.1:8000",
        model="tri-tiny",
        source="tiny:awq",
        engine="vllm 0.32.0",
        supervisor=SupervisorState.current("the-token"),
        replicas=tuple(
            ReplicaState(name=f"replica-{n}", phase=p, since=0.0, pid=99_999, port=65_535, log="/l")
            for n, p in enumerate(replicas)
        ),
        gateways=(
            GatewayState(
                phase="running",
                since=0.0,
                ready=ready,
                workers=(WorkerState(pid=5, up=True), WorkerState(pid=6, up=True)),
                admin_port=65_535,
                client_keys=client_keys,
                log="",
            ),
        ),
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3_661, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_durations_are_told_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("state", "alive", "expected"),
    [
        (fleet(), True, "ready"),
        (fleet(replicas=(ReplicaPhase.READY, ReplicaPhase.FAILED)), True, "degraded"),
        (fleet(ready=False), True, "not ready"),
        (fleet(FleetPhase.STARTING, ready=False), True, "starting"),
        (fleet(FleetPhase.STOPPING), True, "stopping"),
        (fleet(), False, "stale"),
        (fleet(FleetPhase.FAILED), False, "failed"),
    ],
)
def test_a_fleets_condition_in_a_word(state: FleetState, alive: bool, expected: str) -> None:
    assert word(state, alive=alive) == expected


def test_the_default_release_needs_no_flag() -> None:
    assert (release_flag("tri"), release_flag("blue")) == ("", " -r blue")


def test_usage_names_the_key_only_where_one_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    print_usage(fleet())
    assert "TRI_SERVE_API_KEY" not in capsys.readouterr().out
    print_usage(fleet(client_keys=1))
    out = capsys.readouterr().out
    assert '-H "authorization: Bearer $TRI_SERVE_API_KEY"' in out
    assert 'api_key=os.environ["TRI_SERVE_API_KEY"]' in out


def test_the_sweeps_token_is_not_printed() -> None:
    assert "the-token" not in str(status_data(fleet(), alive=True))


def test_nothing_of_a_stale_fleet_is_said_to_run() -> None:
    data = status_data(fleet(), alive=False)
    assert (data["condition"], data["phase"], data["ready"]) == ("stale", "stale", False)
    assert (data["gateways"][0]["phase"], data["gateways"][0]["ready"]) == ("unknown", False)
    assert [replica["phase"] for replica in data["replicas"]] == ["unknown"]


@pytest.mark.parametrize(
    ("replicas", "words"),
    [
        ((ReplicaPhase.READY,), "nothing is changed: tri runs with its earlier setting"),
        ((ReplicaPhase.LOADING,), "replica-0 is starting again with the earlier setting; .* with 503 until"),
        ((ReplicaPhase.LOADING,) * 2, "replica-0, replica-1 are starting again .* with 503 until"),
        (
            (ReplicaPhase.READY, ReplicaPhase.LOADING),
            "replica-1 is starting again .* the other engines answer",
        ),
    ],
)
def test_after_a_change_that_failed_it_is_said_what_runs(
    replicas: tuple[ReplicaPhase, ...], words: str
) -> None:
    assert re.search(words, after_failed_change(fleet(replicas=replicas)))
