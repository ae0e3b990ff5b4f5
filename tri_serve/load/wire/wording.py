"""What a server says of an error, as it may be shown and kept: no key, no prompt, no commands to a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_MOST_DETAIL = 160
_RUN = 16
"""Characters in a row that a server's words may not have in common with a request."""
_BLOCK = 8
"""Any run of 16 holds a whole block of 8 of those that a text is cut into: few searches where there is no run."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0 and C1 (ESC and CSI move a terminal's cursor), line ends, and the marks that turn the direction of text."""
_BEARER = re.compile(r"(?i)\bbearer[\s:=]+\S+")
_NAME = re.compile(r"[\w.-]{1,48}", re.ASCII)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[nrt])")


def printable(text: str) -> str:
    """``text`` without what would command a terminal, in one line."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def name_of(value: Any) -> str:
    """A short name that a server gives something (a type, a code, a finish reason); empty if it is none."""
    text = str(value) if isinstance(value, str | int) else ""
    return text if _NAME.fullmatch(text) else ""


def error_line(value: Any, *, key: str | None = None, body: Mapping[str, Any] | None = None) -> str:
    """What an error object says, in one line.

    ``key`` is blanked, and whatever stands behind "Bearer". Where the words repeat 16 characters or more of a text
    in ``body``, the request's, only the error's type and code are kept.
    """
    error = value.get("error", value) if isinstance(value, dict) else value
    kind, code, message = "", "", error
    if isinstance(error, dict):
        kind, code = (_blanked(name_of(error.get(name)), key) for name in ("type", "code"))
        message = error.get("message") or error.get("detail") or ""
    # A refused body comes back in pydantic's words as {'type': …, 'input': …}.
    text = re.split(r"""['"]?\binput['"]?\s*[:=]""", str(message))[0]
    text = printable(" ".join(_BEARER.sub("Bearer [key]", _blanked(text, key)).split()))
    line = f"{kind}: {text}".strip(": ")[:_MOST_DETAIL]
    if body is not None and _repeats(line, body):
        names = " ".join(dict.fromkeys(name for name in (kind, code) if name))
        line = f"{names}: words that repeat the request".strip(": ")
        if _repeats(names, body):
            line = "words that repeat the request"
    return line or "an error without words"


def _blanked(text: str, key: str | None) -> str:
    return text.replace(key, "[key]") if key else text


def _repeats(line: str, body: Mapping[str, Any]) -> bool:
    asked = "\n".join(" ".join(text.split()) for text in _texts(body))
    plain = " ".join(_ESCAPE.sub(_unescaped, line).split())
    return any(plain[at : at + _BLOCK] in asked for at in range(0, len(plain) - _BLOCK + 1, _BLOCK)) and any(
        plain[at : at + _RUN] in asked for at in range(len(plain) - _RUN + 1)
    )


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else " "


def _texts(value: Any) -> list[str]:
    """All texts in a body that are long enough."""
    if isinstance(value, str):
        return [value] if len(value) >= _RUN else []
    if isinstance(value, Mapping):
        value = list(value.values())
    return [text for entry in value for text in _texts(entry)] if isinstance(value, list | tuple) else []
