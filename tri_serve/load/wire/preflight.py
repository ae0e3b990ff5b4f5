"""What is asked before a load: is the server there, does it take the key, does it have the model."""

from __future__ import annotations

import difflib

import orjson

from tri_serve.errors import ConnectionFailedError, UsageError
from tri_serve.load.wire.client import Client
from tri_serve.load.wire.connection import ClosedError, NoConnectionError
from tri_serve.load.wire.framing import MalformedAnswerError
from tri_serve.load.wire.wording import printable

_MOST_NAMED = 8


def fetch_json(client: Client, method: str, path: str, value: dict[str, object] | None = None) -> object:
    """The JSON that a route answers. Raises ConnectionFailedError, in one line, if there is none."""
    url = f"{client.target.url}{path}"
    try:
        status, body = client.fetch(method, path, value)
    except NoConnectionError as error:
        raise ConnectionFailedError(
            f"{client.target.url} does not answer: {error}", hint="is it running? tri-serve status"
        ) from error
    except (ClosedError, MalformedAnswerError) as error:
        raise ConnectionFailedError(
            f"{url} gave no answer: {error}", hint="is this an OpenAI server?"
        ) from error
    try:
        answer: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if status in (401, 403):
        raise ConnectionFailedError(
            f"{url} refuses the key: {status}, {client.tell(answer)}",
            hint="set TRI_SERVE_API_KEY (or OPENAI_API_KEY) to a key that the server takes",
            status=status,
        )
    if status != 200:
        raise ConnectionFailedError(f"{url} answers {status}: {client.tell(answer)}", status=status)
    if answer is None:
        raise ConnectionFailedError(f"{url} answers with what is not JSON", hint="is this an OpenAI server?")
    return answer


def find_model(client: Client, wanted: str | None) -> str:
    """The name of the model to ask: ``wanted`` if the server has it, or the one that it has.

    Raises ConnectionFailedError if the server does not answer or refuses the key, UsageError if it does not have
    the model, or has several and none was named.
    """
    answer = fetch_json(client, "GET", "/v1/models")
    data = answer.get("data") if isinstance(answer, dict) else None
    entries = data if isinstance(data, list) else []
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    # A name is shown and kept as it is: one that would command a terminal is no model's.
    names = [name for name in ids if isinstance(name, str) and name == printable(name)]
    if not names:
        raise ConnectionFailedError(f"{client.target.url}/v1/models names no model")
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is not None and wanted in names:
        return wanted
    listed = ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
    if wanted is None:
        raise UsageError(
            f"the server has {len(names)} models ({listed})", hint="name one of them with --model"
        )
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]}?" if near else None
    raise UsageError(f"the server has no model {wanted!r}; it has {listed}", hint=hint)
