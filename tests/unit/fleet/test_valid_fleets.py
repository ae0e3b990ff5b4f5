"""Fleets that work are not refused: the real preflight, on cards that are made up and hollow checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tri_serve.checkpoint.ahead import Ahead
from tri_serve.checkpoint.sizes import write_hollow_checkpoint
from tri_serve.errors import TriServeError
from tri_serve.fleet import gpu_preflight
from tri_serve.fleet import preflight as checks
from tri_serve.fleet.preflight import Preflight, preflight
from tri_serve.fleet.resources import DiskNeed
from tri_serve.launch.gpus import GpuReading
from tri_serve.spec.load import load_spec
from tri_serve.spec.preset import load_preset

MIB = 2**20
GIB = 2**30

# Name, MiB on the board, MiB that the driver keeps, compute capability.
CARDS = {
    "a10": ("NVIDIA A10", 23028, 490, (8, 6)),
    "l4": ("NVIDIA L4", 23034, 454, (8, 9)),
    "rtx-4090": ("NVIDIA GeForce RTX 4090", 24564, 476, (8, 9)),
    "rtx-3090": ("NVIDIA GeForce RTX 3090", 24576, 450, (8, 6)),
    "rtx-a5000": ("NVIDIA RTX A5000", 24564, 450, (8, 6)),
    "rtx-5090": ("NVIDIA GeForce RTX 5090", 32607, 500, (12, 0)),
    "l40s": ("NVIDIA L40S", 46068, 590, (8, 9)),
    "a100-40": ("NVIDIA A100-SXM4-40GB", 40960, 555, (8, 0)),
    "a100-80": ("NVIDIA A100-SXM4-80GB", 81920, 609, (8, 0)),
    "h100": ("NVIDIA H100 80GB HBM3", 81559, 628, (9, 0)),
    "h200": ("NVIDIA H200", 143771, 615, (9, 0)),
    # The catalogue has none of these.
    "rtx-3060": ("NVIDIA GeForce RTX 3060", 12288, 300, (8, 6)),
    "a6000": ("NVIDIA RTX A6000", 49140, 480, (8, 6)),
    "b200": ("NVIDIA B200", 183359, 700, (10, 0)),
    # Its memory is the CPU's, and its driver tells no size.
    "gb10": ("NVIDIA GB10", 0, 0, (12, 1)),
}

Up = Callable[..., Preflight]


def cards(*names: str) -> tuple[GpuReading, ...]:
    """Idle ones."""
    found = []
    for index, name in enumerate(names):
        title, total, reserved, capability = CARDS[name]
        free = (total - reserved) * MIB
        found.append(
            GpuReading(
                index,
                f"GPU-{index}",
                title,
                total * MIB,
                reserved * MIB,
                free,
                capability,
                "580.65.06",
                (13, 0),
            )
        )
    return tuple(found)


@pytest.fixture(scope="module")
def hollow(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A checkpoint of a preset's shape with holes for weights, its config.json changed by ``config``."""
    made: dict[object, Path] = {}

    def make(preset: str, **config: object) -> Path:
        key = (preset, tuple(map(str, config.items())))
        if key not in made:
            known = load_preset(preset).config
            assert known is not None
            path = tmp_path_factory.mktemp("hollow") / preset
            write_hollow_checkpoint(path, dict(known) | config)
            made[key] = path
        return made[key]

    return make


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hollow: Callable[..., Path]) -> Up:
    """What ``up`` checks of a preset on such cards; nothing but the cards, main memory and the disk are made up."""
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(checks, "detect_device", lambda requested: "cuda")
    monkeypatch.setattr(checks, "check_disks", lambda needs: None)
    monkeypatch.setattr(checks, "available_memory", lambda: 64 * GIB)

    def run(preset: str, there: tuple[GpuReading, ...], *sets: str, **config: object) -> Preflight:
        monkeypatch.setattr(checks, "fleet_gpus", lambda spec: tuple(str(gpu.index) for gpu in there))
        monkeypatch.setattr(gpu_preflight, "devices_here", lambda environ: there)
        monkeypatch.setattr(gpu_preflight, "ENGINE_SHARED_BYTES", 0)
        source = hollow(preset, **config)
        given = [f"model.source={source}", "fleet.supervisor=process", *sets]
        spec = load_spec(preset, [], {}, sets=given).spec
        return preflight(spec, environment_hashes={}, state=tmp_path, new_listener=False)

    return run


