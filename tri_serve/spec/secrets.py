"""What of a spec must never be printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

MASK = "********"

_SECRET_WORD = re.compile(r"(KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL)S?$", re.IGNORECASE)
_SECRET_WORDS = frozenset({"AUTHORIZATION", "JWT", "COOKIE", "COOKIES", "BEARER"})
"""Wherever they stand in a name."""
_SECRET_ENDS = frozenset({"PASS", "PWD", "PAT", "AUTH", "HEADERS"})
"""As a name's last word: of SSH_AUTH_SOCK and of vLLM's ``pass_config`` they say nothing. HEADERS are those of
requests, as in OTEL_EXPORTER_OTLP_HEADERS, which log in with one of them."""
_DIRECTORIES = frozenset({"PWD", "OLDPWD"})
"""Variables in which a shell keeps where it is."""
_SECRET_FLAG = re.compile(
    r"(token|key|secret|password|passwd|passphrase|credential|[-_](pass|pwd|pat|auth|authorization|jwt|cookie))$",
    re.IGNORECASE,
)
_PASSWORD_WORD = re.compile(r"(SECRET|PASSWORD|PASSWD|PASSPHRASE|PASS|PWD)S?$")
"""What may be all digits; a token or a key that is a number counts something."""
_LOGIN_VALUE = re.compile(
    r"""(?P<before>(?:^|[:=,"'])\s*)(?P<scheme>bearer|basic)(?:\s|%20|\+)+[^\s"',;]+""", re.IGNORECASE
)
"""What HTTP's Authorization holds, alone or after its name."""
_COUNTS = frozenset(
    {"MAX", "MIN", "NUM", "TOTAL", "PER", "BATCHED", "THRESHOLD", "LIMIT", "COUNT", "SIZE", "USE", "ENABLE"}
)
"""Words of names that count tokens of text, or switch something about them: VLLM_MAX_BAD_WORDS_TOTAL_TOKENS."""
_TEXT_IN_URL = r"""(?:(?!://)[^\s"']|["'](?![\s,:\]}]|$))"""
"""A character of a URL's part; a quote may be one, where it does not end a word of JSON, YAML or a shell."""
_USER_IN_URL = re.compile(
    rf"""(?P<scheme>(?:[A-Za-z][A-Za-z0-9+.-]{{0,31}})?)://(?P<user>
    (?!\[[0-9A-Fa-f:.%]*\])[^/\s:?#"']*:(?!\d{{1,5}}[/?#]){_TEXT_IN_URL}*  # a name, and a password with any sign
    | [^/\s:?#"']+  # one word: a name or a token
    )@""",
    re.VERBOSE,
)
"""User information; neither ``[::1]:8000`` nor ``host:8000/`` is any."""
_USER_AND_HOST = r"""[^\s:/@"'=,;]{1,256}:[^\s/"']{1,256}@(?P<host>(?:[\w.-]{1,255}|\[[0-9A-Fa-f:.]+\])"""
_PROXY = re.compile(rf"\s*(?!mailto:){_USER_AND_HOST}(?::\d{{1,5}})?/?\s*)")
"""A value that is a URL without its scheme, as variables of proxies may be: ``user:password@proxy``."""
_PROXY_IN_TEXT = re.compile(rf"(?<![\w/@:.]){_USER_AND_HOST}:\d{{1,5}}(?![\w:]))")
"""The same among words, with a port; ``name:tag@sha256:…`` of an image is none."""
_SSH_SCHEMES = frozenset({"ssh", "git+ssh"})
_LOGIN = re.compile(r"[a-z][a-z0-9.-]{0,15}")
"""A user's name on another machine, as in ``ssh://git@host``; tokens are longer, or have capitals or ``_``."""
_QUERY = re.compile(rf"""(?P<name>[?&;#][\w.%\[\]-]+=)(?P<value>(?:(?!&|\#){_TEXT_IN_URL})+)""")
_QUERY_SECRETS = frozenset({"SIG", "SIGNATURE"})
"""Last words of a query's keys that are secret beside those of variables: presigned URLs have them."""
_MARKS = frozenset(
    {"BOS", "EOS", "PAD", "UNK", "SEP", "CLS", "MASK", "IMAGE", "AUDIO", "VIDEO", "START", "END"}
)
"""Words before TOKEN in JSON that name a mark in text."""
_JSON_KEY = re.compile(r"""["']?([\w-]+)["']?\s*:""")
_MANY = frozenset({("engine",), ("engine", "env"), ("engine", "extra_args"), ("engine", "command")})
"""Paths whose value holds others, of which some may be secret."""


def is_secret_name(name: str) -> bool:
    """Whether a variable's name says that its value is a secret: HF_TOKEN, S3_SECRET_ACCESS_KEY.

    Judged word by word, so that TOKENIZERS_PARALLELISM is none.
    """
    words = name.strip().upper().split("_")
    if any(_SECRET_WORD.search(word) or word in _SECRET_WORDS for word in words) or words[-1].endswith(
        "TOKEN"
    ):
        return True
    if words[-1] in _SECRET_ENDS:
        return name.strip().upper() not in _DIRECTORIES
    tokens = words[-1].endswith("TOKENS") or any(word.endswith("TOKEN") for word in words)
    return tokens and _COUNTS.isdisjoint(words)


def is_secret_variable(name: str, value: str) -> bool:
    """Whether a variable must be kept apart from those that may be shown: by its name, or by what it holds."""
    return is_secret_name(name) or _mask_inside(value) != value


def is_secret_path(path: tuple[str, ...]) -> bool:
    """Whether the value at a path of the spec must not be printed."""
    return path[:2] == ("engine", "env") and len(path) > 2 and is_secret_name(path[2])


def mask_urls(text: str) -> str:
    """``text`` with what is secret in its URLs masked: user information, and values such as ``?token=…``.

    A name without a password may be a token (``https://TOKEN@host``), and so may one with a password
    (``https://TOKEN:x-oauth-basic@host``): only where ssh wants a name, and it looks like one, is it shown.
    Proxies are named without a scheme, too: ``user:password@proxy:3128``.
    """
    whole = _PROXY.fullmatch(text)
    if whole is not None:
        return f"{MASK}@{whole['host']}"
    masked = _QUERY.sub(_mask_query, _USER_IN_URL.sub(_mask_user, text))
    return _PROXY_IN_TEXT.sub(rf"{MASK}@\g<host>", masked)


def _mask_user(found: re.Match[str]) -> str:
    scheme, user = found["scheme"], found["user"]
    name_alone = scheme.lower() in _SSH_SCHEMES and _LOGIN.fullmatch(user)
    return found[0] if name_alone else f"{scheme}://{MASK}@"


def _mask_query(found: re.Match[str]) -> str:
    words = re.findall(r"[^\W_]+", found["name"])
    secret = _is_secret_key("_".join(words)) or (bool(words) and words[-1].upper() in _QUERY_SECRETS)
    return f"{found['name']}{MASK}" if secret else found[0]


def mask_arguments(arguments: Iterable[str]) -> tuple[str, ...]:
    """Engine flags with the values of ``--api-key`` and its like masked, and secrets within JSON and URLs.

    They should not be there at all (argv is readable by every user), but printing them makes it worse.
    """
    masked: list[str] = []
    hiding = False
    for argument in arguments:
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            secret = bool(_SECRET_FLAG.search(flag.rstrip("s") if flag.endswith("keys") else flag))
            shown = MASK if secret else _mask_inside(value)
            masked.append(f"{flag}={shown}" if equals else argument)
            hiding = secret and not equals
        else:
            masked.append(MASK if hiding else _mask_inside(argument))
    return tuple(masked)


def mask_value(path: tuple[str, ...], value: object) -> object:
    """The value at ``path`` as it may be shown."""
    if is_secret_path(path):
        return MASK
    if path in _MANY and isinstance(value, (tuple, list)):
        return mask_arguments(str(item) for item in value)
    return _mask_inside(value) if isinstance(value, str) else value


def mask_text(key: str, text: str) -> str:
    """``text`` as it may be shown where it was given for the dotted ``key``, as --set takes it."""
    path = tuple(part.strip() for part in key.strip().split("."))
    if path not in _MANY:
        return str(mask_value(path, text))
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return MASK
    if not isinstance(value, (dict, list)):
        return MASK
    masked = _mask_below(path, value)
    return text if masked == value else json.dumps(masked, ensure_ascii=False, default=str)


def mask_assignment(said: str) -> str:
    """KEY=VALUE of --set as it may be shown."""
    key, equals, text = said.partition("=")
    return f"{key}{equals}{mask_text(key, text)}"


def _mask_inside(text: str) -> str:
    """``text`` with what is secret within it masked: in JSON by the names of its keys, in URLs, and logins."""
    if not text.lstrip().startswith(("{", "[")):
        return _mask_words(text)
    try:
        value = json.loads(text)
    except (
        ValueError,
        RecursionError,
    ):  # no JSON: where a key of it is secret, its value cannot be told apart
        return MASK if any(map(_is_secret_key, _JSON_KEY.findall(text))) else _mask_words(text)
    masked = _mask_json(value)
    return text if masked == value else json.dumps(masked, ensure_ascii=False)


def _mask_words(text: str) -> str:
    return _LOGIN_VALUE.sub(rf"\g<before>\g<scheme> {MASK}", mask_urls(text))


def _mask_json(value: object, *, secret: bool = False, password: bool = False) -> object:
    """``value`` with what stands below a secret key masked; a number only if it can be a password."""
    if isinstance(value, dict):
        return {
            key: _mask_json(
                below, secret=secret or _is_secret_key(key), password=password or _is_password_key(key)
            )
            for key, below in value.items()
        }
    if isinstance(value, list):
        return [_mask_json(below, secret=secret, password=password) for below in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return MASK if password else value
    if not isinstance(value, str):
        return value
    return MASK if secret and value else _mask_words(value)


def _key_words(key: str) -> list[str]:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", key).upper().split("_")


def _is_secret_key(key: str) -> bool:
    """Whether a key of JSON says that its value is a secret: ``password``, ``api-key``, ``accessToken``."""
    words = _key_words(key)
    return is_secret_name("_".join(words)) and _MARKS.isdisjoint(words)


def _is_password_key(key: str) -> bool:
    return _PASSWORD_WORD.search(_key_words(key)[-1]) is not None


def _mask_below(path: tuple[str, ...], value: object) -> object:
    if isinstance(value, dict):
        return {name: _mask_below((*path, str(name)), below) for name, below in value.items()}
    shown = mask_value(path, value)
    if isinstance(shown, tuple) and isinstance(value, list):
        return value if list(shown) == [str(item) for item in value] else list(shown)
    return shown
