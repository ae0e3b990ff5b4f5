"""What is decided about a user's Ray cluster without asking one."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import FleetError, SpecError, UsageError
from tri_serve.fleet.cluster_record import application_prefix, forget_record, keep_record, read_record
from tri_serve.fleet.keys import check_exposure
from tri_serve.fleet.preflight import preflight_for_cluster
from tri_serve.fleet.ray.client import refused
from tri_serve.fleet.ray.cluster import chosen_nodes, gateway_places
from tri_serve.fleet.ray.fitness import differing_versions, lacking, missing_room
from tri_serve.fleet.release import ReleasePaths
from tri_serve.spec.gateway import GatewaySpec
from tri_serve.spec.models import Spec


def node(number: int, name: str, *, gpus: int = 0, cpus: int = 8) -> dict[str, Any]:
    return {"address": f"10.0.0.{number}", "name": name, "gpus": gpus, "cpus": cpus}


def spec(replicas: int = 2, **engine: Any) -> Spec:
    return Spec.model_validate(
        {
            "model": {"source": "/nowhere", "served_name": "t"},
            "engine": engine,
            "fleet": {"target": "ray", "replicas": replicas, "ray": {"address": "10.0.0.1:6379"}},
            "gateway": {"host": "node", "allow_unauthenticated": True},
        }
    )


NODES = [node(1, "a"), node(2, "b"), node(3, "b")]


def test_every_node_gets_a_gateway_unless_some_are_named() -> None:
    assert chosen_nodes((), NODES) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert chosen_nodes(("10.0.0.3", "a"), NODES) == ["10.0.0.3", "10.0.0.1"]
    assert chosen_nodes(("a", "10.0.0.1"), NODES) == ["10.0.0.1"]


def test_a_node_that_is_not_there_or_not_the_only_one_of_its_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no node c; its nodes are: 10\.0\.0\.1, 10\.0\.0\.2, 10\.0\.0\.3"):
        chosen_nodes(("c",), NODES)
    with pytest.raises(UsageError, match=r"2 nodes are called b; .*10\.0\.0\.2, 10\.0\.0\.3"):
        chosen_nodes(("b",), NODES)


@pytest.mark.parametrize(
    ("wanted", "found", "places"),
    [
        ((), ["10.0.0.9"], ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9"]),
        (("a", "10.0.0.9"), ["10.0.0.1", "10.0.0.9"], ["10.0.0.1", "10.0.0.9"]),
        (("a", "c"), ["10.0.0.1", "10.0.0.9"], ["10.0.0.1", "10.0.0.9"]),  # c may be 10.0.0.9
        (("10.0.0.9",), ["10.0.0.8", "10.0.0.9"], ["10.0.0.9"]),
        (("a",), ["10.0.0.1", "10.0.0.9"], ["10.0.0.1"]),  # no longer wanted there
    ],
)
def test_a_gateway_that_was_found_keeps_its_place_while_its_node_is_away(
    wanted: tuple[str, ...], found: list[str], places: list[str]
) -> None:
    assert gateway_places(wanted, NODES, found) == places


def test_a_name_that_no_node_had_is_refused_whatever_was_found() -> None:
    for found in ([], ["10.0.0.1"]):
        with pytest.raises(UsageError, match="no node c"):
            gateway_places(("a", "c"), NODES, found)
    with pytest.raises(UsageError, match="no node c"):
        gateway_places(("10.0.0.9", "c"), NODES, ["10.0.0.9"])


def test_engines_that_span_gpus_need_them_on_one_node() -> None:
    nodes = [node(1, "a", gpus=3), node(2, "b", gpus=1)]
    assert missing_room(spec(4), nodes, cuda=True) == []
    assert missing_room(spec(2, tensor_parallel_size=2), nodes, cuda=True) == [
        "2 engines need 2 GPUs each on one node, and the cluster has room for 1 (--set fleet.replicas=1 fits)"
    ]
    assert missing_room(spec(1, cpu_threads=16), nodes, cuda=False) == [
        "1 engine needs 16 CPU cores each on one node, and the cluster has room for 0"
    ]


def test_another_version_on_a_node_is_said() -> None:
    here = {"tri-serve": "1.0", "Python": "3.11.7", "Ray": "2.60.0"}
    assert differing_versions(here | {"Python": "3.11.9"}, here) == []
    assert differing_versions(here | {"Python": "3.10.1", "Ray": "2.0.0"}, here) == [
        "it has Python 3.10.1, and the supervisor 3.11.7",
        "it has Ray 2.0.0, and the supervisor 2.60.0",
    ]


def test_why_an_agent_has_no_place_is_said() -> None:
    free = [{"GPU": 1.0, "CPU": 4.0, "node:10.0.0.1": 1.0}, {"CPU": 0.5}]
    assert lacking({"GPU": 1.0}, free) is None
    assert lacking({"node:10.0.0.1": 0.001}, free) is None
    assert lacking({"GPU": 2.0}, free) == "it waits for a place: no node has 2 free GPUs"
    assert lacking({"GPU": 1.0}, [{"CPU": 4.0}]) == "it waits for a place: no node has a free GPU"
    assert (
        lacking({"node:10.0.0.9": 0.001}, free) == "it waits for a place: node 10.0.0.9 is not in the cluster"
    )


def test_the_record_keeps_key_and_name_until_the_release_is_stopped(tmp_path: Path) -> None:
    paths = ReleasePaths(tmp_path / "tri")
    paths.create()
    first = keep_record(paths, "10.0.0.1:6379", 60.0)
    assert stat.S_IMODE(paths.cluster.stat().st_mode) == 0o600
    assert first.engine_key not in repr(first)
    again = keep_record(paths, "10.0.0.1:6379", 90.0)
    assert (again.engine_key, again.identity, again.patience) == (first.engine_key, first.identity, 90.0)
    with pytest.raises(FleetError, match=r"was started on the cluster at 10\.0\.0\.1:6379, and not stopped"):
        keep_record(paths, "10.0.0.2:6379", 60.0)
    forget_record(paths)
    assert read_record(paths) is None
    later = keep_record(paths, "10.0.0.2:6379", 60.0)
    assert later.engine_key != first.engine_key
    assert later.identity == first.identity  # its folders on the nodes stay the same


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    paths = ReleasePaths(tmp_path / "tri")
    paths.create()
    paths.cluster.write_text("{")
    with pytest.raises(FleetError, match="is damaged"):
        read_record(paths)


def test_releases_of_one_name_do_not_meet_on_a_cluster(tmp_path: Path) -> None:
    names = set()
    for user in ("a", "b"):
        paths = ReleasePaths(tmp_path / user / "tri")
        paths.create()
        names.add(application_prefix(paths, keep_record(paths, "10.0.0.1:6379", 60.0).identity))
    assert len(names) == 2


def test_a_gateway_at_its_nodes_address_is_not_this_machines_alone() -> None:
    check_exposure(GatewaySpec(host="node"), client_keys=1)
    with pytest.raises(UsageError, match="can be reached from other machines"):
        check_exposure(GatewaySpec(host="node"), client_keys=0)


def test_nothing_of_the_nodes_is_looked_for_here(tmp_path: Path) -> None:
    preflight_for_cluster(
        spec(64), environment_hashes={}, state=tmp_path
    )  # /nowhere is the nodes' checkpoint
    closed = spec().model_copy(update={"gateway": GatewaySpec(host="node", keys_file=str(tmp_path / "none"))})
    with pytest.raises(SpecError, match="does not exist"):
        preflight_for_cluster(closed, environment_hashes={}, state=tmp_path)


def test_a_refused_token_is_told_from_everything_else_that_ray_logs() -> None:
    log = ["Failed to get cluster ID from GCS server: Unauthenticated: RPC error: InvalidAuthToken: ..."]
    assert "RAY_AUTH_TOKEN_PATH" in str(refused(log))
    assert refused(["Failed to get cluster ID from GCS server: RpcError: Method not found!"]) is None
