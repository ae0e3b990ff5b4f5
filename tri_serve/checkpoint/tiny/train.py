"""Teach the tiny checkpoint its pairs, once: ``python -m tri_serve.checkpoint.tiny.train --output DIR``.

Needs torch, transformers and tokenizers, which tri-serve does not: run it with the Python of an engine
environment. What it writes is committed; docs/tiny-checkpoint.md says when to run it again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tri_serve.checkpoint.architecture import read_architecture
from tri_serve.checkpoint.safetensors import read_header
from tri_serve.checkpoint.tiny import pack
from tri_serve.checkpoint.tiny.chat import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS
from tri_serve.checkpoint.tiny.corpus import Corpus, Example
from tri_serve.checkpoint.tiny.margins import answer_margins, round_linears
from tri_serve.checkpoint.tiny.pairs import Pair, pairs

if TYPE_CHECKING:
    import torch

VOCABULARY = 1_024
"""Small, so that many characters are several tokens, as rare ones are for every byte-level model."""
GROUP = 128
"""Weights that share one 4-bit scale, as in the packers."""
TARGET_MARGIN = 9.0
"""Nats by which each token of an answer is to lead. What is reached is less, and is what the tests measure."""

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


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer that the weights in ``directory`` were trained with."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(directory / "tokenizer.json"))


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


class Teacher:
    """The model in training, what it is taught, and how its weights are moved."""

    def __init__(self, corpus: Corpus, seed: int, start: Path | None) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(seed)
        self.model = LlamaForCausalLM(LlamaConfig(**CONFIG)).float()
        if start is not None:
            from safetensors.torch import load_file

            self.model.load_state_dict(
                {n: t.float() for n, t in load_file(start / "model.safetensors").items()}
            )
        self._corpus = corpus
        self._noise = torch.Generator().manual_seed(seed)
        self._linears = [
            module.weight
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"
        ]

    def teach(self, steps: int, rate: float) -> None:
        """From nothing to answers that are right."""

        def examples(step: int) -> list[Example]:
            # Long texts are most of what there is to learn, and attention over them most of the time: they are
            # learned in passages first, and only then as a whole.
            if step % 2:
                return [self._corpus.short() for _ in range(12)]
            if step < steps * 0.65:
                return [self._corpus.passage(step // 2 + i) for i in range(12)]
            return [self._corpus.long(step // 2 * 3 + i) for i in range(3)]

        # Rounding is practised once there is something to lose.
        self._run("teach", steps, rate, examples, noise_from=steps // 3, margin=None)

    def sharpen(self, steps: int, rate: float, known: Sequence[Pair]) -> None:
        """From answers that are right to answers that are right by a wide margin, just as clients ask."""
        short = [pair for pair in known if pair.kind != "long"]
        long = [pair for pair in known if pair.kind == "long"]

        def examples(step: int) -> list[Example]:
            turn, kind = divmod(step, 6)
            if kind == 0:
                return [self._corpus.exact(pair) for pair in short[turn % 2 :: 2]]
            if kind in (1, 3):
                # All six long answers in each turn: the rarest of a thousand tokens decides.
                return [self._corpus.exact(pair) for pair in long[kind // 2 * 3 :][:3]]
            if kind == 2:
                return [self._corpus.unknown() for _ in range(32)]
            if kind == 4:
                return [self._corpus.long(turn * 3 + i) for i in range(3)]
            return [self._corpus.short() for _ in range(12)]

        self._run("sharpen", steps, rate, examples, noise_from=0, margin=TARGET_MARGIN)

    def _run(
        self,
        name: str,
        steps: int,
        rate: float,
        examples: Callable[[int], list[Example]],
        *,
        noise_from: int,
        margin: float | None,
    ) -> None:
        import torch

        optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda s: min(1.0, (s + 1) / 30) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * s / steps))),
        )
        began = time.monotonic()
        for step in range(steps):
            ids, labels = _batch(examples(step))
            noise = _rounding_noise(self._linears, self._noise) if step >= noise_from else iter((None,))
            next(noise)
            with torch.autocast("cpu", torch.bfloat16):
                logits = self.model(ids).logits
            learned = labels[:, 1:] >= 0
            loss, narrowest = _loss(logits[:, :-1][learned].float(), labels[:, 1:][learned], margin)
            loss.backward()
            next(noise, None)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if step % 24 < 6 or step == steps - 1:
                print(
                    f"{name} {step:5d}  loss {loss.item():.4f}  narrowest {narrowest:6.2f} nats  "
                    f"{time.monotonic() - began:.0f} s",
                    flush=True,
                )


def _loss(scores: torch.Tensor, targets: torch.Tensor, margin: float | None) -> tuple[torch.Tensor, float]:
    """Cross entropy, and with ``margin`` also how far the tokens that lead by less fall short of it.

    ``scores`` is ``[tokens, vocabulary]``. The second value is the narrowest lead.
    """
    import torch

    loss = torch.nn.functional.cross_entropy(scores, targets)
    rivals = scores.scatter(1, targets[:, None], -torch.inf).amax(dim=1)
    leads = scores.gather(1, targets[:, None])[:, 0] - rivals
    if margin is not None:
        short = torch.relu(margin - leads)
        # Over those that fall short alone: they are few, and all that is left to learn.
        loss = loss + 0.3 * short.sum() / (short > 0).sum().clamp(min=1)
    return loss, leads.min().item()


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
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--start", type=Path, help="sharpen the weights of this directory, made before")
    parser.add_argument("--steps", type=int, default=520)
    parser.add_argument("--sharpen-steps", type=int, default=240)
    parser.add_argument("--sharpen-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    # Squares of small gradients are denormal numbers, on which CPUs are slow. Worker threads inherit the setting.
    torch.set_flush_denormal(True)
    known = pairs()
    texts = [text for pair in known for text in (pair.question, *pair.also, pair.answer)]
    tokenizer = load_tokenizer(arguments.start) if arguments.start else train_tokenizer(texts)

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    teacher = Teacher(Corpus(known, encode, arguments.seed), arguments.seed, arguments.start)
    if arguments.start is None:
        teacher.teach(arguments.steps, rate=3e-3)
    teacher.sharpen(arguments.sharpen_steps, rate=arguments.sharpen_rate, known=known)
    write(teacher.model, tokenizer, arguments.output)
    report(arguments.output, encode)


if __name__ == "__main__":
    main()
