"""``tri-serve chat``: talk to the served model through the gateway, or to any OpenAI-compatible server."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from tri_serve.cli.options import release_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from tri_serve.fleet.conversation import ChatServer

KEY_VARIABLE = "TRI_SERVE_API_KEY"
"""Holds the client key. There is no option for it: argv is readable by every user of the machine."""


@click.command()
@click.argument("message", nargs=-1)
@release_option
@click.option("--system", metavar="TEXT", help="System message, put before the conversation.")
@click.option("--model", metavar="NAME", help="Model to ask. [default: what the server serves]")
@click.option("--url", metavar="URL", help="Any OpenAI-compatible server. [default: the release's gateway]")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer. [default: the server's]")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    default=0.0,
    show_default=True,
    help="0: always the likeliest.",
)
@click.option("--stream/--no-stream", default=True, show_default=True, help="Print the answer as it comes.")
def chat(
    message: tuple[str, ...],
    release: str,
    system: str | None,
    model: str | None,
    url: str | None,
    max_tokens: int | None,
    temperature: float,
    stream: bool,
) -> None:
    """Talk to the served model.

    With MESSAGE: one answer. Without, on a terminal: a conversation that remembers what was said; Ctrl-D ends
    it, Ctrl-C cuts an answer short. Text that is piped in is the message, or follows it.

    A client key is read from the variable TRI_SERVE_API_KEY.
    """
    from tri_serve.fleet.conversation import ChatServer

    if url and not url.startswith(("http://", "https://")):
        raise click.BadParameter(
            f"{url!r} is no URL of a server; it begins with http:// or https://", param_hint="--url"
        )
    server_url, served = (url, None) if url else _gateway_of(release)
    assert server_url is not None, "either given or the gateway's"
    server = ChatServer(server_url, os.environ.get(KEY_VARIABLE) or None)
    body: dict[str, Any] = {
        "model": model or served or server.first_model(),
        "temperature": temperature,
        "stream": stream,
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    history = [{"role": "system", "content": system}] if system else []
    text = " ".join(message)
    if not sys.stdin.isatty():
        piped = sys.stdin.buffer.read().decode(errors="replace").strip()
        text = f"{text}\n\n{piped}" if text and piped else text or piped
        if not text:
            raise click.UsageError("no message: give one as an argument or on stdin")
    if text:
        stream_answer(server, body, [*history, {"role": "user", "content": text}])
    else:
        _converse(server, body, history)


def _gateway_of(release: str) -> tuple[str, str]:
    """URL and model of a release that runs. Raises FleetError if it does not."""
    from tri_serve.cli.fleet_views import release_flag
    from tri_serve.errors import FleetError
    from tri_serve.fleet.detached import find_fleet
    from tri_serve.fleet.release import release_paths

    found = find_fleet(release_paths(release))
    if found is None or not found.alive:
        raise FleetError(
            f"release {release} is not running", hint=f"tri-serve up{release_flag(release)}, or give --url"
        )
    return found.state.url, found.state.model


def stream_answer(
    server: ChatServer,
    body: dict[str, Any],
    messages: list[dict[str, str]],
    *,
    on_piece: Callable[[], None] = lambda: None,
) -> str:
    """Print one answer as it comes, and return it. What came before an error or Ctrl-C ends with a line."""
    pieces: list[str] = []
    try:
        for piece in server.chat(body, messages):
            on_piece()
            pieces.append(piece)
            click.echo(piece, nl=False)
            sys.stdout.flush()
    finally:
        if pieces:
            click.echo()
    return "".join(pieces)


def _converse(server: ChatServer, body: dict[str, Any], history: list[dict[str, str]]) -> None:
    from tri_serve.errors import ConnectionFailedError

    with contextlib.suppress(ImportError):  # Python may be built without it
        import readline  # noqa: F401 -- importing it gives input() line editing
    click.echo(f"{body['model']} at {server.base}; Ctrl-D ends", err=True)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            click.echo(err=True)
            return
        if not line:
            continue
        question = {"role": "user", "content": line}
        try:
            answer = stream_answer(server, body, [*history, question])
        except KeyboardInterrupt:
            click.echo("(cut short; not remembered)", err=True)
            continue
        except ConnectionFailedError as error:
            click.echo(f"error: {error}", err=True)
            continue
        history += [question, {"role": "assistant", "content": answer}]
