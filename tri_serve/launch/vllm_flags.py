"""Which flags of vLLM a spec's ``extra_args`` may not hold, and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tri_serve.errors import LaunchError
from tri_serve.launch.version_gates import VersionGate

# Flag → the spec key that says the same. All of them are set by the launch config.
SPEC_KEYS = {
    "--model": "model.source",
    "--revision": "model.revision",
    "--served-model-name": "model.served_name",
    "--max-model-len": "model.max_model_len",
    "--quantization": "model.quantization",
    "--trust-remote-code": "model.trust_remote_code",
    "--dtype": "engine.dtype",
    "--gpu-memory-utilization": "engine.gpu_memory_utilization",
    "--tensor-parallel-size": "engine.tensor_parallel_size",
    "--kv-cache-dtype": "engine.kv_cache_dtype",
    "--max-num-seqs": "engine.max_num_seqs",
    "--max-num-batched-tokens": "engine.max_num_batched_tokens",
    "--shutdown-timeout": "engine.shutdown_timeout",
}
SHORT = {"-q": "--quantization", "-tp": "--tensor-parallel-size"}

# Flag → why no spec key stands for it.
OURS = {
    "--host": "engines listen on loopback, behind the gateway: set gateway.host",
    "--port": "tri-serve gives each engine a free port: set gateway.port for clients",
    "--uds": "the gateway reaches engines by TCP",
    "--ssl-keyfile": "the gateway reaches engines on loopback, without TLS",
    "--ssl-certfile": "the gateway reaches engines on loopback, without TLS",
    "--root-path": "the gateway asks engines for /v1/… as it is",
    "--headless": "an engine without an HTTP server cannot be a replica",
    "--api-key": (
        "every user of the machine can read a process's arguments; each fleet makes its engines' key itself, "
        "and gateway.keys_file holds the clients' keys"
    ),
    "--hf-token": "every user of the machine can read a process's arguments: set HF_TOKEN in engine.env",
    "--enable-prompt-tokens-details": "it is always set",
    "--disable-uvicorn-access-log": "it is always set: the gateway keeps the access log",
}

# What a user's own machine or image decides for itself.
_OF_A_FLEET = frozenset(
    {
        "--uds",
        "--ssl-keyfile",
        "--ssl-certfile",
        "--root-path",
        "--headless",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
    }
)
_STANDALONE = {
    **{flag: words for flag, words in OURS.items() if flag not in _OF_A_FLEET},
    "--host": "set gateway.host",
    "--port": "set gateway.port",
    "--api-key": "every user of the machine can read a process's arguments: set VLLM_API_KEY in its environment",
    "--hf-token": "every user of the machine can read a process's arguments: set HF_TOKEN in its environment",
}


def check_extra_args(extra_args: Sequence[str], gate: VersionGate, *, standalone: bool = False) -> None:
    """Refuse flags that tri-serve sets itself, that show a secret, or that this version does not have.

    ``standalone``: the engine belongs to no fleet. Raises LaunchError with every such flag and what to write
    instead.
    """
    check_flags(extra_args, gate, SPEC_KEYS, _STANDALONE if standalone else OURS)


def check_flags(
    extra_args: Sequence[str], gate: VersionGate, spec_keys: Mapping[str, str], refused: Mapping[str, str]
) -> None:
    """Refuse flags of ``spec_keys`` and ``refused``, and such as the engine does not have.

    The engines take any unambiguous beginning of a flag, and vLLM ``--max_model_len`` for ``--max-model-len``; so
    does this.
    """
    found = []
    for argument in extra_args:
        if (flag := _normalized(argument)) is None:
            continue
        written, known = argument.partition("=")[0], gate.find(flag)
        # An alias counts as the flag itself; what the version does not have may be a flag of another one.
        name = flag if known is None else known.name
        if (meant := _find(flag, spec_keys) or _find(name, spec_keys)) is not None:
            found.append(f"{written} belongs in {spec_keys[meant]}")
        elif (meant := _find(flag, refused) or _find(name, refused)) is not None:
            found.append(f"{written} cannot be given: {refused[meant]}")
        elif known is None and (words := _missing(written, flag, gate)) is not None:
            found.append(words)
    problems = list(dict.fromkeys(found))
    if len(problems) == 1:
        raise LaunchError(f"engine.extra_args: {problems[0]}")
    if problems:
        lines = "\n  ".join(problems)
        raise LaunchError(f"engine.extra_args: {len(problems)} flags that cannot stand there:\n  {lines}")


def _missing(written: str, flag: str, gate: VersionGate) -> str | None:
    """What to say of a flag that the gate's version lacks; None where that is not certain."""
    from tri_serve.plan.constraints import parse_version
    from tri_serve.plan.constraints.dead_flags import dead_in

    if gate.engine == "vllm" and (dead := dead_in(parse_version(gate.version)).get(flag)) is not None:
        return f"{gate.title} no longer has {written}: {dead.instead}"
    if not gate.is_exact:
        return None  # what came after the newest table cannot be known
    unknown = gate.unknown(written, "")
    return f"{unknown.message}: {unknown.hint}"


def has_flag(extra_args: Sequence[str], *flags: str) -> bool:
    """Whether ``extra_args`` hold one of ``flags``, in whichever spelling."""
    return any(_normalized(argument) in flags for argument in extra_args)


def _normalized(argument: str) -> str | None:
    """The flag's canonical spelling; None for a value."""
    name = argument.partition("=")[0]
    if name in SHORT:
        return SHORT[name]
    # The short form of -tp=2 and -q awq; -tp2 is no form that argparse takes for a two-letter flag.
    if not name.startswith("--") or len(name) < 3:
        return None
    return name.replace("_", "-")


def _find(flag: str, known: Mapping[str, str]) -> str | None:
    """``flag`` itself, or the flag of ``known`` that it abbreviates (none of vLLM's begins one of these)."""
    if flag in known:
        return flag
    # Shorter than --uds nothing is unambiguous.
    return next((name for name in known if name.startswith(flag)), None) if len(flag) > 4 else None
