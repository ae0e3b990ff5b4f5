"""The command for one engine outside a fleet; the model card's four launches among others."""

from __future__ import annotations

from typing import Any

import pytest

from tri_serve.errors import LaunchError
from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.flags.table import known_versions
from tri_serve.launch.standalone import container_launch, remarks, standalone_launch
from tri_serve.launch.version_gates import version_gate
from tri_serve.spec.engine import EngineKind
from tri_serve.spec.load import load_spec
from tri_serve.spec.models import Spec
from tri_serve.spec.preset import preset_names

CARD = "trillionlabs/Tri-21B"
LARGE = [name for name in preset_names() if name.startswith("tri-21b")]


def spec(*sets: str, preset: str = "tri-21b-bf16", source: str = CARD) -> Spec:
    return load_spec(preset, [], {}, [f"model.source={source}", *sets]).spec


def card(*sets: str) -> Spec:
    """As the model card serves it: under its repository's name."""
    return spec(f"model.served_name={CARD}", *sets)


def options(argv: tuple[str, ...]) -> tuple[list[str], dict[str, str | None]]:
    """The command before the first flag, and each flag with its value."""
    head = [word for word in argv if argv.index(word) < next(i for i, w in enumerate(argv) if w[:2] == "--")]
    flags: dict[str, str | None] = {}
    for word, after in zip(argv[len(head) :], (*argv[len(head) + 1 :], "--"), strict=True):
        if word.startswith("--"):
            flags[word] = None if after.startswith("--") else after
    return head, flags


VLLM_AS_THE_CARD = ("engine.shutdown_timeout=0", "gateway.host=0.0.0.0")


@pytest.mark.parametrize(
    ("sets", "port", "said"),
    [
        (VLLM_AS_THE_CARD, None, f"vllm serve {CARD} --dtype bfloat16 --max-model-len 8192"),
        (
            (*VLLM_AS_THE_CARD, "engine.gpu_memory_utilization=0.95"),
            8000,
            f"vllm serve {CARD} --dtype bfloat16 --max-model-len 8192 --gpu-memory-utilization 0.95 --port 8000",
        ),
        (
            ("engine.kind=sglang", "model.max_model_len=null"),
            None,
            f"python3 -m sglang.launch_server --model-path {CARD} --dtype bfloat16",
        ),
        (
            ("engine.kind=sglang", "gateway.host=0.0.0.0"),
            30000,
            f"python3 -m sglang.launch_server --model-path {CARD} --dtype bfloat16 --context-length 8192 "
            "--port 30000 --host 0.0.0.0",
        ),
    ],
    ids=["vllm", "vllm with options", "sglang", "sglang with options"],
)
def test_the_model_card_s_launch_comes_out_of_a_preset(
    sets: tuple[str, ...], port: int | None, said: str
) -> None:
    config = standalone_launch(card(*sets), port=port)
    assert options(config.argv) == options(tuple(said.split()))


def test_unless_told_otherwise_it_listens_here_alone_and_finishes_what_it_has_begun() -> None:
    assert standalone_launch(spec(preset="tri-21b-awq")).argv == (
        *("vllm", "serve", CARD),
        *("--served-model-name", "tri-21b", "--dtype", "bfloat16", "--max-model-len", "8192"),
        *("--quantization", "awq", "--shutdown-timeout", "30", "--host", "127.0.0.1"),
    )


