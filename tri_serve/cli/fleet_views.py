"""What the fleet commands print."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING, Any

import click

from tri_serve.cli.options import DEFAULT_RELEASE
from tri_serve.cli.output import print_table

if TYPE_CHECKING:
    from tri_serve.fleet.detached import Found
    from tri_serve.fleet.state import FleetState, GatewayState, ReplicaState

QUESTION = "자기소개를 해 주세요."
"""\"Please introduce yourself\": good for any model, and the tiny checkpoint was taught to answer it."""


def duration(seconds: float) -> str:
    """``12 s``, ``3 min 5 s``, ``2 h 7 min``, ``4 d 1 h``."""
    whole = max(0, int(seconds))
    for unit, size, below, below_size in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // below_size} {below}"
    return f"{whole} s"


def release_flag(release: str) -> str:
    """`` -r NAME`` for commands to copy; nothing for the default release."""
    return "" if release == DEFAULT_RELEASE else f" -r {release}"


def word(state: FleetState, *, alive: bool) -> str:
    """A fleet's condition in a word."""
    if not alive:
        return "failed" if state.phase == "failed" else "stale"
    if state.phase in ("running", "changing") and not state.ready:
        return "not ready"
    if state.phase == "running":
        return "ready" if all(replica.phase == "ready" for replica in state.replicas) else "degraded"
    return str(state.phase)


def print_usage(state: FleetState) -> None:
    """What to do with a fleet that is ready: every line can be copied."""
    key = any(gateway.client_keys for gateway in state.gateways)
    body = json.dumps(
        {"model": state.model, "messages": [{"role": "user", "content": QUESTION}]}, ensure_ascii=False
    )
    header = ' \\\n    -H "authorization: Bearer $TRI_SERVE_API_KEY"' if key else ""
    python_key = 'os.environ["TRI_SERVE_API_KEY"]' if key else '"none"'
    flag = release_flag(state.release)
    click.echo(f"""\
Base URL   {state.url}/v1
Model      {state.model}

curl {state.url}/v1/chat/completions{header} \\
    -H 'content-type: application/json' \\
    -d {shlex.quote(body)}

{"import os" + chr(10) if key else ""}from openai import OpenAI
client = OpenAI(base_url="{state.url}/v1", api_key={python_key})
answer = client.chat.completions.create(
    model="{state.model}",
    messages=[{{"role": "user", "content": "{QUESTION}"}}],
)
print(answer.choices[0].message.content)

Next:
  tri-serve chat{flag}        talk to it
  tri-serve status{flag}      how it is
  tri-serve logs -f{flag}     what it says
  tri-serve down{flag}        stop it""")


def after_failed_change(state: FleetState) -> str:
    """How a fleet is after a change of it that did not work."""
    down = [replica.name for replica in state.replicas if replica.phase != "ready"]
    if not down:
        return f"nothing is changed: {state.release} runs with its earlier setting"
    verb = "is" if len(down) == 1 else "are"
    coming = f"the change is taken back: {', '.join(down)} {verb} starting again with the earlier setting"
    if len(down) < len(state.replicas):
        return f"{coming}; the other engines answer requests meanwhile"
    return f"{coming}; requests are answered with 503 until an engine is ready"


def replica_notes(replica: ReplicaState) -> list[str]:
    """What there is to say of a replica beside the table."""
    notes = []
    if replica.kv_cache_tokens:
        notes.append(f"KV cache of {replica.kv_cache_tokens:,} tokens")
    if replica.linear_kernel:
        notes.append(replica.linear_kernel)
    lines = [", ".join(notes)] if notes else []
    if replica.error:
        error = replica.error.removeprefix(f"{replica.name}: ")
        lines.append(f"{'last failure' if replica.phase == 'ready' else 'failure'}: {error}")
    if replica.retry is not None:
        lines.append(f"next start in {duration(replica.retry - time.time())}")
    if replica.phase == "failed":
        lines.append(f"given up; tri-serve restart {replica.name} tries again")
    return lines


def gateway_notes(gateway: GatewayState) -> list[str]:
    """What there is to say of a gateway beside the table."""
    count = len(gateway.workers)
    keys = f"{gateway.client_keys} client key{'s' if gateway.client_keys != 1 else ''}"
    notes = [f"{count} worker{'s' if count != 1 else ''}"]
    if gateway.locked:
        notes.append("every client key is disabled: nobody is let in")
    else:
        notes.append(keys if gateway.client_keys else "no client keys asked for")
    lines = [", ".join(notes)]
    if gateway.admin_port:
        lines.append(f"metrics at http://127.0.0.1:{gateway.admin_port}/metrics")
    if gateway.error:
        lines.append(f"last failure: {gateway.error}")
    return lines


def print_status(state: FleetState, *, alive: bool) -> None:
    """One release in full."""
    now = time.time()
    flag = release_flag(state.release)
    condition = word(state, alive=alive)
    click.echo(f"{state.release}: {condition}")
    if condition == "failed":
        message = state.error.message if state.error else "it could not be started"
        click.echo(f"  it could not be started: {message}")
        click.echo(f"  tri-serve logs{flag} says more; tri-serve up{flag} tries again")
        return
    if not alive:
        click.echo(
            f"  its supervisor (pid {state.supervisor.pid}) is gone without a trace: killed, or a reboot"
        )
        click.echo(
            f"  tri-serve down{flag} tidies up; tri-serve up{flag} does that, too, and starts it again"
        )
        return
    click.echo(f"  url         {state.url}/v1")
    click.echo(f"  model       {state.model} ({state.source}) on {state.engine}")
    click.echo(f"  supervisor  pid {state.supervisor.pid}, up {duration(now - state.supervisor.started)}")
    click.echo()
    rows: list[tuple[Any, ...]] = [
        (r.name, r.phase.value, r.pid, r.port, duration(now - r.since), r.restarts, r.in_flight)
        for r in state.replicas
    ]
    port = int(state.url.rpartition(":")[2])
    rows += [
        (g.name, g.phase, g.pid, port, duration(now - g.since), g.restarts, g.in_flight)
        for g in state.gateways
    ]
    print_table(("name", "state", "pid", "port", "since", "restarts", "in flight"), rows)
    click.echo()
    for replica in state.replicas:
        for line in replica_notes(replica):
            click.echo(f"{replica.name}: {line}")
    for gateway in state.gateways:
        for line in gateway_notes(gateway):
            click.echo(f"{gateway.name}: {line}")


def print_releases(found: dict[str, Found]) -> None:
    """All releases, a line each."""
    print_table(
        ("release", "state", "model", "replicas", "url"),
        [
            (
                release,
                word(fleet.state, alive=fleet.alive),
                fleet.state.model,
                f"{sum(r.phase == 'ready' for r in fleet.state.replicas)}/{len(fleet.state.replicas)}",
                f"{fleet.state.url}/v1",
            )
            for release, fleet in found.items()
        ],
    )


def status_data(state: FleetState, *, alive: bool) -> dict[str, Any]:
    """The status for -o json and -o yaml; the sweep's token stays out."""
    data = state.model_dump(mode="json", exclude={"supervisor": {"token", "ticks", "boot"}})
    condition = word(state, alive=alive)
    if condition == "stale":  # the last written phases are nobody's any more
        data["phase"] = condition
        for gateway in data["gateways"]:
            gateway["ready"] = False
        for part in (*data["gateways"], *data["replicas"]):
            part["phase"] = "unknown"
    return {
        "release": state.release,
        "condition": condition,
        "ready": alive and state.ready,
        **data,
    }
