"""What checks find, kept until all of them have run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tri_serve.errors import LOCAL_PARTS, MissingExtraError, TriServeError


@dataclass
class Problems:
    """What stands in the way, and what may go wrong but need not."""

    found: list[TriServeError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def collect(self, check: Callable[[], object]) -> None:
        """Run ``check`` and keep the error that it raises."""
        try:
            check()
        except TriServeError as error:
            # Two checks may come upon the same thing.
            if error.message not in [known.message for known in self.found]:
                self.found.append(error)

    def warn(self, warnings: Iterable[str]) -> None:
        """Keep those that are new."""
        self.warnings += [warning for warning in dict.fromkeys(warnings) if warning not in self.warnings]

    def raise_any(self) -> None:
        """Raise what was found: one error as it is, several as one that lists them."""
        if not self.found:
            return
        if len(self.found) == 1:
            raise self.found[0]
        lines = [f"{len(self.found)} things stand in the way:"]
        # One command installs all parts of LOCAL_PARTS: it is said once, below the last of them.
        missing = (error for error in self.found if isinstance(error, MissingExtraError))
        parts = [error for error in missing if error.extra in LOCAL_PARTS]
        hints = {id(error): "" for error in parts[:-1]}
        hints |= {id(error): max((part.hint or "" for part in parts), key=len) for error in parts[-1:]}
        for error in sorted(self.found, key=lambda error: error not in parts):
            lines.append(f"  - {error.message}".replace("\n", "\n  "))
            if hint := hints.get(id(error), error.hint):
                lines.append(f"    hint: {hint}")
        combined = TriServeError("\n".join(lines))
        combined.exit_code = self.found[0].exit_code
        raise combined
