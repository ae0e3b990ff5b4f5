"""What a fleet's load is, from what its gateways say."""

from __future__ import annotations

from typing import Any

from tri_serve.fleet.load import FleetLoad


def status(waiting: int = 0, in_flight: int = 0, **replicas: Any) -> dict[str, Any]:
    """A gateway's answer: (in flight, report or None) for each replica."""
    return {
        "waiting": waiting,
        "workers": [{"in_flight": in_flight}],
        "replicas": [
            {"name": name, "in_flight": there, "load": report} for name, (there, report) in replicas.items()
        ],
    }


def report(running: int | None, waiting: int | None, age: float = 0.5) -> dict[str, Any]:
    return {"running": running, "waiting": waiting, "tokens_per_second": 10.0 * age, "age_seconds": age}


def test_gateways_that_do_not_answer_say_nothing() -> None:
    load = FleetLoad({"gateway@a": None, "gateway@b": None})
    assert (load.requests, load.waiting_and_running, load.of_replica("replica-0")) == (0, 0, {})


def test_the_newest_report_of_any_gateway_counts_once_and_what_they_have_there_is_added_up() -> None:
    load = FleetLoad(
        {
            "gateway@a": status(r0=(3, report(4, 2, age=0.9))),
            "gateway@b": status(r0=(2, report(5, 1, age=0.1))),
            "gateway@c": None,
        }
    )
    assert load.of_replica("r0") == {"in_flight": 5, "running": 5, "waiting": 1, "tokens_per_second": 1.0}
    assert load.waiting_and_running == 6


def test_an_engine_that_does_not_report_counts_with_what_gateways_have_there() -> None:
    assert FleetLoad({"gateway": status(r0=(7, None))}).waiting_and_running == 7
    assert FleetLoad({"gateway": status(r0=(7, report(None, None)))}).waiting_and_running == 7


def test_requests_newer_than_the_report_count() -> None:
    assert FleetLoad({"gateway": status(r0=(9, report(0, 0)))}).waiting_and_running == 9


def test_requests_that_wait_for_a_connection_count_once() -> None:
    load = FleetLoad({"gateway": status(waiting=4, in_flight=6, r0=(2, None), r1=(0, report(1, 1)))})
    assert (load.requests, load.waiting_and_running) == (6, 4)


def test_requests_that_gateways_hold_since_no_replica_is_ready_count() -> None:
    held = status(waiting=3, in_flight=3) | {"held": 3}
    assert FleetLoad({"a": held, "b": status(in_flight=2, r0=(2, None))}).waiting_and_running == 5


def test_a_gateway_of_an_older_kind_is_not_misread() -> None:
    load = FleetLoad({"gateway": {"ready": True}})
    assert (load.requests, load.waiting_and_running, load.of_replica("r0")) == (0, 0, {})
