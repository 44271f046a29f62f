"""Rows after bug reports of other projects: each kind of input that was once read wrongly, in silence or without its place."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from tutelage.cli import app as cli
from tutelage.data.formats import (
    Rejects,
    read_answers,
    read_conversations,
    read_documents,
    read_prompts,
    read_rankings,
    what_is_in,
)
from tutelage.data.tokens.batches import encode_conversations, fitting_prompts
from tutelage.data.writing import write_records
from tutelage.errors import DataError
from tutelage.records import Conversation, Document, Message, Ranking
from tutelage.text import Tokenizer, render, render_answers
from tutelage.train.rankings import encode_rankings
from tutelage.train.sft import fitting_conversations


def jsonl(folder, *rows, name="x.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def says(conversation):
    return [(m.role, m.text) for m in conversation.messages]


# ---- marks of what is to be learnt

MARKS = [
    {"loss": False},
    {"loss": 0},
    {"weight": 0},
    {"weight": 0.0},
    {"train": False},
    {"trainable": "false"},
    {"loss_mask": 0},
    {"learn": False},
    {"mask": True},
    {"masked": 1},
]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("keys", [("from", "value", "human", "gpt"), ("role", "content", "user", "assistant")])
def test_a_marked_answer_is_context_and_not_learnt(tmp_path, mark, keys):
    speaker, said, user, assistant = keys
    turns = [
        {speaker: user, said: "one", "loss": None},
        {speaker: assistant, said: "wrong"} | mark,
        {speaker: user, said: "two"} | {"loss": False},
        {speaker: assistant, said: "right"} | {"weight": None},
    ]
    for column in ("conversations", "messages"):
        [got] = read_conversations(jsonl(tmp_path, {column: turns}))
        assert [message.learn for message in got.messages] == [True, False, True, True]
        assert got.meta == {}
    tokenizer = Tokenizer.train(["one two right wrong"] * 5, 290)
    rendered = render(tokenizer, got.messages)
    learnt = [i for i, counts in zip(rendered.ids, rendered.loss_mask, strict=True) if counts]
    assert learnt == [*tokenizer.encode("right"), tokenizer.end_id]
    [example], reasons = encode_conversations([got], tokenizer, 99)
    assert (sum(example.loss_mask), reasons) == (len(learnt), {})


def test_marks_come_back(tmp_path):
    messages = [Message(role="user", content="q"), Message(role="assistant", content="a", learn=False)]
    record = Conversation(messages=(*messages, *messages[:1], Message(role="assistant", content="b")))
    for format, name in ((None, "own.jsonl"), (None, "own.parquet"), ("prompt_completion", "pc.jsonl")):
        written = write_records(tmp_path / name, [record], format)
        assert not written.lost
        assert [m.learn for m in next(read_conversations(tmp_path / name)).messages] == [True, False, True, True]
    assert write_records(tmp_path / "s.jsonl", [record], "sharegpt").lost == {"learn": 1}


@pytest.mark.parametrize("row", [{"weight": 0}, {"loss": False}, {"train": "False"}, {"mask": True}])
def test_a_marked_row_is_left_out_and_counted(tmp_path, row):
    rows = [
        {"instruction": "a", "output": "b"} | row,
        {"instruction": "c", "output": "d", "weight": 1.0, "mask": "User"},
    ]
    rejects = Rejects()
    [got] = read_conversations(jsonl(tmp_path, *rows), rejects=rejects)
    assert says(got) == [("user", "c"), ("assistant", "d")]
    assert rejects.counts == {"marked as not to be learnt": 1}
    with pytest.raises(DataError, match=r"x\.jsonl:1: field 'weight': .*expected 0 or 1, found 0\.3"):
        list(read_conversations(jsonl(tmp_path, {"instruction": "a", "output": "b", "weight": 0.3})))


def test_the_weight_of_a_pair_is_the_rankings(tmp_path):
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    scored = {
        "instruction": "q",
        "completions": [{"response": "a", "overall_score": 2}, {"response": "b", "overall_score": 1}],
    }
    compared = {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1}
    hh = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
    for row in (pair, scored, compared, hh):
        [got] = read_rankings(jsonl(tmp_path, row | {"weight": 0.5}))
        assert (got.weight, got.prompt.meta.get("weight")) == (0.5, None)
    with pytest.raises(DataError, match="'weight': is not a weight"):
        list(read_rankings(jsonl(tmp_path, pair | {"weight": 0})))


# ---- thoughts, tool calls, names, system messages

CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Riga", "day": null}'}}


@pytest.mark.parametrize(
    "row",
    [
        {
            "conversations": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
            ]
        },
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": None, "tool_calls": [CALL]}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "function_call": CALL["function"]}]},
        {"prompt": "q", "completion": "", "tool_calls": [CALL]},
        {"prompt": "q", "response": "", "tool_calls": [CALL]},
        {"instruction": "q", "output": "", "tool_calls": [CALL]},
    ],
)
def test_tool_calls_are_kept(tmp_path, row):
    [got] = read_conversations(jsonl(tmp_path, row))
    assert got.messages[-1].tool_calls[0].name == "weather"
    assert got.messages[-1].tool_calls[0].arguments == {"city": "Riga", "day": None}
    assert got.meta == {}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"prompt": "q", "completion": "a"},
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "instances": [{"input": "", "output": "a"}]},
    ],
)
def test_thoughts_are_kept(tmp_path, row, name):
    row = json.loads(json.dumps(row))
    turn = next((row[column][-1] for column in ("conversations", "messages", "instances") if column in row), row)
    turn[name] = "hm"
    [got] = read_conversations(jsonl(tmp_path, row))
    assert (got.messages[-1].text, got.messages[-1].reasoning, got.meta) == ("a", "hm", {})


def test_answers_of_rankings_keep_thoughts_and_tool_calls(tmp_path):
    asked = [{"role": "user", "content": "q"}]
    sides = {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "assistant", "content": "b"}
    rows = [{"prompt": asked, "chosen": [side], "rejected": [other]} for side, other in (sides, sides[::-1])]
    scored = [{"response": text, "overall_score": 3 - i} for i, text in enumerate(("", "b"))]
    rows.append({"instruction": "q", "completions": [scored[0] | {"tool_calls": [CALL], "thinking": "hm"}, scored[1]]})
    own = {"prompt": {"messages": asked}, "completions": [{"text": "", "tool_calls": [CALL]}, {"text": "b"}]}
    rows += [own, own | {"ranks": [1, 2]}]
    tokenizer = Tokenizer.train(["q b weather city Riga"] * 5, 290)
    for row, read in zip(rows, [read_rankings, read_rankings, read_rankings, read_answers, read_rankings], strict=True):
        [got] = read(jsonl(tmp_path, row))
        calling = next(completion for completion in got.completions if completion.text == "")
        assert [(call.name, call.arguments["city"]) for call in calling.tool_calls] == [("weather", "Riga")]
        assert calling.reasoning == ("hm" if "instruction" in row else "")
        for name in ("x.jsonl", "x.parquet"):
            write_records(tmp_path / "own" / name, [got])
            assert list(read(tmp_path / "own" / name)) == [got]
        prompt, (ids, _) = render_answers(tokenizer, got.prompt.messages, [calling.message, "b"])
        assert prompt + ids == render(tokenizer, [*got.prompt.messages, calling.message]).ids
        assert '"name": "weather"' in tokenizer.decode(ids)
        if isinstance(got, Ranking):
            [example], _ = encode_rankings([("", got)], tokenizer, 999)
            assert ids in example.completions
            assert not write_records(tmp_path / "pair.jsonl", [got], "preference").lost
            assert next(read_rankings(tmp_path / "pair.jsonl")).completions[0].tool_calls == (
                got.completions[0].tool_calls
            )
            with pytest.raises(DataError, match="one of its answers is more than text"):
                write_records(tmp_path / "hh.jsonl", [got], "hh")


@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
def test_system_messages_are_kept(tmp_path, column):
    for row in (
        {"instruction": "q", "output": "a"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": "q", "completion": "a"},
    ):
        [got] = read_conversations(jsonl(tmp_path, row | {column: "Be brief."}))
        assert (says(got)[0], got.meta) == (("system", "Be brief."), {})
    [asked] = read_prompts(jsonl(tmp_path, {"prompt": "q", column: "Be brief."}))
    assert says(asked)[0] == ("system", "Be brief.")


def test_inputs_and_system_messages_of_ranked_instructions_are_kept(tmp_path):
    asked = {"instruction": "Add.", "input": "1 + 1", "system": "Be brief."}
    compared = {"output_1": "2", "output_2": "3", "preference": 1}
    scored = {"completions": [{"response": "2", "overall_score": 2}, {"response": "3", "overall_score": 1}]}
    for rest in (compared, scored, {"chosen": "2", "rejected": "3"}):
        [got] = read_rankings(jsonl(tmp_path, asked | rest))
        assert says(got.prompt) == [("system", "Be brief."), ("user", "Add.\n\n1 + 1")]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    [own] = read_conversations(jsonl(tmp_path, {"messages": turns, "system": "Be brief."}))
    [prompt] = read_prompts(jsonl(tmp_path, {"messages": turns[:1], "system": "Be brief."}))
    assert says(own)[0] == says(prompt)[0] == ("system", "Be brief.")


def test_a_refusal_is_the_answer(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "refusal": "No."}]
    [got] = read_conversations(jsonl(tmp_path, {"messages": turns}))
    assert says(got)[-1] == ("assistant", "No.")


# ---- null is absent

NULLS = [
    (read_documents, {"text": "t", "source": None, "meta": None}),
    (read_conversations, {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}),
    (read_conversations, {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
    (read_conversations, {"instruction": "q", "input": None, "output": "a", "history": None, "system": None}),
    (read_prompts, {"prompt": "q", "id": None, "system": None}),
    (read_rankings, {"prompt": "q", "chosen": "a", "rejected": "b", "weight": None, "system": None}),
    (
        read_rankings,
        {
            "prompt": {"messages": [{"role": "user", "content": "q"}]},
            "completions": [{"text": "a"}, {"text": "b"}],
            "ranks": [1, 2],
        },
    ),
    (read_answers, {"prompt": {"messages": [{"role": "user", "content": "q"}]}, "completions": [{"text": "a"}]}),
]


def with_nulls(value):
    """Every object with keys that are null."""
    more = ("name", "tool_calls", "weight", "evidence", "model", "seed", "x")
    if isinstance(value, dict):
        return {k: with_nulls(v) for k, v in value.items()} | {k: None for k in more if k not in value}
    return [with_nulls(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("read", "row"), NULLS)
def test_null_is_absent_in_lines_arrays_and_tables(tmp_path, read, row):
    [expected] = read(jsonl(tmp_path, row))
    path = jsonl(tmp_path, with_nulls(row))
    assert list(read(path)) == [expected]
    (tmp_path / "x.json").write_text(json.dumps([with_nulls(row)]))
    assert [
        r.model_copy(update={"source": "x.jsonl"}) if hasattr(r, "source") else r for r in read(tmp_path / "x.json")
    ] == [expected]
    parquet.write_table(pa.Table.from_pylist([with_nulls(row)]), tmp_path / "x.parquet")
    assert len(list(read(tmp_path / "x.parquet"))) == 1


# ---- Open-Assistant, one message per row


def message(id, parent, role, text, **more):
    return {"message_id": id, "parent_id": parent, "role": role, "text": text, "message_tree_id": "t"} | more


FLAT = [
    message("m1", None, "prompter", "Name a river.", tree_state="ready_for_export"),
    message("m2", "m1", "assistant", "The Daugava.", rank=0.0),
    message("m3", "m1", "assistant", "Water!!", rank=1, deleted=True),
    message("m4", "m1", "assistant", "The Nile.", rank=1, deleted=False),
    message("m5", "m2", "prompter", "And a lake?", rank=None),
    message("m6", "m5", "assistant", "Burtnieks.", emojis={"+1": 2}),
    message("m7", "m0", "assistant", "lost"),
    message("m2", "m1", "assistant", "The Daugava."),
]


@pytest.mark.parametrize("order", [list(range(8)), [5, 4, 6, 1, 7, 3, 2, 0]])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_flat_open_assistant_export_is_trees(tmp_path, order, ending):
    rows = [FLAT[i] for i in order]
    path = jsonl(tmp_path, *rows)
    if ending == "parquet":
        path = tmp_path / "x.parquet"
        columns = ["message_id", "parent_id", "role", "text", "message_tree_id", "tree_state", "deleted"]
        ranks = [None if row.get("rank") is None else float(row["rank"]) for row in rows]
        table = pa.table({name: [row.get(name) for row in rows] for name in columns} | {"rank": ranks})
        parquet.write_table(table, path)
    rejects = Rejects()
    [got] = read_conversations(path, rejects=rejects)
    assert [m.text for m in got.messages] == ["Name a river.", "The Daugava.", "And a lake?", "Burtnieks."]
    assert set(rejects.counts) == {"deleted message", "reply to a message that is not there", "message given before"}
    [ranking] = read_rankings(path) if order[0] == 0 else [None]
    if ranking and ending == "jsonl":
        assert ([c.text for c in ranking.completions], ranking.ranks) == (["The Daugava.", "The Nile."], (1, 2))
    assert what_is_in(path) == ("oasst_flat", Ranking)
    with pytest.raises(DataError, match="another kind of data"):
        list(read_documents(path))


def test_a_wrong_message_of_a_flat_export_is_named(tmp_path):
    path = jsonl(tmp_path, *FLAT[:2], message("m9", "m1", "bot", "x"))
    with pytest.raises(DataError, match=r"x\.jsonl:3: field 'role': is not a role"):
        list(read_conversations(path))
    rejects = Rejects()
    assert len(list(read_conversations(path, on_bad="skip", rejects=rejects))) == 1
    assert rejects.counts == {"wrong row: role": 1}


# ---- byte-order marks

ROW = '{"instruction": "Say %d.", "output": "x"}'
BOM = "\ufeff"


@pytest.mark.parametrize(
    "text",
    [
        f"{BOM}{ROW % 1}\n{ROW % 2}\n{BOM}{ROW % 3}\n",
        f"{BOM}{BOM}{ROW % 1}\n  {BOM} {ROW % 2}\n{ROW % 3}{BOM}\n",
        f"{ROW % 1}{BOM}{ROW % 2}\n{ROW % 3}\n{BOM}",  # the first file had no line end
        f"{BOM}\n{BOM}{BOM}[{ROW % 1}, {ROW % 2}, {ROW % 3}]",
        f"{BOM}{ROW % 1}\n{ROW % 2}\n{ROW % 3}\n".replace(
            '{"ins', f'{{"{BOM}ins'
        ),  # of a table's file, now in the column's name
    ],
)
def test_byte_order_marks_are_no_part_of_rows(tmp_path, text):
    (tmp_path / "x.jsonl").write_text(text, encoding="utf-8")
    got = list(read_conversations(tmp_path / "x.jsonl"))
    assert [c.messages[0].text for c in got] == ["Say 1.", "Say 2.", "Say 3."]


@pytest.mark.parametrize(
    "text", [f"{BOM}One.\n\n{BOM}Two.\n", f"One.\n{BOM}\nTwo.\n", f"{BOM}{BOM}One.\n\nTwo.{BOM}\n{BOM}"]
)
def test_byte_order_marks_are_out_of_texts(tmp_path, text):
    (tmp_path / "x.txt").write_text(text, encoding="utf-8")
    assert "".join(d.text for d in read_documents(tmp_path / "x.txt")) == "One.\n\nTwo.\n"


# ---- what gives no record, and what is not said

LEFT_OUT = [
    (read_conversations, {"conversations": []}, "empty conversation"),
    (read_conversations, {"messages": []}, "empty conversation"),
    (read_prompts, {"prompt": []}, "empty conversation"),
    (read_conversations, {"instruction": "", "input": " ", "output": "x"}, "empty instruction"),
    (read_conversations, {"prompt": "q", "response": " "}, "empty completion"),
]


@pytest.mark.parametrize(("read", "row", "reason"), LEFT_OUT)
def test_empty_rows_are_left_out_and_counted(tmp_path, read, row, reason):
    rejects = Rejects()
    assert not list(read(jsonl(tmp_path, row), rejects=rejects))
    assert rejects.counts == {reason: 1}


@pytest.mark.parametrize(
    ("instruction", "given"), [("", "Say 2."), ("Say 2.", ""), ("Say 2.", None), (" \n", "Say 2.")]
)
def test_an_empty_half_of_an_instruction_leaves_no_blank_lines(tmp_path, instruction, given):
    [got] = read_conversations(jsonl(tmp_path, {"instruction": instruction, "input": given, "output": "2"}))
    assert says(got)[0] == ("user", "Say 2.")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"prompt": "a", "chosen": "b"}, {"prompt": "a"}],
            ":1: field 'rejected': is missing, and 'chosen' alone ranks nothing",
        ),
        ([{"prompt": "a", "rejected": "b"}], ":1: field 'chosen': is missing"),
        ([{"chosen": "b"}], ":1: field 'rejected': is missing"),
        ([{"prompt": "a", "chosen": "b", "rejected": None}], ":1: field 'rejected': is missing"),
        (
            [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b"}],
            ":2: field 'rejected': is missing",
        ),
        ([{"prompt": "a"}, {"prompt": "a", "chosen": "b"}], ":2: field 'chosen': is an answer"),
        ([{"prompt": "a"}, {"prompt": "a", "completion": "b"}], ":2: field 'completion': is an answer"),
    ],
)
def test_an_answer_alone_does_not_go_unsaid(tmp_path, rows, message):
    path = jsonl(tmp_path, *rows)
    with pytest.raises(DataError) as error:
        list(read_prompts(path))
    assert f"x.jsonl{message}" in str(error.value)
    rejects = Rejects()
    assert len(list(read_prompts(path, on_bad="skip", rejects=rejects))) + rejects.counts.total() == len(rows)


def ranking(count, **more):
    prompt = {"messages": [{"role": "user", "content": "q"}]}
    return {
        "prompt": prompt,
        "completions": [{"text": f"{i}"} for i in range(count)],
        "ranks": list(range(1, count + 1)),
    } | more


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (read_rankings, ranking(10), "'completions': has 10 entries, and at most 9 are allowed"),
        (read_rankings, ranking(1), "'completions': has 1 entries, and at least 2 are needed"),
        (read_rankings, ranking(2, weight=0), "'weight': is not a weight; expected a number above 0, found 0"),
        (read_rankings, ranking(2, weight="x"), "'weight': is not a weight"),
        (read_rankings, ranking(2, seconds="x"), "'seconds': is not a number"),
        (read_rankings, ranking(2, ranks=[0, 1]), "ranks start at 1"),
        (read_rankings, ranking(2, ranks=[1, 2.5]), "'ranks.1': is not a whole number, found 2.5"),
        (read_rankings, ranking(2, all_bad="?"), "'all_bad': is neither true nor false"),
        (read_rankings, ranking(2, ranks="ab"), "'ranks': is not a list"),
        (read_rankings, ranking(2, labeller=3), "'labeller': is not text, found 3"),
        (read_rankings, ranking(2, labels=True), "'labels': is not a field that is known here, found true"),
        (read_answers, {"prompt": "q", "completions": [{"text": "x"}]}, "'prompt': is not an object"),
        (read_conversations, {"messages": "[]"}, "'messages': is not a list of messages"),
        (
            read_conversations,
            {"messages": [{"role": "user", "content": "x", "reasoning": "r"}]},
            "'messages.0': reasoning belongs",
        ),
        (
            read_conversations,
            {"messages": [{"role": "user", "content": "x", "evidence": 3}]},
            "'messages.0.evidence': is not a list",
        ),
        (read_documents, {"text": ""}, "'text': is empty"),
        (read_documents, {"text": {"a": None, "b": [True]}}, "'text': is not text, found {\"b\": [true]}"),
    ],
)
def test_errors_are_in_words_of_the_data(tmp_path, read, row, message):
    with pytest.raises(DataError) as error:
        list(read(jsonl(tmp_path, row)))
    assert message in str(error.value)
    for word in ("Value error", "Input should", "tuple", "Tuple", "None", "True", "validation"):
        assert word not in str(error.value)


# ---- rows that a chat template refuses

REFUSING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{{ m.role + ': ' + m.content + (eos_token if m.role == 'assistant' else '') }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    """An imported tokenizer whose template takes turns that alternate, the user's first."""
    folder = tmp_path_factory.mktemp("refusing")
    Tokenizer.train(["user assistant Hi You there Yes"] * 5, 290).save(folder)
    return Tokenizer.load(folder, chat_template=REFUSING)


