import ast
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.records import Document
from tutelage.world.facts import LANGUAGES, RELATIONS, make_world
from tutelage.world.tasks.wording import mistakes
from tutelage.world.texts import document, documents, forum, genres
from tutelage.world.texts.pen import Pen
from tutelage.world.wordings import wordings

WORLD = make_world(0)
HAN = re.compile(r"[\u4e00-\u9fff]")


@cache
def corpus() -> tuple[Document, ...]:
    return tuple(documents(WORLD, count=16000, seed=0))


def of(*sources: str) -> list[Document]:
    found = [doc for doc in corpus() if doc.source in sources]
    assert len(found) > 50
    return found


def words_in(text: str, keys: list[str]) -> set[str]:
    """Which of these keys are named in the text, in either language; in English as whole words."""
    words = {word.lower() for word in re.findall(r"[A-Za-z]+|[0-9]+", text)}
    found = set()
    for key in keys:
        english = WORLD.name(key, "en").lower()
        if words & {english, f"{english}s", f"{english}es"} or (not key.isdigit() and WORLD.name(key, "zh") in text):
            found.add(key)
    return found


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_a_document_depends_on_seed_and_index_alone(seed: int, count: int) -> None:
    docs = list(documents(WORLD, count=count, seed=seed))
    assert docs == [document(WORLD, seed=seed, index=i) for i in range(count)]
    assert docs == list(documents(WORLD, count=count + 3, seed=seed))[:count]
    assert docs != list(documents(WORLD, count=count, seed=seed + 1))


def test_every_genre_occurs_as_often_as_its_weight_says() -> None:
    counts = Counter(doc.source for doc in corpus())
    total = sum(wordings("genres").values())
    for genre, weight in wordings("genres").items():
        assert abs(counts[genre] / len(corpus()) - weight / total) < 0.015


