"""What the fleet commands print."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from tri_serve.cli.columns import largest_units
from tri_serve.cli.options import DEFAULT_RELEASE
from tri_serve.cli.output import print_table
from tri_serve.errors import FleetError
from tri_serve.fleet.cluster_record import read_record

if TYPE_CHECKING:
    from tri_serve.fleet.detached import Found
    from tri_serve.fleet.release import ReleasePaths
    from tri_serve.fleet.state import FleetState, GatewayState, RayState, ReplicaState

QUESTION = "자기소개를 해 주세요."
"""\"Please introduce yourself\": good for any model, and the tiny checkpoint was taught to answer it."""


def duration(seconds: float) -> str:
    """``12 s``, ``3 min 5 s``, ``2 h 7 min``, ``4 d 1 h``."""
    return " ".join(f"{count} {unit}" for count, unit in largest_units(seconds))


def release_flag(release: str) -> str:
    """`` -r NAME`` for commands to copy; nothing for the default release."""
    return "" if release == DEFAULT_RELEASE else f" -r {release}"


def word(state: FleetState, *, alive: bool) -> str:
    """A fleet's condition in a word."""
    if not alive:
        return "failed" if state.phase == "failed" else "elsewhere" if state.elsewhere else "stale"
    if state.phase in ("running", "changing") and not state.ready:
        return "not ready"
    if state.phase == "running":
        well = all(replica.phase == "ready" for replica in state.replicas)
        well = well and all(gateway.ready for gateway in state.gateways)
        return "ready" if well and (state.ray is None or state.ray.phase == "running") else "degraded"
    return str(state.phase)


def not_running(paths: ReleasePaths, gone: str = "") -> FleetError:
    """What to say of a release without a supervisor; what it had on a cluster may serve nevertheless."""
    flag = release_flag(paths.release)
    record = read_record(paths)
    if record is None:
        return FleetError(f"release {paths.release} is not running{gone}", hint=f"tri-serve up{flag}")
    return FleetError(
        f"release {paths.release} has no supervisor; what it ran on the cluster at {record.address} "
        "may still serve",
        hint=f"tri-serve up{flag} takes it over, tri-serve down{flag} stops it",
    )


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


def plural(count: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def replica_facts(replica: ReplicaState, *, with_cache: bool = True) -> list[str]:
    """What a running engine says of itself, in a line; none if it has not said anything yet."""
    facts = []
    if with_cache and replica.kv_cache_tokens:
        facts.append(f"KV cache of {replica.kv_cache_tokens:,} tokens")
    if replica.linear_kernel:
        facts.append(replica.linear_kernel)
    return [", ".join(facts)] if facts else []


def replica_trouble(replica: ReplicaState, flag: str, now: float) -> list[str]:
    """Why a replica is not, or lately was not, as it should be, and what happens next."""
    lines = []
    if replica.error:
        error = replica.error.removeprefix(f"{replica.name}: ")
        lines.append(f"{'last failure' if replica.phase == 'ready' else 'failure'}: {error}")
    if replica.retry is not None:
        lines.append(f"next start in {duration(replica.retry - now)}")
    if replica.phase == "failed":
        lines.append(f"given up; tri-serve restart {replica.name}{flag} tries again")
    return lines


def ray_trouble(ray: RayState, flag: str) -> list[str]:
    """Why the Ray of a fleet is not, or lately was not, as it should be, and what to do."""
    why = ray.error or "it does not answer"
    if ray.phase == "failed":
        return [f"{why}; it is not tried again: tri-serve up{flag} starts all of it anew"]
    if ray.phase == "waiting" or (ray.phase == "starting" and ray.error):
        if ray.private:
            return [f"{why}; it is started again by itself, and engines and gateway with it"]
        return [f"{why}; it is tried again until it answers; engines and gateways are shown as last heard of"]
    return [f"last failure: {ray.error}"] if ray.error else []


def ray_is_given_up(state: FleetState) -> bool:
    """Whether nothing of the fleet comes back by itself, since its Ray does not."""
    return state.ray is not None and state.ray.phase == "failed"


def autoscaling_words(state: FleetState) -> str | None:
    """Bounds, number and goal of a fleet whose number of replicas follows its load; None of another."""
    if state.autoscaling is None:
        return None
    fewest, most = state.autoscaling
    return f"{fewest} to {most} replicas: {len(state.replicas)} now, {state.desired_replicas} wanted"


def gateway_notes(gateway: GatewayState) -> list[str]:
    """What there is to say of a gateway beside the table."""
    notes = [plural(gateway.worker_restarts, "worker restart")] if gateway.worker_restarts else []
    if gateway.locked:
        notes.append("every client key is disabled: nobody is let in")
    else:
        keys = plural(gateway.client_keys, "client key")
        notes.append(keys if gateway.client_keys else "no client keys asked for")
    lines = [", ".join(notes)]
    if gateway.admin_port and gateway.phase == "running":
        lines.append(f"metrics at http://127.0.0.1:{gateway.admin_port}/metrics")
    if gateway.error:
        lines.append(f"last failure: {gateway.error}")
    return lines


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
    if condition in ("stale", "elsewhere"):  # the last written phases are nobody's any more, or old
        data["phase"] = condition
        for gateway in data["gateways"]:
            gateway["ready"] = False
            for worker in gateway["workers"]:
                worker["up"] = False
        ray = [data["ray"]] if data["ray"] else []
        for part in (*data["gateways"], *data["replicas"], *ray):
            part["phase"] = "unknown"
    return {
        "release": state.release,
        "condition": condition,
        "ready": alive and state.ready,
        **data,
    }