YARN = '{"rope_parameters": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 8192}}'
TWO = "engine.tensor_parallel_size=2"
FOUR = "engine.tensor_parallel_size=4"

FITS = [
    # One engine, as the preset has it.
    *[
        (preset, (card,), ())
        for preset in ("tri-21b-awq", "tri-21b-gptq", "tri-21b-ct")
        for card in CARDS
        if card != "rtx-3060"
    ],
    *[("tri-21b-bf16", (card,), ()) for card in ("a6000", "l40s", "a100-80", "h100", "h200", "b200", "gb10")],
    *[("tri-21b-bnb4", (card,), ()) for card in ("a10", "l4", "rtx-4090", "a100-40", "h100", "gb10")],
    # Several GPUs for one engine.
    ("tri-21b-awq", ("l4", "l4"), (TWO,)),
    ("tri-21b-bf16", ("rtx-4090",) * 4, (FOUR,)),
    ("tri-21b-bf16", ("a100-40", "a100-40"), (TWO,)),
    ("tri-21b-bf16", ("l4",) * 8, (FOUR, "fleet.replicas=2")),
    # Several engines.
    ("tri-21b-awq", ("a10", "a10"), ("fleet.replicas=1",)),
    ("tri-21b-awq", ("a10", "a10"), ("fleet.replicas=2",)),
    ("tri-21b-awq", ("a10", "a10"), ("fleet.replicas.min=1", "fleet.replicas.max=2")),
    ("tri-21b-awq", ("h100",) * 8, ("fleet.replicas=8",)),
    ("tri-21b-awq", ("l4",) * 4, (TWO, "fleet.replicas=2")),
    ("tri-21b-awq", ("l4", "rtx-4090"), ("fleet.replicas=2",)),
    # The second card is none of its.
    ("tri-21b-awq", ("l4", "rtx-3060"), ()),
    ("tri-21b-awq", ("gb10", "gb10"), ("fleet.replicas=2",)),
    # KV caches.
    ("tri-21b-awq", ("l4",), ("engine.kv_cache_dtype=fp8",)),
    ("tri-21b-awq", ("h100",), ("engine.kv_cache_dtype=fp8_e5m2",)),
    ("tri-21b-awq", ("l4",), ('engine.extra_args=["--kv-cache-memory-bytes=4G"]',)),
    ("tri-21b-awq", ("l4",), ("model.max_model_len=2048", "engine.max_num_seqs=8")),
    ("tri-21b-awq", ("rtx-4090",), ("engine.gpu_memory_utilization=0.97",)),
    # Flags that put other bytes on the GPU.
    ("tri-21b-awq", ("rtx-3060",), ('engine.extra_args=["--cpu-offload-gb=8"]',)),
    ("tri-21b-awq", ("rtx-3060",), ('engine.extra_args=["--cpu-offload-gb", "8"]',)),
    ("tri-21b-awq", ("rtx-3060",), ('engine.extra_args=["--pipeline-parallel-size=2"]',)),
    ("tri-21b-awq", ("rtx-3060",), ('engine.extra_args=["-pp", "2"]',)),
    # Contexts that something lets be longer.
    ("tri-21b-awq", ("h100",), ("model.max_model_len=32768", f"engine.extra_args=['--hf-overrides={YARN}']")),
    (
        "tri-21b-awq",
        ("h100",),
        ("model.max_model_len=16384", "engine.env.VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"),
    ),
    # Attention backends: of those that are known, and others.
    ("tri-21b-awq", ("l4",), ('engine.extra_args=["--attention-backend=TRITON_ATTN"]',)),
    ("tri-21b-awq", ("l4",), ('engine.extra_args=["--attention-backend=CUSTOM"]',)),
    ("tri-21b-awq", ("l4",), ('engine.extra_args=["--attention-backend", "FLASH_ATTN_DIFFKV"]',)),
    (
        "tri-21b-awq",
        ("a10",),
        ("engine.kv_cache_dtype=fp8", 'engine.extra_args=["--attention-backend=CUSTOM"]'),
    ),
    ("tri-21b-awq", ("l4",), ("""engine.extra_args=['--attention-config={"backend": "TRITON_ATTN"}']""",)),
]


