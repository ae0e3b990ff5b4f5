"""Where the load of a release goes, and what can be read of it meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """A release that runs."""

    release: str
    url: str
    model: str
    replicas: int
    tokenizer: Path | None
    """Of its checkpoint, if that lies on this machine."""
    scrape: tuple[str, ...]
    """NAME=URL of its metrics pages."""


def place_of(release: str) -> Place:
    """The release's gateway and engines. Raises FleetError if it is not running."""
    from tri_serve.cli.fleet_views import release_flag
    from tri_serve.errors import FleetError
    from tri_serve.fleet.detached import current_fleet
    from tri_serve.fleet.release import release_paths

    found = current_fleet(release_paths(release))
    if found is None or not found.alive:
        raise FleetError(
            f"release {release} is not running", hint=f"tri-serve up{release_flag(release)}, or give --url"
        )
    state = found.state
    pages = []
    for gateway in state.gateways:
        if gateway.admin_port and gateway.phase == "running":
            pages.append(f"gateway=http://127.0.0.1:{gateway.admin_port}/metrics")
            break  # each gateway tells of itself alone, and the URL is of the first
    pages += [
        f"{replica.name}=http://{_bracketed(replica.host or '127.0.0.1')}:{replica.port}/metrics"
        for replica in state.replicas
        if replica.port
    ]
    tokenizer = Path(state.source) / "tokenizer.json"
    return Place(
        release=release,
        url=state.url,
        model=state.model,
        replicas=sum(1 for replica in state.replicas if replica.phase == "ready"),
        tokenizer=tokenizer if tokenizer.is_file() else None,
        scrape=tuple(pages),
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
