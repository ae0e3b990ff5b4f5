"""What the gateways' own answers say of a fleet's load. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FleetLoad:
    """The status of each gateway by its name; None for one that did not answer."""

    statuses: Mapping[str, dict[str, Any] | None]

    @property
    def known(self) -> bool:
        """Whether a gateway answered: if none did, there may be any load."""
        return next(self._answered(), None) is not None

    @property
    def requests(self) -> int:
        """Requests that run through the gateways."""
        return sum(
            worker.get("in_flight", 0) for status in self._answered() for worker in status.get("workers", ())
        )

    @property
    def waiting_and_running(self) -> int:
        """Requests that wait or run in the engines, are on their way there, or are held since none is ready.

        An engine that does not report counts with what the gateways have there. What waits for a connection to an
        engine is in flight to it.
        """
        names = {entry["name"] for status in self._answered() for entry in status.get("replicas", ())}
        total = sum(status.get("held", 0) for status in self._answered())
        for name in names:
            load = self.of_replica(name)
            reported = [load[key] for key in ("running", "waiting") if load.get(key) is not None]
            # A report is up to a second old; what the gateways have there is not.
            total += max(sum(reported), load.get("in_flight") or 0)
        return int(total)

    def of_replica(self, name: str) -> dict[str, Any]:
        """``in_flight`` over all gateways; ``running``, ``waiting``, ``tokens_per_second`` of the newest report."""
        entries = [
            entry
            for status in self._answered()
            for entry in status.get("replicas", ())
            if entry.get("name") == name
        ]
        if not entries:
            return {}
        found: dict[str, Any] = {"in_flight": sum(entry.get("in_flight") or 0 for entry in entries)}
        reports = [entry["load"] for entry in entries if entry.get("load")]
        if reports:
            newest = min(reports, key=lambda report: report.get("age_seconds", 0.0))
            found |= {key: newest.get(key) for key in ("running", "waiting", "tokens_per_second")}
        return found

    def _answered(self) -> Iterator[dict[str, Any]]:
        return (status for status in self.statuses.values() if status is not None)
