"""Teach the tiny checkpoint its pairs, once: ``python -m tri_serve.checkpoint.tiny.train --output DIR``.

Needs torch, transformers and tokenizers, which tri-serve does not: run it with the Python of an engine
environment. What it writes is committed; docs/tiny-checkpoint.md says when to run it again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tri_serve.checkpoint.architecture import read_architecture
from tri_serve.checkpoint.safetensors import read_header
from tri_serve.checkpoint.tiny import pack
from tri_serve.checkpoint.tiny.chat import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS
from tri_serve.checkpoint.tiny.corpus import Corpus, Example
from tri_serve.checkpoint.tiny.margins import answer_margins, round_linears
from tri_serve.checkpoint.tiny.pairs import pairs

if TYPE_CHECKING:
    import torch

VOCABULARY = 1_024
"""Small, so that many characters are several tokens, as rare ones are for every byte-level model."""
GROUP = 128
"""Weights that share one 4-bit scale, as in the packers."""

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 160,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 8_192,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "rope_theta": 10_000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": SPECIAL_TOKENS.index(END),
    "pad_token_id": SPECIAL_TOKENS.index(PAD),
    "torch_dtype": "bfloat16",
    "use_cache": True,
}


def train_tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE tokenizer over ``texts``: every string has ids, and every id is bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _batch(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """``(ids, labels)``, both ``[batch, length]``; -100 marks what is not learned."""
    import torch

    length = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), length), SPECIAL_TOKENS.index(PAD))
    labels = torch.full((len(examples), length), -100)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.ids)
        ids[row, : len(tokens)] = tokens
        labels[row, : len(tokens)] = torch.where(torch.tensor(example.learned), tokens, -100)
    return ids, labels


def _rounding_noise(weights: list[torch.Tensor], generator: torch.Generator) -> Iterator[None]:
    """Shift each weight by up to half a 4-bit step of its group for one pass: what rounding will do to it."""
    import torch

    saved = []
    for weight in weights:
        saved.append(weight.detach().clone())
        groups = weight.detach().view(weight.shape[0], -1, GROUP)
        # The largest step of the three formats: symmetric, 15 steps over twice the largest magnitude.
        step = groups.abs().amax(dim=-1, keepdim=True) * (2 / 15)
        groups.add_((torch.rand(groups.shape, generator=generator) - 0.5) * step)
    yield
    for weight, original in zip(weights, saved, strict=True):
        weight.detach().copy_(original)


def train(steps: int, seed: int, threads: int, rate: float) -> tuple[Any, Any]:
    """The taught model and its tokenizer. Prints how it goes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    # Squares of small gradients are denormal numbers, on which CPUs are slow. Worker threads inherit the setting.
    torch.set_flush_denormal(True)
    generator = torch.Generator().manual_seed(seed)
    known = pairs()
    tokenizer = train_tokenizer([text for p in known for text in (p.question, *p.also, p.answer)])
    corpus = Corpus(known, lambda text: tokenizer.encode(text).ids, seed)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).float()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    linears = [
        m.weight for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1.0, (s + 1) / 30) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * s / steps))),
    )
    began = time.monotonic()
    for step in range(steps):
        # Long texts are most of what there is to learn, and attention over them most of the time: they are
        # learned in passages first, and only then as a whole.
        if step % 2:
            examples = [corpus.short() for _ in range(12)]
        elif step < steps * 0.65:
            examples = [corpus.passage(step // 2 + i) for i in range(12)]
        else:
            examples = [corpus.long(step // 2 * 3 + i) for i in range(3)]
        ids, labels = _batch(examples)
        noise = _rounding_noise(linears, generator) if step > steps // 3 else iter((None,))
        next(noise)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
        )
        loss.backward()
        next(noise, None)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 25 < 2 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - began:.0f} s", flush=True)
    return model, tokenizer


def write(model: Any, tokenizer: Any, output: Path) -> None:
    """The checkpoint's files, in bf16."""
    import torch
    from safetensors.torch import save_file

    output.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(output / "tokenizer.json"), pretty=False)
    special = {
        str(i): {
            "content": t,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for i, t in enumerate(SPECIAL_TOKENS)
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": special,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": CONFIG["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }
    generation = {"eos_token_id": CONFIG["eos_token_id"], "pad_token_id": CONFIG["pad_token_id"]}
    for name, value in (
        ("config.json", CONFIG),
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", generation),
    ):
        (output / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (output / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def report(directory: Path, encode: Callable[[str], list[int]]) -> None:
    """Print the narrowest margins of what was written, as it is and in 4 bits."""
    architecture = read_architecture(directory)
    weights = {
        name: pack.from_bfloat16(tensor.read(), tensor.shape)
        for name, tensor in read_header(directory / "model.safetensors").items()
    }
    roundings = {"bf16": None, "awq": pack.round_with_zero, "gptq, ct": pack.round_symmetric}
    for name, rounding in roundings.items():
        margins = answer_margins(architecture, round_linears(weights, rounding), pairs(), encode)
        for question, margin in sorted(margins.items(), key=lambda item: item[1])[:5]:
            print(f"{name:8}  {margin:6.2f} nats  {question}")


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=520)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=3e-3)
    arguments = parser.parse_args()
    model, tokenizer = train(arguments.steps, arguments.seed, arguments.threads, arguments.rate)
    write(model, tokenizer, arguments.output)
    report(arguments.output, lambda text: tokenizer.encode(text).ids)


if __name__ == "__main__":
    main()
