from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_helpers import Clock, answered, asks, completions, person, rank, task

from tutelage.data.formats import read_conversations, read_prompts, read_rankings
from tutelage.errors import UsageError
from tutelage.records import Message, Prompt
from tutelage.store import conversations, feedback, labels, people, prompts, tasks
from tutelage.store.database import Store
from tutelage.store.export import Asked, _asked, choose, export, pseudonym


def lines(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def task_of(store: Store, text: str, **more: object) -> str:
    """A task about a prompt that somebody asked."""
    prompts.collect(store)
    (own,) = [one for one in prompts.prompts_to_rank(store, 10**6, held_out=0) if one.prompt.messages[-1].text == text]
    return tasks.create_task(store, own.id, completions("a", "b", "c"), **more)


def test_rankings_and_comparisons_train_and_thumbs_do_not(store: Store, tmp_path: Path) -> None:
    ann, bob = person(store), person(store, "bob")
    turn = asks(store, ann, "Why is the sea salty? I am ann@x.org")
    one, two = (
        answered(store, ann, turn, "salt", model="new"),
        answered(store, ann, turn, "ann@x.org, rivers", model="old"),
    )
    feedback.give_thumb(store, ann, one.id, "up", key="t")
    feedback.edit_answer(store, ann, one.id, "Rivers bring salt.", key="e")
    more = {"policies": ("greedy", "sampled")}
    feedback.compare_answers(store, ann, (two.id, one.id), "first", key="c1", **more)
    feedback.compare_answers(store, ann, (two.id, one.id), "second", key="c2", **more)
    task_of(store, "Why is the sea salty? I am [EMAIL]")
    label = rank(store, bob, "c a=b", "r", note="mail me: bob@x.org", flags={0: ["false"]})
    result = export(store, tmp_path / "out", held_out=0)
    ranked, compared = read_rankings(tmp_path / "out" / "rankings.jsonl")
    assert (ranked.ranks, ranked.labeller, ranked.id) == ((2, 2, 1), pseudonym(bob), f"label-{label.id}")
    assert ranked.note == "mail me: [EMAIL]"
    assert ranked.seconds == 3.0
    assert sorted(ranked.flags) == [(), (), ("false",)]
    assert ranked.meta["signal"] == "ranking"
    assert sorted(ranked.meta["shown"]) == [0, 1, 2]
    assert ranked.flags[ranked.meta["shown"][0]] == ("false",)
    assert [made.model for made in ranked.completions] == ["m0", "m1", "m2"]
    assert compared.ranks == (2, 1)
    assert compared.meta == {
        "signal": "comparison",
        "shown": [0, 1],
        "policies": ["greedy", "sampled"],
    }
    assert [(made.text, made.model) for made in compared.completions] == [("[EMAIL], rivers", "old"), ("salt", "new")]
    (prompt,) = read_prompts(tmp_path / "out" / "prompts.jsonl")
    assert prompt.messages[0].text == "Why is the sea salty? I am [EMAIL]"
    assert result.rows == {"prompts.jsonl": 1, "rankings.jsonl": 2, "sources.jsonl": 3}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", *result.rows]
    everything = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert "x.org" not in everything
    assert ann not in everything
    assert bob not in everything


def test_edits_are_demonstrations_only_on_request(store: Store, tmp_path: Path) -> None:
    ann, bob = person(store), person(store, "bob")
    answer = answered(store, ann, asks(store, ann, "Why?"), "because")
    for i, text in enumerate(("first", "last")):
        feedback.edit_answer(store, ann, answer.id, text, key=str(i))
    prompts.collect(store)
    (prompt,) = prompts.prompts_to_rank(store, 9, held_out=0)
    written = Message(role="assistant", content="by hand")
    assert labels.demonstrate(store, bob, prompt.id, written, key="d") == labels.demonstrate(
        store, bob, prompt.id, written, key="d"
    )
    for edits, expected in ((False, ["by hand"]), (True, ["by hand", "last"])):
        export(store, tmp_path / str(edits), held_out=0, edits=edits)
        found = list(read_conversations(tmp_path / str(edits) / "demonstrations.jsonl"))
        assert [one.messages[-1].text for one in found] == expected
        assert all(one.messages[0].text == "Why?" for one in found)


def test_every_row_is_traced_to_its_source(store: Store, tmp_path: Path) -> None:
    ann, bob = person(store), person(store, "bob")
    asked = asks(store, ann, "Why?")
    task_of(store, "Why?")
    label = rank(store, bob, "a b c", "r")
    export(store, tmp_path / "out", held_out=0)
    found = {(row["file"], row["line"]): row for row in lines(tmp_path / "out", "sources.jsonl")}
    row = found["rankings.jsonl", 1]
    assert (row["source"], row["author"], row["labeller"]) == (f"label-{label.id}", pseudonym(ann), pseudonym(bob))
    assert row["message"] == asked.id
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(found) == sum(count for name, count in manifest["rows"].items() if name != "sources.jsonl")


def test_who_has_not_agreed_or_keeps_it_out_is_in_no_row(store: Store, tmp_path: Path) -> None:
    ann, bob, eve = person(store), person(store, "bob"), person(store, "eve", agrees=False)
    kept = asks(store, ann, "kept out")
    asks(store, ann, "fine")
    asks(store, eve, "never agreed")
    left = asks(store, bob, "bob's")
    for text in ("kept out", "fine", "bob's"):
        task_of(store, text, people=2)
    for i in range(3):
        rank(store, bob, "a b c", f"r{i}")
    rank(store, ann, "c b a", "r")
    conversations.update_chat(store, ann, kept.chat_id, keep_out=True)
    people.give_consent(store, bob, "1", given=False)
    result = export(store, tmp_path / "out", held_out=0)
    (prompt,) = read_prompts(tmp_path / "out" / "prompts.jsonl")
    assert prompt.messages[0].text == "fine"
    rankings = list(read_rankings(tmp_path / "out" / "rankings.jsonl")) if "rankings.jsonl" in result.rows else []
    assert all(one.labeller == pseudonym(ann) and one.prompt.messages[0].text == "fine" for one in rankings)
    assert result.left_out["prompt: kept out of training by its author"] == 1
    assert result.left_out["prompt: its author has not agreed"] == 2
    conversations.update_chat(store, ann, kept.chat_id, keep_out=False)
    people.give_consent(store, bob, "2")
    export(store, tmp_path / "again", held_out=0)
    assert {one.messages[0].text for one in read_prompts(tmp_path / "again" / "prompts.jsonl")} == {
        "fine",
        "kept out",
        "bob's",
    }
    assert left.message.text == "bob's"


def test_undone_rankings_are_left_out(store: Store, tmp_path: Path) -> None:
    ann = person(store)
    task(store)
    rank(store, ann, "a b c", "1")
    labels.undo(store, ann, key="u")
    result = export(store, tmp_path / "out", held_out=0)
    assert "rankings.jsonl" not in result.rows
    rank(store, ann, "c b a", "2")
    export(store, tmp_path / "again", held_out=0)
    assert [one.ranks for one in read_rankings(tmp_path / "again" / "rankings.jsonl")] == [(3, 2, 1)]


def test_the_same_store_gives_the_same_bytes(store: Store, tmp_path: Path, clock: Clock) -> None:
    for i in range(40):  # splits go by random ids: with few people one may be empty
        user = person(store, f"user {i}")
        answered(store, user, asks(store, user, f"question {i} 潮汐"), "x")
    results = []
    for name in ("one", "two"):
        results.append(export(store, tmp_path / name, held_out=0.3))
        clock.now += 1000
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]
    assert results[0].id != results[1].id
    assert {"prompts.jsonl", "prompts_heldout.jsonl"} <= files[0].keys()


