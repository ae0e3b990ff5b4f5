"""Whether a machine has what a fleet takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tri_serve.errors import ResourceError
from tri_serve.fleet.resources import (
    GATEWAY_BYTES,
    RAY_BYTES,
    DiskNeed,
    available_memory,
    check_disk,
    check_disks,
    check_memory,
    check_shared_memory,
    engine_memory,
)
from tri_serve.spec.models import Spec

GIB = 2**30
SPEC = Spec.model_validate(
    {"model": {"source": "tiny:bf16", "served_name": "t"}, "engine": {"cpu_kv_cache_gib": 4}}
)


def test_memory_that_suffices_is_no_problem() -> None:
    check_memory(SPEC, "cpu", 0, engines=1, available=64 * GIB)


def test_too_little_memory_is_refused_with_the_numbers_and_what_fits() -> None:
    each = engine_memory(SPEC, "cpu", GIB)
    with pytest.raises(
        ResourceError, match=r"3 engines of about .* need .* GiB, and .* GiB are available"
    ) as caught:
        check_memory(SPEC, "cpu", GIB, engines=3, available=2 * each + GIB // 2)
    assert caught.value.hint == "--set fleet.replicas=2 fits"


def test_a_single_engine_that_does_not_fit_names_the_kv_cache() -> None:
    with pytest.raises(ResourceError, match="4 GiB of it KV cache") as caught:
        check_memory(SPEC, "cpu", GIB, engines=1, available=GIB)
    assert "engine.cpu_kv_cache_gib" in (caught.value.hint or "")


def test_weights_and_kv_cache_on_a_gpu_take_no_main_memory() -> None:
    assert engine_memory(SPEC, "cuda", 13 * GIB) == engine_memory(SPEC, "cuda", 0)


def proc(root: Path, available_kib: int) -> None:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {available_kib} kB\n")


def test_available_memory_is_the_machines(tmp_path: Path) -> None:
    proc(tmp_path, 1024)
    assert available_memory(tmp_path) == 2**20


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 8 * GIB), (str(5 * GIB), 3 * GIB), (str(64 * GIB), 8 * GIB)]
)
def test_available_memory_is_what_the_container_leaves(tmp_path: Path, limit: str, expected: int) -> None:
    proc(tmp_path, 8 * GIB // 1024)
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(limit + "\n")
    (group / "memory.current").write_text(str(2 * GIB))
    assert available_memory(tmp_path) == expected


def test_too_little_disk_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"disk: logs in .*/not/there need .* MiB, and .* MiB are free"):
        check_disk(tmp_path / "not" / "there", 2**60, "logs")


def test_what_goes_on_one_disk_is_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=25 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    environment = DiskNeed(tmp_path / "engines", 20 * GIB, "the environment")
    checkpoint = DiskNeed(tmp_path / "hub", 12 * GIB, "the checkpoint")
    check_disks([environment])
    check_disks([checkpoint])
    with pytest.raises(ResourceError) as refused:
        check_disks([checkpoint, environment])
    assert refused.value.message == (
        f"disk: the environment in {tmp_path}/engines, with the checkpoint in {tmp_path}/hub (12,288 MiB) need "
        "32,768 MiB, and 25,600 MiB are free"
    )


def test_two_disks_are_looked_at_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    here, memory = Path("/"), Path("/proc")  # a file system of its own
    usage = shutil.disk_usage("/")._replace(free=25 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr("os.access", lambda path, mode: True)
    check_disks([DiskNeed(here, 20 * GIB, "a"), DiskNeed(memory, 20 * GIB, "b")])


def test_enough_disk_is_no_problem(tmp_path: Path) -> None:
    check_disk(tmp_path / "not" / "there", 1, "logs")


def test_the_memory_of_replaced_engines_counts_as_available() -> None:
    each = engine_memory(SPEC, "cpu", 0)
    check_memory(SPEC, "cpu", 0, engines=2, available=GIB, given_back=2 * each)
    with pytest.raises(ResourceError, match=r"5\.5 GiB of them held by what is replaced"):
        check_memory(SPEC, "cpu", 0, engines=2, available=GIB, given_back=each)


def test_a_fleet_that_fits_without_ray_alone_is_told_so() -> None:
    enough = engine_memory(SPEC, "cpu", 0) + GATEWAY_BYTES
    check_memory(SPEC, "cpu", 0, engines=1, available=enough)
    check_memory(SPEC, "cpu", 0, engines=1, available=enough + RAY_BYTES, with_ray=True)
    with pytest.raises(ResourceError, match=r"KV cache and 0\.9 GiB of Ray need") as caught:
        check_memory(SPEC, "cpu", 0, engines=1, available=enough, with_ray=True)
    assert (caught.value.hint or "").startswith("--supervisor process fits")


def test_engines_that_stay_count_in_what_fits() -> None:
    each = engine_memory(SPEC, "cpu", 0)
    with pytest.raises(ResourceError, match="3 engines of about") as caught:
        check_memory(SPEC, "cpu", 0, engines=3, available=each + GATEWAY_BYTES, staying=2)
    assert caught.value.hint == "--set fleet.replicas=3 fits"


def test_ray_needs_shared_memory_however_small(tmp_path: Path) -> None:
    check_shared_memory(tmp_path)
    with pytest.raises(ResourceError, match="is not there or cannot be written") as caught:
        check_shared_memory(tmp_path / "shm")
    assert "--supervisor process" in (caught.value.hint or "")
