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
    ranking,
    stripped,
)

from tutelage.data.formats import (
    WRITERS,
    detect,
    read_answers,
    read_conversations,
    read_documents,
    read_prompts,
    read_rankings,
    what_is_in,
)
from tutelage.data.read.rows import Rejects
from tutelage.data.read.sources import read_rows
from tutelage.data.writing import pairs_of, write_records
from tutelage.errors import DataError, UsageError
from tutelage.records import Answers, Completion, Conversation, Document, Message, Prompt, Ranking

plain = stripped.filter(lambda t: "<|endoftext|>" not in t and "Human:" not in t and "Assistant:" not in t)
one_question = {"system": False, "turns": 1}
READERS = {
    Document: read_documents,
    Conversation: read_conversations,
    Prompt: read_prompts,
    Ranking: read_rankings,
    Answers: read_answers,
}


def ordered(record: Ranking) -> list[int]:
    """Indices of completions, the best first."""
    return sorted(range(len(record.ranks)), key=lambda i: record.ranks[i])


def as_pair(record: Ranking) -> Ranking:
    """What a format of pairs keeps of a ranking: texts in order, and of the prompt messages and meta."""
    texts = tuple(Completion(text=record.completions[i].text) for i in ordered(record))
    asked = Prompt(messages=record.prompt.messages, meta=record.prompt.meta)
    return Ranking(prompt=asked, completions=texts, ranks=(1, 2))


def same(record):
    return record


any_role = st.lists(message("system user assistant"), min_size=1, max_size=4)
answered = st.builds(
    lambda before, last, meta: Conversation(messages=(*before, last), meta=meta),
    any_role,
    message("assistant"),
    st.just({"a": 1}),
)

# format, kind of record, records that it can hold, what comes back of each
ROUND_TRIPS = [
    ("document", Document, document, same),
    ("conversation", Conversation, conversation, same),
    ("conversation", Prompt, prompt, same),
    ("ranking", Ranking, ranking(), same),
    ("answers", Answers, answers, same),
    ("prompt_completion", Conversation, answered, same),
    ("alpaca", Conversation, conversations(), same),
    ("sharegpt", Conversation, conversation, same),
    ("prompt", Prompt, prompt, same),
    ("preference", Ranking, pairs(), as_pair),
    ("hh", Ranking, pairs(plain, system=False), as_pair),
]


def bare(record):
    """Without the source, which is the file's name where a format has no place for it."""
    if isinstance(record, Ranking):
        asked = record.prompt.model_copy(update={"source": ""})
        return record.model_copy(update={"source": "", "prompt": asked})
    return record.model_copy(update={"source": ""})


IDS = [f"{name}-{kind.__name__}" for name, kind, *_ in ROUND_TRIPS]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "parquet"])
@pytest.mark.parametrize(("name", "kind", "records", "kept"), ROUND_TRIPS, ids=IDS)
def test_what_is_written_comes_back(tmp_path_factory, name, kind, records, kept, ending):
    if ending in ("jsonl.gz", "json") and name not in ("ranking", "alpaca"):
        return  # how rows are laid out in a file is no matter of their format
    path = tmp_path_factory.mktemp("written") / f"x.{ending}"

    @given(st.lists(records, min_size=1, max_size=3))
    @settings(max_examples=8)
    def check(some):
        written = write_records(path, some, name)
        assert (written.count, written.format) == (len(some), name)
        expected, got = [kept(record) for record in some], list(READERS[kind](path))
        if name not in ("document", "conversation", "ranking", "answers"):
            expected, got = [bare(record) for record in expected], [bare(record) for record in got]
        assert got == expected
        fields = {field for record in some for field in lost_of(record, got, name)}
        assert set(written.lost) >= fields
        columns = WRITERS[name][kind].columns
        assert all(WRITERS[name][kind].row(record).keys() <= columns.keys() for record in some)

    check()


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


def test_every_writer_is_in_the_round_trips():
    there = {(name, kind) for name, kinds in WRITERS.items() for kind in kinds}
    assert there - {(name, kind) for name, kind, *_ in ROUND_TRIPS} == {("text", Document)}
    wanted = "document conversation ranking answers alpaca sharegpt prompt_completion prompt preference hh text"
    assert set(WRITERS) == set(wanted.split())


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
        "hh": {"chosen": "\n\nHuman: q\n\nAssistant: bad", "rejected": "\n\nHuman: q\n\nAssistant: good"},
    }
    for name, row in expected.items():
        write_records(path, [PAIR], name)
        assert json.loads(path.read_text()) == row
        assert detect(path) == name
    answer = {"role": "assistant", "content": "a"}
    for name, row in {
        "conversation": {"messages": [ask, answer]},
        "prompt_completion": {"prompt": [ask], "completion": [answer]},
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
        ("alpaca", Conversation(messages=(BE, TALK.messages[1])), "do not alternate between user and assistant"),
        (
            "alpaca",
            Conversation(messages=(QUESTION, Message(role="assistant", content=" "))),
            "one of its turns is empty",
        ),
        (
            "prompt_completion",
            Conversation(messages=(TALK.messages[1],)),
            "does not end with a question and its answer",
        ),
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
        (
            "x.txt",
            None,
            [TALK],
            "Conversations cannot be written as 'text'; there are sharegpt, conversation, alpaca",
        ),
        ("x.jsonl", "hh", [TALK], "Conversations cannot be written as 'hh'; there are sharegpt"),
        ("x.jsonl", "alpace", [TALK], "Conversations cannot be written as 'alpace'"),
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
    with pytest.raises(DataError, match=r"x\.parquet: one of the records 1 to 3 does not fit into a table"):
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
    assert [document.text for document in read_documents(tmp_path / "x.txt.gz")] == ["one\n\n\ntwo\n\n三"]


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
@settings(max_examples=60)
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
            assert found is kind
