"""Every format written and read again gives the same records, or what its docstring says is lost; and what it refuses."""

import gzip
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_strategies import (
    answers,
    conversation,
    conversations,
    document,
    message,
    pairs,
    prompt,
    prompts,
    ranking,
    some,
    stripped,
    text,
)

from tutelage.data.formats import (
    detect,
    read_answers,
    read_conversations,
    read_documents,
    read_prompts,
    read_rankings,
    what_is_in,
)
from tutelage.data.formats.table import WRITERS
from tutelage.data.read.files import read_lines
from tutelage.data.read.rows import Rejects
from tutelage.data.read.sources import read_rows
from tutelage.data.writing import pairs_of, write_records
from tutelage.errors import DataError, UsageError
from tutelage.records import Completion, Conversation, Document, Message, Prompt, Ranking

plain = stripped.filter(lambda t: "<|endoftext|>" not in t and "Human:" not in t and "Assistant:" not in t)
one_question = {"system": False, "turns": 1}
READERS = {Document: read_documents, Conversation: read_conversations, Prompt: read_prompts, Ranking: read_rankings}


def ordered(record: Ranking) -> list[int]:
    """Indices of completions, the best first."""
    return sorted(range(len(record.ranks)), key=lambda i: record.ranks[i])


def as_pair(record: Ranking) -> Ranking:
    """What a format of pairs keeps of a ranking: texts in order, and of the prompt messages and meta."""
    texts = tuple(Completion(text=record.completions[i].text) for i in ordered(record))
    asked = Prompt(messages=record.prompt.messages, meta=record.prompt.meta)
    return Ranking(prompt=asked, completions=texts, ranks=(1, 2))


def with_id(record: Ranking) -> Ranking:
    pair = as_pair(record)
    return pair.model_copy(update={"prompt": pair.prompt.model_copy(update={"id": record.prompt.id})})


def scored(record: Ranking) -> Ranking:
    """UltraFeedback: ranks without gaps, the model, the id; the scores are added to meta."""
    places = sorted(set(record.ranks))
    ranks = tuple(places.index(rank) + 1 for rank in record.ranks)
    meta = record.prompt.meta | {"completions": [{"overall_score": 11.0 - rank} for rank in ranks]}
    return Ranking(
        prompt=Prompt(messages=record.prompt.messages, id=record.prompt.id, meta=meta),
        completions=tuple(Completion(text=c.text, model=c.model) for c in record.completions),
        ranks=ranks,
    )


def as_tree(record: Ranking) -> Ranking:
    """Open-Assistant: the better answers first, ranks without gaps, model and id."""
    places = sorted(set(record.ranks))
    order = ordered(record)
    return Ranking(
        prompt=Prompt(messages=record.prompt.messages, id=record.prompt.id),
        completions=tuple(
            Completion(text=record.completions[i].text, model=record.completions[i].model) for i in order
        ),
        ranks=tuple(places.index(record.ranks[i]) + 1 for i in order),
    )


def same(record):
    return record


different = ranking(asked=prompts(**one_question)).filter(lambda r: len({c.text for c in r.completions}) > 1)
shown = st.builds(Completion, text=some, model=text)
any_role = st.lists(message("system user assistant"), min_size=1, max_size=4)
answered = st.builds(
    lambda before, last, meta: Conversation(messages=(*before, last), meta=meta),
    any_role,
    message("assistant"),
    st.just({"a": 1}),
)

