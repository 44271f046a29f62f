"""Tool calls, content as parts, reasoning and the other fields beyond roles and texts: kept, or refused or counted by name."""

import json

import pytest

from tutelage.data.formats import (
    detect,
    read_answers,
    read_conversations,
    read_prompts,
    read_rankings,
    what_is_in,
    write_jsonl,
)
from tutelage.data.read.rows import Rejects
from tutelage.data.writing import write_records
from tutelage.errors import DataError
from tutelage.records import (
    Answers,
    Citation,
    Completion,
    Conversation,
    Evidence,
    ImagePart,
    Message,
    Prompt,
    Ranking,
    TextPart,
    ToolCall,
)

CALL = ToolCall(name="weather", arguments={"city": "Ulm", "days": 2}, id="call_1")
ASK = Message(role="user", content="Rain in Ulm?")
CALLING = Message(role="assistant", content="", tool_calls=(CALL,), reasoning="Look it up.")
OUTPUT = Message(role="tool", content='{"rain": true}', tool_call_id="call_1", name="weather")
ANSWER = Message(role="assistant", content="Yes.")
TALK = Conversation(messages=(Message(role="developer", content="Be short."), ASK, CALLING, OUTPUT, ANSWER))
PICTURE = Message(role="user", content=(TextPart(text="What is "), ImagePart(image="a.png"), TextPart(text="this?")))
SOURCE = Evidence(id="e1", text="It rains.", source="https://example.org", title="Weather")
CITED = Message(
    role="assistant", content="Rain.", evidence=(SOURCE,), citations=(Citation(start=0, end=4, evidence="e1"),)
)

OPENAI = [
    {"role": "developer", "content": "Be short."},
    {"role": "user", "content": "Rain in Ulm?", "name": None},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Look it up.",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Ulm", "days": 2}'},
            }
        ],
    },
    {"role": "tool", "content": '{"rain": true}', "tool_call_id": "call_1", "name": "weather", "tool_calls": None},
    {"role": "assistant", "content": "Yes.", "refusal": None},
]


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return tmp_path / "x.jsonl"

    return write


def one(records):
    (record,) = records
    return record.model_copy(update={"source": ""})


def test_openai_tool_calls(write):
    assert one(read_conversations(write({"messages": OPENAI}))) == TALK
    assert one(read_conversations(write({"prompt": OPENAI[:4], "completion": OPENAI[4:]}))) == TALK
    waiting = write({"messages": OPENAI[:4]})
    assert what_is_in(waiting)[1] is Prompt
    assert one(read_prompts(waiting)).messages == TALK.messages[:4]
    assert one(read_prompts(write({"messages": OPENAI}))).messages == TALK.messages[:4]


def test_sharegpt_function_calls(write):
    turns = [
        {"from": "human", "value": "Rain in Ulm?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Ulm", "days": 2}}'},
        {"from": "observation", "value": '{"rain": true}'},
        {"from": "gpt", "value": "Yes."},
    ]
    path = write({"conversations": turns, "tools": "[...]"})
    assert detect(path) == "sharegpt"
    got = one(read_conversations(path))
    call = Message(role="assistant", content="", tool_calls=(CALL.model_copy(update={"id": ""}),))
    assert got.messages == (ASK, call, Message(role="tool", content='{"rain": true}'), ANSWER)
    assert got.meta == {"tools": "[...]"}


@pytest.mark.parametrize(
    "picture",
    [
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "input_image", "image_url": "a.png"},
        {"type": "image", "image": "a.png", "text": None},
    ],
)
def test_parts(write, picture):
    content = [{"type": "text", "text": "What is "}, picture, {"type": "text", "text": "this?"}]
    got = one(read_conversations(write({"messages": [{"role": "user", "content": content}, OPENAI[4]]})))
    assert got.messages == (PICTURE, ANSWER)
    assert got.messages[0].text == "What is this?"


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "user", "content": [{"type": "audio", "audio": "x"}]}, "'messages.0.content.0': is not a part"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "low"}}]},
            "is not a part of a message",
        ),
        ({"role": "user", "content": None}, "'messages.0.content': is not text"),
        ({"role": "user", "content": []}, "'messages.0.content': is not text"),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"name": ""}]},
            "'messages.0.tool_calls.0': is not a tool",
        ),
        ({"role": "assistant", "content": "", "tool_calls": "x"}, "'messages.0.tool_calls': is not a list"),
        ({"from": "function_call", "value": "weather()"}, "'messages.0.value': is not a tool call"),
        ({"role": "user", "content": "x", "reasoning": "r"}, "reasoning belongs to the assistant"),
        ({"role": "assistant", "content": "x", "weight": 0.5}, "'messages.0.weight': says whether it is to be learnt"),
        ({"from": "gpt", "value": "x", "loss": True, "mask": True}, "'messages.0.mask': contradicts another mark"),
        ({"from": "human", "value": "x", "loss": True}, "'messages.0': marks a turn of the user as to be learnt"),
    ],
)
def test_what_a_turn_cannot_be_is_named(write, turn, message):
    with pytest.raises(DataError) as error:
        list(read_conversations(write({"messages": [turn, OPENAI[4]]})))
    assert message in str(error.value)


