"""The router at its limit: wrk for the client and canned engines, both faster than any router here."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from time import perf_counter

from .canned import check_answer
from .client import BenchmarkError
from .machine import cpu_seconds, tree
from .scenarios import Sizes, Target, chat_body

# Seconds beyond the load's own that wrk may take.
_PATIENCE = 30.0

# The long brackets hold any JSON; the figures are the last line of what wrk prints.
_SCRIPT = """\
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["accept"] = "application/json"
wrk.headers["user-agent"] = "tri-serve-benchmark"
wrk.headers["authorization"] = "Bearer {key}"
wrk.body = [==[{body}]==]
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{{"responses":%d,"microseconds":%d,"p50":%d,"p99":%d,'
    .. '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
"""
_ERRORS = ("connect", "read", "write", "status", "timeout")


async def requests(wrk: Path, target: Target, sizes: Sizes) -> dict[str, float]:
    """Small non-streaming chats, as many as the router can take: requests per second of its CPU time."""
    assert target.pid is not None
    body = chat_body(tokens=16, stream=False)
    await asyncio.to_thread(check_answer, target, body)
    with tempfile.TemporaryDirectory(prefix="tri-bench-wrk-") as folder:
        script = Path(folder) / "load.lua"
        script.write_text(_SCRIPT.format(key=target.key, body=body.decode()), encoding="utf-8")
        await _run(wrk, script, target.port, sizes.request_connections, sizes.request_warm_up_seconds)
        pids = tree(target.pid)
        cpu, begun = cpu_seconds(pids), perf_counter()
        figures = await _run(wrk, script, target.port, sizes.request_connections, sizes.request_seconds)
        used = cpu_seconds(pids) - cpu
        wall = perf_counter() - begun
    await asyncio.to_thread(check_answer, target, body)
    return {
        **figures,
        "wall_seconds": wall,
        "cpu_seconds": used,
        "cpu_share": used / figures["load_seconds"],
        "requests_per_second": figures["responses"] / figures["load_seconds"],
        "requests_per_cpu_second": figures["responses"] / used,
    }


async def _run(wrk: Path, script: Path, port: int, connections: int, seconds: int) -> dict[str, float]:
    """One run of wrk on this process's cores; it is gone when this returns."""
    argv = [str(wrk), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    argv += ["-s", str(script), f"http://127.0.0.1:{port}/v1/chat/completions"]
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), seconds + _PATIENCE)
    except TimeoutError as error:
        raise BenchmarkError(f"wrk -d{seconds}s still ran after {seconds + _PATIENCE:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise BenchmarkError(f"wrk ended with {process.returncode}: {(err or out)[-500:].decode()}")
    return parse_wrk(out.decode())


def parse_wrk(output: str) -> dict[str, float]:
    """The figures of one run; raises BenchmarkError if a response was wrong or a connection failed."""
    last = output.strip().rpartition("\n")[2]
    try:
        figures = json.loads(last)
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"wrk printed no figures: {output[-500:]}") from error
    wrong = {name: figures[name] for name in _ERRORS if figures[name]}
    if wrong:
        listed = ", ".join(f"{name} {count}" for name, count in wrong.items())
        raise BenchmarkError(f"wrk counted errors ({listed}) beside {figures['responses']} responses")
    if not figures["responses"]:
        raise BenchmarkError("wrk got no response")
    return {
        "responses": figures["responses"],
        "load_seconds": figures["microseconds"] / 1e6,
        "latency_p50_ms": figures["p50"] / 1e3,
        "latency_p99_ms": figures["p99"] / 1e3,
    }
