from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tri_serve.errors import LaunchError

Render = Callable[..., str]


@pytest.fixture
def services(render: Render) -> Callable[..., dict[str, dict[str, Any]]]:
    def made(*sets: str, **options: Any) -> dict[str, dict[str, Any]]:
        document = yaml.safe_load(render("compose", *sets, **options))
        assert set(document) == {"services", "volumes"}
        found: dict[str, dict[str, Any]] = document["services"]
        return found

    return made


Services = Callable[..., dict[str, dict[str, Any]]]


def test_the_engine_s_own_image_runs_the_command(services: Services) -> None:
    engine = services()["engine"]
    assert engine["image"] == "vllm/vllm-openai:v0.32.0"
    assert engine["entrypoint"] == ["vllm", "serve"]
    assert engine["command"][:3] == ["trillionlabs/Tri-21B", "--served-model-name", "tri-21b"]
    assert all(isinstance(word, str) for word in engine["command"])
    assert "--host" not in engine["command"]


def test_sglang_has_its_own_image_and_port(services: Services) -> None:
    engine = services("engine.kind=sglang")["engine"]
    assert engine["image"] == "lmsysorg/sglang:v0.5.23"
    assert engine["entrypoint"] == ["python3", "-m", "sglang.launch_server"]
    assert engine["command"][-2:] == ["--host", "0.0.0.0"]
    assert engine["ports"] == ["127.0.0.1:30000:30000"]


def test_the_user_s_own_image_is_taken(services: Services) -> None:
    assert services("engine.image=registry.example/vllm:1")["engine"]["image"] == "registry.example/vllm:1"


def test_an_image_that_looks_like_a_number_stays_text(render: Render) -> None:
    assert "    image: '1e3'\n" in render("compose", texts=("engine.image=1e3",))


def test_an_image_without_the_plugin_that_the_checkpoint_needs_is_refused_with_one_that_has_it(
    services: Services,
) -> None:
    stored = "model.quantization=bitsandbytes"
    with pytest.raises(LaunchError, match=r"^engine\.image: vllm/vllm-openai:v0\.32\.0 lacks") as caught:
        services(stored)
    assert caught.value.message.count("\n") == 0
    assert caught.value.hint is not None
    assert caught.value.hint.splitlines()[1:] == [
        "  FROM vllm/vllm-openai:v0.32.0",
        "  RUN pip install --no-deps vllm-bnb-plugin==0.0.3 bitsandbytes==0.50.2",
    ]
    with pytest.raises(LaunchError) as caught:
        services(stored, "engine.version=0.33.0")
    assert "vllm-bnb-plugin 'bitsandbytes>=0.48.1'" in str(caught.value.hint)
    assert services(stored, "engine.image=mine:1")["engine"]["image"] == "mine:1"
    # The last version that reads them by itself.
    assert services(stored, "engine.version=0.27.0")["engine"]["image"] == "vllm/vllm-openai:v0.27.0"


def test_how_a_checkpoint_that_is_here_is_stored_is_read_from_it(services: Services, tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    unsaid = (f"model.source={tmp_path}", "model.quantization=auto")
    with pytest.raises(LaunchError, match="vllm-bnb-plugin"):
        services(*unsaid)
    (tmp_path / "config.json").write_text("{")
    assert services(*unsaid)["engine"]["image"] == "vllm/vllm-openai:v0.32.0"


def test_no_image_is_guessed_for_the_cpu(services: Services) -> None:
    with pytest.raises(LaunchError, match=r"engine\.image"):
        services("engine.device=cpu")
    engine = services("engine.device=cpu", "engine.image=mine:1")["engine"]
    assert "deploy" not in engine
    assert engine["environment"]["VLLM_CPU_KVCACHE_SPACE"] == "1"


@pytest.mark.parametrize(
    ("sets", "port", "published"),
    [
        ((), None, "127.0.0.1:8000:8000"),
        # Docker takes no name for an address.
        (("gateway.host=localhost",), None, "127.0.0.1:8000:8000"),
        (("gateway.host=0.0.0.0",), 8100, "0.0.0.0:8100:8100"),
        (("gateway.host='::1'",), None, "[::1]:8000:8000"),
    ],
)
def test_the_port_is_published_where_the_spec_says(
    sets: tuple[str, ...], port: int | None, published: str, services: Services
) -> None:
    assert services(*sets, port=port)["engine"]["ports"] == [published]


def test_a_cluster_s_address_is_none_of_a_container(services: Services) -> None:
    with pytest.raises(LaunchError, match=r"gateway\.host"):
        services("gateway.host=node", "fleet.target=ray", "fleet.ray.address=auto")


def test_an_engine_may_finish_before_it_is_killed(services: Services) -> None:
    assert services("engine.shutdown_timeout=90.5")["engine"]["stop_grace_period"] == "121s"


def test_the_health_check_waits_as_long_as_a_start_may_take_and_asks_the_port(services: Services) -> None:
    check = services("engine.start_timeout=900", port=8100)["engine"]["healthcheck"]
    assert check["start_period"] == "900s"
    assert check["test"][:3] == ["CMD", "python3", "-c"]
    compile(check["test"][3], "probe", "exec")
    assert "http://127.0.0.1:8100/health" in check["test"][3]


def test_secrets_are_a_file_that_is_read_as_it_stands(services: Services) -> None:
    assert services()["engine"]["env_file"] == [{"path": "secrets.env", "required": False, "format": "raw"}]
    needed = services("engine.env.HF_TOKEN=hunter2")["engine"]
    assert needed["env_file"][0]["required"] is True
    assert "HF_TOKEN" not in needed["environment"]


def test_what_is_fetched_outlives_the_container_and_a_directory_is_mounted_readable(
    services: Services,
) -> None:
    assert services()["engine"]["volumes"] == ["cache:/root/.cache"]
    assert services("model.source=/srv/a$b")["engine"]["volumes"][1] == mounted("/srv/a$$b")


def mounted(path: str) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": path,
        "target": path,
        "read_only": True,
        "bind": {"create_host_path": False},
    }


