"""Memory of what is collected does not grow with the requests."""

from __future__ import annotations

import json
import tracemalloc

from tri_serve.load.figures import collector as collecting
from tri_serve.load.figures import samples, tallies
from tri_serve.load.figures.collector import Collector, Window
from tri_serve.load.figures.summary import summarise
from tri_serve.load.records import Outcome
from tri_serve.spec.slo import Slo

SECOND = 1_000_000_000
START = 1_000 * SECOND
MINUTE = Window(START, START + 60 * SECOND)


def test_memory_stays_where_the_first_tenth_of_the_requests_brought_it(make_record, monkeypatch):
    # The same records over and over: what they hold differs in time, and making new ones would take longest.
    for module in (samples, tallies, collecting):
        monkeypatch.setattr(module, "EXACT_SAMPLES", 500)
    records = [
        make_record(
            index, due=index * 0.06, ttft=10.0 + index, gaps=[5.0 + index % 9], detail=f"line {index}"
        )
        for index in range(1_000)
    ]
    for record in records[::50]:
        record.outcome = Outcome.STATUS
    collector = Collector(MINUTE, Slo(ttft=0.5))

    def add(times: int) -> int:
        for _ in range(times):
            for record in records:
                collector.add(record)
        # Batches of values that wait to be counted come and go; the message counts them.
        assert len(json.dumps(collector.to_message())) < 300_000
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        early = add(3)
        late = add(27)
    finally:
        tracemalloc.stop()
    # One number kept of each of the 27,000 further requests would be 216,000 bytes.
    assert late - early < 50_000, f"{late - early:,} bytes more for ten times the requests"
    assert summarise(collector).scheduled == 30_000
