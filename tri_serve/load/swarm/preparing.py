"""From Locust's parsed options to the order of a run: read, checked, and asked of the server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tri_serve.errors import ConnectionFailedError, UsageError
from tri_serve.load.naming import run_name
from tri_serve.load.results.model import ScenarioUsed
from tri_serve.load.scenario.reading import LoadedScenario
from tri_serve.load.server_side.scrape import Source
from tri_serve.load.swarm.endpoint import Served, look_at
from tri_serve.load.swarm.options import run_folder, scenario_of
from tri_serve.load.swarm.order import RunOrder
from tri_serve.load.swarm.parts import PREFLIGHT_SILENCE, client_of
from tri_serve.load.swarm.report import About
from tri_serve.load.swarm.server_watch import sources_of
from tri_serve.load.wire.target import parse_target


@dataclass(frozen=True)
class Prepared:
    """A run that can be done."""

    order: RunOrder
    about: About
    sources: tuple[Source, ...]
    """Metrics pages to read meanwhile."""


def prepare(
    options: Any,
    url: str | None,
    key: str | None,
    *,
    send_key: bool = True,
    tell: Callable[[str], None] = lambda words: None,
) -> Prepared:
    """Read what ``options`` ask for, look at the server, make the folder.

    ``send_key``: whether the server at ``url`` may be given the key. ``tell`` hears what is being done.

    Raises UsageError for what cannot be, ConnectionFailedError where the server does not answer or refuses the key.
    """
    loaded = scenario_of(options)
    if not url:
        raise UsageError("no server is named", hint="-H http://HOST:PORT, or LOCUST_HOST")
    ca_file = Path(options.ca_file) if options.ca_file else None
    target = parse_target(url, ca_file=ca_file, insecure=options.insecure)
    sources = sources_of(options.scrape or (), target.url)
    tokenizer = Path(options.tokenizer).absolute() if options.tokenizer else None
    name = run_name(options.scenario)
    asked = RunOrder(
        run=name,
        folder=run_folder(options.results, name),
        url=target.url,
        ca_file=target.ca_file,
        insecure=target.insecure,
        model=options.model or "",
        scenario=loaded.scenario,
        scenario_folder=loaded.folder.absolute(),
        tokenizer=str(tokenizer or ""),
        send_key=send_key,
        token_ids=options.token_ids,
        real_time=not options.no_real_time,
        detail=options.records,
        nonce=name,
    )
    client = client_of(asked, key, most_silence=PREFLIGHT_SILENCE)
    tell(f"asking {target.url}/v1/models")
    try:
        served = look_at(client, options.model or None, tokenizer)
    except ConnectionFailedError as error:
        if error.status in (401, 403) and key and not send_key:
            raise ConnectionFailedError(
                f"{target.url} wants a key, and is sent none: the key goes to the server named at the start",
                hint=f"locust -f loadtests/locustfile.py -H {target.url}",
                status=error.status,
            ) from error
        raise
    finally:
        client.close()
    order = _completed(asked, served)
    try:
        order.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--results {order.folder}: {error.strerror or error}") from error
    about = About(
        scenario=_used(loaded),
        release=options.release or None,
        replicas=int(options.replicas) if options.replicas else None,
        engine_version=served.version,
    )
    return Prepared(order, about, sources)


def _completed(asked: RunOrder, served: Served) -> RunOrder:
    overhead = served.overhead
    known = {
        "model": served.model,
        "counts": served.counts,
        "context": served.context,
        "overhead": (overhead.prompt, overhead.user, overhead.system_user) if overhead else None,
    }
    return asked.model_copy(update=known)


def _used(loaded: LoadedScenario) -> ScenarioUsed:
    return ScenarioUsed(
        name=loaded.source,
        text=loaded.text,
        overrides=dict(entry.split("=", 1) for entry in loaded.overrides),
        resolved=loaded.scenario.model_dump(mode="json"),
        hash=loaded.hash,
    )