def test_a_colon_does_not_end_a_path(services: Services) -> None:
    assert services("model.source=/srv/a:b")["engine"]["volumes"][1] == mounted("/srv/a:b")


@pytest.mark.parametrize("value", ["1e3", "0o17", "1e-05", "+.5E1", "0x_1", "plain", "~", "a'b", "a b"])
def test_text_is_quoted_so_that_every_reader_takes_it_for_text(value: str, render: Render) -> None:
    """YAML 1.2, which Compose reads, knows other numbers than the YAML 1.1 of these tests."""
    given = f"engine.extra_args=['--additional-config', {json.dumps(value)}]"
    text = render("compose", given, "model.source=/srv/m", texts=(f"engine.env.X={value}",))
    written = "'" + value.replace("'", "''") + "'"
    lines = text.splitlines()
    assert f"    - {written}" in lines
    assert f"      X: {written}" in lines
    command = lines[lines.index("    command:") + 1 : lines.index("    environment:")]
    assert [line for line in command if not line.startswith("    - '")] == []


def devices(service: dict[str, Any]) -> dict[str, Any]:
    found: list[dict[str, Any]] = service["deploy"]["resources"]["reservations"]["devices"]
    assert [(device["driver"], device["capabilities"]) for device in found] == [("nvidia", ["gpu"])]
    return {name: found[0][name] for name in ("count", "device_ids") if name in found[0]}


def test_one_engine_takes_as_many_gpus_as_it_spans(services: Services) -> None:
    assert devices(services("engine.tensor_parallel_size=2")["engine"]) == {"count": 2}


def test_each_replica_has_gpus_and_a_port_of_its_own(services: Services) -> None:
    made = services("fleet.replicas=2", "engine.tensor_parallel_size=2", port=8100)
    assert {name: devices(service) for name, service in made.items()} == {
        "engine-0": {"device_ids": ["0", "1"]},
        "engine-1": {"device_ids": ["2", "3"]},
    }
    assert [service["ports"] for service in made.values()] == [
        ["127.0.0.1:8100:8100"],
        ["127.0.0.1:8101:8100"],
    ]


def test_gpus_that_the_spec_names_are_shared_out_and_not_named_inside(services: Services) -> None:
    made = services("fleet.replicas=2", "engine.env.CUDA_VISIBLE_DEVICES='3,GPU-8932'")
    assert [devices(service) for service in made.values()] == [
        {"device_ids": ["3"]},
        {"device_ids": ["GPU-8932"]},
    ]
    assert "CUDA_VISIBLE_DEVICES" not in made["engine-0"]["environment"]
    with pytest.raises(LaunchError, match="names 1 GPUs, and 2 engines need 2"):
        services("fleet.replicas=2", "engine.env.CUDA_VISIBLE_DEVICES='3'")


def test_nothing_is_taken_for_a_variable_of_compose(services: Services) -> None:
    engine = services("engine.extra_args=['--chat-template={{ $x }}']", texts=("engine.env.X=a$b ${c}",))[
        "engine"
    ]
    assert engine["command"][-1] == "--chat-template={{ $$x }}"
    assert engine["environment"]["X"] == "a$$b $${c}"
