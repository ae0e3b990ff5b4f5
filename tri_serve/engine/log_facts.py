"""What an engine says of itself in its log while it starts."""

from __future__ import annotations

import re
from pathlib import Path

# vLLM 0.29 says "GPU KV cache size" on every device, 0.32 names the device.
_KV_CACHE = re.compile(r"\b[A-Z]+ KV cache size: ([\d,]+) tokens")
_KERNEL = re.compile(r"\bUsing (\w+Kernel) for ")
# The API server has been imported and has started the process that will hold the model.
_LOADING = ("Initializing a V1 LLM engine", "Starting to load model")


class LogFacts:
    """Reads what is appended to a log, from its present end on, and keeps the facts in it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._offset = log.stat().st_size if log.exists() else 0
        self._rest = b""
        self.loading = False
        """The engine has begun to load the model."""
        self.kv_cache_tokens: int | None = None
        """Tokens that fit into the KV cache."""
        self.linear_kernel: str | None = None
        """Class of the kernel that multiplies quantised weights; none is named for an unquantised checkpoint."""

    def read(self) -> None:
        """Take in what has been written since the last call. A missing log says nothing."""
        try:
            with self._log.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return
        self._offset += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            self._take(line.decode("utf-8", errors="replace"))

    def _take(self, line: str) -> None:
        if match := _KV_CACHE.search(line):
            self.kv_cache_tokens = int(match[1].replace(",", ""))
        elif match := _KERNEL.search(line):
            self.linear_kernel = match[1]
        elif any(words in line for words in _LOADING):
            self.loading = True
