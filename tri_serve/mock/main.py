"""``tri-serve-mock-engine``: the command line of the mock engine."""

from __future__ import annotations

import sys

import click

from tri_serve.errors import TriServeError


@click.command(
    context_settings={
        "auto_envvar_prefix": "TRI_SERVE_MOCK",
        "show_default": True,
        "help_option_names": ["-h", "--help"],
    }
)
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option(
    "--port", default=8000, type=click.IntRange(0, 65535), help="Port; 0 takes a free one and prints it."
)
@click.option("--model", default="tri-mock", help="Name that it serves.")
@click.option("--ttft-ms", default=0.0, type=click.FloatRange(0), help="Time to the first token.")
@click.option(
    "--itl-ms", default=0.0, type=click.FloatRange(0), help="Time between tokens; 0 is as fast as possible."
)
@click.option(
    "--jitter", default=0.0, type=click.FloatRange(0, 1), help="Share of a gap by which an event may be late."
)
@click.option("--seed", default=0, help="Of the jitter.")
@click.option(
    "--tokens", default=16, type=click.IntRange(1), help="Answer length when the request names none."
)
@click.option(
    "--max-model-len", default=8192, type=click.IntRange(2), help="Prompt and answer together, in tokens."
)
@click.option("--fault", default="", help="What every request meets, e.g. reset-after=3,split.")
def command(
    host: str,
    port: int,
    model: str,
    ttft_ms: float,
    itl_ms: float,
    jitter: float,
    seed: int,
    tokens: int,
    max_model_len: int,
    fault: str,
) -> None:
    """Serve the OpenAI API without a model: paced answers, and faults on request.

    VLLM_API_KEY, if set, is wanted as bearer token on every route that does work, as by the engines of a fleet.
    """
    import os

    from tri_serve.mock.settings import MockSettings, Timing

    settings = MockSettings(
        model=model,
        timing=Timing(ttft_ms / 1e3, itl_ms / 1e3, jitter),
        tokens=tokens,
        seed=seed,
        max_model_len=max_model_len,
        fault=fault,
        api_key=os.environ.get("VLLM_API_KEY") or None,
    )
    try:
        from tri_serve.mock.server import run
    except ModuleNotFoundError as error:
        from tri_serve.errors import MissingExtraError

        if error.name not in ("uvloop", "httptools", "orjson"):
            raise
        raise MissingExtraError("gateway", "the mock engine") from error
    run(settings, host, port, click.echo)


def main() -> None:
    """Entry point."""
    try:
        command()
    except TriServeError as error:
        click.echo(f"error: {error}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
