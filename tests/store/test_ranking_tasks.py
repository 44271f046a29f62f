from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from store_helpers import Clock, answered, asks, completions, person, rank, task

from tutelage.errors import Conflict, NotFound, UsageError
from tutelage.records import Message
from tutelage.store import backup, feedback, labels, people, prompts, tasks
from tutelage.store.database import Store


def test_eight_threads_lease_each_task_once(store: Store) -> None:
    made = {task(store, f"prompt {i}") for i in range(48)}
    workers = [person(store, f"worker {i}") for i in range(8)]
    start = Barrier(len(workers))

    def work(user: str) -> list[str]:
        start.wait()
        done = []
        while (given := tasks.lease(store, user)) is not None:
            done.append(given.task_id)
            labels.submit(store, user, given.task_id, range(1, 4), key=f"{user} {given.task_id}", seconds=1)
        return done

    with ThreadPoolExecutor(len(workers)) as pool:
        done = [task_id for mine in pool.map(work, workers) for task_id in mine]
    assert sorted(done) == sorted(made)
    assert tasks.progress(store) == {"ranked": 48}
    assert backup.check(store) == []


def test_the_next_task_is_found_in_an_index_and_not_by_sorting_all(lite: Store) -> None:
    for statement in tasks._takes("somebody", 0.0, 1.0):
        plain = statement.compile(lite.engine, compile_kwargs={"literal_binds": True})
        with lite.read() as db:
            plan = " / ".join(row.detail for row in db.execute(text(f"EXPLAIN QUERY PLAN {plain}")))
        assert "SCAN" not in plan, plan
        assert "INDEX ix_seats_" in plan, plan
        assert "ix_seats_state_task_id" not in plan or "TEMP B-TREE" not in plan, plan


def test_one_person_in_eight_windows_gets_one_seat_of_a_task(store: Store) -> None:
    made, ann = task(store, people=8), person(store)
    start = Barrier(8)

    def window(_: int) -> str | None:
        start.wait()
        given = tasks.lease(store, ann)
        return given and given.task_id

    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(window, range(8)))
    assert seen <= {made, None}
    assert made in seen
    assert tasks.progress(store) == {"leased": 1, "waiting": 7}


def test_as_many_people_rank_a_task_as_were_asked_for_and_none_twice(store: Store) -> None:
    task(store, people=2)
    ann, bob, cid = (person(store, name) for name in ("ann", "bob", "cid"))
    rank(store, ann, "a b c", "1")
    assert tasks.lease(store, ann) is None
    rank(store, bob, "b a c", "1")
    assert tasks.lease(store, cid) is None
    assert backup.check(store) == []


def test_a_lease_is_ones_own_until_it_expires_and_asking_again_renews_it(store: Store, clock: Clock) -> None:
    made = task(store)
    ann, bob = person(store), person(store, "bob")
    given = tasks.lease(store, ann, seconds=60)
    assert given
    assert given.expires == clock.now + 60
    clock.now += 30
    assert tasks.lease(store, ann, seconds=60).expires == clock.now + 60
    assert tasks.lease(store, bob) is None
    clock.now += 59
    assert tasks.lease(store, ann, seconds=60).expires == clock.now + 60
    clock.now += 60
    assert tasks.lease(store, bob).task_id == made
    with pytest.raises(Conflict, match="not yours any more"):
        labels.submit(store, ann, made, [1, 2, 3], key="k", seconds=1)
    assert labels.labels_of(store, ann) == []
    labels.submit(store, bob, made, [1, 2, 3], key="k", seconds=1)


def test_a_late_ranking_counts_while_nobody_else_has_the_task(store: Store, clock: Clock) -> None:
    made, ann = task(store), person(store)
    tasks.lease(store, ann, seconds=60)
    clock.now += 1000
    assert labels.submit(store, ann, made, [1, 2, 3], key="k", seconds=900).kind == "ranking"


def test_what_people_see_tells_nothing_of_who_wrote_it(store: Store) -> None:
    task(store, answers=("a", "b", "a ", "c"))
    given = tasks.lease(store, person(store))
    assert sorted(given.answers) == ["a", "b", "c"]
    assert set(vars(given)) == {"task_id", "prompt", "answers", "expires"}


def test_each_person_has_an_order_of_their_own_and_keeps_it() -> None:
    orders = {user: tuple(tasks.display_order(0, "task", user, 4)) for user in map(str, range(200))}
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders.values())
    assert orders["7"] == tuple(tasks.display_order(0, "task", "7", 4))
    first = [sum(order[0] == i for order in orders.values()) for i in range(4)]
    assert min(first) > 25  # of 200, 50 expected with a standard deviation of 6