# format, kind of record, records that it can hold, what comes back of each, whether a table can hold it
ROUND_TRIPS = [
    ("document", Document, document, same, True),
    ("conversation", Conversation, conversation, same, True),
    ("conversation", Prompt, prompt, same, True),
    ("ranking", Ranking, ranking(), same, True),
    ("prompt_completion", Conversation, answered, same, True),
    ("prompt_completion_text", Conversation, conversations(plain, **one_question), same, True),
    ("alpaca", Conversation, conversations(), same, True),
    ("sharegpt", Conversation, conversation, same, True),
    ("prompt", Prompt, prompt, same, True),
    ("prompt_text", Prompt, prompts(**one_question), same, True),
    ("preference", Ranking, pairs(), as_pair, True),
    ("preference_implicit", Ranking, pairs(), as_pair, True),
    ("preference_text", Ranking, pairs(**one_question), as_pair, True),
    ("hh", Ranking, pairs(plain, system=False), as_pair, True),
    ("ultrafeedback", Ranking, different, scored, True),
    ("ultrafeedback_binarized", Ranking, pairs(), with_id, True),
    ("oasst", Conversation, conversations(system=False), lambda c: c.model_copy(update={"meta": {}}), False),
    ("oasst", Ranking, ranking(asked=prompts(system=False), answer=shown), as_tree, False),
]


def bare(record):
    """Without what every format of others replaces: the source, and for oasst the name of the tree."""
    if isinstance(record, Ranking):
        asked = record.prompt.model_copy(update={"source": ""})
        return record.model_copy(update={"source": "", "prompt": asked})
    return record.model_copy(update={"source": ""})


def no_tree(record):
    """A tree's invented names taken away again."""
    if isinstance(record, Conversation):
        return record.model_copy(update={"meta": {k: v for k, v in record.meta.items() if k not in ("tree", "lang")}})
    assert record.prompt.id
    return record.model_copy(update={"prompt": record.prompt.model_copy(update={"meta": {}})})


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "parquet"])
@pytest.mark.parametrize(
    ("name", "kind", "records", "kept", "table"), ROUND_TRIPS, ids=[f"{n}-{k.__name__}" for n, k, *_ in ROUND_TRIPS]
)
def test_what_is_written_comes_back(tmp_path_factory, name, kind, records, kept, table, ending):
    if (ending == "parquet" and not table) or (ending in ("jsonl.gz", "json") and name not in ("ranking", "alpaca")):
        return  # a tree has no columns; how rows are laid out in a file is no matter of their format
    path = tmp_path_factory.mktemp("written") / f"x.{ending}"

    @given(st.lists(records, min_size=1, max_size=3))
    @settings(max_examples=8, deadline=None)
    def check(some):
        written = write_records(path, some, name)
        assert (written.count, written.format) == (len(some), name)
        expected, got = [kept(record) for record in some], list(READERS[kind](path))
        if name not in ("document", "conversation", "ranking"):
            expected, got = [bare(record) for record in expected], [bare(record) for record in got]
        if name == "oasst":
            expected, got = (
                [no_tree(with_some_id(r, g)) for r, g in zip(expected, got, strict=True)],
                [*map(no_tree, got)],
            )
        assert got == expected
        fields = {field for record in some for field in lost_of(record, got, name)}
        assert set(written.lost) >= fields

    check()


def with_some_id(record, got):
    """A prompt without an id gets one in a tree."""
    if isinstance(record, Ranking) and not record.prompt.id:
        return record.model_copy(update={"prompt": record.prompt.model_copy(update={"id": got.prompt.id})})
    return record


def lost_of(record, got, name):
    """Fields of rankings that say something but that no record that came back says anything of."""
    if not isinstance(record, Ranking):
        return
    for field in ("ratings", "flags", "labeller", "all_bad"):
        if getattr(record, field) and not any(getattr(g, field) for g in got):
            yield field
    if record.seconds is not None and all(g.seconds is None for g in got):
        yield "seconds"
    for field in ("model", "sampling", "seed"):
        said = [getattr(c, field) not in ("", {}, None) for c in record.completions]
        if any(said) and not any(getattr(c, field) not in ("", {}, None) for g in got for c in g.completions):
            yield field


@given(st.lists(answers, min_size=1, max_size=3))
@settings(max_examples=8, deadline=None)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_answers_come_back(tmp_path_factory, ending, some):
    path = tmp_path_factory.mktemp("written") / f"x.{ending}"
    write_records(path, some)
    assert list(read_answers(path)) == some