@pytest.mark.parametrize(
    ("preset", "there", "sets"),
    FITS,
    ids=[" ".join((p, "+".join(c), *s)).replace("/", "|") for p, c, s in FITS],
)
def test_a_fleet_that_works_is_not_refused(
    up: Up, preset: str, there: tuple[str, ...], sets: list[str]
) -> None:
    assert up(preset, cards(*there), *sets).device == "cuda"


def test_a_card_without_much_to_spare_is_tried_with_a_warning(up: Up) -> None:
    """Weights of 11.8 GiB and a sequence of 1.6 fit 14.4 GiB; whether what else is there does is an estimate."""
    (card,) = cards("l4")
    small = GpuReading(
        **(vars(card) | {"name": "NVIDIA X", "total": 16 * GIB, "reserved": 0, "free": 16 * GIB})
    )
    found = up("tri-21b-awq", (small,), "engine.gpu_memory_utilization=0.87")
    (warning,) = found.warnings
    assert warning.startswith("by estimate, ")
    assert "(rule memory)" in warning
    with pytest.raises(TriServeError, match=r"not one sequence of full length fits|does not fit"):
        up("tri-21b-awq", (small,), "engine.gpu_memory_utilization=0.83")


def test_a_flag_that_voids_the_arithmetic_is_named_in_the_warning(up: Up) -> None:
    found = up("tri-21b-awq", cards("rtx-3060"), 'engine.extra_args=["--cpu-offload-gb=8"]')
    assert ["--cpu-offload-gb changes what is on the GPU" in warning for warning in found.warnings] == [True]
    with pytest.raises(TriServeError, match="the model does not fit"):
        up("tri-21b-awq", cards("rtx-3060"), 'engine.extra_args=["--cpu-offload-gb=0"]')


def test_code_that_is_left_over_in_a_llama_is_not_run_and_not_refused(up: Up) -> None:
    left_over = {"auto_map": {"AutoConfig": "configuration_trillion.TrillionConfig"}}
    up("tri-21b-awq", cards("l4"), model_type="llama", **left_over)
    with pytest.raises(TriServeError, match=r"\(rule remote-code\)"):
        up("tri-21b-awq", cards("l4"), model_type="trillion", **left_over)


def test_an_old_driver_is_tried_where_the_user_brings_its_newer_half(up: Up) -> None:
    old = tuple(
        GpuReading(**(vars(card) | {"driver": "550.54.15", "driver_cuda": (12, 4)})) for card in cards("h100")
    )
    with pytest.raises(TriServeError, match="runs CUDA up to 12"):
        up("tri-21b-awq", old)
    found = up("tri-21b-awq", old, "engine.env.VLLM_ENABLE_CUDA_COMPATIBILITY=1")
    assert ["VLLM_ENABLE_CUDA_COMPATIBILITY is set" in warning for warning in found.warnings] == [True]


