"""One seed, many independent streams: every random choice of a run comes from (seed, what it is for)."""

import hashlib


def derive(seed: int, *purpose: object) -> int:
    """Seed of the stream for `purpose`, e.g. `derive(0, "order", epoch)`: in [0, 2**63), equal on every machine."""
    words = "/".join(str(word) for word in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1
