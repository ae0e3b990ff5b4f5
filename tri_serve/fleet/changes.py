"""From two specs to what has to be done to get from one to the other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tri_serve.errors import UsageError
from tri_serve.spec.difference import Change, difference
from tri_serve.spec.fleet import Autoscaling, FleetSpec
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
    """The rule that is to hold from now on, if a fleet that follows its load gets another one."""
    refused: str | None = None
    """Why a running fleet cannot be changed so, on one line; none if it can."""

    def __bool__(self) -> bool:
        """Whether there is anything to do, or to refuse."""
        carried_out = (
            self.gateway or self.engines or self.replicas is not None or self.autoscaling is not None
        )
        return carried_out or self.refused is not None

    def check(self) -> None:
        """Raises UsageError if a running fleet cannot be changed so."""
        if self.refused is not None:
            raise UsageError(self.refused, hint="tri-serve down, then tri-serve up")

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
        if self.listener:
            lines.append(
                "move the gateway to the new address; the old one closes once requests there have ended"
            )
        elif self.gateway:
            lines.append("replace the gateway process; its port stays open")
        return tuple(lines)


def spec_changes(old: Spec, new: Spec, *, keys_changed: bool = False, keys_gone: bool = False) -> Changes:
    """What gets the fleet from ``old`` to ``new``.

    ``keys_changed``: the set of client keys differs; ``keys_gone``: because none is left.
    """
    found = difference(old, new)
    keys = {change.key for change in found}
    about_keys = "no client keys are asked for any more" if keys_gone else "client keys changed"
    counts = (old.fleet.initial_replicas, new.fleet.initial_replicas)
    fixed = old.fleet.autoscaling is None and new.fleet.autoscaling is None
    rule = new.fleet.autoscaling if old.fleet.autoscaling is not None else None
    return Changes(
        differences=tuple(str(change) for change in found) + ((about_keys,) if keys_changed else ()),
        listener=bool(keys & {"gateway.host", "gateway.port"}),
        gateway=keys_changed
        or "model.served_name" in keys
        or any(key.startswith("gateway.") for key in keys),
        engines=any(key.startswith(("model.", "engine.")) for key in keys),
        replicas=counts if fixed and counts[0] != counts[1] else None,
        autoscaling=rule if rule != old.fleet.autoscaling else None,
        refused=_refused(old.fleet, new.fleet, found),
    )


def _refused(old: FleetSpec, new: FleetSpec, found: Sequence[Change]) -> str | None:
    """What stands and falls with the whole fleet: who watches over it, where, and whether that one scales it."""
    fixed = [
        str(change)
        for change in found
        if change.key in ("fleet.target", "fleet.supervisor") or change.key.startswith("fleet.ray.")
    ]
    if (old.autoscaling is None) != (new.autoscaling is None):
        says = [_how_many(fleet) for fleet in (old, new)]
        fixed.append(f"fleet.replicas: {says[0]} -> {says[1]}")
    return f"only a fleet that starts anew can change {'; '.join(fixed)}" if fixed else None


def _how_many(fleet: FleetSpec) -> str:
    rule = fleet.autoscaling
    return f"{fleet.initial_replicas}, fixed" if rule is None else f"{rule.min} to {rule.max}, by load"
