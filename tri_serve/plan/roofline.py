"""What each step of an engine reads, computes and exchanges, and how long that takes at a given pace.

The roofline model (Williams, Waterman, Patterson 2009): a step takes as long as its reading or its arithmetic,
whichever is longer. Arithmetic counts a multiplication and an addition as two operations.
"""

from __future__ import annotations

from dataclasses import dataclass

from tri_serve.plan.facts import Gpu, ModelFacts
from tri_serve.plan.shares import Pace

_BF16 = 2
_EXCHANGES_PER_LAYER = 2
"""All-reduces: after attention and after the MLP (Megatron-LM; vLLM's RowParallelLinear)."""


@dataclass(frozen=True, slots=True)
class Work:
    """One step, on each GPU."""

    nbytes: float
    """Read from its memory (and written to it, where that counts)."""
    flops: float
    exchanges: int = 0
    """Times that the GPUs wait for each other."""
    exchanged_bytes: float = 0.0
    """Sent by each GPU."""


@dataclass(frozen=True)
class Roofline:
    """One model on ``tensor_parallel`` GPUs. Bytes are those of each GPU, operations those of all together."""

    gpu: Gpu
    tensor_parallel: int
    layers: int
    weight_bytes: float
    """Read in every step: all weights but the embedding, of which only rows are."""
    unpacked_bytes: float
    """Written and read again in a step of several tokens by kernels that unpack weights into memory first."""
    kv_bytes_per_token: int
    layer_flops: float
    """For one token, without attention over what is before it."""
    head_flops: float
    """For one token whose successor is wanted."""
    attention_flops: float
    """For one token, for each token that it attends to."""
    hidden_bytes: int
    """Of one token between two layers."""

    def decode(self, batch: int, context: int) -> Work:
        """One token of each of ``batch`` sequences that have ``context`` tokens behind them."""
        each = self.layer_flops + self.head_flops + context * self.attention_flops
        return self._work(batch, self.kv_bytes_per_token * batch * context, batch * each)

    def prefill(self, tokens: int, before: int = 0) -> Work:
        """``tokens`` tokens of a prompt of which ``before`` are in the KV cache already; logits of the last."""
        # The i-th token of the chunk attends to those before the chunk and to i of the chunk.
        attended = tokens * before + tokens * (tokens + 1) / 2
        flops = tokens * self.layer_flops + self.head_flops + attended * self.attention_flops
        return self._work(tokens, self.kv_bytes_per_token * (before + tokens), flops)

    def _work(self, tokens: int, kv_bytes: float, flops: float) -> Work:
        ranks = self.tensor_parallel
        unpacked = self.unpacked_bytes if tokens > 1 else 0.0
        nbytes = self.weight_bytes + unpacked + kv_bytes
        if ranks == 1:
            return Work(nbytes, flops)
        exchanges = _EXCHANGES_PER_LAYER * self.layers + 1
        # A ring sends every byte 2 (n - 1) / n times; one exchange more for the embedding.
        sent = 2 * (ranks - 1) / ranks * tokens * self.hidden_bytes * exchanges
        return Work(nbytes, flops / ranks, exchanges, sent)

    def decode_seconds(self, pace: Pace, batch: int, context: int) -> float:
        """Of one step."""
        return self._seconds(self.decode(batch, context), pace, pace.memory_at(batch), pace.compute)

    def prefill_seconds(self, pace: Pace, tokens: int, chunk: int) -> float:
        """Until a prompt is read and its first token is there, in chunks of at most ``chunk`` tokens."""
        return sum(
            self._seconds(
                self.prefill(min(chunk, tokens - before), before), pace, pace.memory_at(1), pace.prefill
            )
            for before in range(0, tokens, chunk)
        )

    def memory_bound(self, pace: Pace, batch: int, context: int) -> bool:
        """Whether a decode step waits for memory rather than for arithmetic."""
        work = self.decode(batch, context)
        return self.reading(work) / pace.memory_at(batch) >= self.computing(work) / pace.compute

    def reading(self, work: Work) -> float:
        """Seconds at full bandwidth."""
        return work.nbytes / self.gpu.bandwidth

    def computing(self, work: Work) -> float:
        """Seconds at full arithmetic."""
        return work.flops / self.gpu.flops

    def waiting(self, work: Work, pace: Pace) -> float:
        """Seconds of a step that are neither reading nor arithmetic: the engine, and the other GPUs."""
        link = (self.gpu.link or self.gpu.bandwidth) * pace.link
        return pace.overhead + work.exchanges * pace.exchange + work.exchanged_bytes / link

    def _seconds(self, work: Work, pace: Pace, memory_share: float, compute_share: float) -> float:
        busy = max(self.reading(work) / memory_share, self.computing(work) / compute_share)
        return busy + self.waiting(work, pace)


def roofline(model: ModelFacts, gpu: Gpu, tensor_parallel: int, kv_bytes_per_token: int) -> Roofline:
    """The roofline of ``model``; ``kv_bytes_per_token`` is what a token takes on each GPU."""
    shape = model.architecture
    sharded = replicated = 0
    # With tied embeddings the embedding is the head: all of it is read, whether stored once or twice.
    unread = "lm_head" if shape.tie_word_embeddings else "embedding"
    for tensor in model.tensors.values():
        if tensor.kind == "norm":
            replicated += tensor.nbytes
        elif tensor.kind != unread:
            sharded += tensor.nbytes
    linear = shape.num_hidden_layers * sum(n * k for n, k in shape.linear_shapes().values())
    return Roofline(
        gpu=gpu,
        tensor_parallel=tensor_parallel,
        layers=shape.num_hidden_layers,
        weight_bytes=sharded / tensor_parallel + replicated,
        unpacked_bytes=_unpacked_bytes(model) / tensor_parallel,
        kv_bytes_per_token=kv_bytes_per_token,
        layer_flops=2.0 * linear,
        head_flops=2.0 * shape.vocab_size * shape.hidden_size,
        # A query times each key, then each probability times a value: 2 operations per element, twice.
        attention_flops=4.0 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim,
        hidden_bytes=shape.hidden_size * _BF16,
    )


def _unpacked_bytes(model: ModelFacts) -> float:
    """bitsandbytes has a 4-bit kernel for one token only; for more, ``matmul_4bit`` unpacks every matrix to bf16
    and multiplies by that (bitsandbytes/autograd/_functions.py)."""
    if model.quantization.method != "bitsandbytes" or model.quantization.bits != 4:
        return 0.0
    shapes = model.architecture.linear_shapes().items()
    elements = sum(n * k for name, (n, k) in shapes if not model.quantization.leaves_out(name))
    return 2.0 * _BF16 * model.architecture.num_hidden_layers * elements
