"""--replicas, --supervisor, --target and --address: short for keys of the spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from tri_serve.cli.main import ENVIRONMENT_PREFIX
from tri_serve.cli.options import MOST_REPLICAS, SpecSelection, fleet_options, spec_options
from tri_serve.spec import fleet as fleet_spec
from tri_serve.spec.fleet import FleetSpec


@click.command()
@spec_options
@fleet_options
def probe(selection: SpecSelection) -> FleetSpec:
    return selection.load().spec.fleet


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fleet_of(*arguments: str) -> FleetSpec:
    found: Any = probe.main(
        list(arguments), standalone_mode=False, auto_envvar_prefix=f"{ENVIRONMENT_PREFIX}_UP"
    )
    assert isinstance(found, FleetSpec)
    return found


def test_each_sets_its_key() -> None:
    fleet = fleet_of("--replicas", "3", "--supervisor", "process")
    assert (fleet.replicas, fleet.supervisor, fleet.target) == (3, "process", "local")


def test_without_them_the_spec_decides() -> None:
    Path("tri-serve.yaml").write_text("preset: tri-tiny-awq\nfleet: {replicas: 5, supervisor: process}\n")
    fleet = fleet_of()
    assert (fleet.replicas, fleet.supervisor) == (5, "process")
    assert fleet_of("--replicas", "2").replicas == 2


@pytest.mark.parametrize("arguments", [("--target", "ray"), ()])
def test_an_address_means_the_cluster(arguments: tuple[str, ...]) -> None:
    fleet = fleet_of(*arguments, "--address", "10.0.0.1:6379")
    assert (fleet.target, fleet.ray.address) == ("ray", "10.0.0.1:6379")
    assert fleet_of(*arguments, "--address", "auto").ray.address == "auto"


def test_they_have_variables_like_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRI_SERVE_UP_REPLICAS", "4")
    monkeypatch.setenv("TRI_SERVE_UP_SUPERVISOR", "process")
    fleet = fleet_of()
    assert (fleet.replicas, fleet.supervisor) == (4, "process")
    assert fleet_of("--set", "fleet.replicas=6").replicas == 6
    assert fleet_of("--replicas", "7").replicas == 7


@pytest.mark.parametrize("count", ["0", "65", "two"])
def test_a_number_that_no_fleet_has_is_refused(count: str) -> None:
    with pytest.raises(click.BadParameter):
        fleet_of("--replicas", count)


def test_the_bound_is_the_specs() -> None:
    assert MOST_REPLICAS == fleet_spec.MOST_REPLICAS
