"""What every node of a cluster must have before anything is started there."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import tri_serve
from tri_serve.checkpoint.inspect import inspect_checkpoint
from tri_serve.checkpoint.resolve import resolve_source
from tri_serve.errors import TriServeError
from tri_serve.fleet.plan_preflight import check_model
from tri_serve.fleet.preflight import check_packages, check_python
from tri_serve.fleet.prepare import Prepared
from tri_serve.fleet.ray.fitness import differing_versions, lacking, missing_room
from tri_serve.fleet.ray.removal import agents_of, is_placed
from tri_serve.fleet.release import LOG_BYTES
from tri_serve.fleet.resources import check_disk
from tri_serve.launch.device import detect_device
from tri_serve.launch.environment import find_environment
from tri_serve.places import cache_dir, data_dir, state_dir
from tri_serve.process.ports import bind_listener
from tri_serve.spec.gateway import NODE
from tri_serve.spec.models import Spec

_SECONDS = 120.0
"""For one node to answer: it starts a Python and may derive a tiny checkpoint."""


def living_nodes() -> list[dict[str, Any]]:
    """Address, name, GPUs and CPUs of each living node, the head first."""
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    nodes.sort(key=lambda node: "node:__internal_head__" not in node["Resources"])
    return [
        {
            "id": node["NodeID"],
            "address": node["NodeManagerAddress"],
            "name": node["NodeManagerHostname"],
            "gpus": int(node["Resources"].get("GPU", 0)),
            "cpus": int(node["Resources"].get("CPU", 0)),
        }
        for node in nodes
    ]


def missing_here(spec_json: str, *, engines: bool, gateway_address: str | None, gateway: bool) -> list[str]:
    """What this node lacks; one line each. ``gateway_address``: where its gateway is yet to listen."""
    spec = Spec.model_validate_json(spec_json)
    checks: list[Callable[[], object]] = [
        lambda: check_disk(state_dir(), 2 * LOG_BYTES, "state and logs"),
    ]
    if gateway:
        checks.append(check_packages)
    if gateway_address is not None:
        host = gateway_address if spec.gateway.host == NODE else spec.gateway.host
        checks.append(lambda: bind_listener(host, spec.gateway.port).close())
    if engines:
        checks += [lambda: _check_environment(spec), lambda: _check_checkpoint(spec)]
    problems = []
    for check in checks:
        try:
            check()
        except TriServeError as error:
            problems.append(f"{error} ({error.hint})" if error.hint else str(error))
    return problems


def _check_environment(spec: Spec) -> None:
    device = detect_device(spec.engine.device)
    environment = find_environment(spec.engine, data_dir(), device)
    if spec.engine.python is not None and environment.python is not None:
        check_python(environment.python)
    Prepared(spec, device, environment, checkpoint=Path()).check_launch()


def _check_checkpoint(spec: Spec) -> None:
    found = inspect_checkpoint(resolve_source(spec.model, cache_dir()))
    check_model(spec, found.architecture, found.quantization, found.path)


@ray.remote(num_cpus=0, max_retries=0)
def _look(spec_json: str, engines: bool, gateway_address: str | None, gateway: bool) -> dict[str, Any]:
    problems = missing_here(spec_json, engines=engines, gateway_address=gateway_address, gateway=gateway)
    return {"versions": _versions(), "problems": problems}


def _versions() -> dict[str, str]:
    return {"tri-serve": tri_serve.__version__, "Python": platform.python_version(), "Ray": ray.__version__}


def check_nodes(
    spec_json: str, gateway_nodes: list[str], occupied: list[str], progress: Callable[[str], None]
) -> list[str]:
    """Every node's problems, each with the node's address; empty if all is well.

    ``occupied``: nodes whose gateway listens already.
    """
    nodes = living_nodes()
    spec = Spec.model_validate_json(spec_json)
    cuda = spec.engine.device == "cuda" or (
        spec.engine.device == "auto" and any(node["gpus"] for node in nodes)
    )
    problems = missing_room(spec, nodes, cuda=cuda)
    asked: dict[Any, str] = {}
    for node in nodes:
        engines = bool(node["gpus"] >= spec.engine.tensor_parallel_size) if cuda else bool(node["cpus"])
        gateway = node["address"] in gateway_nodes
        if not engines and not gateway:
            continue
        listens = node["address"] if gateway and node["address"] not in occupied else None
        affinity = NodeAffinitySchedulingStrategy(node["id"], soft=False)
        look = _look.options(scheduling_strategy=affinity)
        asked[look.remote(spec_json, engines, listens, gateway)] = node["address"]
    total, deadline = len(asked), time.monotonic() + _SECONDS
    while asked:
        done, _ = ray.wait(list(asked), timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            problems += [f"node {address}: no answer within {_SECONDS:g} s" for address in asked.values()]
            break
        address = asked.pop(done[0])
        found = _found(done[0])
        problems += [f"node {address}: {problem}" for problem in found]
        count = f"{total - len(asked)} of {total} nodes checked"
        progress(f"{count}; {address} {f'lacks {len(found)}' if found else 'has everything'}")
    return problems


def _found(answer: Any) -> list[str]:
    try:
        found = ray.get(answer)
    except (RayError, RuntimeError) as error:
        text = str(error)
        if "No module named 'tri_serve" in text:
            return [
                f"tri-serve is not installed there (pip install 'tri-serve[local]=={tri_serve.__version__}')"
            ]
        lines = text.strip().splitlines()
        return [f"tri-serve cannot run there: {lines[-1].strip() if lines else type(error).__name__}"]
    return differing_versions(found["versions"], _versions()) + list(found["problems"])


def lacking_room(application: str, needs: Mapping[str, float]) -> str | None:
    """Why the agent of an application has no place; None if it has one, or could have."""
    if any(map(is_placed, agents_of(f"{application}#"))):
        return None
    free = list(ray._private.state.available_resources_per_node().values())  # type: ignore[no-untyped-call]
    return lacking(needs, free)
