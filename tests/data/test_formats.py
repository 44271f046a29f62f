import json
import logging

import pytest

from tutelage.data.formats import detect, read_conversations, read_documents, read_prompts, read_rankings
from tutelage.data.read.rows import Rejects
from tutelage.errors import DataError


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="x.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def turns(record):
    return [(m.role, m.content) for m in record.messages]


def one(records):
    (record,) = records
    return record


QUESTION = [{"role": "user", "content": "q"}]
GOOD, BAD = {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad"}
BE = {"role": "system", "content": "be"}
HH = "\n\nHuman: q\n\nAssistant:"

# One row of each format, and what it must become.

CONVERSATIONS = {
    "conversation": (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "score": 2},
        [("user", "q"), ("assistant", "a")],
        {"score": 2},
    ),
    "alpaca": (
        {"instruction": "do", "input": "this", "output": "done", "history": [["q", "a"]], "system": "be", "lang": "en"},
        [("system", "be"), ("user", "q"), ("assistant", "a"), ("user", "do\n\nthis"), ("assistant", "done")],
        {"lang": "en"},
    ),
    "sharegpt": (
        {"id": "7", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "be"},
        [("system", "be"), ("user", "q"), ("assistant", "a")],
        {"id": "7"},
    ),
    "prompt_completion": (
        {"prompt": "Is it?\n", "completion": "Yes<|endoftext|>"},
        [("user", "Is it?"), ("assistant", "Yes")],
        {},
    ),
    "seed_task": (
        {"id": "s", "instruction": "add", "instances": [{"input": "1 1", "output": "2"}], "is_classification": False},
        [("user", "add\n\n1 1"), ("assistant", "2")],
        {"id": "s", "is_classification": False},
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversation_formats(write, name):
    row, expected, meta = CONVERSATIONS[name]
    path = write(row)
    assert detect(path) == name
    got = one(read_conversations(path))
    assert turns(got) == expected
    assert got.meta == meta
    assert got.source == "x.jsonl"
    assert turns(one(read_prompts(path))) == expected[:-1]
    assert turns(one(read_conversations(path, format=name))) == expected


def test_trl_prompt_completion_messages(write):
    row = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}
    assert turns(one(read_conversations(write(row)))) == [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("read", "row"),
    [
        (read_prompts, {"prompt": "q"}),
        (read_prompts, {"prompt": QUESTION}),
        (read_prompts, {"prompt": [BE, *QUESTION]}),
        (read_conversations, {"prompt": "q", "completion": "good"}),
        (read_conversations, {"prompt": QUESTION, "completion": [GOOD]}),
        (read_conversations, {"conversations": [{"from": "system", "value": "be"}, *QUESTION, GOOD]}),
    ],
)
def test_a_system_column_opens_the_conversation(write, read, row):
    got = one(read(write(row | {"system": "be", "lang": "en"})))
    assert turns(got)[:2] == [("system", "be"), ("user", "q")]
    assert len(turns(got)) == (2 if read is read_prompts else 3)
    assert got.meta == {"lang": "en"}


def test_alpaca_without_input(write):
    assert turns(one(read_conversations(write({"instruction": "do", "output": "done"}))))[0] == ("user", "do")


PROMPTS = {
    "prompt": ({"prompt": "q", "id": 3}, [("user", "q")], "3"),
    "question": ({"question_id": 81, "category": "writing", "turns": ["q", "and?"]}, [("user", "q")], "81"),
    "string": ("q", [("user", "q")], ""),
    "conversation": ({"messages": [{"role": "user", "content": "q"}], "id": "p1"}, [("user", "q")], "p1"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_formats(write, name):
    row, expected, identity = PROMPTS[name]
    path = write(row)
    assert detect(path) == name
    got = one(read_prompts(path))
    assert turns(got) == expected
    assert got.id == identity


def test_question_keeps_its_later_turns(write):
    got = one(read_prompts(write({"question_id": 81, "turns": ["q", "and?"]})))
    assert got.meta == {"turns": ["q", "and?"]}


def test_a_ranking_gives_its_prompt(write):
    row = {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"}
    assert turns(one(read_prompts(write(row)))) == [("user", "q")]


def ranked(record):
    return turns(record.prompt), [c.text for c in record.completions], list(record.ranks)


def test_hh(write):
    start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: joke?\n\nAssistant:"
    path = write({"chosen": start + " ha ha", "rejected": start + " no"})
    assert detect(path) == "hh"
    asked = [("user", "hi"), ("assistant", "hello"), ("user", "joke?")]
    assert ranked(one(read_rankings(path))) == (asked, ["ha ha", "no"], [1, 2])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": QUESTION, "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [*QUESTION, GOOD], "rejected": [*QUESTION, BAD]},
        {"prompt": "q", "chosen": [*QUESTION, GOOD], "rejected": [*QUESTION, BAD], "score_chosen": 8.0},
        {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
    ],
)
def test_preference_in_all_its_clothes(write, row):
    path = write(row)
    assert detect(path) == "preference"
    assert ranked(one(read_rankings(path))) == ([("user", "q")], ["good", "bad"], [1, 2])


FIRST = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "and?"}]
Q, A, AND = ("user", "q"), ("assistant", "a"), ("user", "and?")


