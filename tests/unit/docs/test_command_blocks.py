"""Every block of commands in the docs says whether it is run, and those that are print what stands there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPT = REPOSITORY / "docs" / "command_blocks.py"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def check(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=110
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_what_a_page_shows_is_what_its_commands_print(page: Path) -> None:
    assert check(page) == (0, "")


@pytest.fixture
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a page can be written that is none of ours."""
    return tmp_path_factory.mktemp("docs") / "page.md"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("```console\n$ true\n```\n", "say above the block whether it is run"),
        ("```\ntri-serve up\n```\n", "say above the block whether it is run"),
        ("<!-- not run here -->\n```sh\nls\n```\n", "say why"),
        ("<!-- not run here: tests/unit/nowhere.py does -->\n```sh\nls\n```\n", "no tests/unit/nowhere.py"),
        ("<!-- run -->\n```console\n$ false\n```\n", "ended with 1, not 0"),
        ("<!-- run: exit 3 -->\n```console\n$ true\n```\n", "ended with 0, not 3"),
        ("<!-- run -->\n```console\n$ echo b\na\n```\n", "prints now:\n$ echo b\nb"),
        ("<!-- run -->\n```console\necho b\n```\n", "begin it with '$ '"),
        ("<!-- run -->\n```console\n$ true\n", "a block without an end"),
    ],
)
def test_a_block_that_is_not_so_is_told_with_its_place(page: Path, text: str, words: str) -> None:
    page.write_text(text, encoding="utf-8")
    code, errors = check(page)
    assert code == 1
    assert words in errors
    assert "page.md" in errors


def test_blocks_of_a_page_share_a_folder_and_files_are_written_into_it(page: Path) -> None:
    page.write_text(
        "<!-- file: a.txt -->\n```yaml\nsome: text\n```\n"
        "<!-- run -->\n```console\n$ cat a.txt; \\\n  echo more > b.txt\nsome: text\n```\n"
        "<!-- run: exit 4 -->\n```console\n$ cat b.txt\n...\n$ exit 4\n```\n"
    )
    assert check(page) == (0, "")


def test_writing_puts_what_was_printed_into_the_page_and_nothing_else(page: Path) -> None:
    text = "Before.\n\n<!-- run -->\n```console\n$ echo b\n{}\n$ echo c\nc\n```\n\nAfter.\n"
    page.write_text(text.format("a"))
    assert check("--write", page) == (0, "")
    assert page.read_text() == text.format("b")


def test_writing_leaves_alone_where_somebody_chose_what_to_show(page: Path) -> None:
    text = "<!-- run -->\n```console\n$ seq 3\n...\n4\n```\n"
    page.write_text(text)
    code, errors = check("--write", page)
    assert code == 1
    assert "prints now" in errors
    assert page.read_text() == text