@pytest.mark.parametrize(
    ("there", "sets", "words"),
    [
        (("a10", "a10"), ["fleet.replicas=3"], "3 engines need 3, and 2 are visible"),
        (
            ("a10", "a10"),
            ["fleet.replicas.min=1", "fleet.replicas.max=3"],
            "3 engines need 3, and 2 are visible",
        ),
        (("l4",) * 4, [FOUR], "rule group-size-tensor-parallel"),
        (("a10",), ["engine.kv_cache_dtype=fp8"], "rule fp8-kv-cache"),
        (("gb10",), ["model.max_model_len=9000"], "config.json allows 8,192 positions"),
        (("rtx-3060",), [], "the model does not fit"),
        (("l4", "rtx-3060"), ["fleet.replicas=2"], "the model does not fit"),
        (("l4",), ['engine.extra_args=["--kv-cache-memory-bytes=40G"]'], "gives the KV cache 40.0 GiB"),
        (("l4",), ['engine.extra_args=["--attention-backend=FLASHINFER"]'], "FLASHINFER does not take it"),
    ],
)
def test_what_cannot_work_is_refused_all_the_same_and_once(
    up: Up, there: tuple[str, ...], sets: list[str], words: str
) -> None:
    with pytest.raises(TriServeError) as refused:
        up("tri-21b-awq", cards(*there), *sets)
    assert words in refused.value.message
    assert "things stand in the way" not in refused.value.message


def test_what_config_json_rules_out_is_said_before_the_checkpoint_is_fetched(
    up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hollow: Callable[..., Path]
) -> None:
    up("tri-21b-awq", cards("a10"))
    config = load_preset("tri-21b-awq").config
    assert config is not None
    asked, fetched = [], []

    def look() -> Ahead:
        asked.append(True)
        return Ahead(config, Path("owner/name/config.json"), tmp_path, 12 * GIB)

    def begin(*sets: str) -> None:
        source = f"model.source={hollow('tri-21b-awq')}"
        spec = load_spec("tri-21b-awq", [], {}, sets=[source, "fleet.supervisor=process", *sets]).spec
        preflight(
            spec,
            environment_hashes={},
            state=tmp_path,
            new_listener=False,
            ahead=look,
            fetch=lambda: fetched.append(True),
        )

    for sets, words in (
        (["engine.kv_cache_dtype=fp8"], "rule fp8-kv-cache"),
        (["model.quantization=gptq"], "gptq"),
        (["model.max_model_len=9000"], "config.json allows 8,192"),
    ):
        with pytest.raises(TriServeError, match=words):
            begin(*sets)
    monkeypatch.setattr(checks, "available_memory", lambda: GIB)
    with pytest.raises(TriServeError, match="memory: 1 engine"):
        begin()
    assert (len(asked), fetched) == (4, [])
    monkeypatch.setattr(checks, "available_memory", lambda: 64 * GIB)
    begin()
    assert (len(asked), fetched) == (5, [True])


def test_disks_are_asked_for_checkpoint_and_environment_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up: Up
) -> None:
    needs: list[str] = []

    def note(asked: list[DiskNeed]) -> None:
        needs.extend(need.purpose for need in asked)

    monkeypatch.setattr(checks, "check_disks", note)
    monkeypatch.setattr(checks, "fleet_gpus", lambda spec: ("0",))
    monkeypatch.setattr(gpu_preflight, "devices_here", lambda environ: cards("l4"))
    config = load_preset("tri-21b-awq").config
    assert config is not None
    spec = load_spec("tri-21b-awq", [], {}, sets=["model.source=owner/name", "fleet.supervisor=process"]).spec

    def stop() -> None:
        raise TriServeError("fetched")

    with pytest.raises(TriServeError, match="fetched"):
        preflight(
            spec,
            environment_hashes={},
            state=tmp_path,
            new_listener=False,
            ahead=lambda: Ahead(config, Path("owner/name/config.json"), tmp_path, 12 * GIB),
            fetch=stop,
        )
    assert needs == ["state and logs", "the engine environment and its packages", "the checkpoint"]