@pytest.mark.parametrize(
    ("given", "front", "asked"),
    [
        ({"prompt": "q"}, FIRST, [Q, A, AND]),  # what follows the prompt, in several turns
        ({"prompt": "q"}, [*QUESTION, *FIRST], [Q, A, AND]),
        ({"prompt": " q\n"}, QUESTION, [Q]),  # repeated but for white space
        ({"prompt": [*QUESTION, *FIRST]}, [], [Q, A, AND]),
        ({"prompt": [*QUESTION, FIRST[0]]}, FIRST[1:], [Q, A, AND]),
        ({"prompt": "q", "system": "be"}, QUESTION, [("system", "be"), Q]),
        ({"prompt": "q", "system": "be"}, [BE, *QUESTION], [("system", "be"), Q]),
        ({"prompt": [BE, *QUESTION], "system": "be"}, FIRST, [("system", "be"), Q, A, AND]),
        ({"prompt": "q"}, [BE, *QUESTION], [("system", "be"), Q]),
        ({"system": "be"}, QUESTION, [("system", "be"), Q]),
        ({"instruction": "q", "system": "be"}, QUESTION, [("system", "be"), Q]),
    ],
)
def test_a_side_of_several_turns_loses_no_prompt(write, given, front, asked):
    row = given | {"chosen": [*front, GOOD], "rejected": [*front, BAD]}
    assert ranked(one(read_rankings(write(row)))) == (asked, ["good", "bad"], [1, 2])


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": HH + " good", "rejected": HH + " bad", "meta": {"lang": "en"}},
        {"prompt": "q", "chosen": "good", "rejected": "bad", "lang": "en"},
        {"prompt": QUESTION, "chosen": [GOOD], "rejected": [BAD], "lang": "en", "system": "", "score": None},
        {"instruction": "q", "input": "", "history": [], "chosen": "good", "rejected": "bad", "lang": "en"},
        {
            "instruction": "q",
            "output_1": "good",
            "output_2": "bad",
            "generator_1": "m",
            "preference": 1,
            "dataset": "d",
            "annotator": "ann",
            "lang": "en",
        },
    ],
)
def test_columns_without_a_name_go_to_the_meta_of_a_rankings_prompt(write, row):
    got = one(read_rankings(write(row), format="hh" if "meta" in row else None))
    assert ranked(got) == ([Q], ["good", "bad"], [1, 2])
    assert got.prompt.meta == {"lang": "en"}


def test_a_meta_that_is_no_object_is_kept(write):
    assert one(read_prompts(write({"prompt": "q", "meta": "easy"}))).meta == {"meta": "easy"}


