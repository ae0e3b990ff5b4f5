"""The devices that a plan knows: figures with sources, names as users and drivers write them."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tri_serve.errors import UsageError
from tri_serve.plan import catalogue as module
from tri_serve.plan.catalogue import (
    Catalogue,
    find_gpu,
    load_catalogue,
    machine_memory,
    match_device_name,
    read_catalogue,
)

MIB = 2**20


def test_the_devices_of_the_documentation_are_all_there_and_the_cpu_comes_last() -> None:
    names = list(load_catalogue())
    assert {"l4", "a10", "rtx-3090", "rtx-a5000", "rtx-4090", "rtx-5090"} < set(names)
    assert {"l40s", "a100-40", "a100-80", "h100", "h200"} < set(names)
    assert names[-1] == "cpu"


@pytest.mark.parametrize("name", load_catalogue())
def test_each_figure_says_where_it_is_from(name: str) -> None:
    gpu = load_catalogue()[name]
    figures = {"memory", "bandwidth", "flops", "link"} | (set() if gpu.is_cpu else {"compute_capability"})
    assert set(gpu.sources) == figures
    assert all(len(source.split()) >= 3 for source in gpu.sources.values())


def test_figures_are_in_bytes_and_operations_a_second() -> None:
    l4 = load_catalogue()["l4"]
    assert (l4.memory, l4.bandwidth, l4.flops) == (23_034 * MIB, 300e9, 121e12)
    assert (l4.compute_capability, l4.link) == ((8, 9), 31.5e9)


@pytest.mark.parametrize(
    ("name", "mib", "bandwidth", "flops", "capability", "link"),
    [
        # 384 bits of GDDR6X at 19.5 Gbit/s a pin; 82 multiprocessors of four tensor cores, 1.695 GHz, 64 fused
        # multiply-adds a cycle with fp32 accumulation.
        ("rtx-3090", 24_576, 384 * 19.5 / 8, 82 * 4 * 64 * 2 * 1.695e-3, (8, 6), 31.5),
        # 384 bits of GDDR6 at 16 Gbit/s; 64 multiprocessors, 1.695 GHz, 128 a cycle.
        ("rtx-a5000", 24_564, 384 * 16 / 8, 64 * 4 * 128 * 2 * 1.695e-3, (8, 6), 31.5),
        # 512 bits of GDDR7 at 28 Gbit/s; 170 multiprocessors, 2.407 GHz, 64 a cycle.
        ("rtx-5090", 32_607, 512 * 28 / 8, 170 * 4 * 64 * 2 * 2.407e-3, (12, 0), 63),
    ],
)
def test_figures_agree_with_the_chips_own(
    name: str, mib: int, bandwidth: float, flops: float, capability: tuple[int, int], link: float
) -> None:
    """What a datasheet says, against pins, cores and clocks: a figure with sparsity would be twice as large."""
    gpu = load_catalogue()[name]
    assert gpu.memory == mib * MIB
    assert gpu.bandwidth / 1e9 == pytest.approx(bandwidth, rel=0.005)
    assert gpu.flops / 1e12 == pytest.approx(flops, rel=0.005)
    assert (gpu.compute_capability, gpu.link) == (capability, link * 1e9)


def test_a_figure_without_a_source_is_refused() -> None:
    data = read_catalogue().model_dump()
    del data["gpus"]["l4"]["bandwidth_gb_s"]["source"]
    with pytest.raises(ValidationError, match=r"gpus\.l4\.bandwidth_gb_s\.source"):
        Catalogue.model_validate(data)


@pytest.mark.parametrize("key", ["bf16_sparse_tflops", "price"])
def test_a_key_that_is_not_known_is_refused(key: str) -> None:
    data = read_catalogue().model_dump()
    data["gpus"]["l4"][key] = {"value": 1, "source": "nowhere at all"}
    with pytest.raises(ValidationError, match=key):
        Catalogue.model_validate(data)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("l4", "l4"),
        ("L40S", "l40s"),
        ("rtx4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("RTX 3090", "rtx-3090"),
        ("GeForce RTX 3090", "rtx-3090"),
        ("a5000", "rtx-a5000"),
        ("RTX A5000", "rtx-a5000"),
        ("5090", "rtx-5090"),
        ("rtx5090-32gb", "rtx-5090"),
        ("a100-80gb", "a100-80"),
        ("A100-SXM4-80GB", "a100-80"),
        ("A100-SXM4-40GB", "a100-40"),
        ("H100_PCIe", "h100-pcie"),
        ("CPU", "cpu"),
    ],
)
def test_a_device_is_found_by_the_names_that_people_use(written: str, name: str) -> None:
    assert find_gpu(written).name == name


def test_no_two_devices_share_a_name() -> None:
    entries = read_catalogue().gpus
    names = [module._plain(word) for key, entry in entries.items() for word in {key, *entry.aliases}]
    drivers = [word for entry in entries.values() for word in entry.device_names]
    assert len(names) == len(set(names))
    assert len(drivers) == len(set(drivers))


def test_an_unknown_device_is_answered_with_the_nearest_and_with_all() -> None:
    with pytest.raises(UsageError, match="no GPU 'h10' in the catalogue; it has l4, a10, ") as caught:
        find_gpu("h10")
    assert caught.value.hint == "did you mean h100?"


def test_nothing_is_guessed_for_a_name_like_no_other() -> None:
    with pytest.raises(UsageError) as caught:
        find_gpu("xyzzy")
    assert caught.value.hint is None


@pytest.mark.parametrize(
    ("driver", "mib", "name"),
    [
        ("NVIDIA L4", 23_034, "l4"),
        ("NVIDIA L4", 24_570, "l4"),  # ECC off
        ("NVIDIA A100-PCIE-40GB", 40_960, "a100-40"),
        ("NVIDIA A100 80GB PCIe", 81_920, "a100-80-pcie"),
        ("NVIDIA H100 80GB HBM3", 81_559, "h100"),
        ("NVIDIA H200", 143_771, "h200"),
        ("NVIDIA GeForce RTX 3090", 24_576, "rtx-3090"),
        ("NVIDIA RTX A5000", 24_564, "rtx-a5000"),
        ("NVIDIA RTX A5000", 23_028, "rtx-a5000"),  # ECC on
        ("NVIDIA GeForce RTX 5090", 32_607, "rtx-5090"),
    ],
)
def test_a_board_is_known_by_what_its_driver_calls_it(driver: str, mib: int, name: str) -> None:
    gpu = match_device_name(driver, mib * MIB)
    assert gpu is not None
    assert gpu.name == name


@pytest.mark.parametrize(
    ("driver", "mib"),
    [
        ("NVIDIA A10G", 23_028),
        ("NVIDIA GeForce RTX 4090 D", 24_564),
        ("NVIDIA GeForce RTX 3090 Ti", 24_564),
        ("NVIDIA RTX 5000 Ada Generation", 32_760),
        ("NVIDIA GeForce RTX 5090 D", 32_607),
        ("NVIDIA A10", 11_514),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", 40_192),
    ],
)
def test_a_board_that_is_only_like_one_of_ours_is_not_taken_for_it(driver: str, mib: int) -> None:
    assert match_device_name(driver, mib * MIB) is None


def fake_machine(root: Path, limit: str | None) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text("MemTotal:       16000000 kB\nMemFree:  1 kB\n")
    if limit is not None:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "sys/fs/cgroup/memory.max").write_text(f"{limit}\n")
    return root


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, 16_384_000_000),
        ("max", 16_384_000_000),
        ("4096000", 4_096_000),
        ("99999999999", 16_384_000_000),
    ],
)
def test_memory_is_the_machines_or_what_its_group_may_have(
    tmp_path: Path, limit: str | None, expected: int
) -> None:
    assert machine_memory(fake_machine(tmp_path, limit)) == expected


def test_a_cpu_has_the_bandwidth_of_its_cores_up_to_that_of_its_memory() -> None:
    cpu = read_catalogue().cpu
    two, many = cpu.gpu(cores=2, memory=1), cpu.gpu(cores=96, memory=1)
    assert (two.bandwidth, two.flops) == (24e9, 160e9)
    assert (many.bandwidth, many.flops) == (204.8e9, 7.68e12)
    assert two.compute_capability is None