def test_unknown_fields_of_turns_go_to_meta(write):
    turns = [{"from": "human", "value": "q", "time": 3}, {"from": "gpt", "value": "a", "likes": 1}]
    expected = [{"time": 3}, {"likes": 1}]
    got = one(read_conversations(write({"conversations": turns})))
    assert got.meta == {"conversations": expected}
    pair = {"conversations": turns[:1], "chosen": turns[1], "rejected": {"from": "gpt", "value": "b"}}
    assert one(read_rankings(write(pair))).prompt.meta == {"conversations": expected[:1], "chosen": expected[1:]}
    own = {"prompt": {"messages": [{"role": "user", "content": "q", "time": 3}]}, "completions": [{"text": "a"}]}
    with pytest.raises(DataError, match=r"field 'prompt\.messages': has unknown fields"):
        list(read_answers(write(own)))


def test_a_preference_keeps_tool_calls_and_counts_pictures(write):
    good = {"role": "assistant", "content": "", "tool_calls": OPENAI[2]["tool_calls"]}
    row = {"prompt": "q", "chosen": [good], "rejected": [{"role": "assistant", "content": "b"}]}
    got = one(read_rankings(write(row)))
    assert got.completions[0].tool_calls == TALK.messages[2].tool_calls
    assert got.completions[0].message == TALK.messages[2].model_copy(update={"content": "", "reasoning": ""})
    picture = {"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "x.png"}}]}
    rejects = Rejects()
    assert list(read_rankings(write(row | {"chosen": [picture]}), rejects=rejects)) == []
    assert rejects.counts == {"an answer has pictures": 1}


ASKED = Prompt(messages=TALK.messages[:4], id="p1")
CITING = Completion(text="Rain.", evidence=(SOURCE,), citations=CITED.citations)
RANKED = Ranking(
    prompt=ASKED,
    completions=(CITING, Completion(text="No.")),
    ranks=(1, 2),
    id="r1",
    weight=0.5,
    note="clear",
    meta={"why": "disagreement"},
)
EVERYTHING = [
    (read_conversations, TALK),
    (read_conversations, Conversation(messages=(ASK, CITED))),
    (read_prompts, ASKED),
    (read_rankings, RANKED),
    (read_answers, Answers(prompt=ASKED, completions=(CITING,))),
]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize(("read", "record"), EVERYTHING)
def test_our_own_formats_hold_everything(tmp_path, read, record, ending):
    written = write_records(tmp_path / f"x.{ending}", [record])
    assert written.lost == {}
    got = (
        one(read(tmp_path / f"x.{ending}")) if hasattr(record, "source") else next(iter(read(tmp_path / f"x.{ending}")))
    )
    assert got == record


def test_parts_come_back_from_lines_and_are_refused_in_tables(tmp_path):
    record = Conversation(messages=(PICTURE, ANSWER))
    write_jsonl(tmp_path / "x.jsonl", [record])
    assert one(read_conversations(tmp_path / "x.jsonl")) == record
    for name in ("conversation", "prompt_completion"):
        write_records(tmp_path / "y.jsonl", [record], name)
        assert one(read_conversations(tmp_path / "y.jsonl")) == record
        with pytest.raises(DataError, match="one of its messages has parts, and a table holds text"):
            write_records(tmp_path / "x.parquet", [record], name)
    row = json.loads((tmp_path / "y.jsonl").read_text())
    assert row["prompt"][0]["content"][1] == {"type": "image_url", "image_url": {"url": "a.png"}}
    assert write_records(tmp_path / "y.jsonl", [record], "alpaca").lost == {"images": 1}


def test_what_other_formats_hold_and_what_they_lose(tmp_path):
    path = tmp_path / "x.jsonl"
    assert write_records(path, [TALK], "prompt_completion").lost == {}
    assert one(read_conversations(path)) == TALK
    call = json.loads(path.read_text())["prompt"][2]["tool_calls"]
    assert call == OPENAI[2]["tool_calls"]
    with pytest.raises(DataError, match="a table of this format has no place for reasoning_content, tool_calls"):
        write_records(tmp_path / "x.parquet", [TALK], "prompt_completion")
    lost = write_records(path, [TALK], "sharegpt").lost
    assert lost == dict.fromkeys(["reasoning", "tool_call_id", "name"], 1)
    assert [m.role for m in one(read_conversations(path)).messages] == [m.role for m in TALK.messages]
    lost = write_records(path, [RANKED], "preference").lost
    assert lost == dict.fromkeys(
        ["id", "evidence", "citations", "note", "weight", "the ranking's id", "the ranking's meta"], 1
    )
    both = CALLING.model_copy(update={"content": "One moment."})
    with pytest.raises(DataError, match="both text and tool calls"):
        write_records(path, [Conversation(messages=(ASK, both, OUTPUT, ANSWER))], "sharegpt")
    with pytest.raises(DataError, match="do not alternate between user and assistant"):
        write_records(path, [TALK], "alpaca")
