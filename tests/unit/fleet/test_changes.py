"""From two specs to what has to be done."""

from __future__ import annotations

import pytest

from tri_serve.fleet.changes import spec_changes
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
