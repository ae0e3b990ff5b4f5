"""From two specs to what has to be done to get from one to the other. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tri_serve.spec.difference import difference
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

    def __bool__(self) -> bool:
        return self.gateway or self.engines or self.replicas is not None

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
    counts = (old.fleet.replicas, new.fleet.replicas)
    return Changes(
        differences=tuple(str(change) for change in found) + ((about_keys,) if keys_changed else ()),
        listener=bool(keys & {"gateway.host", "gateway.port"}),
        gateway=keys_changed
        or "model.served_name" in keys
        or any(key.startswith("gateway.") for key in keys),
        engines=any(key.startswith(("model.", "engine.")) for key in keys),
        replicas=counts if counts[0] != counts[1] else None,
    )