def talk(*turns):
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns]}


GOOD = talk(("human", "One?"), ("gpt", "Two."))
BAD = [
    talk(("human", "Hi"), ("human", "You there?"), ("gpt", "Yes."), ("gpt", "What?")),
    talk(("gpt", "Welcome back."), ("human", "Thanks"), ("gpt", "Sure.")),
    talk(("system", "Be kind."), ("human", "a"), ("gpt", "b")),
]


@pytest.mark.parametrize("bad", BAD)
def test_a_refused_conversation_has_its_place_and_a_way_past_it(tmp_path, refusing, bad, capsys):
    path = jsonl(tmp_path, *[GOOD] * 600, bad, GOOD)  # beyond the first that are rendered together
    with pytest.raises(
        DataError, match=r"x\.jsonl:601: the chat template refuses this conversation: roles must alternate"
    ):
        fitting_conversations(path, refusing, 99, "stop")
    examples, reasons = fitting_conversations(path, refusing, 99, "skip")
    assert (len(examples), reasons) == (601, {"refused by the chat template": 1})
    assert "1 x refused by the chat template" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"no conversation fits .* 1 x refused"):
        fitting_conversations(jsonl(tmp_path, bad), refusing, 99, "skip")


def test_refused_and_long_prompts_are_left_out_and_counted(tmp_path, refusing, capsys):
    rows = [{"messages": [{"role": "user", "content": text}]} for text in ("Hi", "Hi " * 200, "You")]
    rows.insert(1, {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]})
    path = jsonl(tmp_path, *rows)
    with pytest.raises(DataError, match=r"x\.jsonl:2: the chat template refuses"):
        fitting_prompts(path, [(refusing, 50)])
    prompts, ids, reasons = fitting_prompts(path, [(refusing, 99), (refusing, 50)], "skip")
    assert [prompt.messages[0].text for prompt in prompts] == ["Hi", "You"]
    assert [len(row) for row in ids] == [
        len(render(refusing, p.messages, add_generation_prompt=True).ids) for p in prompts
    ]
    assert sorted(reasons.values()) == [1, 1]
    assert "left out 1 x refused by the chat template, 1 x too long" in capsys.readouterr().out
    with pytest.raises(DataError, match="no prompt is left to answer: 1 x too long"):
        fitting_prompts(jsonl(tmp_path, rows[2]), [(refusing, 50)])
    with pytest.raises(DataError, match=r"x\.jsonl: holds no prompts"):
        fitting_prompts(jsonl(tmp_path, {"messages": [{"role": "assistant", "content": "Welcome."}]}), [(refusing, 50)])


