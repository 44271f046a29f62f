"""Every use of randomness has a stream of its own."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tutelage.seeds import derive

PACKAGE = Path(__file__).resolve().parents[1] / "tutelage"
NAMES = {"manual_seed", "Random", "default_rng"}


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


def test_by_hand():
    digest = hashlib.blake2b(b"7\x1fppo.rollout\x1f3\x1f12", digest_size=8).digest()
    assert derive(7, "ppo.rollout", 3, 12) == int.from_bytes(digest, "big") >> 1


keys = st.tuples(st.integers(-5, 5), st.sampled_from(["a", "a.b", "b"]), st.lists(st.integers(0, 200), max_size=2))


@given(st.lists(keys, min_size=2, max_size=40, unique_by=str))
def test_no_two_arguments_share_a_seed(arguments):
    seeds = {derive(seed, purpose, *rest) for seed, purpose, rest in arguments}
    assert len(seeds) == len(arguments)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_no_two_places_name_the_same_purpose():
    named = Counter(
        ast.unparse(call.args[1])
        for path in PACKAGE.rglob("*.py")
        for call in calls(path)
        if isinstance(call.func, ast.Name) and call.func.id == "derive"
    )
    assert len(named) > 15
    assert [purpose for purpose, count in named.items() if count > 1] == []


def test_a_generator_is_seeded_by_a_purpose():
    """By ``derive``, by a variable that holds its result, or (in the world) by a text that names the use."""
    bare = [
        f"{path.name}: {ast.unparse(call)}"
        for path in PACKAGE.rglob("*.py")
        for call in calls(path)
        if (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")) in NAMES
        and call.args
        and ("knobs.seed" in ast.unparse(call.args[0]) or ast.unparse(call.args[0]).endswith(".seed"))
        and "derive" not in ast.unparse(call.args[0])
        and not isinstance(call.args[0], ast.JoinedStr)
    ]
    assert bare == []