def test_a_taken_folder_or_nothing_to_export_is_an_error_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    eve = person(store, agrees=False)
    asks(store, eve, "never agreed")
    with pytest.raises(UsageError, match=r"nothing to export yet \(left out: 1 x prompt: its author has not agreed"):
        export(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    task(store)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(UsageError, match="exists already"):
        export(store, tmp_path / "taken")


def test_what_is_ranked_for_evaluation_is_held_out_whole(store: Store, tmp_path: Path) -> None:
    ann = person(store)
    task(store, "for evaluation", purpose="evaluate")
    task(store, "for training")
    for i in range(2):
        rank(store, ann, "a b c", str(i))
    asks(store, ann, "ann's, who trains")
    task_of(store, "ann's, who trains", purpose="evaluate")
    result = export(store, tmp_path / "out", held_out=0)
    for read, name in ((read_rankings, "rankings"), (read_prompts, "prompts")):
        for end, text in (("_heldout", "for evaluation"), ("", "for training")):
            (row,) = read(tmp_path / "out" / f"{name}{end}.jsonl")
            assert (row.prompt if name == "rankings" else row).messages[0].text == text
    assert result.left_out["prompt: ranked for evaluation, while its author's others train"] == 1


# ---- the choice of prompts


def asked(rows: list[tuple[str | None, str]]) -> list[Asked]:
    return [
        Asked(f"{i:04d}", author, None, None, Prompt(messages=(Message(role="user", content=text),)), False)
        for i, (author, text) in enumerate(rows)
    ]


TEXTS = st.one_of(
    st.text("ab", min_size=1, max_size=4),
    st.text("ab 潮", max_size=6).map(lambda tail: "same long beginning " * 6 + tail),
)
ROWS = st.lists(st.tuples(st.one_of(st.none(), st.sampled_from("ABCDEFGH")), TEXTS), max_size=60)


@settings(max_examples=150)
@given(ROWS, st.integers(0, 5), st.integers(1, 5), st.floats(0, 1))
def test_the_rules_hold_for_any_prompts(rows: list, seed: int, per_user: int, held_out: float) -> None:
    given_rows = asked(rows)
    chosen = choose(given_rows, seed=seed, per_user=per_user, held_out=held_out)
    heads = [chosen.by_id[name] for name in chosen.heads]
    by_author: dict[str, set[str]] = {}
    for one, split in chosen.by_id.values():
        if one.author:
            by_author.setdefault(one.author, set()).add(split)
    assert all(len(splits) == 1 for splits in by_author.values())
    for author in "ABCDEFGH":
        assert sum(one.author == author for one, _ in heads) <= per_user
    said = [" ".join(one.prompt.messages[0].text.split()).encode() for one, _ in heads]
    for i, text in enumerate(said):
        for other in said[:i]:
            common = next(
                (n for n, (x, y) in enumerate(zip(text, other, strict=False)) if x != y), min(len(text), len(other))
            )
            assert common < 96
            assert text != other
    splits: dict[bytes, set[str]] = {}
    for one, split in chosen.by_id.values():
        splits.setdefault(prompts.prefix_key(one.prompt), set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert chosen == choose(given_rows, seed=seed, per_user=per_user, held_out=held_out)


def test_of_a_prolific_person_the_seed_draws_and_no_more_than_200() -> None:
    rows = asked([("A", f"{i} question") for i in range(300)] + [(None, f"{i} imported") for i in range(250)])
    chosen = {seed: choose(rows, seed=seed, held_out=0) for seed in (0, 1)}
    mine = {seed: [name for name in one.heads if one.by_id[name][0].author == "A"] for seed, one in chosen.items()}
    assert len(mine[0]) == len(mine[1]) == 200
    assert mine[0] != mine[1]
    assert len(chosen[0].heads) == 450
    assert chosen[0].left_out == {"prompt: its author has 200 others": 100}


def test_short_prompts_count_as_one_only_after_the_same_words() -> None:
    def prompt(*said: str) -> Prompt:
        roles = ("user", "assistant")
        return Prompt(messages=tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(said)))

    keys = {name: prompts.prefix_key(one) for name, one in {
        "yes": prompt("Shall I?", "Do you want to?", "Yes"),
        "again": prompt("Shall  I?", "Do you want to?", "yes "),
        "else": prompt("Shall I?", "Are you sure?", "yes"),
    }.items()}  # fmt: skip
    assert keys["yes"] == keys["again"] != keys["else"]


def test_a_share_of_the_people_is_held_out_and_stays_so_as_the_share_grows() -> None:
    people_ids = [f"user {i}" for i in range(2000)]
    at = {
        share: {p for p in people_ids if prompts.split_of(p, "", held_out=share) == "evaluate"} for share in (0.1, 0.3)
    }
    assert 150 < len(at[0.1]) < 250
    assert 530 < len(at[0.3]) < 670
    assert at[0.1] < at[0.3]


def test_what_is_ranked_for_training_is_exported_for_training_whatever_the_share(store: Store) -> None:
    for i in range(30):
        user = person(store, f"user {i}")
        for j in range(2):
            asks(store, user, f"question {i} {j}")
        prompts.add_prompt(store, Prompt(messages=(Message(role="user", content=f"imported {i}"),)))
    prompts.collect(store)
    with store.read() as db:
        asked = list(_asked(db))

    @settings(max_examples=25)
    @given(st.floats(0, 1), st.integers(0, 2**31))
    def holds(held_out: float, seed: int) -> None:
        to_rank = {one.id: one.purpose for one in prompts.prompts_to_rank(store, 10**6, held_out=held_out)}
        exported = {id: split for id, (_, split) in choose(asked, seed=seed, held_out=held_out).by_id.items()}
        assert exported.items() <= to_rank.items()
        assert len(exported) == 90

    holds()
