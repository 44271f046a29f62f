"""Seeds by purpose: every use of randomness draws from a stream of its own."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str, *keys: int | str) -> int:
    """A seed in [0, 2^63) for one use of randomness, such as ``derive(seed, "ppo.rollout", step, row)``.

    It depends on its arguments alone. ``purpose`` names the use and appears at one place in the code, so no two uses share
    random numbers.
    """
    text = "\x1f".join([str(seed), purpose, *(str(key) for key in keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
