"""Random streams that words name, so that randomness never depends on what ran before."""

import hashlib


def stream_seed(*words: int | str) -> int:
    """Return a 63-bit seed for an independent random stream that the words name, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "big") >> 1
