"""Quantization: how ``config.json`` says that weights are stored, and whether a spec asks for the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tri_serve.checkpoint.config_file import CONFIG, Values, kind, read_config
from tri_serve.checkpoint.layer_rules import MOST_WAYS, ways
from tri_serve.errors import CheckpointError

Method = Literal["none", "awq", "gptq", "compressed-tensors", "bitsandbytes"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class QuantizationFacts:
    """How the weights of linear layers are stored."""

    method: Method = "none"
    bits: int = 16
    """Of one weight."""
    group_size: int | None = None
    """Inputs that share one scale; none: all inputs of an output, or not quantised."""
    symmetric: bool = True
    """Whether zero is the middle of the scale, so that no zero points are needed."""
    act_order: bool = False
    """GPTQ's desc_act: groups are not neighbours."""
    layout: str | None = None
    """The method's name for how words are packed: gemm (AWQ), gptq, pack-quantized (compressed-tensors), nf4."""
    ignored: tuple[str, ...] = ()
    """Layers left as they were: names, parts of names, or ``re:`` and a regular expression."""
    double_quant: bool = False
    """bitsandbytes: whether the scales are themselves rounded, to 8 bits in blocks of 256."""
    storage: str = "uint8"
    """bitsandbytes: the type that 4-bit weights are stored as; it changes shapes and not bytes."""

    @property
    def label(self) -> str:
        """For people: ``awq, 4 bits, groups of 128``."""
        if self.method == "none":
            return "none"
        if self.method == "bitsandbytes":
            return f"{self.method}, {self.bits} bits{f', {self.layout}' if self.layout else ''}"
        group = f", groups of {self.group_size}" if self.group_size else ""
        return f"{self.method}, {self.bits} bits{group}{', symmetric' if self.symmetric else ''}"

    def leaves_out(self, layer: str) -> bool:
        """Whether ``layer`` (its full name) is listed as not quantised."""
        return any(
            re.match(rule.removeprefix("re:"), layer) is not None
            if rule.startswith("re:")
            else f".{rule}." in f".{layer}."
            for rule in self.ignored
        )


def read_quantization(path: Path) -> QuantizationFacts:
    """The facts of the checkpoint in directory ``path``. Raises CheckpointError if they cannot be understood."""
    return quantization_from(read_config(path), path / CONFIG)


def quantization_from(config: Mapping[str, Any], where: Path) -> QuantizationFacts:
    """As ``read_quantization``, from a config already read; ``where`` names its file in errors."""
    section = config.get("quantization_config")
    if section is None:
        return QuantizationFacts(
            bits=32 if "float32" in (config.get("torch_dtype"), config.get("dtype")) else 16
        )
    if not isinstance(section, dict):
        raise CheckpointError(
            f"{where}: quantization_config is {kind(section)}; an object is needed", path=where
        )
    values = Values(section, where, "quantization_config.")
    method = values.text("quant_method", "")
    if method == "awq":
        return QuantizationFacts(
            method="awq",
            bits=_bits(values, "bits"),
            group_size=_group(section, values),
            symmetric=not values.boolean("zero_point", True),
            layout=values.text("version", "gemm").lower(),
            ignored=_rules(values, "modules_to_not_convert"),
        )
    if method == "gptq":
        return QuantizationFacts(
            method="gptq",
            bits=_bits(values, "bits"),
            group_size=_group(section, values),
            symmetric=values.boolean("sym", True),
            act_order=values.boolean("desc_act", False),
            layout=values.text("checkpoint_format", "gptq"),
            ignored=_rules(values, "modules_in_block_to_not_quantize"),
        )
    if method == "compressed-tensors":
        return _compressed_tensors(section, values, where)
    if method == "bitsandbytes":
        four = values.boolean("load_in_4bit", False) or values.boolean("_load_in_4bit", False)
        return QuantizationFacts(
            method="bitsandbytes",
            bits=4 if four else 8,
            layout=values.text("bnb_4bit_quant_type", "fp4") if four else "int8",
            ignored=_rules(values, "llm_int8_skip_modules"),
            double_quant=four and values.boolean("bnb_4bit_use_double_quant", False),
            storage=values.text("bnb_4bit_quant_storage", "uint8"),
        )
    raise values.wrong("quant_method", " or ".join(repr(name) for name in METHODS[1:]))


def check_quantization(requested: str, facts: QuantizationFacts, path: Path | None = None) -> None:
    """Raise CheckpointError unless ``requested`` (``model.quantization`` of a spec) is what the checkpoint has."""
    if requested in ("auto", facts.method):
        return
    raise CheckpointError(
        f"model.quantization is {requested}, and config.json{f' in {path}' if path else ''} says {facts.method}; "
        f"'auto' or '{facts.method}' is allowed",
        path=path,
        hint="set model.quantization to auto: it is read from config.json",
    )


def _compressed_tensors(section: dict[str, Any], values: Values, where: Path) -> QuantizationFacts:
    layout = values.text("format", "")
    if layout != "pack-quantized":
        raise values.wrong("format", "'pack-quantized' (4-bit weights)")
    groups = section.get("config_groups")
    schemes: list[Any] = [group.get("weights") for group in _objects(groups)]
    if not schemes or not all(isinstance(scheme, dict) and scheme == schemes[0] for scheme in schemes):
        raise values.wrong("config_groups", "one scheme of weights for all layers")
    scheme = Values(schemes[0], where, "quantization_config.config_groups.weights.")
    strategy = scheme.text("strategy", "channel")
    if strategy not in ("group", "channel"):
        raise scheme.wrong("strategy", "'group' or 'channel'")
    return QuantizationFacts(
        method="compressed-tensors",
        bits=_bits(scheme, "num_bits"),
        group_size=scheme.natural("group_size") if strategy == "group" else None,
        symmetric=scheme.boolean("symmetric", True),
        # actorder "weight" reorders before packing and leaves no trace; "group" stores g_idx.
        act_order=scheme.text("actorder", "") == "group",
        layout=layout,
        ignored=_rules(values, "ignore"),
    )


def _rules(values: Values, key: str) -> tuple[str, ...]:
    """Names of layers and regular expressions, all of which can be understood."""
    rules = values.texts(key)
    if ways(rule.removeprefix("re:") for rule in rules if rule.startswith("re:")) > MOST_WAYS:
        raise values.wrong(
            key, "a list of names and of regular expressions (re:…) that can be tried in a short time"
        )
    for rule in rules:
        try:
            re.compile(rule.removeprefix("re:") if rule.startswith("re:") else "")
        except (re.error, OverflowError, RecursionError):
            raise values.wrong(key, "a list of names and of regular expressions (re:…)") from None
    return rules


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects that an object holds; none if it is none, or holds anything else."""
    items = list(value.values()) if isinstance(value, dict) else []
    return items if all(isinstance(item, dict) for item in items) else []


def _bits(values: Values, key: str) -> int:
    bits = values.natural(key)
    if bits not in (4, 8):
        raise values.wrong(key, "4 or 8")
    return bits


def _group(section: dict[str, Any], values: Values) -> int | None:
    """-1 is how AWQ and GPTQ say: one group."""
    return None if section.get("group_size") == -1 else values.natural("group_size", 128)