def test_every_limit_of_the_spec_has_its_name_in_sglang() -> None:
    config = standalone_launch(
        spec(
            "engine.kind=sglang",
            "model.quantization=gptq",
            "model.trust_remote_code=true",
            "model.revision=v1",
            "engine.tensor_parallel_size=2",
            "engine.kv_cache_dtype=fp8",
            "engine.max_num_seqs=64",
            "engine.max_num_batched_tokens=2048",
            "engine.gpu_memory_utilization=0.8",
            "engine.extra_args=[--enable-metrics]",
        )
    )
    _, flags = options(config.argv)
    assert flags == {
        "--model-path": CARD,
        "--served-model-name": "tri-21b",
        "--dtype": "bfloat16",
        "--context-length": "8192",
        "--quantization": "gptq",
        "--trust-remote-code": None,
        "--tp-size": "2",
        "--kv-cache-dtype": "fp8_e4m3",
        "--max-running-requests": "64",
        "--chunked-prefill-size": "2048",
        "--mem-fraction-static": "0.8",
        "--revision": "v1",
        "--enable-metrics": None,
    }
    assert (config.host, config.port) == ("127.0.0.1", 30000)


@pytest.mark.parametrize("dtype", ["fp8_e4m3", "fp8_e5m2"])
def test_the_kinds_of_fp8_are_called_alike(dtype: str) -> None:
    made = standalone_launch(spec(f"engine.kv_cache_dtype={dtype}"), engine="sglang")
    assert f"--kv-cache-dtype {dtype}" in " ".join(made.argv)


def test_another_engine_than_the_spec_s_is_rendered_in_the_version_that_is_known_best() -> None:
    own = standalone_launch(spec("engine.kind=sglang"))
    assert standalone_launch(spec("engine.version=0.24.0"), engine="sglang") == own


VERSIONS: list[tuple[EngineKind, str]] = [
    *(("vllm", ".".join(map(str, version))) for version in known_versions("vllm")),
    *(("sglang", ".".join(map(str, version))) for version in known_versions("sglang")),
]


@pytest.mark.parametrize(("engine", "version"), VERSIONS, ids=str)
@pytest.mark.parametrize("preset", LARGE)
def test_every_flag_of_every_preset_is_one_that_the_version_has(
    preset: str, engine: EngineKind, version: str
) -> None:
    made = spec(
        f"engine.kind={engine}",
        f"engine.version={version}",
        "engine.kv_cache_dtype=fp8",
        "engine.max_num_seqs=8",
        preset=preset,
    )
    known = version_gate(engine, version).table.by_spelling
    _, flags = options(standalone_launch(made).argv)
    assert set(flags) <= set(known)
    for flag, value in flags.items():
        assert not known[flag].choices or value in known[flag].choices, flag


def test_what_a_version_takes_anyway_is_left_out_and_what_it_does_not_is_said() -> None:
    assert "--gpu-memory-utilization" not in standalone_launch(spec()).argv
    assert "--gpu-memory-utilization" in standalone_launch(spec("engine.version=0.18.1")).argv


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("engine.version=0.17.0",), "too old"),
        (("engine.kind=sglang", "engine.version=0.4.0"), "too old"),
        (("engine.extra_args=[--swap-space, '4']",), "no longer has --swap-space"),
        (("engine.extra_args=[--api-key, x]",), "VLLM_API_KEY"),
        (("engine.extra_args=[--port, '1']",), r"gateway\.port"),
        (("engine.kind=sglang", "engine.extra_args=[--api-key, x]"), "every user of the machine"),
        (("engine.kind=sglang", "engine.extra_args=[--tensor-parallel-size, '2']"), "tensor_parallel_size"),
        (("engine.kind=sglang", "engine.extra_args=[--max-num-seqs=8]"), "SGLang 0.5.23 has no"),
    ],
)
def test_what_the_engine_would_not_take_is_refused(sets: tuple[str, ...], words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        standalone_launch(spec(*sets))


def test_the_tiny_checkpoint_is_refused_with_how_to_get_it_as_a_directory() -> None:
    with pytest.raises(LaunchError, match="tiny:gptq") as caught:
        standalone_launch(spec(preset="tri-tiny-gptq", source="tiny:gptq"))
    assert "tri-serve checkpoint tiny gptq --output DIR" in (caught.value.hint or "")


def test_a_directory_is_served_offline_and_a_repository_may_be_fetched() -> None:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    here = standalone_launch(spec("model.revision=v1", source="/srv/tri"))
    assert offline.items() <= here.env.items()
    assert "--revision" not in here.argv
    there = standalone_launch(spec("model.revision=v1"))
    assert offline.keys().isdisjoint(there.env)
    assert there.argv[-4:-2] == ("--revision", "v1")


def test_secrets_of_the_spec_are_apart_from_its_other_variables() -> None:
    config = standalone_launch(spec("engine.env.HF_TOKEN=hunter2", "engine.env.NCCL_DEBUG=INFO"))
    assert config.secret_env == {"HF_TOKEN": "hunter2"}
    assert config.env["NCCL_DEBUG"] == "INFO"
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("sets", "command"),
    [
        (("engine.command=[/opt/vllm/bin/vllm, serve]",), ("/opt/vllm/bin/vllm", "serve", CARD)),
        (("engine.python=/opt/py",), ("/opt/py", "-m", "vllm.entrypoints.cli.main", "serve", CARD)),
        (
            ("engine.python=/opt/py", "engine.kind=sglang"),
            ("/opt/py", "-m", "sglang.launch_server", "--model-path", CARD),
        ),
    ],
)
def test_an_engine_of_the_user_s_own_is_called_as_the_spec_says(
    sets: tuple[str, ...], command: tuple[str, ...]
) -> None:
    assert standalone_launch(spec(*sets)).argv[: len(command)] == command


