"""Client keys: who may use the gateway. Only hashes of keys are ever held."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping


class ClientKeys:
    """The keys that are let in, by the SHA-256 of each (keys are random 256-bit strings: no stretching)."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = [(name, bytes.fromhex(digest)) for name, digest in hashes.items()]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def name_of(self, key: bytes) -> str | None:
        """The name of ``key``'s owner, or None. Looks at every hash: time tells nothing of which one matched."""
        digest = hashlib.sha256(key).digest()
        found = None
        for name, known in self._hashes:
            if hmac.compare_digest(digest, known):
                found = name
        return found