def test_identical_answers_tie_and_the_order_shown_is_undone(store: Store) -> None:
    made, ann = task(store, answers=("a", "b", "a ", "c")), person(store)
    given = tasks.lease(store, ann)
    places = {"a": 5, "b": 1, "c": 5}
    flags = {given.answers.index("b"): ["harmful"]}
    ratings = [{"a": 3, "b": 7, "c": 2}[answer] for answer in given.answers]
    ranks = [places[answer] for answer in given.answers]
    label = labels.submit(store, ann, made, ranks, key="k", seconds=4, ratings=ratings, flags=flags)
    assert label.body["ranks"] == [2, 1, 2, 2]
    assert label.body["ratings"] == [3, 7, 3, 2]
    assert label.body["flags"] == [[], ["harmful"], [], []]
    assert task(store, answers=("a", " a")) is None


@settings(max_examples=40)
@given(st.data())
def test_every_ranking_of_what_is_shown_becomes_the_same_of_the_completions(data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.sampled_from("abcde"), min_size=2, max_size=9).filter(lambda t: len(set(t)) > 1))
    groups: dict[str, list[int]] = {}
    for i, one in enumerate(texts):
        groups.setdefault(one, []).append(i)
    names, order = list(groups), data.draw(st.permutations(range(len(groups))))
    places = {name: data.draw(st.integers(1, 9)) for name in names}
    said = labels._in_task_order(list(groups.values()), order, [places[names[g]] for g in order], False, None, {})
    ranks = said["ranks"]
    assert sorted(set(ranks)) == list(range(1, len(set(ranks)) + 1))
    for i in range(len(texts)):
        for j in range(len(texts)):
            before = (places[texts[i]] > places[texts[j]]) - (places[texts[i]] < places[texts[j]])
            assert before == (ranks[i] > ranks[j]) - (ranks[i] < ranks[j])


def test_a_ranking_is_whole_or_all_bad(store: Store) -> None:
    made, ann = task(store), person(store)
    tasks.lease(store, ann)
    more = {"key": "k", "seconds": 1}
    for ranks, wrong in (
        ([1, None, 2], {}),
        ([1, 2], {}),
        ([0, 1, 2], {}),
        ([1, 2, 3], {"ratings": [1, 2, 8]}),
        ([1, 2, 3], {"ratings": [1, 2]}),
        ([1, 2, 3], {"flags": {0: ["rude"]}}),
        ([1, 2, 3], {"flags": {3: ["false"]}}),
    ):
        with pytest.raises(UsageError):
            labels.submit(store, ann, made, ranks, **more, **wrong)
    with pytest.raises(UsageError, match="key"):
        labels.submit(store, ann, made, [1, 2, 3], key="", seconds=1)
    bad = labels.submit(store, ann, made, [1, None, None], all_bad=True, **more)
    assert bad.body["all_bad"]
    assert bad.body["ranks"] == [1, 1, 1]


def test_a_label_sent_again_counts_once_even_at_the_same_time(store: Store) -> None:
    made, ann = task(store), person(store)
    tasks.lease(store, ann)
    start = Barrier(6)

    def send(_: int) -> labels.Label:
        start.wait()
        return labels.submit(store, ann, made, [1, 2, 3], key="k", seconds=1)

    with ThreadPoolExecutor(6) as pool:
        sent = list(pool.map(send, range(6)))
    assert len({label.id for label in sent}) == 1
    assert labels.submit(store, ann, made, [3, 2, 1], key="k", seconds=9) == sent[0]
    with pytest.raises(Conflict):
        labels.submit(store, ann, made, [1, 2, 3], key="another", seconds=1)
    assert labels.labels_of(store, ann) == [sent[0]]


def test_undo_gives_the_task_back_and_deletes_nothing(store: Store) -> None:
    task(store)
    ann, bob = person(store), person(store, "bob")
    with pytest.raises(Conflict, match="no ranking"):
        labels.undo(store, ann, key="u0")
    first = rank(store, ann, "a b c", "1")
    undone = labels.undo(store, ann, key="u")
    assert labels.undo(store, ann, key="u") == undone
    assert undone.body == {"of": first.id}
    assert tasks.lease(store, bob) is None
    second = rank(store, ann, "c b a", "2")
    assert [label.id for label in labels.labels_of(store, ann)] == [second.id, undone.id, first.id]
    with store.read() as db:
        counting = db.execute(text("SELECT 1")).all() and list(
            db.scalars(labels.select(labels.labels.c.id).where(labels.counts()))
        )
    assert counting == [second.id]
    labels.undo(store, ann, key="u2")
    with pytest.raises(Conflict):
        labels.undo(store, ann, key="u3")
    assert backup.check(store) == []


def test_a_skipped_task_goes_to_somebody_else(store: Store) -> None:
    made = task(store)
    ann, bob = person(store), person(store, "bob")
    with pytest.raises(NotFound):
        labels.skip(store, ann, "no such", "x", key="k")
    with pytest.raises(Conflict):
        labels.skip(store, ann, made, "x", key="k")
    tasks.lease(store, ann)
    label = labels.skip(store, ann, made, "call me at +1 415 555 2671", key="k")
    assert label.body == {"reason": "call me at [PHONE]"}
    assert labels.skip(store, ann, made, "again", key="k") == label
    assert tasks.lease(store, ann) is None
    assert tasks.lease(store, bob).task_id == made


