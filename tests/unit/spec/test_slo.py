"""What a load is promised, as a command line says it."""

import pytest

from tri_serve.errors import UsageError
from tri_serve.spec.slo import Slo, parse_slo


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("ttft=500ms,tpot=50ms", Slo(ttft=0.5, tpot=0.05)),
        ("ttft:500 tpot:50", Slo(ttft=0.5, tpot=0.05)),
        ("TTFT=1.5s", Slo(ttft=1.5)),
        ("e2el:2000", Slo(e2e=2.0)),
        ("e2e=1m, tpot:12.5", Slo(e2e=60.0, tpot=0.0125)),
    ],
)
def test_both_ways_of_writing_it_are_understood(text: str, slo: Slo) -> None:
    assert parse_slo(text) == slo


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not understood; allowed is ttft, tpot and e2e"),
        ("ttft", "'ttft' is not understood"),
        ("itl=5ms", "'itl=5ms' is not understood"),
        ("ttft=500", "has no unit; write ttft=500ms or ttft=500s"),
        ("ttft=soon", "'soon' in 'ttft=soon' is no duration"),
        ("ttft=-5ms", "is no duration"),
        ("tpot:0", "out of range"),
        ("tpot=25h", "out of range"),
        ("ttft=5ms,ttft:5", "ttft is given twice"),
        ("e2e=5s,e2el:5000", "e2e is given twice"),
    ],
)
def test_what_is_not_understood_is_said_in_one_line(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse_slo(text)
    assert "\n" not in str(caught.value)


def test_an_slo_reads_back_what_it_writes() -> None:
    slo = Slo(ttft=0.5, tpot=0.0125, e2e=30.0)
    assert parse_slo(str(slo)) == slo