def test_every_writer_is_in_the_round_trips():
    there = {(name, kind) for name, kinds in WRITERS.items() for kind in kinds}
    tested = {(name, kind) for name, kind, *_ in ROUND_TRIPS}
    assert {(name, kind.__name__) for name, kind in there - tested} == {("answers", "Answers"), ("text", "Document")}


@pytest.mark.parametrize(
    ("name", "kind", "records"), [row[:3] for row in ROUND_TRIPS], ids=[f"{r[0]}-{r[1].__name__}" for r in ROUND_TRIPS]
)
def test_no_column_is_missing_from_a_table(name, kind, records):
    writer = WRITERS[name][kind]

    @given(records)
    @settings(max_examples=10, deadline=None)
    def check(record):
        assert not writer.columns or writer.row(record).keys() <= writer.columns.keys()

    check()


QUESTION = Message(role="user", content="q")
PROMPT = Prompt(messages=(QUESTION,))
ANSWERS = (Completion(text="good"), Completion(text="bad"))
PAIR = Ranking(prompt=PROMPT, completions=ANSWERS, ranks=(2, 1), source="x")
TALK = Conversation(messages=(QUESTION, Message(role="assistant", content="a")))
BE = Message(role="system", content="be")


def test_rows_by_hand(tmp_path):
    """What stands in the files, for one record each."""
    path = tmp_path / "x.jsonl"
    ask, good, bad = (
        {"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "bad"), ("assistant", "good"))
    )
    expected = {
        "preference": {"prompt": [ask], "chosen": [good], "rejected": [bad]},
        "preference_implicit": {"chosen": [ask, good], "rejected": [ask, bad]},
        "preference_text": {"prompt": "q", "chosen": "bad", "rejected": "good"},
        "hh": {"chosen": "\n\nHuman: q\n\nAssistant: bad", "rejected": "\n\nHuman: q\n\nAssistant: good"},
        "ultrafeedback": {
            "instruction": "q",
            "models": ["", ""],
            "completions": [
                {"model": "", "response": "good", "overall_score": 9},
                {"model": "", "response": "bad", "overall_score": 10},
            ],
        },
        "ultrafeedback_binarized": {
            "prompt": "q",
            "chosen": [ask, good],
            "rejected": [ask, bad],
            "messages": [ask, good],
        },
    }
    for name, row in expected.items():
        write_records(path, [PAIR], name)
        assert json.loads(path.read_text()) == row
        assert detect(path) == ("preference" if name.startswith(("preference", "ultrafeedback_")) else name)
    answer = {"role": "assistant", "content": "a"}
    for name, row in {
        "conversation": {"messages": [ask, answer]},
        "prompt_completion": {"prompt": [ask], "completion": [answer]},
        "prompt_completion_text": {"prompt": "q", "completion": "a"},
        "alpaca": {"instruction": "q", "input": "", "output": "a"},
        "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    }.items():
        write_records(path, [TALK], name)
        assert json.loads(path.read_text()) == row
    write_records(path, [TALK.model_copy(update={"messages": (BE, *TALK.messages, *TALK.messages)})], "alpaca")
    row = {"instruction": "q", "input": "", "output": "a", "system": "be", "history": [["q", "a"]]}
    assert json.loads(path.read_text()) == row


def k_wise(*ranks):
    return Ranking(prompt=PROMPT, completions=tuple(Completion(text=f"a{i}") for i in range(len(ranks))), ranks=ranks)


LONG = Prompt(messages=(QUESTION, Message(role="assistant", content="a"), QUESTION))


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("hh", k_wise(1, 2, 3, 4), "it ranks 4 answers, and this format holds pairs"),
        ("preference", k_wise(1, 2, 3), "it ranks 3 answers"),
        ("preference", k_wise(1, 1), "its two answers are a tie"),
        ("preference_text", PAIR.model_copy(update={"prompt": LONG}), "its prompt is more than one question"),
        ("ultrafeedback", PAIR.model_copy(update={"prompt": LONG}), "its prompt is more than one question"),
        ("hh", PAIR.model_copy(update={"prompt": Prompt(messages=(BE, QUESTION))}), "it has a system message"),
        (
            "hh",
            PAIR.model_copy(update={"completions": (Completion(text="x\n\nHuman: y"), ANSWERS[1])}),
            "a line begins with Human: or Assistant:",
        ),
        (
            "hh",
            PAIR.model_copy(update={"completions": (Completion(text="x"), Completion(text=" x"))}),
            "white space alone",
        ),
        ("preference", PAIR.model_copy(update={"completions": (ANSWERS[0],) * 2}), "its two answers are the same"),
        ("alpaca", Conversation(messages=(QUESTION,)), "does not end with a question and its answer"),
        (
            "alpaca",
            Conversation(messages=(QUESTION, BE, TALK.messages[1])),
            "do not alternate between user and assistant",
        ),
        ("alpaca", Conversation(messages=(BE, TALK.messages[1])), "a system message and no question"),
        (
            "alpaca",
            Conversation(messages=(QUESTION, Message(role="assistant", content=" "))),
            "one of its turns is empty",
        ),
        ("prompt_completion_text", Conversation(messages=(BE, *TALK.messages)), "its prompt is more than one question"),
        (
            "prompt_completion_text",
            Conversation(messages=(QUESTION, Message(role="assistant", content="a<|endoftext|>"))),
            "ends with <|endoftext|>",
        ),
        (
            "prompt_completion",
            Conversation(messages=(TALK.messages[1],)),
            "does not end with a question and its answer",
        ),
        ("oasst", Conversation(messages=(BE, *TALK.messages)), "do not alternate between user and assistant"),
        (
            "oasst",
            PAIR.model_copy(update={"completions": (Completion(text=""), ANSWERS[1])}),
            "one of its turns is empty",
        ),
        ("prompt_text", LONG, "its prompt is more than one question"),
        ("document", Document(text="x", meta={"n": float("nan")}), "holds what is not JSON (Out of range float"),
        ("document", Document(text="x", meta={"n": {1, 2}}), "holds what is not JSON (Object of type set"),
        ("document", Document(text="x", meta={"n": "\ud800"}), "holds what is not JSON ('utf-8' codec can't encode"),
    ],
)
def test_what_a_format_cannot_hold_is_named_and_nothing_is_written(tmp_path, name, record, message):
    path = tmp_path / "x.jsonl"
    path.write_text("old")
    fine = {Ranking: PAIR, Conversation: TALK, Document: Document(text="t"), Prompt: PROMPT}[type(record)]
    with pytest.raises(DataError) as error:
        write_records(path, [fine, record], name)
    assert str(error.value).startswith(f"{path}: record 2")
    assert f"cannot be written as {name}: " in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]
    assert path.read_text() == "old"
    rejects = Rejects()
    assert write_records(path, [fine, record, fine], name, on_bad="skip", rejects=rejects).count == 2
    assert rejects.counts == {f"cannot be written as {name}": 1}
    assert len(list(read_rows(path))) == 2


