"""A prompt's own first tokens, so that no prefix cache knows it: as many tokens for every prompt, counted once.

vLLM's cache hashes blocks in a chain (vllm/v1/core/kv_cache_utils.py, 0.32): what differs in the first block
differs in all that follow.
"""

from __future__ import annotations

import hashlib
import string

from tri_serve.load.workload.tokenizer import Tokenizer

LETTERS = 6
"""Of 26 letters: 3·10⁸ salts. Two prompts with the same one share no more than it, unless their texts agree too."""
_FEWEST = 8
_SAMPLES = 32


class Salts:
    """Salts that are all equally long for one tokenizer: single letters, ``q f w a k m:``."""

    def __init__(self, tokenizer: Tokenizer, seed: int, nonce: str = "") -> None:
        """``nonce`` is the run's own: the same scenario asked again must not find its last prompts cached."""
        self._key = hashlib.blake2b(f"{seed}/{nonce}".encode(), digest_size=16).digest()
        self._letters = _alike(tokenizer, string.ascii_letters)
        self.uniform = len(self._letters) >= _FEWEST and self._is_uniform(tokenizer)
        """Whether all salts are equally long; if not, prompts may be a few tokens off."""
        if len(self._letters) < _FEWEST:
            self._letters = list(string.ascii_lowercase)
        self.example = self.of("example")
        self.tokens = tokenizer.count(self.example)

    def _is_uniform(self, tokenizer: Tokenizer) -> bool:
        return len({tokenizer.count(self.of(f"sample {number}")) for number in range(_SAMPLES)}) == 1

    def of(self, name: str) -> str:
        """The salt of what has this name, in this run."""
        number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16, key=self._key).digest())
        letters: list[str] = []
        for _ in range(LETTERS):
            number, letter = divmod(number, len(self._letters))
            letters.append(self._letters[letter])
        return " ".join(letters) + ":"


def _alike(tokenizer: Tokenizer, letters: str) -> list[str]:
    """The most letters that are equally long, at the beginning and after a space."""
    by_length: dict[tuple[int, int], list[str]] = {}
    for letter in letters:
        lengths = tokenizer.count(f"{letter} a:"), tokenizer.count(f"a {letter} {letter}:")
        by_length.setdefault(lengths, []).append(letter)
    return max(by_length.values(), key=len)
