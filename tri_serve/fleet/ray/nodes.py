"""What every node of a cluster must have before anything is started there."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import tri_serve
from tri_serve.checkpoint.inspect import inspect_checkpoint
from tri_serve.errors import TriServeError
from tri_serve.fleet.preflight import check_packages
from tri_serve.fleet.prepare import prepare
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


def missing_here(spec_json: str, *, engines: bool, gateway: bool) -> list[str]:
    """What this node lacks; one line each."""
    spec = Spec.model_validate_json(spec_json)
    checks: list[Callable[[], object]] = []
    if gateway:
        checks.append(check_packages)
    if engines:
        checks.append(lambda: inspect_checkpoint(prepare(spec).checkpoint))
    problems = []
    for check in checks:
        try:
            check()
        except TriServeError as error:
            problems.append(f"{error} ({error.hint})" if error.hint else str(error))
    return problems


@ray.remote(num_cpus=0, max_retries=0)
def _look(spec_json: str, engines: bool, gateway: bool) -> dict[str, Any]:
    return {
        "version": tri_serve.__version__,
        "python": ".".join(map(str, sys.version_info[:2])),
        "machine": platform.node(),
        "problems": missing_here(spec_json, engines=engines, gateway=gateway),
    }


def check_nodes(spec_json: str, gateway_nodes: list[str], progress: Callable[[str], None]) -> list[str]:
    """Every node's problems, each with the node's address; empty if all is well."""
    nodes = living_nodes()
    spec = Spec.model_validate_json(spec_json)
    with_gpus = [node for node in nodes if node["gpus"]]
    cuda = spec.engine.device == "cuda" or (spec.engine.device == "auto" and bool(with_gpus))
    problems = []
    if cuda:
        needed = spec.fleet.most_replicas * spec.engine.tensor_parallel_size
        fitting = sum(node["gpus"] // spec.engine.tensor_parallel_size for node in nodes)
        if fitting < spec.fleet.most_replicas:
            problems.append(
                f"{spec.fleet.most_replicas} replicas need {needed} GPUs, {spec.engine.tensor_parallel_size} each "
                f"on one node; the cluster has room for {fitting} (--set fleet.replicas={max(1, fitting)})"
            )
    asked = []
    for node in nodes:
        engines = bool(node["gpus"]) if cuda else True
        gateway = node["address"] in gateway_nodes
        if not engines and not gateway:
            continue
        affinity = NodeAffinitySchedulingStrategy(node["id"], soft=False)
        asked.append((node, _look.options(scheduling_strategy=affinity).remote(spec_json, engines, gateway)))
    for node, answer in asked:
        where = f"node {node['address']}"
        try:
            found = ray.get(answer, timeout=_SECONDS)
        except RayError as error:
            lines = str(error).strip().splitlines()
            problems.append(
                f"{where}: tri-serve cannot run there: {lines[-1] if lines else type(error).__name__}"
            )
            continue
        if found["version"] != tri_serve.__version__:
            problems.append(f"{where}: has tri-serve {found['version']}, and here is {tri_serve.__version__}")
        problems += [f"{where}: {problem}" for problem in found["problems"]]
        progress(f"{where}: {'checked' if not found['problems'] else 'lacks something'}")
    return problems
