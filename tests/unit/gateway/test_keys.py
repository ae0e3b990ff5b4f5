"""Client keys."""

from __future__ import annotations

import hashlib

from tri_serve.gateway.keys import ClientKeys


def test_a_key_is_known_by_its_hash_alone() -> None:
    keys = ClientKeys(
        {"ana": hashlib.sha256(b"sk-one").hexdigest(), "bo": hashlib.sha256(b"sk-two").hexdigest()}
    )
    assert keys.name_of(b"sk-one") == "ana"
    assert keys.name_of(b"sk-two") == "bo"
    assert keys.name_of(b"sk-three") is None
    assert keys.name_of(hashlib.sha256(b"sk-one").hexdigest().encode()) is None


def test_no_keys_is_false() -> None:
    assert not ClientKeys({})