def test_one_record_of_another_kind(tmp_path):
    with pytest.raises(
        DataError, match="record 2 cannot be written as conversation: it is a Document among Conversations"
    ):
        write_records(tmp_path / "x.jsonl", [TALK, Document(text="t")])


@pytest.mark.parametrize(
    ("name", "format", "records", "message"),
    [
        ("x.csv", None, [TALK], "the ending says what is written"),
        ("x", None, [TALK], "the ending says what is written"),
        ("x.parquet.gz", None, [TALK], "the ending says what is written"),
        ("x.txt", "alpaca", [TALK], ".txt is bare text"),
        ("x.jsonl", "text", [Document(text="t")], "bare text is written as .txt"),
        ("x.txt", None, [TALK], "Conversations cannot be written as 'text'; there are oasst, sharegpt"),
        ("x.jsonl", "hh", [TALK], "Conversations cannot be written as 'hh'; there are oasst"),
        ("x.jsonl", "alpace", [TALK], "Conversations cannot be written as 'alpace'"),
        ("x.parquet", "oasst", [PAIR], "oasst has no columns that a table could hold; write .jsonl"),
        ("x.jsonl", None, [], "there is nothing to write"),
    ],
)
def test_what_cannot_be_written_at_all(tmp_path, name, format, records, message):
    with pytest.raises(UsageError) as error:
        write_records(tmp_path / name, records, format)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_number_too_large_for_a_table_is_named(tmp_path):
    big = PAIR.model_copy(update={"completions": (Completion(text="a", seed=2**63), ANSWERS[1])})
    with pytest.raises(DataError, match=r"x\.parquet: record 3 does not fit into a table"):
        write_records(tmp_path / "x.parquet", [PAIR, PAIR, big])
    assert list(tmp_path.iterdir()) == []
    write_records(tmp_path / "x.jsonl", [big])
    assert list(read_rankings(tmp_path / "x.jsonl")) == [big]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "json.gz", "parquet", "txt", "txt.gz"])
