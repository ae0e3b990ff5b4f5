"""How preset, files, variables and flags come together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tri_serve.errors import SpecError, UsageError
from tri_serve.spec.load import load_spec
from tri_serve.spec.models import Spec
from tri_serve.spec.preset import load_preset, preset_names


def test_nothing_said_is_the_default_preset() -> None:
    loaded = load_spec(None, [], {})
    assert loaded.preset == "tri-tiny-awq"
    assert loaded.spec.model.source == "tiny:awq"
    assert loaded.spec.model.max_model_len == 8192


def test_each_layer_overrides_the_one_below_and_is_named_as_origin(write_spec) -> None:
    path = write_spec(
        "preset: tri-tiny-gptq\nmodel:\n  served_name: from-file\ngateway:\n  port: 8001\n  workers: 2\n"
        "fleet:\n  replicas: 2\n"
    )
    environ = {"TRI_SERVE_GATEWAY__PORT": "8002", "TRI_SERVE_GATEWAY__WORKERS": "3"}
    loaded = load_spec(None, [path], environ, ["gateway.port=8003"], ["model.revision=1234567"])

    assert loaded.spec.gateway.port == 8003
    assert loaded.spec.gateway.workers == 3
    assert loaded.spec.fleet.replicas == 2
    assert loaded.spec.model.revision == "1234567"
    origins = {key: str(origin) for key, origin in loaded.origins.items()}
    assert origins["gateway.port"] == "--set"
    assert origins["gateway.workers"] == "TRI_SERVE_GATEWAY__WORKERS"
    assert origins["fleet.replicas"] == "tri-serve.yaml:8"
    assert origins["model.served_name"] == "tri-serve.yaml:3"
    assert origins["model.source"] == "preset tri-tiny-gptq"
    assert origins["model.revision"] == "--set-string"
    assert origins["gateway.host"] == "default"


def test_every_leaf_of_the_spec_has_an_origin() -> None:
    loaded = load_spec(None, [], {}, ["engine.env.A=1"])

    def leaf_names(values: dict[str, object], start: str) -> set[str]:
        found: set[str] = set()
        for name, value in values.items():
            found |= (
                leaf_names(value, f"{start}{name}.") if isinstance(value, dict) and value else {start + name}
            )
        return found

    assert set(loaded.origins) == leaf_names(loaded.spec.model_dump(), "")


def test_later_files_override_earlier_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("preset: tri-tiny-awq\ngateway: {port: 8001, workers: 2}\n")
    second.write_text("preset: tri-tiny-ct\ngateway: {port: 8002}\n")
    loaded = load_spec(None, [first, second], {})
    assert (loaded.preset, loaded.spec.gateway.port, loaded.spec.gateway.workers) == ("tri-tiny-ct", 8002, 2)


def test_a_preset_of_the_command_line_replaces_the_one_a_file_names(write_spec) -> None:
    path = write_spec("preset: tri-tiny-awq\n")
    assert load_spec("tri-tiny-bf16", [path], {}).spec.model.source == "tiny:bf16"


def test_a_file_without_a_preset_stands_alone(write_spec) -> None:
    loaded = load_spec(None, [write_spec("model: {source: /srv/m, served_name: m}\n")], {})
    assert loaded.preset is None
    assert loaded.spec == Spec.model_validate({"model": {"source": "/srv/m", "served_name": "m"}})


def test_null_takes_back_what_lower_layers_said(write_spec) -> None:
    path = write_spec(
        "preset: tri-tiny-awq\ngateway: {port: 8001, workers: 2}\nengine: {env: {A: '1', B: '2'}}\n"
    )
    loaded = load_spec(None, [path], {}, ["gateway=null", "engine.env.A=null", "model.max_model_len=null"])
    assert loaded.spec.gateway == Spec.model_validate({"model": loaded.spec.model}).gateway
    assert loaded.spec.engine.env == {"B": "2"}
    assert loaded.spec.model.max_model_len is None
    assert str(loaded.origins["gateway.port"]) == "default"


def test_a_key_set_after_its_section_was_reset_is_kept() -> None:
    loaded = load_spec(None, [], {"TRI_SERVE_GATEWAY__PORT": "8001"}, ["gateway=null", "gateway.workers=2"])
    assert (loaded.spec.gateway.port, loaded.spec.gateway.workers) == (8000, 2)


def test_a_section_whose_keys_are_all_commented_out_says_nothing(write_spec) -> None:
    first = Path("base.yaml")
    path = write_spec("gateway:\n  #port: 9000\nengine:\n  env:\n")
    first.write_text("preset: tri-tiny-awq\ngateway: {port: 8001}\nengine: {env: {A: x}}\n")
    loaded = load_spec(None, [first, path], {})
    assert loaded.spec.gateway.port == 8001
    assert loaded.spec.engine.env == {"A": "x"}


def test_lists_are_replaced_and_maps_merged(write_spec) -> None:
    path = write_spec("preset: tri-tiny-awq\nengine: {extra_args: [--a, --b], env: {A: x}}\n")
    loaded = load_spec(None, [path], {}, ["engine.extra_args=[--c]", "engine.env.B=y"])
    assert loaded.spec.engine.extra_args == ("--c",)
    assert loaded.spec.engine.env == {"A": "x", "B": "y"}


def test_durations_and_token_counts_take_units(write_spec) -> None:
    path = write_spec(
        "preset: tri-tiny-awq\nmodel: {max_model_len: 8k}\n"
        "gateway: {timeouts: {head: 500ms, body: 30s, drain: 2m, silence: 7}}\n"
        "engine: {max_num_batched_tokens: 2K, shutdown_timeout: 0}\n"
    )
    spec = load_spec(None, [path], {}).spec
    timeouts = spec.gateway.timeouts
    assert (timeouts.head, timeouts.body, timeouts.drain, timeouts.silence) == (0.5, 30.0, 120.0, 7.0)
    # As vLLM's own flags read them: small letters are decimal, capitals binary.
    assert (spec.model.max_model_len, spec.engine.max_num_batched_tokens) == (8000, 2048)
    assert spec.engine.shutdown_timeout == 0


@pytest.mark.parametrize(
    ("text", "tokens"), [("25.6k", 25_600), ("8K", 8_192), ("1m", 1_000_000), ("1M", 1_048_576)]
)
def test_token_counts_mean_what_they_mean_to_vllm(text: str, tokens: int) -> None:
    assert load_spec(None, [], {}, [f"model.max_model_len={text}"]).spec.model.max_model_len == tokens


def test_variables_keep_text_where_only_text_can_be_meant() -> None:
    environ = {
        "TRI_SERVE_MODEL__REVISION": "1234567",
        "TRI_SERVE_MODEL__SERVED_NAME": "no",
        "TRI_SERVE_ENGINE__ENV__OMP_NUM_THREADS": "4",
        "TRI_SERVE_ENGINE__ENV__Mixed__Case": "a: b",
        "TRI_SERVE_ENGINE__EXTRA_ARGS": "[--a, --b]",
    }
    spec = load_spec(None, [], environ).spec
    assert (spec.model.revision, spec.model.served_name) == ("1234567", "no")
    assert spec.engine.env == {"OMP_NUM_THREADS": "4", "Mixed__Case": "a: b"}
    assert spec.engine.extra_args == ("--a", "--b")


def test_variables_of_other_uses_are_left_alone() -> None:
    environ = {
        "TRI_SERVE_API_KEYS": "k",
        "TRI_SERVE_CHILD": "t",
        "TRI_SERVE_RELEASE": "r",
        "TRI_SERVE_UP_FOREGROUND": "1",
        # What Kubernetes injects for a Service named tri-serve-gateway.
        "TRI_SERVE_GATEWAY_PORT": "tcp://10.0.0.1:8000",
        "TRI_SERVE_GATEWAY__WORKERS": "",
        "OTHER__NAME": "1",
    }
    assert load_spec(None, [], environ).spec == load_spec(None, [], {}).spec


@pytest.mark.parametrize("assignment", ["gateway.port", "=1", "gateway..port=1", ".=1"])
def test_a_set_that_is_no_assignment_is_a_usage_error(assignment: str) -> None:
    with pytest.raises(UsageError, match="takes KEY=VALUE"):
        load_spec(None, [], {}, [assignment])


def test_paths_in_a_file_count_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "s.yaml").write_text(
        "model: {source: ./m, served_name: m}\ngateway: {keys_file: keys}\nengine: {python: python3.12}\n"
    )
    monkeypatch.chdir(tmp_path)
    spec = load_spec(None, [Path("conf/s.yaml")], {}).spec
    assert spec.model.source == str(folder / "m")
    assert spec.gateway.keys_file == str(folder / "keys")
    # Without a slash it is a program on PATH, and owner/name is a hub repository.
    assert spec.engine.python == "python3.12"
    by_flag = load_spec(None, [], {}, ["gateway.keys_file=keys", "model.source=owner/name"]).spec
    assert by_flag.gateway.keys_file == str(tmp_path / "keys")
    assert by_flag.model.source == "owner/name"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_once_it_has_what_it_needs(name: str) -> None:
    preset = load_preset(name)
    loaded = load_spec(name, [], {}, [f"{key}=/srv/checkpoint" for key in preset.needs])
    assert loaded.preset == name
    assert loaded.notes == preset.notes
    assert loaded.spec.model.max_model_len == 8192
    assert preset.summary


@pytest.mark.parametrize("name", ["tri-21b-awq", "tri-21b-gptq"])
def test_a_preset_of_the_large_model_names_no_checkpoint_and_says_how_to_give_one(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(name, [], {})
    assert "model.source" in caught.value.message
    assert name in caught.value.message
    assert "--set model.source=" in (caught.value.hint or "")
    assert any("research purposes" in note for note in load_preset(name).notes)


def test_a_wrong_source_is_not_mistaken_for_a_missing_one(refusal) -> None:
    error = refusal("preset: tri-21b-awq\nmodel: {source: [a]}\n")
    assert error.problems == ("tri-serve.yaml:2: model.source: found a list of 1; takes text",)


def test_a_spec_survives_json() -> None:
    spec = load_spec(
        None, [], {}, ["engine.extra_args=[--a]", "engine.env.A=x", "model.max_model_len=8k"]
    ).spec
    assert Spec.model_validate_json(spec.model_dump_json()) == spec
