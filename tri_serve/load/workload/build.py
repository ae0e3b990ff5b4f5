"""A scenario's workload, ready to be asked: any item by its number, the same in every process."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from tri_serve.load.scenario.models import (
    ClosedLoop,
    Conversations,
    Documents,
    FromFile,
    Part,
    Scenario,
    SharedPrefix,
    Structured,
    Written,
)
from tri_serve.load.schedule import Schedule
from tri_serve.load.workload.conversations import ConversationsSource
from tri_serve.load.workload.documents import DocumentsSource
from tri_serve.load.workload.files import FileSource
from tri_serve.load.workload.golden import GoldenSource
from tri_serve.load.workload.items import Item, Session
from tri_serve.load.workload.salt import Salts
from tri_serve.load.workload.setting import HASHED_ITEMS, Conversing, Setting, Source
from tri_serve.load.workload.shared_prefix import SharedPrefixSource
from tri_serve.load.workload.structured import StructuredSource
from tri_serve.load.workload.tokenizer import Overhead, Tokenizer
from tri_serve.load.workload.written import WrittenSource


class WorkloadItems:
    """All items of a run. ``item`` costs microseconds once ``prepare`` has run."""

    def __init__(
        self,
        scenario: Scenario,
        setting: Setting,
        sources: Sequence[Source],
        golden: GoldenSource | None,
        salts: Salts | None,
    ) -> None:
        self._scenario, self._setting = scenario, setting
        self._sources, self._golden, self._salts = sources, golden, salts
        self._bounds = list(accumulate(part.weight for part in scenario.workload.parts))

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Write every prompt ahead of the load; ``progress`` is told of parts done, of all."""
        for done, source in enumerate(self._sources, start=1):
            source.prepare()
            if progress is not None:
                progress(done, len(self._sources))

    def item(self, index: int) -> Item:
        """What the request of this number in the run asks."""
        return self._item(index, self._salts)

    def session(self, index: int) -> Session | None:
        """The conversation that the item of this number begins; None if it is a request of its own."""
        if self._golden is not None and self._golden.is_due(index):
            return None
        source = self._source(index)
        return source.session(index, self._salts) if isinstance(source, Conversing) else None

    def _item(self, index: int, salts: Salts | None) -> Item:
        if self._golden is not None and self._golden.is_due(index):
            return self._golden.item(index)
        return self._source(index).item(index, salts)

    def _source(self, index: int) -> Source:
        if len(self._sources) == 1:
            return self._sources[0]
        drawn = self._setting.fraction("part", index) * self._bounds[-1]
        return self._sources[bisect_right(self._bounds, drawn)]

    @property
    def hash(self) -> str:
        """SHA-256 of the workload's description, seed and first items: equal hashes ask the same.

        A run's own nonce changes salts, and not what is asked; so the workload is hashed with an empty one.
        """
        digest = hashlib.sha256()
        for part in (
            self._scenario.workload.model_dump(mode="json"),
            self._scenario.seed,
            self._setting.tokenizer.name,
        ):
            digest.update(json.dumps(part, sort_keys=True).encode())
        salts = self._setting.salts if self._setting.salted else None
        for index in range(HASHED_ITEMS):
            item = self._item(index, salts)
            digest.update(
                json.dumps([item.id, item.route, item.body, item.input_tokens], sort_keys=True).encode()
            )
        return digest.hexdigest()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the result must know: what was left out or clipped, what repeats, what is not exact."""
        setting = self._setting
        lines = [line for source in self._sources for line in source.remarks()]
        lines += [
            f"{part}: {count} prompts were drawn too short or too long and made to fit"
            for part, count in setting.clipped.items()
        ]
        if not setting.tokenizer.exact:
            lines.append("no tokenizer: lengths are guessed; the server's counts are in the result")
        elif setting.overhead is None:
            lines.append("the chat template's tokens are not known: prompts are longer by them than asked")
        if setting.salted and not setting.salts.uniform:
            lines.append("salts differ in length with this tokenizer: prompts may be a few tokens off")
        return tuple(lines)


def build_workload(
    scenario: Scenario,
    folder: Path,
    tokenizer: Tokenizer,
    overhead: Overhead | None = None,
    *,
    context: int | None = None,
    nonce: str = "",
) -> WorkloadItems:
    """The workload of ``scenario``; its files are seen from ``folder``.

    ``overhead`` is what the server's chat template adds (``measure_overhead``); ``context`` its model's length
    (``/tokenize`` and ``/v1/models`` say it); ``nonce`` is the run's own, the same in all its processes.
    Raises UsageError for a file that is not there or not what it should be, and for lengths that do not fit.
    """
    setting = Setting(
        seed=scenario.seed,
        tokenizer=tokenizer,
        overhead=overhead,
        context=context,
        salted=scenario.workload.salt,
        requests=_expected(scenario),
    )
    sources = [_source(part, setting, folder) for part in scenario.workload.parts]
    salts = Salts(tokenizer, scenario.seed, nonce) if scenario.workload.salt else None
    golden = scenario.workload.golden
    return WorkloadItems(
        scenario, setting, sources, GoldenSource(golden, folder) if golden is not None else None, salts
    )


def _expected(scenario: Scenario) -> float | None:
    if isinstance(scenario.arrivals, ClosedLoop):
        return None
    return Schedule(scenario).expected()


def _source(part: Part, setting: Setting, folder: Path) -> Source:
    match part:
        case Written():
            return WrittenSource(part, setting)
        case SharedPrefix():
            return SharedPrefixSource(part, setting)
        case Conversations():
            return ConversationsSource(part, setting)
        case Documents():
            return DocumentsSource(part, setting)
        case Structured():
            return StructuredSource(part, setting)
        case FromFile():
            return FileSource(part, setting, folder)