def test_prompts_that_ask_nothing_are_left_out_and_counted(tmp_path, refusing, capsys):
    rows = [{"messages": [{"role": "user", "content": text}]} for text in ("Hi", "", "You", " \n\u3000")]
    tool = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "\t"}]
    prompts, _, reasons = fitting_prompts(jsonl(tmp_path, *rows, {"messages": tool}), [(refusing, 50)])
    assert ([prompt.messages[0].text for prompt in prompts], sum(reasons.values())) == (["Hi", "You"], 3)
    assert "left out 3 x whose last message is empty" in capsys.readouterr().out
    with pytest.raises(DataError, match="no prompt is left to answer: 1 x whose last message is empty"):
        fitting_prompts(jsonl(tmp_path, rows[1]), [(refusing, 50)])


def test_a_refused_ranking_has_its_place_and_a_way_past_it(tmp_path, refusing):
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    path = jsonl(tmp_path, pair, pair | {"prompt": "r", "system": "Be kind."})
    places = []
    rankings = list(read_rankings(path, places=places))
    with pytest.raises(DataError, match=r"x\.jsonl:2: the chat template refuses"):
        encode_rankings(zip(places, rankings, strict=True), refusing, 99)
    examples, reasons = encode_rankings(zip(places, rankings, strict=True), refusing, 99, "skip")
    assert (len(examples), reasons) == (1, {"refused by the chat template": 1})


