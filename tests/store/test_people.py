from __future__ import annotations

import pytest
from sqlalchemy import text
from store_helpers import Clock, person

from tutelage.errors import Conflict, NotFound, UsageError
from tutelage.store import audit, people
from tutelage.store.database import Store


@pytest.mark.parametrize("taken", ["Ann", "ANN", " ann ", "Ａnn"])
def test_a_name_is_taken_in_any_spelling_that_looks_like_it(store: Store, taken: str) -> None:
    people.create_user(store, "ann")
    with pytest.raises(Conflict, match="is taken"):
        people.create_user(store, taken)
    assert people.find_user(store, taken) == people.find_user(store, "ann") is not None


def test_names_and_unknown_people(store: Store) -> None:
    for name in ("", "  ", "x" * 101):
        with pytest.raises(UsageError, match="1 to 100"):
            people.create_user(store, name)
    assert people.find_user(store, "ann") is None


def test_a_session_expires_rotates_and_ends(store: Store, clock: Clock) -> None:
    ann = person(store)
    token = people.log_in(store, ann, seconds=60)
    assert people.logged_in(store, token) == people.find_user(store, "ann")
    new = people.log_in(store, ann, seconds=60, previous=token)
    assert people.logged_in(store, token) is None
    assert people.logged_in(store, new) is not None
    clock.now += 59.9
    assert people.logged_in(store, new)
    clock.now += 0.1
    assert people.logged_in(store, new) is None
    tokens = [people.log_in(store, ann, seconds=60) for _ in range(3)]
    people.log_out(store, tokens[0])
    assert [people.logged_in(store, token) is not None for token in tokens] == [False, True, True]
    assert people.log_out_everywhere(store, ann) == 2
    assert not any(people.logged_in(store, token) for token in tokens)


def test_a_new_role_or_password_ends_all_sessions_and_a_new_language_does_not(store: Store) -> None:
    ann = person(store)
    for change, stays in (
        ({"language": "zh"}, True),
        ({"role": "admin"}, False),
        ({"password_hash": "$argon2id$x"}, False),
    ):
        token = people.log_in(store, ann, seconds=60)
        changed = people.update_user(store, ann, actor=ann, **change)
        assert {name: getattr(changed, name) for name in change} == change
        assert (people.logged_in(store, token) is not None) == stays
    assert "change role" in [entry.action for entry in audit.entries(store)]


def test_api_keys_are_their_owners_and_can_be_revoked(store: Store) -> None:
    ann, bob = person(store), person(store, "bob")
    made, key = people.create_api_key(store, ann, "laptop")
    assert key.startswith(made.prefix)
    assert people.user_of_api_key(store, key) == people.find_user(store, "ann")
    with pytest.raises(NotFound):
        people.revoke_api_key(store, bob, made.id)
    people.revoke_api_key(store, ann, made.id)
    assert people.user_of_api_key(store, key) is None
    again, _ = people.create_api_key(store, ann, "laptop")
    assert people.list_api_keys(store, ann) == [again]
    assert people.list_api_keys(store, bob) == []


def test_secrets_are_in_no_column(store: Store) -> None:
    ann = person(store)
    token, (_, key) = people.log_in(store, ann, seconds=60), people.create_api_key(store, ann)
    with store.read() as db:
        rows = [
            str(row) for table in ("login_sessions", "api_keys") for row in db.execute(text(f"SELECT * FROM {table}"))
        ]
    assert len(rows) == 2
    assert not any(secret in row for secret in (token, key) for row in rows)


def test_the_latest_word_on_consent_counts_and_all_words_stay(store: Store) -> None:
    ann = person(store, agrees=False)
    assert people.consent(store, ann) is None
    for version, given, expected in (("1", True, "1"), ("2", True, "2"), ("2", False, None), ("3", True, "3")):
        people.give_consent(store, ann, version, given=given)
        assert people.consent(store, ann) == expected
    with store.read() as db:
        assert db.scalar(text("SELECT count(*) FROM consents")) == 4