def test_ones_own_prompts_come_last(store: Store) -> None:
    ann, bob = person(store), person(store, "bob")
    asks(store, ann, "ann's question")
    prompts.collect(store)
    (own,) = prompts.prompts_to_rank(store, 9, held_out=0)
    mine = tasks.create_task(store, own.id, completions("x", "y"), people=2)
    other = task(store)
    assert tasks.lease(store, ann).task_id == other
    assert tasks.lease(store, bob).task_id == mine
    rank(store, ann, "a b c", "1")
    assert tasks.lease(store, ann).task_id == mine


def test_no_labels_without_consent_neither_the_labellers_nor_the_askers(store: Store) -> None:
    ann, bob = person(store), person(store, "bob", agrees=False)
    made = task(store)
    for call in (
        lambda: tasks.lease(store, bob),
        lambda: labels.submit(store, bob, made, [1, 2, 3], key="k", seconds=1),
        lambda: labels.demonstrate(store, bob, "p", Message(role="assistant", content="x"), key="k"),
    ):
        with pytest.raises(UsageError, match="agreed"):
            call()
    with pytest.raises(NotFound):
        tasks.lease(store, "nobody")
    tasks.withdraw(store, made)
    asks(store, ann, "ann's question")
    prompts.collect(store)
    (own,) = prompts.prompts_to_rank(store, 9, held_out=0)
    tasks.create_task(store, own.id, completions("x", "y"))
    people.give_consent(store, bob, "1")
    people.give_consent(store, ann, "1", given=False)
    assert tasks.lease(store, bob) is None
    people.give_consent(store, ann, "2")
    assert tasks.lease(store, bob) is not None


def test_a_withdrawn_task_is_nobodys_and_keeps_its_rankings(store: Store) -> None:
    made, ann, bob = task(store, people=3), person(store), person(store, "bob")
    rank(store, ann, "a b c", "1")
    tasks.lease(store, bob)
    assert tasks.withdraw(store, made) == 2
    with pytest.raises(Conflict):
        labels.submit(store, bob, made, [1, 2, 3], key="k", seconds=1)
    assert tasks.progress(store) == {"ranked": 1, "withdrawn": 2}


def test_every_state_is_reached_from_waiting_and_withdrawn_is_final() -> None:
    reached = {"waiting"}
    for _ in range(5):
        reached |= {
            after for moves in tasks.TRANSITIONS.values() for before, after in moves.items() if before in reached
        }
    assert reached == {"waiting", "leased", "ranked", "withdrawn"}
    assert not any("withdrawn" in moves for moves in tasks.TRANSITIONS.values())


def test_prompts_are_collected_once_and_scrubbed(store: Store) -> None:
    ann, eve = person(store), person(store, "eve", agrees=False)
    turn = asks(store, ann, "Write to ann@example.org about tides")
    answered(store, ann, turn, "Dear ann@example.org, ...")
    asks(store, ann, "secret", keep_out=True)
    asks(store, eve, "not agreed")
    assert prompts.collect(store) == {"prompts": 1, "EMAIL": 1}
    assert prompts.collect(store) == {}
    (one,) = prompts.prompts_to_rank(store, 9, held_out=0)
    assert one.prompt.messages[-1].text == "Write to [EMAIL] about tides"
    assert one.reason == "random"


def test_disliked_answers_choose_what_is_ranked_but_not_what_is_for_evaluation(store: Store) -> None:
    expected = set()
    for i in range(40):
        user = person(store, f"user {i}")
        turn = asks(store, user, f"question {i}")
        answer = answered(store, user, turn, "x")
        if i % 4 == 0:
            feedback.give_thumb(store, user, answer.id, "down", key="1")
            expected.add(f"question {i}")
        if i % 8 == 0:
            feedback.give_thumb(store, user, answer.id, "none", key="2")
            expected.discard(f"question {i}")
    prompts.collect(store)
    chosen = prompts.prompts_to_rank(store, 20, held_out=0.25)
    split = {one.prompt.messages[0].text: one.purpose for one in prompts.prompts_to_rank(store, 1000, held_out=0.25)}
    training = [one for one in chosen if one.purpose == "train"]
    disliked = [one.prompt.messages[0].text for one in training if one.reason == "thumbs"]
    assert len(chosen) == 20
    assert disliked == [one.prompt.messages[0].text for one in training[: len(disliked)]]
    assert set(disliked) == {question for question in expected if split[question] == "train"} != set()
    assert all(one.reason == "random" for one in chosen if one.purpose == "evaluate")
    tasks.create_task(store, chosen[0].id, completions("a", "b"))
    assert chosen[0].id not in [one.id for one in prompts.prompts_to_rank(store, 1000)]