def test_null_is_no_name(write):
    assert one(read_prompts(write({"prompt": "q", "id": None}))).id == ""
    assert one(read_prompts(write({"turns": ["q"], "question_id": None}))).id == ""
    names = dict.fromkeys(("dataset", "annotator", "generator_1", "generator_2"))
    row = {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1}
    got = one(read_rankings(write(row | names)))
    assert (got.prompt.source, got.labeller, *(c.model for c in got.completions)) == ("", "", "", "")
    root = node("prompter", "q", replies=[node("assistant", "a", 0), node("assistant", "b", 1)])
    assert one(read_rankings(write(tree(root | {"message_id": None})))).prompt.id == ""


@pytest.mark.parametrize(
    ("preference", "ranks"), [(1, [1, 2]), (2.0, [2, 1]), (1.5, [1, 1]), (0, [1, 1]), (1.99, [2, 1])]
)
def test_alpaca_eval(write, preference, ranks):
    row = {"instruction": "q", "output_1": "a", "output_2": "b", "generator_2": "m", "preference": preference}
    got = one(read_rankings(write(row)))
    assert ranked(got) == ([("user", "q")], ["a", "b"], ranks)
    assert got.completions[1].model == "m"


def node(role, text, rank=None, replies=(), **more):
    return {"message_id": text, "role": role, "text": text, "rank": rank, "replies": list(replies), **more}


def tree(root):
    return {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": root}


TREE = tree(
    node(
        "prompter",
        "q",
        replies=[
            node("assistant", "worse", 1, [node("prompter", "why?", replies=[node("assistant", "so")])]),
            node(
                "assistant",
                "best",
                0,
                [
                    node("prompter", "more", replies=[node("assistant", "m1", 1), node("assistant", "m0", 0)]),
                    node("prompter", "unanswered"),
                    node("prompter", "other", replies=[node("assistant", "o")]),
                ],
            ),
            node("assistant", "gone", 2, deleted=True),
        ],
    )
)


def test_oasst_conversations_follow_the_best_answers(write):
    rejects = Rejects()
    got = [turns(c) for c in read_conversations(write(TREE), rejects=rejects)]
    start = [("user", "q"), ("assistant", "best")]
    assert got == [
        [*start, ("user", "more"), ("assistant", "m0")],
        [*start, ("user", "other"), ("assistant", "o")],
    ]
    assert rejects.counts == {"deleted message": 1}


def test_an_oasst_path_ends_where_no_follow_up_has_a_best_answer(write):
    unranked = [node("assistant", "this"), node("assistant", "that")]
    good = node("assistant", "good", 0, [node("prompter", "and?", replies=unranked), node("prompter", "unanswered")])
    row = tree(node("prompter", "q", replies=[good, node("assistant", "bad", 1)]))
    rejects = Rejects()
    assert turns(one(read_conversations(write(row), rejects=rejects))) == [Q, ("assistant", "good")]
    assert rejects.counts == {"answers without ranks": 1}


def test_oasst_rankings_are_the_siblings(write):
    got = [ranked(r) for r in read_rankings(write(TREE), rejects=Rejects())]
    assert got == [
        ([("user", "q")], ["best", "worse"], [1, 2]),
        ([("user", "q"), ("assistant", "best"), ("user", "more")], ["m0", "m1"], [1, 2]),
    ]


def test_oasst_rows_of_messages(write):
    path = write(TREE["prompt"])
    assert detect(path) == "oasst"
    assert len(list(read_conversations(path, rejects=Rejects()))) == 2


def test_documents(write):
    path = write({"text": "some text", "url": "u"}, {"text": "more", "source": "s"})
    first, second = read_documents(path)
    assert (first.text, first.source, first.meta) == ("some text", "x.jsonl", {"url": "u"})
    assert second.source == "s"
    both = one(read_documents(write({"book": "b", "source": "古", "target": "new"}, name="p.jsonl")))
    assert (both.text, both.meta) == ("古\nnew", {"book": "b"})


def test_a_folder_of_texts(tmp_path):
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "b.txt").write_text("b" * 10)
    (tmp_path / "books" / "a.txt").write_text(("word " * 100 + "\n\n") * 100)
    (tmp_path / "empty.txt").write_text("")
    rejects = Rejects()
    got = list(read_documents(tmp_path, rejects=rejects))
    assert [d.source for d in got] == ["books/a.txt"] * 4 + ["books/b.txt"]
    assert "".join(d.text for d in got[:4]) == ("word " * 100 + "\n\n") * 100
    assert rejects.counts == {"empty text file": 1}
    with pytest.raises(DataError, match="holds no text"):
        list(read_documents(tmp_path / "empty.txt"))


