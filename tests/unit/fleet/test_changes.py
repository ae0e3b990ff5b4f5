"""From two specs to what has to be done."""

from __future__ import annotations

import pytest

from tri_serve.errors import UsageError
from tri_serve.fleet.changes import spec_changes
from tri_serve.spec.fleet import Autoscaling
from tri_serve.spec.models import Spec


def spec(**sections: dict[str, object]) -> Spec:
    model = {"source": "tiny:bf16", "served_name": "tri-tiny"} | sections.pop("model", {})
    return Spec.model_validate({"model": model, **sections})


def test_equal_specs_need_nothing() -> None:
    changes = spec_changes(spec(), spec())
    assert not changes
    assert changes.actions == ()


@pytest.mark.parametrize(
    "sections",
    [
        {"gateway": {"workers": 2}},
        {"gateway": {"limits": {"body_bytes": 2048}}},
        {"gateway": {"timeouts": {"drain": 5}}},
    ],
)
def test_a_gateway_setting_replaces_the_gateway_alone(sections: dict[str, dict[str, object]]) -> None:
    changes = spec_changes(spec(), spec(**sections))
    assert (changes.gateway, changes.engines, changes.listener, changes.replicas) == (
        True,
        False,
        False,
        None,
    )


@pytest.mark.parametrize("gateway", [{"port": 8001}, {"host": "127.0.0.2"}])
def test_another_address_moves_the_listener(gateway: dict[str, object]) -> None:
    changes = spec_changes(spec(), spec(gateway=gateway))
    assert (changes.gateway, changes.engines, changes.listener) == (True, False, True)


@pytest.mark.parametrize(
    "sections",
    [{"engine": {"max_num_seqs": 8}}, {"engine": {"env": {"A": "1"}}}, {"model": {"max_model_len": 4096}}],
)
def test_an_engine_setting_replaces_the_engines_alone(sections: dict[str, dict[str, object]]) -> None:
    changes = spec_changes(spec(), spec(**sections))
    assert (changes.gateway, changes.engines) == (False, True)


def test_another_served_name_concerns_both() -> None:
    changes = spec_changes(spec(), spec(model={"served_name": "other"}))
    assert (changes.gateway, changes.engines) == (True, True)


@pytest.mark.parametrize(("count", "words"), [(3, "start 2 more engines"), (2, "start 1 more engine")])
def test_more_replicas_start_engines_and_disturb_none(count: int, words: str) -> None:
    changes = spec_changes(spec(), spec(fleet={"replicas": count}))
    assert (changes.gateway, changes.engines, changes.replicas) == (False, False, (1, count))
    assert changes.actions == (words,)


def test_fewer_replicas_stop_engines() -> None:
    changes = spec_changes(spec(fleet={"replicas": 3}), spec())
    assert changes.actions == ("stop 2 engines",)


def test_other_client_keys_replace_the_gateway() -> None:
    changes = spec_changes(spec(), spec(), keys_changed=True)
    assert changes.gateway
    assert changes.differences == ("client keys changed",)


def test_client_keys_that_are_gone_are_said_to_be() -> None:
    changes = spec_changes(spec(), spec(), keys_changed=True, keys_gone=True)
    assert changes.gateway
    assert changes.differences == ("no client keys are asked for any more",)


def test_a_secret_in_the_difference_is_not_shown() -> None:
    changes = spec_changes(
        spec(engine={"env": {"HF_TOKEN": "hf_old"}}), spec(engine={"env": {"HF_TOKEN": "hf_new"}})
    )
    assert changes.engines
    assert "hf_" not in " ".join(changes.differences)


BOUNDS = {"min": 2, "max": 4}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({}, {"supervisor": "process"}, "fleet.supervisor: ray -> process"),
        (
            {},
            {"target": "ray", "ray": {"address": "auto"}},
            "fleet.target: local -> ray; fleet.ray.address: not set -> auto",
        ),
        (
            {"target": "ray", "ray": {"address": "auto"}},
            {"target": "ray", "ray": {"address": "auto", "gateway_nodes": ("a",)}},
            "fleet.ray.gateway_nodes: [] -> [a]",
        ),
    ],
)
def test_what_stands_with_the_whole_fleet_is_refused_in_one_line(
    old: dict[str, object], new: dict[str, object], words: str
) -> None:
    changes = spec_changes(spec(fleet=old), spec(fleet=new, engine={"max_num_seqs": 8}))
    assert changes
    with pytest.raises(UsageError) as refused:
        changes.check("tri")
    assert refused.value.message == f"only a fleet that starts anew can change {words}"
    assert "tri-serve down -r tri, then tri-serve up -r tri" in (refused.value.hint or "")
    assert changes.replicas is None


def test_other_bounds_are_a_rule_from_now_on_and_disturb_no_engine_within_them() -> None:
    old, new = spec(fleet={"replicas": BOUNDS}), spec(fleet={"replicas": {"min": 3, "max": 8}})
    changes = spec_changes(old, new, running=3)
    assert changes
    changes.check("tri")
    assert changes.autoscaling == Autoscaling(min=3, max=8)
    assert (changes.gateway, changes.engines, changes.replicas) == (False, False, None)
    assert changes.actions == ("follow the load between 3 and 8 engines",)
    assert changes.differences == ("fleet.replicas.min: 2 -> 3", "fleet.replicas.max: 4 -> 8")


@pytest.mark.parametrize(
    ("old", "running", "new", "words"),
    [
        (BOUNDS, 4, {"min": 1, "max": 2}, ("stop 2 engines", "follow the load between 1 and 2 engines")),
        (1, 1, BOUNDS, ("start 1 more engine", "follow the load between 2 and 4 engines")),
        (3, 3, BOUNDS, ("follow the load between 2 and 4 engines",)),
        (BOUNDS, 4, 3, ("stop 1 engine", "no longer follow the load")),
        (BOUNDS, 2, 3, ("start 1 more engine", "no longer follow the load")),
        (BOUNDS, 2, 2, ("no longer follow the load",)),
    ],
)
def test_between_a_number_and_bounds_a_fleet_changes_while_it_runs(
    old: object, running: int, new: object, words: tuple[str, ...]
) -> None:
    changes = spec_changes(spec(fleet={"replicas": old}), spec(fleet={"replicas": new}), running=running)
    assert changes
    changes.check("tri")
    assert not changes.gateway
    assert not changes.engines
    assert changes.actions == words
    assert changes.differences


def test_the_load_may_have_moved_a_fleet_within_the_same_bounds() -> None:
    same = spec(fleet={"replicas": BOUNDS})
    assert not spec_changes(same, same, running=4)


def test_the_same_bounds_are_no_change() -> None:
    same = spec(fleet={"replicas": BOUNDS})
    assert not spec_changes(same, spec(fleet={"replicas": BOUNDS}))
    assert spec_changes(same, spec(fleet={"replicas": BOUNDS}, gateway={"workers": 2})).autoscaling is None


def test_what_ray_has_placed_cannot_ask_for_other_gpus() -> None:
    two = {"tensor_parallel_size": 2}
    under_ray = {"supervisor": "ray"}
    changes = spec_changes(spec(fleet=under_ray), spec(fleet=under_ray, engine=two))
    assert changes.refused == "only a fleet that starts anew can change engine.tensor_parallel_size: 1 -> 2"
    plain = {"supervisor": "process"}
    assert spec_changes(spec(fleet=plain), spec(fleet=plain, engine=two)).refused is None
