"""What is shown and kept of a server's own words."""

from __future__ import annotations

import pytest

from tri_serve.load.wire.wording import error_line, name_of, printable

PROMPT = "오늘 저녁에 무엇을 먹을지 정하지 못한 사람에게 권할 만한 음식은 무엇인가요?"
BODY = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 8}


def _error(message: str, **more: object) -> dict[str, object]:
    return {"error": {"message": message, "type": "BadRequest", "code": 400, **more}}


def test_the_key_is_blanked_and_so_is_what_stands_behind_bearer() -> None:
    line = error_line(_error("no such key sk-1234, Bearer sk-12… bearer: abc"), key="sk-1234")
    assert line == "BadRequest: no such key [key], Bearer [key] Bearer [key]"
    assert error_line(_error("no", type="sk-1234"), key="sk-1234") == "[key]: no"
    # Also where the words are cut off inside of it.
    assert "sk-" not in error_line(_error("x" * 140 + " sk-1234567890123456"), key="sk-1234567890123456")


@pytest.mark.parametrize(
    "message",
    [
        f"cannot take {PROMPT!r}",
        f"at {PROMPT[7:23]}",
        "at " + PROMPT[5:30].encode("ascii", "backslashreplace").decode(),
        PROMPT.replace(" ", "\n  "),
    ],
)
def test_words_that_repeat_the_request_leave_the_type_and_the_code(message: str) -> None:
    assert error_line(_error(message), body=BODY) == "BadRequest 400: words that repeat the request"


def test_a_type_that_repeats_the_request_is_not_kept() -> None:
    body = {"messages": [{"role": "user", "content": "a-secret-that-is-a-name"}]}
    line = error_line(_error("", type="a-secret-that-is-a-name"), body=body)
    assert line == "words that repeat the request"


def test_words_of_the_server_s_own_are_kept() -> None:
    message = "This model's maximum context length is 8192 tokens; the user asked for more"
    assert error_line(_error(message), body=BODY) == f"BadRequest: {message}"
    assert PROMPT[:12] in error_line(_error(f"at {PROMPT[:12]}."), body=BODY)


@pytest.mark.parametrize("mark", ["\x1b", "\x07", "\x7f", "\x9b", "\u202e", "\u2066", "\u200f", "\u2028"])
def test_nothing_that_commands_a_terminal_is_left(mark: str) -> None:
    assert mark not in error_line(_error(f"a{mark}[2Jb"))
    assert mark not in error_line(f"a{mark}b")
    assert printable(f"a{mark}b") == "a\N{REPLACEMENT CHARACTER}b"
    assert name_of(f"a{mark}b") == ""


def test_long_words_are_cut() -> None:
    assert len(error_line({"error": "x" * 1000})) == 160
    assert error_line({"error": {}}) == "an error without words"
