"""Runs the commands in the docs: ``python docs/command_blocks.py [--write] [PAGE.md ...]``; without a page, all.

A block of commands is fenced as ``console`` (or sh, bash), and the line above its fence says what becomes of it:

    <!-- run -->                   its commands (after ``$ ``) must end with 0 and print what stands below them
    <!-- run: exit 12 -->          the same, and the last command must end with 12
    <!-- run: output not shown --> they must end with 0
    <!-- not run here: REASON -->  it is not; a test that REASON names must be there

A block with neither is an error. ``<!-- file: NAME -->`` above any other block writes it to the file NAME first.
The blocks of one page run in order in one empty folder, with nothing of the user's own settings. A line ``...`` in
the output stands for any lines. --write puts what was printed in place of what stands there, but where such a line
stands: somebody chose what to show, and has to do so again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
COMMANDS = ("console", "sh", "bash", "shell")
SECONDS = 60
_COMMAND = re.compile(r"(\$ )?(tri-serve|vllm|make|pip|python3?|curl|docker|ray|sudo) |\$ ")
"""What a line of commands looks like in a block that does not say its language."""
_ANY = "..."
_SILENT = "output not shown"
_FENCE = re.compile(r"```(\w*)\s*")
_MARK = re.compile(r"<!-- (run|not run here|file)(?:: (.+?))? -->\s*")


class DocsError(Exception):
    """Something in a page that is not so; the message begins with its place."""


@dataclass(frozen=True)
class Block:
    """One fenced block: ``lines`` stand between the fences, the first of them at ``start`` (from 0)."""

    page: Path
    start: int
    language: str
    lines: tuple[str, ...]
    mark: str | None
    """run, not run here or file; none: unmarked."""
    words: str

    @property
    def place(self) -> str:
        return f"{shown(self.page)}:{self.start}"

    @property
    def is_commands(self) -> bool:
        return self.language in COMMANDS or (
            not self.language and any(_COMMAND.match(line) for line in self.lines)
        )


@dataclass(frozen=True)
class Step:
    """One command and the output that stands below it."""

    written: tuple[str, ...]
    """Its lines as they stand in the page."""
    command: str
    expected: tuple[str, ...]


def shown(page: Path) -> str:
    """A page's path from the top of the repository."""
    return str(page.relative_to(REPOSITORY) if page.is_relative_to(REPOSITORY) else page)


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    index = 0
    while index < len(lines):
        fence = _FENCE.fullmatch(lines[index])
        if fence is None:
            index += 1
            continue
        end = next((i for i in range(index + 1, len(lines)) if lines[i].rstrip() == "```"), None)
        if end is None:
            raise DocsError(f"{shown(page)}:{index + 1}: a block without an end")
        mark = _MARK.fullmatch(lines[index - 1]) if index else None
        yield Block(
            page=page,
            start=index + 1,
            language=fence[1],
            lines=tuple(lines[index + 1 : end]),
            mark=mark[1] if mark else None,
            words=(mark[2] or "") if mark else "",
        )
        index = end + 1


def check_marks(page: Path) -> None:
    """Raises DocsError for commands that do not say whether they are run, or name a test that is not there."""
    for block in blocks(page):
        if not block.is_commands:
            continue
        if block.mark not in ("run", "not run here"):
            raise DocsError(
                f"{block.place}: say above the block whether it is run: <!-- run --> or <!-- not run here: WHY -->"
            )
        if block.mark == "not run here":
            if not block.words:
                raise DocsError(f"{block.place}: not run here: say why")
            for path in re.findall(r"\btests/[\w/.]+\w", block.words):
                if not (REPOSITORY / path).exists():
                    raise DocsError(f"{block.place}: there is no {path}")


def run_page(page: Path) -> dict[int, tuple[str, ...]]:
    """Run a page's blocks: for each that printed something else, by its ``start``, the lines it should have.

    Raises DocsError for a command that ended with another exit code than it should.
    """
    changed: dict[int, tuple[str, ...]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for block in blocks(page):
            if block.mark == "file":
                (Path(folder) / block.words).write_text("\n".join(block.lines) + "\n", encoding="utf-8")
            if block.is_commands and block.mark == "run":
                lines = _run_block(block, Path(folder))
                if lines != block.lines:
                    changed[block.start] = lines
    return changed


def _run_block(block: Block, folder: Path) -> tuple[str, ...]:
    """The block as it should be."""
    steps = list(_steps(block))
    code = re.fullmatch(r"exit (\d+)", block.words)
    silent = block.words == _SILENT
    if block.words and code is None and not silent:
        raise DocsError(f"{block.place}: run: {block.words}: only exit CODE or {_SILENT} can stand there")
    lines: list[str] = []
    for index, step in enumerate(steps):
        wanted = int(code[1]) if code and index == len(steps) - 1 else 0
        printed = _run(block, step.command, folder, wanted)
        agrees = silent or _agrees(step.expected, printed)
        lines += [*step.written, *(step.expected if agrees else printed)]
    return tuple(lines)


def _steps(block: Block) -> Iterator[Step]:
    lines = list(block.lines)
    while lines:
        if not lines[0].startswith("$ "):
            raise DocsError(f"{block.place}: {lines[0]!r} is no command: begin it with '$ '")
        written = [lines.pop(0)]
        while written[-1].endswith("\\") and lines:
            written.append(lines.pop(0))
        expected = []
        while lines and not lines[0].startswith("$ "):
            expected.append(lines.pop(0))
        yield Step(tuple(written), "\n".join(written).removeprefix("$ "), tuple(expected))


def _run(block: Block, command: str, folder: Path, wanted: int) -> tuple[str, ...]:
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode != wanted:
        raise DocsError(
            f"{block.place}: {command}\nended with {done.returncode}, not {wanted}:\n{done.stdout}"
        )
    return tuple(line.rstrip() for line in done.stdout.splitlines())


def _environment(folder: Path) -> dict[str, str]:
    """Of somebody who has just installed tri-serve, on a machine without a GPU, at a terminal of 80 columns."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder / ".home"),
        "COLUMNS": "80",
        "LC_ALL": "C.UTF-8",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _agrees(expected: tuple[str, ...], printed: tuple[str, ...]) -> bool:
    """Whether the output is as it stands in the page; ``...`` there stands for any lines."""
    pattern = "".join("(?:.*\n)*" if line == _ANY else re.escape(line.rstrip()) + "\n" for line in expected)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


def pages() -> list[Path]:
    """Every page that a user reads."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def write(page: Path, changed: dict[int, tuple[str, ...]]) -> set[int]:
    """Put what was printed into the page; the ``start`` of each block for which that was done."""
    text = page.read_text(encoding="utf-8").splitlines()
    written = set()
    for block in reversed(list(blocks(page))):
        if block.start in changed and _ANY not in block.lines:
            text[block.start : block.start + len(block.lines)] = changed[block.start]
            written.add(block.start)
    if written:
        page.write_text("\n".join(text) + "\n", encoding="utf-8")
    return written


def main(arguments: list[str]) -> int:
    """Check or write the pages; 1 if something in them is not so."""
    writing = "--write" in arguments
    named = [Path(word).resolve() for word in arguments if word != "--write"]
    wrong = 0
    for page in named or pages():
        try:
            check_marks(page)
            changed = run_page(page)
        except DocsError as error:
            print(error, file=sys.stderr)
            wrong = 1
            continue
        written = write(page, changed) if writing else set()
        for start, lines in changed.items():
            if not writing or start not in written:
                print(f"{shown(page)}:{start}: prints now:", *lines, sep="\n", file=sys.stderr)
                wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
