"""20,000 rows of all formats with something in them replaced, deleted, doubled or torn: nothing but our own errors."""

import json
import math
import random

import pytest
from test_formats import BAD, CONVERSATIONS, GOOD, HH, PROMPTS, QUESTION, TREE

from tutelage.data.formats import (
    read_answers,
    read_conversations,
    read_documents,
    read_prompts,
    read_rankings,
    recognise,
)
from tutelage.data.read.rows import Rejects, RowError
from tutelage.data.read.tables import plain

ROWS = 20_000
COMPLETIONS = [{"text": "a", "seed": 1, "sampling": {"temperature": 1}}, {"text": "b"}]
RATED = {"helpfulness": {"Rating": "5"}, "truthfulness": {"Rating": "N/A"}}
FEEDBACK = [
    {"response": "a", "model": "m", "overall_score": 7.5, "annotations": RATED},
    {"response": "b", "model": "n", "annotations": RATED},
]
SOUND = {
    "document": (read_documents, {"text": "some", "source": "s", "meta": {"a": 1}}),
    "parallel": (read_documents, {"source": "a", "target": "b"}),
    **{name: (read_conversations, row) for name, (row, _, _) in CONVERSATIONS.items()},
    "prompt_completion messages": (read_conversations, {"prompt": QUESTION, "completion": [GOOD], "system": "be"}),
    **{name: (read_prompts, row) for name, (row, _, _) in PROMPTS.items()},
    "hh": (read_rankings, {"chosen": HH + " a", "rejected": HH + " b", "meta": '{"lang": "en"}'}),
    "preference": (read_rankings, {"prompt": QUESTION, "chosen": [GOOD], "rejected": [BAD], "score": 1.5}),
    "preference implicit": (read_rankings, {"chosen": [*QUESTION, GOOD], "rejected": [*QUESTION, BAD]}),
    "preference text": (read_rankings, {"prompt": "q", "chosen": "good", "rejected": "bad", "system": "be"}),
    "preference alpaca": (read_rankings, {"instruction": "q", "input": "i", "chosen": "good", "rejected": "bad"}),
    "preference sharegpt": (
        read_rankings,
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
    ),
    "preference binarized": (
        read_rankings,
        {
            "prompt": "q",
            "prompt_id": "7",
            "chosen": [*QUESTION, GOOD],
            "rejected": [*QUESTION, BAD],
            "messages": [*QUESTION, GOOD],
            "score_chosen": 8.0,
        },
    ),
    "ultrafeedback": (
        read_rankings,
        {"source": "s", "instruction": "q", "models": ["m", "n"], "completions": FEEDBACK},
    ),
    "alpaca_eval": (read_rankings, {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1}),
    "ranking": (
        read_rankings,
        {"prompt": {"messages": QUESTION, "meta": '{"a": 1}'}, "completions": COMPLETIONS, "ranks": [1, 2]},
    ),
    "answers": (read_answers, {"prompt": {"messages": QUESTION, "meta": {"a": 1}}, "completions": COMPLETIONS}),
    "oasst": (read_rankings, TREE),
    "oasst paths": (read_conversations, TREE),
}
DEEP = json.loads("[" * 150 + "]" * 150)
STRANGE = [None, True, -1, 0, 1e300, 10**30, "", "\0", "x" * 9, HH, "{", '{"a": 1}', [], [[]], {}, DEEP]
STRANGE += [{"role": "user"}, {"from": "gpt"}, [None], ["x", "y"], [["x", "y"]], {"text": "x"}, math.inf]
NAMES = ["messages", "rank", "text", "meta", "system", "history", "label", "sampling", "overall_score", "id", "flags"]


def mutated(draw, value):
    """The value, with one part of it changed."""
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner or draw.random() < 0.1:
        return draw.choice(STRANGE)
    key, copy = draw.choice(inner), value.copy()
    action = draw.random()
    if action < 0.15:
        del copy[key]
    elif action < 0.3 and isinstance(copy, list):
        copy.insert(0, copy[key])
    elif action < 0.4 and isinstance(copy, dict):
        copy[draw.choice(NAMES)] = draw.choice(STRANGE)
    else:
        copy[key] = mutated(draw, copy[key])
    return copy


def torn(draw, text):
    """The text with a piece cut out, doubled or replaced."""
    start = draw.randrange(len(text))
    end = min(len(text), start + draw.randrange(1, 8))
    return (
        text[:start]
        + draw.choice(["", text[start:end] * 2, '"', "\\", "}", "\\ud800", "\x00", "é", "NaN"])
        + text[end:]
    )


def lines(draw, row, count):
    """The row, and mutations of it: of two parts, of one, or of its text."""
    yield json.dumps(row)
    for i in range(count - 1):
        changed = mutated(draw, mutated(draw, row) if i % 2 else row)
        text = json.dumps(changed)
        yield torn(draw, text) if i % 5 == 0 else text


@pytest.mark.parametrize("name", SOUND)
def test_no_mutated_row_raises_anything_but_our_own_error(tmp_path, name):
    read, row = SOUND[name]
    draw, path, count = random.Random(name), tmp_path / "x.jsonl", -(-ROWS // len(SOUND))
    path.write_text("".join(line.replace("\n", " ") + "\n" for line in lines(draw, row, count)), encoding="utf-8")
    rejects = Rejects()
    records = list(read(path, format=name.split()[0], on_bad="skip", rejects=rejects))
    assert len(records) > 10
    wrong = [details for reason, details in rejects.examples if reason.startswith("wrong row")]
    assert len(wrong) > count // 10
    assert all(details.startswith(f"{path}:") and "\n" not in details for details in wrong)
    for record in records[::7]:
        type(record).model_validate_json(record.model_dump_json())


def test_so_many_rows_there_are():
    assert -(-ROWS // len(SOUND)) * len(SOUND) >= 20_000
    assert all(recognise(row) == name.split()[0] for name, (_, row) in SOUND.items() if name != "hh")


def test_mutated_values_of_tables_are_plain_or_a_row_error():
    """What JSON cannot hold at all, in the places where the columns of a table might have it."""
    draw = random.Random(0)
    beyond = [b"x", b"\xff", math.nan, math.inf, (1, 2), object(), [("a", 1)], [(b"a", 1)], {1: 2}, {"a": None}]
    rows = [row for _, row in SOUND.values()]
    refused = 0
    for _ in range(3000):
        value = mutated(draw, draw.choice(rows))
        if isinstance(value, dict) and value:
            value = {**value, draw.choice(list(value)): draw.choice(beyond)}
        try:
            json.dumps(plain(value, "x"), allow_nan=False)
        except RowError as error:
            refused += error.field is not None
    assert refused > 500