def test_another_encoding_is_named_counted_or_told(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("good\ncafé\ngood\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"x\.txt:2: is not utf-8 at byte 4"):
        list(read_documents(path))
    rejects = Rejects()
    assert one(read_documents(path, on_bad="skip", rejects=rejects)).text == "good\ngood\n"
    assert rejects.counts == {"line in another encoding": 1}
    assert one(read_documents(path, encoding="latin-1")).text == "good\ncafé\ngood\n"


# Rows that give nothing by nature: one for each reason.


@pytest.mark.parametrize(
    ("read", "row", "reason"),
    [
        (read_conversations, {"instruction": "do", "output": " "}, "empty output"),
        (read_conversations, {"prompt": "q", "completion": "<|endoftext|>"}, "empty completion"),
        (read_rankings, {"chosen": HH + " a", "rejected": HH + " a"}, "both sides are the same"),
        (
            read_rankings,
            {"chosen": HH + " a", "rejected": HH + " a" + HH + " b"},
            "the sides differ before the last answer",
        ),
        (
            read_rankings,
            {"chosen": HH + " x\n\nAssistant: a", "rejected": HH + " x\n\nAssistant: b"},
            "the sides do not end with a question and an answer",
        ),
        (
            read_rankings,
            {"instruction": "q", "output_1": "a", "output_2": "b", "preference": None},
            "no preference given",
        ),
        (
            read_rankings,
            {"instruction": "q", "output_1": "a", "output_2": "a", "preference": 1},
            "both answers are the same",
        ),
        (read_prompts, {"messages": [{"role": "assistant", "content": "a"}]}, "no user turn to answer"),
        (read_conversations, tree(node("prompter", "q")) | {"tree_state": "growing"}, "tree is not finished"),
        (read_conversations, tree(node("prompter", "q", deleted=True)), "deleted tree"),
        (
            read_rankings,
            tree(node("prompter", "q", replies=[node("assistant", "a", review_result=False)])),
            "message that failed its review",
        ),
        (read_rankings, tree(node("prompter", "q", replies=[node("assistant", " ")])), "empty message"),
        (
            read_rankings,
            tree(node("prompter", "q", replies=[node("assistant", "a"), node("assistant", "b")])),
            "answers without ranks",
        ),
        (
            read_conversations,
            tree(node("prompter", "q", replies=[node("assistant", "a"), node("assistant", "b")])),
            "answers without ranks",
        ),
    ],
)
def test_rows_left_out_are_counted_by_reason(write, read, row, reason):
    rejects = Rejects()
    assert list(read(write(row), rejects=rejects)) == []
    assert rejects.counts == {reason: 1}
    assert rejects.examples[0][0] == reason
    assert "x.jsonl:1" in rejects.examples[0][1]


def test_unranked_and_surplus_answers_are_counted(write):
    replies = [node("assistant", f"a{i}", 10 - i) for i in range(11)] + [node("assistant", "unranked")]
    rejects = Rejects()
    got = one(read_rankings(write(tree(node("prompter", "q", replies=replies))), rejects=rejects))
    assert [c.text for c in got.completions] == [f"a{i}" for i in range(10, 1, -1)]
    assert rejects.counts == {"answer without a rank": 1, "answer beyond the ninth": 2}


def test_nobody_asked_so_it_is_said(write, caplog):
    path = write({"instruction": "do", "output": ""}, {"instruction": "do", "output": "x"})
    with caplog.at_level(logging.WARNING):
        assert len(list(read_conversations(path))) == 1
    assert "left out 1 x empty output" in caplog.text


# Wrong rows: the message names the place, the field, what was expected and what stood there.

ALPACA = {"instruction": "do", "input": "", "output": "x"}
SHARE = {"conversations": [{"from": "human", "value": "q"}]}


@pytest.mark.parametrize(
    ("read", "rows", "message"),
    [
        (read_conversations, [ALPACA, {"instruction": "do"}], "x.jsonl:2: field 'output': is missing; expected text"),
        (
            read_conversations,
            [ALPACA, ALPACA | {"output": 3}],
            "x.jsonl:2: field 'output': is not text; expected text, found 3",
        ),
        (read_conversations, [ALPACA, ALPACA | {"input": 3}], "field 'input': is not text"),
        (read_conversations, [ALPACA, ["x"]], 'x.jsonl:2: is not an object; expected an object, found ["x"]'),
        (read_conversations, [ALPACA | {"history": "h"}], "field 'history': is not a list of pairs"),
        (
            read_conversations,
            [{"conversations": [{"from": "human", "value": "q"}, {"from": "robot", "value": "{}"}]}],
            "x.jsonl:1: field 'conversations.1.from': is not a known role; expected system, developer, human, user, ",
        ),
        (read_conversations, [{"conversations": None}], "field 'conversations': is not like the first row"),
        (read_conversations, [SHARE, {"messages": []}], "x.jsonl:2: field 'conversations': is not like the first row"),
        (
            read_conversations,
            [{"conversations": [{"from": "gpt", "value": None}]}],
            "field 'conversations.0.value': is not text",
        ),
        (
            read_conversations,
            [{"messages": [{"role": "user"}]}],
            "x.jsonl:1: field 'messages.0.content': is not text",
        ),
        (read_conversations, [{"messages": [{"role": "bot", "content": "x"}]}], "field 'messages.0.role'"),
        (read_conversations, [{"messages": "hi"}], "field 'messages'"),
        (read_conversations, [{"messages": QUESTION, "meta": 3}], "field 'meta': is not an object"),
        (read_conversations, [{"messages": [{"role": "user", "content": "\ud800"}]}], "half of a surrogate pair"),
        (read_conversations, [{"instruction": "do", "instances": 3}], "field 'instances': is not a list"),
        (read_conversations, [{"instruction": "do", "instances": [3]}], "field 'instances': is not an object"),
        (read_conversations, [{"prompt": "q", "completion": 3}], "field 'prompt': is not a list of messages"),
        (read_documents, [{"text": ""}], "x.jsonl:1: field 'text': is empty"),
        (read_documents, [{"text": None}], "x.jsonl:1: field 'text'"),
        (read_prompts, [{"turns": []}], "field 'turns': is not a list of texts"),
        (read_prompts, [{"prompt": 3}], "field 'prompt': is not a list of messages"),
        (read_prompts, [{"prompt": [GOOD]}], "a prompt ends with a user message"),
        (read_prompts, ["q", {"prompt": "q"}], "x.jsonl:2: "),
        (read_rankings, [{"chosen": "hi", "rejected": "ho"}], "field 'chosen': is not a transcript"),
        (read_rankings, [{"prompt": "q", "chosen": 3, "rejected": "x"}], "field 'chosen.0': is not an object"),
        (
            read_rankings,
            [{"prompt": "other", "chosen": [*QUESTION, GOOD], "rejected": [*QUESTION, BAD]}],
            "x.jsonl:1: field 'chosen': does not begin with the prompt; expected the prompt, or what follows it",
        ),
        (
            read_rankings,
            [{"prompt": "q", "system": "or not", "chosen": [BE, *QUESTION, GOOD], "rejected": [*QUESTION, BAD]}],
            "x.jsonl:1: field 'chosen': has a system message of its own; expected the prompt's",
        ),
        (read_prompts, [{"prompt": "q", "system": 3}], "field 'system': is not text"),
        (
            read_rankings,
            [{"instruction": "q", "output_1": "a", "output_2": "b", "preference": 7}],
            "field 'preference': is not a preference",
        ),
        (
            read_rankings,
            [{"prompt": {"messages": QUESTION}, "completions": [{"text": "a"}], "ranks": [1]}],
            "completions",
        ),
        (
            read_rankings,
            [{"prompt": {"messages": QUESTION}, "completions": [{"text": "a"}, {"text": "b"}], "ranks": [1]}],
            "ranks has 1 entries for 2 completions",
        ),
        (read_rankings, [tree({"role": "prompter"})], "field 'prompt.text': is not text"),
        (read_rankings, [tree(node("robot", "x"))], "field 'prompt.role': is not a role"),
        (read_rankings, [tree(node("assistant", "x"))], "does not start with a question"),
        (read_rankings, [tree(node("prompter", "x", replies=[node("prompter", "y")]))], "answers itself"),
        (read_rankings, [tree(node("prompter", "x", replies=[node("assistant", "y", "best")]))], "is not a rank"),
        (read_rankings, [tree(node("prompter", "x") | {"replies": 3})], "field 'prompt.replies': is not a list"),
        (read_rankings, [tree(7)], "field 'prompt': is not a message"),
    ],
)
def test_wrong_rows_are_named(write, read, rows, message):
    with pytest.raises(DataError) as error:
        list(read(write(*rows)))
    assert message in str(error.value)
    assert "x.jsonl:" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (read_conversations, {"a": 1, "b": 2}, 'no known format has these fields, found ["a", "b"]'),
        (read_conversations, {"text": "t"}, "holds another kind of data; expected Conversations"),
        (read_documents, ALPACA, "holds another kind of data; expected Documents"),
        (read_rankings, ALPACA, "holds another kind of data; expected Rankings"),
        (read_conversations, {"messages": [], "label": True}, "found 'unpaired preference'"),
    ],
)
def test_a_file_of_another_kind_stops_even_when_bad_rows_are_skipped(write, read, row, message):
    with pytest.raises(DataError) as error:
        list(read(write(row), on_bad="skip"))
    assert message in str(error.value)


