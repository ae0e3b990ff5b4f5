"""Rules on what the engine must know of the model's code."""

from __future__ import annotations

from collections.abc import Iterator

from tri_serve.checkpoint.architecture import LLAMA
from tri_serve.plan.constraints.request import Request
from tri_serve.plan.constraints.rule import Found, Rule

MODEL_TYPES = frozenset(
    {"llama", "mistral", "mixtral", "qwen2", "qwen3", "phi3", "granite", "smollm3", "olmo2"}
)
"""Some model types that transformers 4.57 and 5 read with classes of their own (models/auto): of these no code that
comes with a checkpoint is run unless it is allowed to."""


def _architecture(request: Request) -> Iterator[Found]:
    names = request.model.architecture.architectures
    if names == (LLAMA,):
        return
    named = ", ".join(names) or "nothing"
    yield Found(
        "refusal",
        f"config.json calls the model {named}; {request.engine} would have to have a class of that name, "
        f"and tri-serve knows the memory and the speed of {LLAMA} only",
        advice=f"point model.source at a checkpoint that was saved as, or converted to, {LLAMA}: the same "
        "weights under a Llama's names, and a config.json that says so",
    )


ARCHITECTURE = Rule(
    "architecture",
    "The model is a LlamaForCausalLM.",
    "vLLM 0.18.0 to 0.32.0: model_executor/models/registry.py has no TrillionForCausalLM",
    ("refusal",),
    _architecture,
    any_engine=True,
)


def _remote_code(request: Request) -> Iterator[Found]:
    if not request.model.remote_code:
        return
    if request.spec.model.trust_remote_code:
        yield Found(
            "note",
            "config.json has Python code of the checkpoint run (auto_map), and model.trust_remote_code "
            "allows it: it can do whatever the engine can",
        )
        return
    if (model_type := request.model.architecture.model_type) in MODEL_TYPES:
        yield Found(
            "note",
            "config.json names Python code of the checkpoint (auto_map); it is not run: the engine reads model_type"
            f" {model_type} and runs {LLAMA} with its own",
        )
        return
    yield Found(
        "refusal",
        "config.json wants Python code of the checkpoint to be run (auto_map), and model.trust_remote_code is off",
        change={"model.trust_remote_code": "true"},
        advice="read that code first; better, take a checkpoint that does without it: set model_type to llama in "
        f"config.json if the architecture is {LLAMA}, whose code the engine has",
    )


REMOTE_CODE = Rule(
    "remote-code",
    "Python code that comes with the checkpoint is run only if the user allows it.",
    "vLLM 0.32.0: transformers_utils/config.py (trust_remote_code); transformers 5: models/auto "
    "(AutoConfig.from_pretrained: a known model_type is read without that code)",
    ("refusal", "note"),
    _remote_code,
    any_engine=True,
)

RULES = (ARCHITECTURE, REMOTE_CODE)
