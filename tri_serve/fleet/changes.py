"""From two specs to what has to be done to get from one to the other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tri_serve.errors import UsageError
from tri_serve.spec.difference import Change, difference
from tri_serve.spec.fleet import Autoscaling
from tri_serve.spec.models import Spec


@dataclass(frozen=True)
class Changes:
    """What differs between the running fleet and the wanted one."""

    differences: tuple[str, ...]
    """One line for each key of the spec that differs, as it may be shown."""
    listener: bool = False
    """The gateway moves to another address or port."""
    gateway: bool = False
    """The gateway process is replaced; the engines stay."""
    engines: bool = False
    """Every engine is replaced, one after the other."""
    replicas: tuple[int, int] | None = None
    """Engines before and after, if their number changes."""
    autoscaling: Autoscaling | None = None
    """The rule by which the fleet follows its load from now on, if it is another one or the first."""
    fixed: bool = False
    """The fleet, which followed its load, does so no more."""
    refused: str | None = None
    """Why a running fleet cannot be changed so, on one line; none if it can."""

    def __bool__(self) -> bool:
        """Whether there is anything to do, or to refuse."""
        size = self.replicas is not None or self.autoscaling is not None or self.fixed
        return self.gateway or self.engines or size or self.refused is not None

    def check(self, release: str) -> None:
        """Raises UsageError if a running fleet, ``release``, cannot be changed so."""
        if self.refused is not None:
            raise UsageError(
                self.refused,
                hint=f"to have it so, stop it first: tri-serve down -r {release}, then tri-serve up -r {release}",
            )

    @property
    def actions(self) -> tuple[str, ...]:
        """What will be done, for people."""
        lines = []
        if self.engines:
            lines.append("replace the engines, one after the other")
        if self.replicas is not None:
            old, new = self.replicas
            lines.append(f"start {new - old} more" if new > old else f"stop {old - new}")
            lines[-1] += " engine" + ("" if abs(new - old) == 1 else "s")
        if self.autoscaling is not None:
            rule = self.autoscaling
            lines.append(f"follow the load between {rule.min} and {rule.max} engines")
        if self.fixed:
            lines.append("no longer follow the load")
        if self.listener:
            lines.append(
                "move the gateway to the new address; the old one closes once requests there have ended"
            )
        elif self.gateway:
            lines.append("replace the gateway process; its port stays open")
        return tuple(lines)


def wanted_replicas(spec: Spec, running: int) -> int:
    """How many engines a fleet of ``running`` engines is to have at once: within bounds, the load decides."""
    scaling = spec.fleet.autoscaling
    if scaling is None:
        return spec.fleet.initial_replicas
    return min(max(running, scaling.min), scaling.max)


def spec_changes(
    old: Spec, new: Spec, *, running: int | None = None, keys_changed: bool = False, keys_gone: bool = False
) -> Changes:
    """What gets the fleet from ``old`` to ``new``.

    ``running``: engines that it has; None: as many as it starts with. ``keys_changed``: the set of client keys
    differs; ``keys_gone``: because none is left.
    """
    found = difference(old, new)
    keys = {change.key for change in found}
    about_keys = "no client keys are asked for any more" if keys_gone else "client keys changed"
    before = old.fleet.initial_replicas if running is None else running
    after = wanted_replicas(new, before)
    old_rule, new_rule = old.fleet.autoscaling, new.fleet.autoscaling
    return Changes(
        differences=tuple(str(change) for change in found) + ((about_keys,) if keys_changed else ()),
        listener=bool(keys & {"gateway.host", "gateway.port"}),
        gateway=keys_changed
        or "model.served_name" in keys
        or any(key.startswith("gateway.") for key in keys),
        engines=any(key.startswith(("model.", "engine.")) for key in keys),
        replicas=(before, after) if before != after else None,
        autoscaling=new_rule if new_rule != old_rule else None,
        fixed=old_rule is not None and new_rule is None,
        refused=_refused(found, new),
    )


_STANDING = frozenset({"fleet.target", "fleet.supervisor"})
"""Who watches over a fleet, and where."""
_OF_RAYS_PLACES = frozenset({"engine.device", "engine.tensor_parallel_size"})
"""What Ray has been asked for when it placed a replica: GPUs or none, and how many."""


def _refused(found: Sequence[Change], new: Spec) -> str | None:
    """What stands and falls with the whole fleet."""
    standing = _STANDING | (_OF_RAYS_PLACES if new.fleet.supervisor == "ray" else frozenset())
    fixed = [str(change) for change in found if change.key in standing or change.key.startswith("fleet.ray.")]
    return f"only a fleet that starts anew can change {'; '.join(fixed)}" if fixed else None
