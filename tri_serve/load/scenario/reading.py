"""A scenario by its name or its file, with what overrides it: strict, one clear line for each mistake."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from tri_serve.errors import SpecError, UsageError
from tri_serve.load.regular import open_regular
from tri_serve.load.scenario.keys import child, entry_at, is_duration
from tri_serve.load.scenario.mistakes import scenario_error, validation_problems
from tri_serve.load.scenario.models import Scenario
from tri_serve.spec.document import MAX_BYTES, DocumentReader
from tri_serve.spec.origin import Origin
from tri_serve.spec.problems import Problem, describe
from tri_serve.spec.tree import Items, Node, Scalar, Section, plain, replaced_origin, without_nulls

SUFFIX = ".yaml"


@dataclass(frozen=True)
class LoadedScenario:
    """A scenario and where it came from."""

    scenario: Scenario
    folder: Path
    """What the paths in it are seen from."""
    source: str
    """The name or path, as it was given."""
    text: str
    """The file, verbatim."""
    overrides: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """SHA-256 of what the scenario says, overrides included: no comments, every default written out."""
        return scenario_hash(self.scenario)


def scenario_hash(scenario: Scenario) -> str:
    """As ``LoadedScenario.hash``, for one that was changed after it was read."""
    canonical = json.dumps(scenario.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def scenario_folder() -> Path:
    """The scenarios that ship: in the installed package, or in a checkout ``loadtests/scenarios`` itself."""
    packaged = Path(str(resources.files("tri_serve.load") / "scenarios"))
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "loadtests" / "scenarios"


def scenario_names() -> tuple[str, ...]:
    """Names of the scenarios that ship, in order."""
    return tuple(sorted(path.stem for path in scenario_folder().glob(f"*{SUFFIX}")))


def read_scenario(name_or_path: str, overrides: Sequence[str] = ()) -> LoadedScenario:
    """The scenario of this name or in this file (``./mine.yaml``), with ``KEY=VALUE`` on top of it.

    A key is dotted (``window=60s``, ``arrivals.rate=8``, ``workload.parts[0].input.fixed=512``; a part can be
    named instead of numbered: ``workload.parts.chat.weight=2``); a value is YAML (``arrivals={kind: poisson,
    rate: 8}``) and null resets its key. Raises UsageError with every mistake, one line each.
    """
    path = _find(name_or_path)
    text = _read_text(path)
    try:
        reader = DocumentReader(text, place=Origin("file", str(path)))
        tree = reader.read()
        if tree is None or (isinstance(tree, Section) and not tree.children):
            raise UsageError(f"{path}: empty", hint="tri-serve load scenarios lists those that ship")
        if not isinstance(tree, Section):
            keys = ", ".join(Scenario.model_fields)
            raise UsageError(f"{path}: found {describe(tree)}; a scenario has the keys {keys}")
        for override in overrides:
            tree = _overridden(tree, override)
    except SpecError as error:
        raise UsageError(error.message.replace("a spec is", "a scenario is"), hint=error.hint) from error
    tree = without_nulls(tree)
    problems = [Problem(origin, key, words) for origin, key, words in reader.mistakes]
    try:
        scenario = Scenario.model_validate(plain(tree))
    except ValidationError as error:
        problems += validation_problems(error, tree, str(path))
        raise scenario_error(problems) from error
    if problems:
        raise scenario_error(problems)
    return LoadedScenario(scenario, path.parent, name_or_path, text, tuple(overrides))


def _find(name_or_path: str) -> Path:
    if "/" in name_or_path or name_or_path.endswith((SUFFIX, ".yml")):
        return Path(name_or_path)
    names = scenario_names()
    if name_or_path in names:
        return scenario_folder() / f"{name_or_path}{SUFFIX}"
    lists = "tri-serve load scenarios lists them"
    if Path(name_or_path).is_dir():
        raise UsageError(
            f"{name_or_path!r} is a folder, and no scenario", hint=f"{lists}; a file: ./mine{SUFFIX}"
        )
    close = difflib.get_close_matches(name_or_path, names, n=1, cutoff=0.4)
    ask = f"; the nearest is {close[0]}" if close else ""
    file = name_or_path if Path(name_or_path).is_file() else f"{name_or_path}{SUFFIX}"
    raise UsageError(
        f"no scenario is named {name_or_path!r}{ask}",
        hint=f"{lists}; a file is written with its folder: ./{file}",
    )


def _read_text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        hint = (
            "tri-serve load scenarios lists those that ship" if isinstance(error, FileNotFoundError) else None
        )
        raise UsageError(f"{path}: {error.strerror or error}", hint=hint) from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: larger than {MAX_BYTES // 1024} KiB; not a scenario file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x})") from error


# -- overrides


def _overridden(tree: Section, override: str) -> Section:
    dotted, equals, text = override.partition("=")
    parts = tuple(_parts(dotted.strip()))
    if not equals or not parts:
        raise UsageError(f"--set {override}: takes KEY=VALUE, such as window=60s or arrivals.rate=8")
    place = Origin("flag", f"--set {dotted.strip()}")
    reader = DocumentReader(text, place=place)
    value = reader.read()
    if reader.mistakes:
        raise UsageError(f"{place}: {reader.mistakes[0][2]}")
    if value is None:
        raise UsageError(f"{place}: nothing follows the =; null resets a key")
    path = _numbered(parts, tree, place)
    flag = Origin("flag", "--set")
    changed = _with(tree, path, replaced_origin(value, flag), flag)
    assert isinstance(changed, Section)
    # In the tree as it is then: a section's kind decides what its keys are.
    _check_units(value, path, changed, place)
    return changed


def _parts(dotted: str) -> Iterator[str | int]:
    for part in dotted.split("."):
        found = re.fullmatch(r"([^\[\]]+)((\[\d{1,4}\])*)", part)
        if found is None:
            raise UsageError(
                f"--set {dotted}: not a key; write it as in arrivals.rate or workload.parts[0].weight"
            )
        yield found[1]
        yield from (int(number) for number in re.findall(r"\d+", found[2]))


def _numbered(parts: Sequence[str | int], tree: Node, place: Origin) -> tuple[str | int, ...]:
    """The path with parts of the workload that are given by their name replaced by their numbers."""
    path: list[str | int] = []
    node: Node | None = tree
    for part in parts:
        if isinstance(node, Items) and isinstance(part, str):
            names = [_name(item) for item in node.items]
            if part not in names:
                known = ", ".join(name for name in names if name)
                raise UsageError(
                    f"{place}: no part is named {part}" + (f"; there are {known}" if known else "")
                )
            part = names.index(part)
        path.append(part)
        node = child(node, part)
    return tuple(path)


def _name(node: Node) -> str | None:
    name = child(node, "name")
    return str(name.value) if isinstance(name, Scalar) else None


def _check_units(value: Node, path: tuple[str | int, ...], tree: Section, place: Origin) -> None:
    if isinstance(value, Section):
        for key, below in value.children.items():
            _check_units(below, (*path, key), tree, place)
    elif (
        isinstance(value, Scalar)
        and isinstance(value.value, int | float)
        and not isinstance(value.value, bool)
        and value.value != 0
        and is_duration(entry_at(path, tree))
    ):
        raise UsageError(
            f"{place}={value.text}: a duration without a unit; write {value.text}s, {value.text}ms or {value.text}m"
        )


def _with(node: Node | None, path: tuple[str | int, ...], value: Node, place: Origin) -> Node:
    if not path:
        return value
    part, below = path[0], path[1:]
    if isinstance(part, int):
        if not isinstance(node, Items) or part >= len(node.items):
            count = len(node.items) if isinstance(node, Items) else 0
            raise UsageError(f"{place}: there is no item {part}; the list has {count}")
        changed = _with(node.items[part], below, value, place)
        return Items((*node.items[:part], changed, *node.items[part + 1 :]), node.origin)
    children = dict(node.children) if isinstance(node, Section) else {}
    children[part] = _with(children.get(part), below, value, place)
    return Section(children, node.origin if node is not None else place)