# ---- the screen and the exit code


def test_a_file_of_which_no_row_reads_fails_the_inspection(tmp_path, capsys):
    bad = jsonl(tmp_path, {"messages": "not a list"}, {"messages": 3})
    assert cli.main(["data", "inspect", str(bad)]) == 2
    assert "none of its rows can be read" in capsys.readouterr().err
    jsonl(tmp_path, {"text": "t"}, name="good.jsonl")
    assert cli.main(["data", "inspect", str(tmp_path)]) == 2
    assert cli.main(["data", "inspect", str(jsonl(tmp_path, {"messages": "no"}, {"messages": []}, {"text": "x"}))]) == 2
    assert cli.main(["data", "inspect", str(jsonl(tmp_path, {"conversations": []}))]) == 0
    good_and_bad = jsonl(tmp_path, {"instruction": "a", "output": "b"}, {"instruction": "a"})
    assert cli.main(["data", "inspect", str(good_and_bad)]) == 0


def test_escape_codes_of_rows_are_shown_and_not_obeyed(tmp_path, capsys):
    turns = [
        {"role": "user", "content": "\x1b[2J\x1b[31mred\u202e\x9b1m"},
        {"role": "assistant", "content": "a\x07\x7f"},
    ]
    path = jsonl(tmp_path, {"messages": turns}, {"messages": 3, "\x1b[0m": 1}, name="\x1b[1mx.jsonl")
    assert cli.main(["data", "inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "user: \\x1b[2J\\x1b[31mred\\u202e\\x9b1m" in shown
    assert "assistant: a\\x07\\x7f" in shown
    assert cli.main(["data", "inspect", str(tmp_path / "\x1b[2Jnowhere")]) == 2
    assert "\\x1b[2Jnowhere" in (said := capsys.readouterr().err)
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & {*shown, *said}


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "cp1252"])
def test_what_the_screen_cannot_say_is_replaced(tmp_path, encoding):
    path = jsonl(
        tmp_path, {"messages": [{"role": "user", "content": "月亮😀é"}, {"role": "assistant", "content": "ok"}]}
    )
    words = [sys.executable, "-m", "tutelage", "data", "inspect", str(path)]
    done = subprocess.run(words, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "user: 月亮😀é".encode(encoding, "replace") in done.stdout


def test_documents_are_still_documents(tmp_path):
    path = jsonl(tmp_path, {"text": "t", "message_id": 3})
    assert [type(d) for d in read_documents(path)] == [Document]
