"""What wrk prints, and the programs that the saturated load needs."""

from __future__ import annotations

import json

import pytest

from benchmarks.gateway.canned import COMPLETION, nginx_config
from benchmarks.gateway.client import BenchmarkError
from benchmarks.gateway.peers import find_programs
from benchmarks.gateway.saturation import parse_wrk


def _output(**overrides):
    figures = {
        "responses": 130_000, "microseconds": 4_000_000, "p50": 1_900, "p99": 3_000,
        "connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0,
    }  # fmt: skip
    return f"Running 4s test\n  130000 requests in 4.00s\n\n{json.dumps(figures | overrides)}\n"


def test_figures_are_read_from_the_last_line():
    figures = parse_wrk(_output())

    assert figures["responses"] == 130_000
    assert figures["load_seconds"] == 4.0
    assert figures["latency_p50_ms"] == 1.9


@pytest.mark.parametrize("kind", ["connect", "read", "write", "status", "timeout"])
def test_a_single_error_of_any_kind_ends_the_run(kind):
    with pytest.raises(BenchmarkError, match=rf"\({kind} 1\)"):
        parse_wrk(_output(**{kind: 1}))


def test_no_response_at_all_ends_the_run():
    with pytest.raises(BenchmarkError, match="no response"):
        parse_wrk(_output(responses=0))


def test_output_without_figures_is_shown():
    with pytest.raises(BenchmarkError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1\n")


def test_missing_programs_are_named_with_the_packages_to_install():
    with pytest.raises(BenchmarkError) as caught:
        find_programs(["sh", "no-such-wrk", "no-such-nginx"])

    assert str(caught.value) == (
        "not installed: no-such-wrk, no-such-nginx; "
        "on Debian and Ubuntu: apt-get install haproxy wrk nginx-light"
    )


def test_canned_answer_survives_the_quoting_of_nginx(tmp_path):
    answer = COMPLETION.decode()

    assert "음악" in answer
    assert json.loads(answer)["object"] == "chat.completion"
    # In nginx's quoted strings these would mean something else.
    assert not set(answer) & set("'\\$")
    assert nginx_config([1, 2], tmp_path).count(f"return 200 '{answer}';") == 2