def test_bad_rows_can_be_skipped_and_are_counted(write, tmp_path):
    path = write(ALPACA, {"instruction": "do"}, ALPACA, {"instruction": "do", "output": 3})
    with path.open("a") as file:
        file.write('{"instruction"\n' + json.dumps(ALPACA) + "\n")
    rejects = Rejects()
    assert len(list(read_conversations(path, on_bad="skip", rejects=rejects))) == 3
    assert rejects.counts == {"wrong row: output": 2, "wrong row: not readable": 1}
    assert f"{path}:4: field 'output'" in rejects.examples[1][1]


def test_rows_of_an_array_are_counted_from_one(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([ALPACA] * 11 + [{"instruction": "do"}]))
    with pytest.raises(DataError, match=r"x\.json: row 12: field 'output': is missing"):
        list(read_conversations(path))


def test_format_can_be_given(write):
    path = write({"instruction": "q", "output": "a", "text": "t"})
    assert detect(path) == "alpaca"
    assert one(read_documents(path, format="document")).text == "t"
    with pytest.raises(DataError, match=r"another kind of data; expected Conversations \(.*\), found .hh."):
        list(read_conversations(path, format="hh"))


def test_detect_names_all_formats_of_a_folder(write, tmp_path):
    write(ALPACA, name="a.json")
    write(SHARE, name="b.jsonl")
    (tmp_path / "c.txt").write_text("x")
    assert detect(tmp_path) == "alpaca + sharegpt + text"
