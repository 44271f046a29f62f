from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import NotFound, UsageError
from tutelage.store import audit, models
from tutelage.store.database import Store


def test_promotion_and_rolling_back_keep_their_history(store: Store) -> None:
    assert models.promoted(store) is None
    with pytest.raises(NotFound):
        models.promote(store, "a", actor="gate")
    for name in "abc":
        models.register_model(store, name, f"runs/{name}", run="demo")
        models.promote(store, name, actor="gate", reason="wins 60%")
    with pytest.raises(NotFound):
        models.register_model(store, "d", "runs/d", trained_on=["no such"])
    assert models.register_model(store, "a", "moved").folder == "runs/a"
    assert [models.roll_back(store, actor="ann").model for _ in range(2)] == ["b", "a"]
    with pytest.raises(UsageError, match="no earlier model"):
        models.roll_back(store, actor="ann")
    models.promote(store, "c", actor="gate")
    assert models.roll_back(store, actor="ann", reason="rude").model == "a"
    assert models.promoted(store) == models.get_model(store, "a")
    assert [one.model for one in models.promotion_history(store)] == ["a", "c", "a", "b", "c", "b", "a"]
    assert [entry.action for entry in audit.entries(store, 2)] == ["roll back", "promote"]


def test_a_round_keeps_all_it_used(store: Store) -> None:
    made = models.start_round(store, {"seed": 1})
    models.start_round(store, {})
    models.update_round(store, made.id, state="labelling", record={"tasks": ["t1"]})
    models.update_round(store, made.id, record={"export": "e1"})
    first, second = models.list_rounds(store)
    assert (first.state, first.record) == ("labelling", {"seed": 1, "tasks": ["t1"], "export": "e1"})
    assert (second.state, second.record) == ("started", {})
    with pytest.raises(NotFound):
        models.update_round(store, "no such")


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefgh"), max_size=3)),
    st.sets(st.sampled_from("abcdefgh")),
)
def test_descendants_are_what_a_walk_up_the_parents_finds(parents: dict[str, list[str]], first: set[str]) -> None:
    def above(name: str, seen: frozenset[str] = frozenset()) -> bool:
        return name in first or any(above(p, seen | {name}) for p in parents.get(name, ()) if p not in seen)

    assert models.descendants(parents, first) == first | {name for name in parents if above(name)}
