"""The engine's make, and the version that goes with it."""

from __future__ import annotations

import pytest

from tri_serve.spec.engine import TESTED_VERSIONS, EngineSpec
from tri_serve.spec.load import load_spec


@pytest.mark.parametrize(("kind", "version"), TESTED_VERSIONS.items())
def test_an_engine_without_a_version_has_the_one_that_is_known_best(kind: str, version: str) -> None:
    spec = load_spec("tri-21b-awq", [], {}, ["model.source=/m", f"engine.kind={kind}"]).spec
    assert spec.engine.version == version


def test_a_version_that_is_given_stays() -> None:
    assert EngineSpec(kind="sglang", version="0.5.16").version == "0.5.16"
    assert EngineSpec(version="0.24.0").kind == "vllm"


def test_the_version_survives_json() -> None:
    spec = EngineSpec(kind="sglang", extra_args=("--x",))
    assert EngineSpec.model_validate_json(spec.model_dump_json()) == spec
    assert EngineSpec.model_validate_json('{"kind": "sglang"}').version == TESTED_VERSIONS["sglang"]
