"""Whether a cluster is fit for a release, judged from what its nodes say. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tri_serve.fleet.resources import replicas_key
from tri_serve.spec.models import Spec


def differing_versions(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """What has another version on a node than where the supervisor is. Of Python, the minor version counts."""
    return [
        f"it has {name} {there[name]}, and the supervisor {version}"
        for name, version in here.items()
        if _significant(name, there[name]) != _significant(name, version)
    ]


def _significant(name: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if name == "Python" else version


def missing_room(spec: Spec, nodes: Sequence[Mapping[str, Any]], *, cuda: bool) -> list[str]:
    """Whether the cluster as a whole is large enough, whoever else uses it now."""
    wanted, key = spec.fleet.most_replicas, replicas_key(spec)
    each = spec.engine.tensor_parallel_size if cuda else spec.engine.cpu_threads or 1
    unit = "GPU" if cuda else "CPU core"
    room = sum(int(node["gpus" if cuda else "cpus"]) // each for node in nodes)
    if room >= wanted:
        return []
    engines = f"{wanted} engines need" if wanted > 1 else "1 engine needs"
    hint = f" (--set {key}={room} fits)" if room else ""
    return [
        f"{engines} {each} {unit}{'s' * (each != 1)} each on one node, and the cluster has room for {room}{hint}"
    ]


def lacking(needs: Mapping[str, float], free: Sequence[Mapping[str, float]]) -> str | None:
    """Why no node has so much left (by Ray's names of resources); None if one has."""
    if any(all(node.get(name, 0.0) >= amount for name, amount in needs.items()) for node in free):
        return None
    words = [_words(name, amount) for name, amount in needs.items()]
    return f"it waits for a place: {' and '.join(words)}" if words else None


def _words(name: str, amount: float) -> str:
    if name.startswith("node:"):
        return f"node {name.removeprefix('node:')} is not in the cluster"
    noun = {"GPU": "free GPU", "CPU": "free CPU core"}.get(name, name)
    return f"no node has {'a' if amount == 1 else f'{amount:g}'} {noun}{'s' * (amount != 1)}"