def test_an_image_is_called_by_its_own_command_and_listens_on_all_of_the_container() -> None:
    config = container_launch(spec("engine.command=[/opt/vllm/bin/vllm, serve]"), port=8100)
    assert config.argv[:3] == ("vllm", "serve", CARD)
    assert "--host" not in config.argv
    assert (config.host, config.port) == ("127.0.0.1", 8100)
    sglang = container_launch(spec("engine.kind=sglang"))
    assert sglang.argv[-2:] == ("--host", "0.0.0.0")


def test_on_the_cpu_the_cache_and_the_threads_are_said() -> None:
    config = standalone_launch(
        spec("engine.device=cpu", "engine.cpu_kv_cache_gib=0.5", "engine.cpu_threads=4")
    )
    assert "--kv-cache-memory-bytes 536870912" in " ".join(config.argv)
    assert "--enforce-eager" in config.argv
    assert "--gpu-memory-utilization" not in config.argv
    assert config.env["OMP_NUM_THREADS"] == "4"
    assert "--device cpu" in " ".join(standalone_launch(spec("engine.device=cpu"), engine="sglang").argv)


def test_an_engine_can_be_told_where_to_listen() -> None:
    config: LaunchConfig = standalone_launch(spec(), host="::1", port=9000)
    assert config.argv[-4:] == ("--host", "::1", "--port", "9000")
    assert (config.host, config.port) == ("::1", 9000)


@pytest.mark.parametrize(
    ("sets", "engines", "words"),
    [
        (("engine.kind=sglang",), 1, ["SGLang takes its clients' key only as an argument"]),
        (("engine.kind=sglang", "engine.gpu_memory_utilization=0.8"), 1, ["--mem-fraction-static", "key"]),
        (("fleet.replicas=2",), 1, ["this is one engine"]),
        (("fleet.replicas=2",), 2, ["2 engines, each on a port of its own"]),
        (("model.quantization=bitsandbytes",), 1, ["vllm-bnb-plugin"]),
        (("gateway.host=0.0.0.0",), 1, ["listens on 0.0.0.0, and whoever reaches that may use it"]),
        (("gateway.host=0.0.0.0", "engine.env.VLLM_API_KEY=x"), 1, []),
        (("gateway.host=127.0.0.2",), 1, []),
        (("gateway.host=localhost",), 1, []),
        ((), 1, []),
    ],
)
def test_what_must_be_known_is_said(sets: tuple[str, ...], engines: int, words: list[Any]) -> None:
    said = remarks(spec(*sets), engines=engines)
    assert len(said) == len(words)
    for sentence, word in zip(said, words, strict=True):
        assert word in sentence
