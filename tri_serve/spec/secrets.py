"""What of a spec must never be printed."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "********"

_SECRET_WORD = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL)S?$", re.IGNORECASE)
_SECRET_FLAG = re.compile(r"(token|key|secret|password)$", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a variable's name says that its value is a secret: HF_TOKEN, S3_SECRET_ACCESS_KEY.

    Judged word by word, so that TOKENIZERS_PARALLELISM is none.
    """
    return any(_SECRET_WORD.search(word) for word in name.split("_"))


def is_secret_path(path: tuple[str, ...]) -> bool:
    """Whether the value at a path of the spec must not be printed."""
    return path[:2] == ("engine", "env") and len(path) > 2 and is_secret_name(path[2])


def mask_arguments(arguments: Iterable[str]) -> tuple[str, ...]:
    """Engine flags with the values of ``--api-key`` and its like masked.

    They should not be there at all (argv is readable by every user), but printing them makes it worse.
    """
    masked: list[str] = []
    hiding = False
    for argument in arguments:
        if argument.startswith("--"):
            flag, equals, _ = argument.partition("=")
            secret = bool(_SECRET_FLAG.search(flag.rstrip("s") if flag.endswith("keys") else flag))
            masked.append(f"{flag}={MASK}" if equals and secret else argument)
            hiding = secret and not equals
        else:
            masked.append(MASK if hiding else argument)
    return tuple(masked)


def mask_value(path: tuple[str, ...], value: object) -> object:
    """The value at ``path`` as it may be shown."""
    if is_secret_path(path):
        return MASK
    if path == ("engine", "extra_args") and isinstance(value, (tuple, list)):
        return mask_arguments(str(item) for item in value)
    return value