def test_a_writer_that_is_interrupted_leaves_the_old_file(tmp_path, ending):
    path = tmp_path / f"x.{ending}"

    def broken():
        yield Document(text="new")
        raise KeyboardInterrupt

    write_records(path, [Document(text="old")])
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_records(path, broken())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_same_records_give_the_same_bytes(tmp_path):
    for ending in ("jsonl", "jsonl.gz", "json.gz", "parquet"):
        for name in ("a", "b"):
            write_records(tmp_path / f"{name}.{ending}", [PAIR] * 3)
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_bare_text(tmp_path):
    documents = [Document(text="one\n", meta={"a": 1}), Document(text="two"), Document(text="三")]
    written = write_records(tmp_path / "x.txt.gz", documents)
    assert gzip.decompress((tmp_path / "x.txt.gz").read_bytes()).decode() == "one\n\n\ntwo\n\n三"
    assert written.lost == Counter(meta=1)
    assert "".join(read_lines(tmp_path / "x.txt.gz")) == "one\n\n\ntwo\n\n三"


def test_fields_without_a_place_are_counted(tmp_path):
    full = PAIR.model_copy(
        update={
            "labeller": "ann",
            "seconds": 0.0,
            "ratings": (1, 2),
            "completions": (Completion(text="a", model="m", finished=False), Completion(text="b", seed=0)),
        }
    )
    written = write_records(tmp_path / "x.jsonl", [full, full, PAIR], "preference")
    assert written.lost == dict.fromkeys(["labeller", "seconds", "ratings", "model", "finished", "seed"], 2)
    assert write_records(tmp_path / "x.jsonl", [full]).lost == {}


@given(ranking())
@settings(max_examples=60, deadline=None)
def test_pairs_are_all_that_the_ranks_decide(record):
    pairs = list(pairs_of(record))
    k = len(record.ranks)
    decided = [(i, j) for i in range(k) for j in range(k) if record.ranks[i] < record.ranks[j]]
    assert [p.completions for p in pairs] == [(record.completions[i], record.completions[j]) for i, j in decided]
    assert all(p.ranks == (1, 2) and p.prompt == record.prompt and p.labeller == record.labeller for p in pairs)
    if record.ratings:
        assert [p.ratings for p in pairs] == [(record.ratings[i], record.ratings[j]) for i, j in decided]
    for pair in pairs:
        Ranking.model_validate(pair.model_dump())


def test_what_is_in_a_written_file_is_its_kind(tmp_path):
    for name, kinds in WRITERS.items():
        for kind in kinds:
            record = {Ranking: PAIR, Conversation: TALK, Prompt: PROMPT, Document: Document(text="t")}.get(kind)
            if record is None or name == "text":
                continue
            write_records(tmp_path / "x.jsonl", [record], name)
            _, found = what_is_in(tmp_path / "x.jsonl")
            assert found is kind or name == "oasst"  # a tree is read as rankings first
