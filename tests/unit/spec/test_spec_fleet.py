"""The fleet part of the spec: a number of replicas or bounds, and what goes with which target."""

from __future__ import annotations

import json

import pytest
import yaml

from tri_serve.errors import SpecError
from tri_serve.spec.difference import flat_values, printable
from tri_serve.spec.fleet import Autoscaling, FleetSpec
from tri_serve.spec.load import LoadedSpec, load_spec
from tri_serve.spec.models import Spec
from tri_serve.spec.preset import preset_names

REPLICAS = (
    "takes a whole number from 1 to 64 or a section with the keys min, max, target, scale_up_after, "
    "scale_down_after"
)


def loaded(*sets: str) -> LoadedSpec:
    return load_spec(None, [], {}, sets)


def test_a_number_of_replicas_is_what_the_fleet_starts_with_and_stays_at() -> None:
    fleet = loaded("fleet.replicas=3").spec.fleet
    assert (fleet.replicas, fleet.initial_replicas, fleet.most_replicas, fleet.autoscaling) == (3, 3, 3, None)


def test_bounds_take_the_place_of_a_presets_number() -> None:
    fleet = loaded("fleet.replicas.max=4").spec.fleet
    assert fleet.autoscaling == Autoscaling(
        min=1, max=4, target=16.0, scale_up_after=10.0, scale_down_after=300.0
    )
    assert (fleet.initial_replicas, fleet.most_replicas) == (1, 4)


def test_bounds_merge_key_by_key_and_a_number_takes_their_place(write_spec) -> None:
    path = write_spec(
        "preset: tri-tiny-awq\nfleet:\n  replicas:\n    min: 2\n    max: 4\n    scale_down_after: 2m\n"
    )
    rule = load_spec(None, [path], {}, ["fleet.replicas.max=8"]).spec.fleet.autoscaling
    assert rule is not None
    assert (rule.min, rule.max, rule.scale_down_after) == (2, 8, 120.0)
    assert load_spec(None, [path], {"TRI_SERVE_FLEET__REPLICAS": "3"}).spec.fleet.replicas == 3
    assert load_spec(None, [path], {}, ["fleet.replicas=null"]).spec.fleet.replicas == 1


@pytest.mark.parametrize("value", ["fleet.replicas=3", "fleet.replicas.max=4", "fleet.replicas={max: 2}"])
def test_every_shown_value_of_the_fleet_has_an_origin(value: str) -> None:
    spec = loaded(value)
    assert set(spec.origins) == {".".join(path) for path in flat_values(spec.spec)}
    assert str(spec.origins[value.partition("=")[0] if "{" not in value else "fleet.replicas.max"]) == "--set"


def test_a_spec_with_bounds_survives_yaml_and_json(write_spec) -> None:
    spec = loaded("fleet.replicas.max=4").spec
    assert Spec.model_validate_json(spec.model_dump_json()) == spec
    path = write_spec(yaml.safe_dump(json.loads(spec.model_dump_json())))
    assert load_spec(None, [path], {}).spec == spec
    path = write_spec(yaml.safe_dump(printable(spec)))
    assert load_spec(None, [path], {}).spec == spec


@pytest.mark.parametrize("name", preset_names())
def test_a_tiny_preset_shows_what_takes_two_and_a_large_one_asks_for_one_gpu(name: str) -> None:
    needs = ["model.source=/m"] if name.startswith("tri-21b") else []
    fleet = load_spec(name, [], {}, needs).spec.fleet
    assert fleet.initial_replicas == (2 if name.startswith("tri-tiny") else 1)
    assert (fleet.target, fleet.supervisor) == ("local", "ray")


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["fleet.replicas=0"], f"fleet.replicas: found the number 0; {REPLICAS}"),
        (["fleet.replicas=65"], f"fleet.replicas: found the number 65; {REPLICAS}"),
        (["fleet.replicas=two"], f"fleet.replicas: found the text 'two'; {REPLICAS}"),
        (["fleet.replicas=true"], f"fleet.replicas: found true; {REPLICAS}"),
        (["fleet.replicas=[1]"], f"fleet.replicas: found a list of 1; {REPLICAS}"),
        (["fleet.replicas={max: 0}"], "fleet.replicas.max: found the number 0; takes a whole number from 1"),
        (["fleet.replicas={max: two}"], "fleet.replicas.max: found the text 'two'; takes a whole number"),
        (
            ["fleet.replicas={min: 5, max: 4}"],
            "--set: fleet.replicas.min: min 5 is more than max 4",
        ),
        (
            ["fleet.replicas={max: 4, target: 0}"],
            "fleet.replicas.target: found the number 0; takes a number above 0",
        ),
        (
            ["fleet.replicas={max: 4, mox: 1}"],
            "fleet.replicas.mox: unknown key; the nearest is fleet.replicas.max",
        ),
        (
            ["fleet.replicas.min=2"],
            "fleet.replicas.max: required, and nothing gives it; takes a whole number",
        ),
        (["fleet.target=ray"], "fleet.ray.address: the target ray needs the cluster's address"),
        (
            ["fleet.target=ray", "fleet.ray.address=auto", "fleet.supervisor=process"],
            "--set: fleet.supervisor: the target ray needs the supervisor ray",
        ),
        (["fleet.ray.address=auto"], "fleet.ray.address: goes with the target ray alone"),
        (["fleet.ray.gateway_nodes=[a]"], "fleet.ray.gateway_nodes: goes with the target ray alone"),
        (["fleet.target=ray", "fleet.ray.address=ray://h:1"], "Ray Client addresses are not taken"),
        (
            ["fleet.target=ray", "fleet.ray.address=h"],
            "fleet.ray.address: found the text 'h': takes HOST:PORT",
        ),
        (["fleet.target=ray", "fleet.ray.address=h:99999"], "takes HOST:PORT, or auto"),
        (
            ["fleet.target=ray", "fleet.ray.address=auto", "fleet.ray.gateway_nodes=[a, a]"],
            "fleet.ray.gateway_nodes: 'a' stands twice",
        ),
    ],
)
def test_a_fleet_that_cannot_be_is_refused_in_one_line(sets: list[str], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        loaded(*sets)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert "[" not in caught.value.message.replace("[1]", "")


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "head.example.org:6379", "[fd00::1]:6379"])
def test_a_cluster_is_named_by_its_address(address: str) -> None:
    fleet = FleetSpec.model_validate({"target": "ray", "ray": {"address": address, "gateway_nodes": ("n1",)}})
    assert (fleet.ray.address, fleet.ray.gateway_nodes) == (address, ("n1",))
