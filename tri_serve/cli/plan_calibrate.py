"""``plan calibrate``: measurements in, a table of attained shares out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from tri_serve import __version__
from tri_serve.cli.options import SpecSelection
from tri_serve.cli.output import print_table
from tri_serve.places import cache_dir
from tri_serve.plan.calibration import fit
from tri_serve.plan.calibration_table import (
    Calibration,
    describe_machine,
    source_of,
    user_tables_dir,
    write_table,
)
from tri_serve.plan.catalogue import find_gpu
from tri_serve.plan.measurements import Setting, read_measurements
from tri_serve.plan.model import model_facts
from tri_serve.plan.words import percent


def calibrated(
    results: tuple[Path, ...],
    *,
    preset: str,
    source: str | None,
    gpu: str | None,
    version: str | None,
    tensor_parallel: int | None,
    output: Path | None,
) -> None:
    """Fit the shares, keep them in ``output`` and say what they are. Raises UsageError."""
    sets = (f"model.source={source}",) if source else ()
    loaded = SpecSelection(preset, (), sets, ()).load(without_source=True)
    model = model_facts(loaded.spec, loaded.base, cache_dir())
    setting = Setting(
        gpu=find_gpu(gpu).name if gpu else None,
        engine="vllm",
        version=version,
        quantization=model.quantization.method,
        tensor_parallel=tensor_parallel,
    )
    now = datetime.now(UTC)
    table = fit(
        [point for path in results for point in read_measurements(path, setting)],
        model,
        made=now.isoformat(timespec="seconds"),
        made_with=f"tri-serve {__version__}",
        machine=describe_machine(),
        sources=[source_of(path) for path in results],
    )
    path = output or user_tables_dir() / f"{now:%Y%m%dT%H%M%S.%fZ}.json"
    write_table(table, path)
    print_table(
        ["GPU", "ENGINE", "WEIGHTS", "MEASUREMENTS", "BANDWIDTH ATTAINED"],
        [
            [
                entry.gpu,
                f"{entry.engine} {entry.minor}",
                entry.quantization,
                entry.points,
                _bandwidth(entry),
            ]
            for entry in table.calibrations
        ],
    )
    click.echo(f"wrote {path}", err=True)


def _bandwidth(entry: Calibration) -> str:
    """``61% (58-64) with 1, 55% (50-60) with 32``."""
    words = [f"{percent(share.share)} with {share.batch}" for share in entry.memory]
    return ", ".join(words) or "not measured"
