"""What is read of an engine's metrics page, and what becomes of it over time."""

from __future__ import annotations

import asyncio

import pytest

from tri_serve.gateway.load import LoadMeter, Readings, read_page, series_values
from tri_serve.gateway.probes import metrics_page
from tri_serve.mock.stats import Stats
from tri_serve.observe import names

# Lines of vLLM 0.32's own page, two data-parallel ranks.
PAGE = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a}b \\"c\\" 7"} 2.0
vllm:num_requests_running{engine="1",model_name="a}b \\"c\\" 7"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:generation_tokens_total{engine="0",model_name="m"} 1.0e+06
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 40.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 2.0 1700000000000"""


def test_the_wanted_lines_are_summed_over_label_sets_and_nothing_else_is_taken() -> None:
    assert read_page(PAGE) == Readings(
        running=5, waiting=1, kv_cache_usage=0.5, tokens=1_000_000, finished=42
    )


def test_the_mock_engine_tells_its_load_as_vllm_does() -> None:
    page = Stats(running=3, generation_tokens=70, finished=5, aborted=1).metrics("m").encode()
    readings = read_page(page)
    assert readings is not None
    assert (readings.running, readings.waiting, readings.tokens, readings.finished) == (3, 0, 70, 6)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"sglang:num_running_reqs 3\n",
        PAGE.replace(b"} 3.0", b"} NaN"),
        PAGE.replace(b"} 3.0", b"} 1e308") * 2,
        PAGE.replace(b"} 3.0", b"}"),
        PAGE.replace(b"} 3.0", b"} many"),
        PAGE.replace(b"vllm:num_requests_waiting{", b"vllm:num_requests_waiting_else{"),
    ],
)
def test_an_engine_that_does_not_tell_its_load_in_numbers_has_none(page: bytes) -> None:
    assert read_page(page) is None


def test_a_series_without_labels_and_at_the_pages_end_is_found() -> None:
    assert series_values(b"\nx 1\nxy 2\nx 3", "x") == [1.0, 3.0]


def test_the_engine_catalogue_names_series_as_prometheus_shows_them() -> None:
    assert names.ENGINE_TOKENS.series == "vllm:generation_tokens_total"
    assert names.ENGINE_RUNNING.series == "vllm:num_requests_running"


def readings(tokens: float) -> Readings:
    return Readings(running=1, waiting=0, kv_cache_usage=0.0, tokens=tokens, finished=0)


def test_the_rate_is_of_the_last_pages() -> None:
    meter = LoadMeter()
    assert meter.observe(readings(1000), at=10.0).tokens_per_second is None
    assert meter.observe(readings(1200), at=11.0).tokens_per_second == 200
    for second in range(12, 30):
        load = meter.observe(readings(1200), at=float(second))
    assert load.tokens_per_second == 0


def test_a_counter_that_starts_anew_is_no_negative_rate() -> None:
    meter = LoadMeter()
    meter.observe(readings(1000), at=1.0)
    assert meter.observe(readings(30), at=2.0).tokens_per_second is None
    assert meter.observe(readings(80), at=3.0).tokens_per_second == 50
    meter.forget()
    assert meter.observe(readings(10_000), at=4.0).tokens_per_second is None


def test_a_load_is_shown_with_its_age() -> None:
    load = LoadMeter().observe(readings(0), at=5.0).as_json(now=7.5)
    assert load["age_seconds"] == 2.5
    assert "at" not in load


def ask_page(answer: bytes, limit: int = 1_000_000) -> bytes | None:
    async def ask() -> bytes | None:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
            return await metrics_page(*server.sockets[0].getsockname(), limit=limit)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "framed",
    [
        b"content-length: 5\r\n\r\nx 1\ny",
        b"transfer-encoding: chunked\r\n\r\n2\r\nx \r\n3\r\n1\ny\r\n0\r\n\r\n",
        b"connection: close\r\n\r\nx 1\ny",
    ],
)
def test_a_page_is_read_however_it_is_framed(framed: bytes) -> None:
    assert ask_page(b"HTTP/1.1 200 OK\r\n" + framed) == b"x 1\ny"


def test_an_engine_without_the_page_has_none() -> None:
    assert ask_page(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n") is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"x" * 2_000,
        b"x" * 200_000,
    ],
)
def test_a_page_that_is_broken_or_endless_is_an_os_error(answer: bytes) -> None:
    with pytest.raises(OSError, match=r"/metrics|reset"):
        ask_page(answer, limit=1_000)