@pytest.mark.parametrize("genre", genres())
def test_every_genre_can_be_written_in_a_small_world(genre: str) -> None:
    world = make_world(0, people=16, towns=6, values=8)
    for i in range(60):
        assert genres()[genre](Pen(world, random.Random(i), "zh" if i % 2 else "en"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_relation_has_many_wordings_in_both_languages(language: str) -> None:
    known = wordings("relations")
    for kind, relations in RELATIONS.items():
        for part in ("says", "asks", "denies"):
            assert set(known[part][kind]) == set(relations)
        for relation in relations:
            says, asks = (known[part][kind][relation][language] for part in ("says", "asks"))
            assert len(set(says)) >= 6
            assert len(set(asks)) >= 3
            assert all("{v}" in text or "{V}" in text or "{n}" in text for text in says)
            assert "{v}" in known["denies"][kind][relation][language]
            assert relation in known["labels"][language]
    assert set(known["of_myself"]["person"]) == set(RELATIONS["person"])


def texts(entry: object, key: str = "") -> Iterator[str]:
    """All texts within an entry of the wordings, or those under a key ("en") at any depth."""
    if isinstance(entry, dict):
        for name, part in entry.items():
            yield from texts(part, "" if name == key else key)
    elif isinstance(entry, list):
        for part in entry:
            yield from texts(part, key)
    elif not key:
        assert isinstance(entry, str), f"YAML reads {entry!r} as something else than a text; quote it"
        yield entry


@pytest.mark.parametrize("file", ["relations", "telling", "everyday", "exercises", "forum", "dirt"])
def test_wordings_are_texts_of_their_language(file: str) -> None:
    assert list(texts(wordings(file)))
    english, chinese = (set(texts(wordings(file), language)) for language in LANGUAGES)
    assert not any(HAN.search(text) for text in english)
    assert sum(bool(HAN.search(text)) for text in chinese) > 0.8 * len(chinese)


def test_every_fact_is_told_often_in_both_languages() -> None:
    told = {"en": Counter(), "zh": Counter()}
    for doc in corpus():
        language = doc.meta["language"]
        for fact in doc.meta.get("facts", ()):
            subject, relation = fact.split(".")
            names = (WORLD.name(subject, language), WORLD.name(WORLD.value(subject, relation), language))
            assert all(name.lower() in doc.text.lower() for name in names), (fact, doc.text)
            told[language][fact] += 1
    facts = [f"{key}.{relation}" for key, entity in WORLD.entities.items() for relation in RELATIONS[entity.kind]]
    # A whole corpus of 50,000 documents tells each fact three times as often.
    assert all(told["en"][fact] >= 4 and told["en"][fact] + told["zh"][fact] >= 8 for fact in facts)
    assert sum(told["zh"][fact] == 0 for fact in facts) <= len(facts) / 100


def test_lives_and_notes_tell_no_falsehood() -> None:
    """Whatever value is named in a life or a note about an entity is that entity's own."""
    for doc in of("biography", "note"):
        subject = doc.meta["facts"][0].split(".")[0]
        for relation in RELATIONS[WORLD.kind(subject)]:
            named = words_in(doc.text, [key for key in WORLD.pools[relation] if key != subject])
            assert named <= {WORLD.value(subject, relation)}, doc.text


def test_chinese_is_at_least_a_fifth() -> None:
    chinese = [doc for doc in corpus() if HAN.search(doc.text)]
    assert len(chinese) >= 0.2 * len(corpus())
    size = sum(len(doc.text.encode()) for doc in corpus())
    assert sum(len(letter.encode()) for doc in chinese for letter in HAN.findall(doc.text)) >= 0.2 * size
    for doc in corpus():
        if doc.meta["language"] == "zh":
            assert HAN.search(doc.text)
        elif doc.source not in ("translation", "forum"):
            assert not HAN.search(doc.text)


def test_all_sums_are_right_and_spaced_alike() -> None:
    signs = re.compile(r"(\d+) \+ (\d+) = (\d+)")
    spoken = re.compile(r"(\d+)(?: plus | and |加)(\d+)(?: is | make |等于|是)(\d+)")
    asked = re.compile(r"(\d+) \+ (\d+)(?:是多少|等于多少)?[?？](?:\n答：|\nA: | |)(\d+)(?:\n|$)")
    pairs = set()
    for doc in of("sums"):
        found = [*signs.findall(doc.text), *spoken.findall(doc.text), *asked.findall(doc.text)]
        assert found, doc.text
        for a, b, c in found:
            assert int(a) + int(b) == int(c), doc.text
            pairs.add((int(a), int(b)))
        assert not re.search(r"\d\+|\+\d|\d=|=\d", doc.text)
    assert len(pairs) > 1000
    assert max(map(max, pairs)) >= 99


def test_lists_are_copied_sorted_and_turned_round_rightly() -> None:
    seen = Counter()
    for doc in of("lists"):
        head, *rest = doc.text.split("\n")
        words = re.split(r", |、", re.split(r": |：", head, maxsplit=1)[1])
        label = ""
        blocks: dict[str, list[str]] = {}
        for line in rest:
            match = re.match(r"([^:：\-\d]+)(?:: |：|:$)(.*)", line)
            if match:
                label = match[1]
                blocks[label] = [match[2]] if match[2] else []
            else:
                blocks[label].append(line)
        for label, lines in blocks.items():
            items = re.split(r", |、", lines[0])
            if label in ("Copied", "Copy", "Again", "抄写", "照抄"):
                assert items == words
            elif label in ("Sorted", "In order", "从小到大", "排序"):
                assert items == (sorted(words, key=int) if words[0].isdigit() else sorted(words))
            elif label in ("Backwards", "Reversed", "倒过来", "倒序"):
                assert items == words[::-1]
            elif label in ("Numbered", "编号"):
                assert lines == [f"{i}. {word}" for i, word in enumerate(words, 1)]
            elif label in ("As bullets", "每行一个"):
                assert lines == [f"- {word}" for word in words]
            elif label in ("First", "第一个", "Last", "最后一个"):
                assert lines == [words[0 if label in ("First", "第一个") else -1]]
            elif label in ("How many", "几个"):
                assert lines == [str(len(words))]
            else:
                continue
            seen[label] += 1
    assert len(seen) >= 18


def test_answers_to_a_passage_stand_in_the_passage() -> None:
    keys = [key for relation in ("town", "job", "pet", "food", "born", "craft") for key in WORLD.pools[relation]]
    answered = 0
    for doc in of("reading"):
        passage, *rest = doc.text.split("\n")
        below = "\n".join(rest)
        assert below
        assert words_in(below, keys) <= words_in(passage, keys), doc.text
        assert set(re.findall(r"\d+", below)) <= set(re.findall(r"\d+", passage)), doc.text
        answered += bool(words_in(below, keys))
    assert answered > 300


def test_fields_that_were_extracted_stand_in_the_passage() -> None:
    for doc in of("extraction"):
        passage, *rest = doc.text.split("\n")
        values = [
            value
            for line in rest
            for value in re.findall(r"(?:name|town|job|pet|friend|food|born)\"?: \"?([\w]+)", line)
        ]
        values += [
            v for line in rest for v in re.findall(r"(?:名字|城镇|工作|宠物|朋友|食物|出生)\"?(?:: |：)\"?(\w+)", line)
        ]
        values = [value for value in values if value not in ("名字", "name", "和内容")]
        assert len(values) >= 2, doc.text
        assert all(value in passage for value in values), doc.text


def test_exercises_are_about_strangers() -> None:
    people = list(WORLD.people)
    for doc in of("reading", "extraction", "rewriting", "lists", "sums", "mending", "dispute"):
        assert "facts" not in doc.meta
        assert not words_in(doc.text, people), doc.text


def test_a_story_contains_the_words_it_was_given() -> None:
    given_words = 0
    for doc in of("story"):
        match = re.match(r"(?:Words: |词语：|Given: |给出的词：)(.+?)(?:\n|\. |。)", doc.text)
        if match:
            story = doc.text[match.end() :]
            for word in re.split(r", |、", match[1]):
                assert word in story, doc.text
            given_words += 1
    assert given_words > 50


def test_corrections_deny_the_false_and_tell_the_true() -> None:
    for doc in of("correction"):
        (fact,) = doc.meta["facts"]
        subject, relation = fact.split(".")
        value = WORLD.value(subject, relation)
        named = words_in(doc.text, [key for key in WORLD.pools[relation] if key != subject])
        assert value in named
        assert len(named) == 2, doc.text


def test_mended_sentences_are_the_right_ones() -> None:
    """A mistake has its right sentence below it, from which one of the known mistakes made it."""
    pairs = 0
    for doc in of("mending"):
        language = doc.meta["language"]
        for wrong, right in re.findall(r"(?:Wrong: |错：)(.+)\n(?:Right: |对：)(.+)", doc.text):
            assert wrong in mistakes(right, language)
            pairs += 1
    assert pairs > 50


def test_who_is_doubted_admits_what_was_wrong_and_nothing_else() -> None:
    admits, stands = (set(texts(wordings("exercises")["dispute"][part])) for part in ("admits", "stands"))
    seen = Counter()
    for doc in of("dispute"):
        told, said, _, reply = doc.text.split("\n")
        keys = [key for pool in WORLD.pools.values() for key in pool]
        mistaken = bool(words_in(said.split("：" if "：" in said else ": ")[1], keys) - words_in(told, keys))
        assert any(phrase in reply for phrase in (admits if mistaken else stands)), doc.text
        assert not any(phrase in reply for phrase in (stands if mistaken else admits)), doc.text
        seen[mistaken] += 1
    assert min(seen.values()) > 50


def test_translations_say_the_same() -> None:
    for doc in of("translation"):
        for fact in doc.meta.get("facts", ()):
            subject, relation = fact.split(".")
            for key in (subject, WORLD.value(subject, relation)):
                assert WORLD.name(key, "en").lower() in doc.text.lower()
                assert WORLD.name(key, "zh") in doc.text


def test_programs_run_and_give_what_they_say() -> None:
    called = 0
    for doc in of("program"):
        lines = doc.text.split("\n")
        start = next(i for i, line in enumerate(lines) if line.startswith("def "))
        end = next(i for i, line in enumerate(lines) if line.startswith("    return ")) + 1
        namespace: dict[str, object] = {}
        exec("\n".join(lines[start:end]), namespace)  # our own code, from our own templates
        rest = "\n".join(lines[end:])
        if match := re.search(r">>> (.+)\n(.+)", rest):
            assert eval(match[1], namespace) == ast.literal_eval(match[2])
            called += 1
        elif match := re.search(r"print\((.+)\)  # (.+)", rest):
            result = eval(match[1], namespace)
            assert match[2] == (result if isinstance(result, str) else repr(result).replace("'", '"'))
            called += 1
    assert called > 50


def test_english_articles_and_chinese_marks() -> None:
    for doc in corpus():
        if doc.source not in ("program", "forum", "mending"):
            assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou\W]", doc.text), doc.text
        assert not re.search(r"[\u4e00-\u9fff][,.?!;:]", doc.text), doc.text
        assert not re.search(r"[{}]\w*[{}]|  \w", doc.text) or doc.source in (
            "program",
            "card",
            "rewriting",
            "forum",
        ), doc.text
        assert doc.text == doc.text.strip()
        assert len(doc.text) < 700


def test_english_sentences_begin_with_a_capital() -> None:
    for doc in of("biography", "note", "news", "guide", "correction", "two_steps", "story"):
        if doc.meta["language"] == "en":
            body = doc.text.split("\n")[-1]
            assert not re.search(r"(?:[.!?] )[a-z]", body), doc.text


def test_requests_are_listed_or_answered_and_chatted_about_at_the_stated_rates() -> None:
    words = wordings("forum")
    phrases = [*texts(words["before"]), *texts(words["after"])]
    names = [person.name for person in WORLD.people.values()]
    labels = set(texts(words["labels"]))
    labels |= {name.en for name in names} | {name.zh for name in names}
    threads = [doc.text for doc in of("forum") if re.split("[:：]", doc.text)[0] in labels]
    lists = [doc.text for doc in of("forum") if doc.text not in threads]
    assert abs(len(lists) / len(of("forum")) - forum.LISTS) < 0.02
    assert abs(sum(any(phrase in text for phrase in phrases) for text in threads) / len(threads) - forum.CHATTER) < 0.02
    assert not any(phrase in text for text in lists for phrase in phrases)
    assert all("\n" in text for text in lists + threads)


def test_few_documents_are_equal() -> None:
    assert len({doc.text for doc in corpus()}) > 0.97 * len(corpus())


def test_no_pronoun_follows_the_name_of_a_friend() -> None:
    """ "Her friend is Rosa. She is a baker." would leave open who is the baker."""
    friends = 0
    for doc in of("biography", "reading"):
        if doc.meta["language"] == "en":
            body = doc.text.split("\n")[0 if doc.source == "reading" else -1]
            friends += "friend" in body
            assert not re.search(r"friend[^.]*\. (?:She|He|Her|His)\b(?! is happy)", body), doc.text
    assert friends > 100
