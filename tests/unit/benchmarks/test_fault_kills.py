"""Who is killed when, what a status says, and what is left of an earlier life."""

from __future__ import annotations

import pytest

from benchmarks.faults.ancestry import left_over
from benchmarks.faults.connections import peers_by_inode
from benchmarks.faults.engines import victims_in_turn
from benchmarks.faults.fleet import given_up, is_whole, parts
from benchmarks.faults.kills import calm_for
from benchmarks.faults.ray_killed import what_it_says
from tri_serve.process.strays import ProcessIdentity


def test_servers_and_cores_and_replicas_take_turns():
    victims = victims_in_turn(4, 2)

    assert sorted(victims) == ["replica-0", "replica-0/core", "replica-1", "replica-1/core"]
    assert [victim.endswith("/core") for victim in victims] == [False, True, False, True]


def test_kills_are_apart_only_where_they_would_make_a_crash_loop():
    assert calm_for(10, 2, steady=60, limit=5) == 61
    assert calm_for(8, 2, steady=60, limit=5) == 0
    assert calm_for(9, 2, steady=60, limit=5) == 61


def _status(*, replica=None, gateway=None, ray=None, **fleet):
    """A status of a fleet that is whole, but for these changes of its parts."""
    return {
        "phase": "running",
        "condition": "ready",
        "ray": {"phase": "running", "processes": {"raylet": 31, "gcs_server": 32}, "error": None}
        | (ray or {}),
        "replicas": [
            {"name": "replica-0", "phase": "ready", "pid": 11, "core_pids": [12], "error": None}
            | (replica or {})
        ],
        "gateways": [
            {
                "name": "gateway",
                "phase": "running",
                "ready": True,
                "pid": 21,
                "workers": [{"pid": 22, "up": True}, {"pid": 23, "up": True}],
                "error": None,
            }
            | (gateway or {})
        ],
        "error": None,
    } | fleet


def test_every_process_of_a_fleet_has_a_name():
    assert parts(_status()) == {
        "replica-0": 11,
        "replica-0/core": 12,
        "gateway": 21,
        "gateway/worker-0": 22,
        "gateway/worker-1": 23,
        "ray/raylet": 31,
        "ray/gcs_server": 32,
    }


def test_a_fleet_is_whole_when_every_part_is():
    assert is_whole(_status(), workers=2)
    assert is_whole(_status() | {"ray": None}, workers=2)


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "changing"},
        {"replica": {"phase": "loading"}},
        {"gateway": {"ready": False}},
        {"gateway": {"workers": [{"pid": 22, "up": True}, {"pid": None, "up": False}]}},
        {"ray": {"phase": "starting"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_fleet_is_not_whole_while_a_part_is_missing(change):
    assert not is_whole(_status(**change), workers=2)


def test_what_is_given_up_is_told_with_its_words():
    status = _status(replica={"phase": "failed", "error": "no kernel"})

    assert given_up(status) == ["replica-0: no kernel"]
    assert given_up(_status()) == []


def test_a_status_says_something_once_it_knows_of_the_death():
    assert what_it_says(_status(), "raylet", 31) == ""
    dead = _status(ray={"phase": "waiting", "error": "raylet died"})
    assert "raylet died" in what_it_says(dead, "raylet", 31)
    assert what_it_says(_status(), "raylet", 30) != ""


def test_a_trees_processes_are_in_use_while_one_of_them_is_a_part():
    supervisor, guard, engine, core, old_guard, old_worker, orphan = range(100, 107)
    parents = {
        supervisor: 1,
        guard: supervisor,
        engine: guard,
        core: engine,
        old_guard: supervisor,
        old_worker: old_guard,
        orphan: 1,
    }
    everything = [ProcessIdentity(pid, 1) for pid in parents]

    assert left_over(everything, everything, parents, supervisor, [engine]) == [old_guard, old_worker, orphan]
    assert left_over([], everything, parents, supervisor, [engine]) == []


def test_connections_are_found_by_the_port_they_came_to():
    lines = [
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1",
        "   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 8 1",
        "   2: 0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 9 1",
    ]

    assert peers_by_inode(lines, 8080) == {8: 54321}
