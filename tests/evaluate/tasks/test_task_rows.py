"""Loaders on written rows, on the first rows of the real sets, and on rows that are wrong; how a row is asked."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tutelage.errors import DataError, UsageError
from tutelage.evaluate.tasks.contamination import contaminated, units
from tutelage.evaluate.tasks.rows import read_items
from tutelage.evaluate.tasks.run import Asking, _questions, choose_rows, examples_of, load_items
from tutelage.evaluate.tasks.table import TASKS, load_tasks
from tutelage.evaluate.tasks.task import Fields, Item, Template, ask
from tutelage.records import Message

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
LETTERED = {"question": "Q1", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "C"}


def numbered(kind, word):
    return {
        "instruction": f"Please choose the correct {kind} to the question: Q1?\n\n{word}1: one {word}2: two\n\nAnswer format: x",
        "answer": f"{word.lower()}2",
    }


def talk(*said):
    return {"messages": [{"role": "user", "content": text} for text in said], "meta": {"family": "sum"}}


ROWS = {
    "world": ([talk("1 + 1?"), talk("a", "b")], [None, None]),
    "arc_easy": (
        [
            numbered("answer", "Answer"),
            {"question": "Q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
        ],
        [(("one", "two"), (1,)), (("x", "y"), (1,))],
    ),
    "bbh": ([{"input": "Q1", "target": "(A)"}, {"input": "Q2", "target": "No"}], ["(A)", "No"]),
    "bbq": (
        [
            {
                "context": "c",
                "question": "q",
                "ans0": "x",
                "ans1": "y",
                "ans2": "z",
                "label": i,
                "context_condition": "ambig",
            }
            for i in (0, 2)
        ],
        [(("x", "y", "z"), (0,)), (("x", "y", "z"), (2,))],
    ),
    "blimp": (
        [{"sentence_good": "g.", "sentence_bad": "b.", "UID": "u"}, {"sentence_good": "h.", "sentence_bad": "c."}],
        [(("g.", "b."), (0,)), (("h.", "c."), (0,))],
    ),
    "boolq": (
        [
            {"passage": "P", "question": "is it", "answer": True},
            {"instruction": "x, question: is it?\n\nAnswer format: f", "answer": "false"},
        ],
        [(("no", "yes"), (1,)), (("no", "yes"), (0,))],
    ),
    "ceval": ([LETTERED, LETTERED | {"answer": "A"}], [(("a", "b", "c", "d"), (2,)), (("a", "b", "c", "d"), (0,))]),
    "cmmlu": (
        [{"Question": "Q", **{x: x.lower() for x in "ABCD"}, "Answer": x} for x in "BD"],
        [(("a", "b", "c", "d"), (1,)), (("a", "b", "c", "d"), (3,))],
    ),
    "cmrc2018": (
        [
            {"context": "c", "question": "q", "answers": {"text": ["x", "y"], "answer_start": [0, 1]}},
            {"context": "c", "question": "q", "answers": [{"text": "z"}]},
        ],
        ["x", "z"],
    ),
    "gsm8k": (
        [{"question": "q", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}, {"question": "q", "answer": "#### 1,000"}],
        ["2", "1,000"],
    ),
    "humaneval": (
        [
            {
                "prompt": f"def f{i}():\n",
                "entry_point": f"f{i}",
                "test": "def check(c): pass",
                "canonical_solution": "    pass",
            }
            for i in (0, 1)
        ],
        [None, None],
    ),
    "mbpp": (
        [
            {"text": "Add.", "code": "def f(): pass", "test_list": ["assert f() is None"]},
            {"prompt": "Add.", "code": "x", "test_list": ["assert f(1)", "assert f(2)"]},
        ],
        [None, None],
    ),
    "mmlu": (
        [
            {"question": "Q", "choices": ["a", "b"], "answer": 1, "subject": "s"},
            {"question": "Q", "choices": ["a", "b"], "answer": 0, "subject": "s"},
        ],
        [(("a", "b"), (1,)), (("a", "b"), (0,))],
    ),
    "own_answers": (
        [{"question": "q", "answer": "x", "passage": "P", "group": "g"}, {"question": "q", "answers": ["y", "z"]}],
        ["x", "y"],
    ),
    "own_choices": (
        [
            {"question": "q", "choices": ["x", "y"], "answer": "y"},
            {"question": "q", "A": "x", "B": "", "C": "y", "D": None, "answer": "C"},
        ],
        [(("x", "y"), (1,)), (("x", "y"), (1,))],
    ),
    "piqa": (
        [numbered("solution", "Solution"), {"goal": "g", "sol1": "x", "sol2": "y", "label": 0}],
        [(("one", "two"), (1,)), (("x", "y"), (0,))],
    ),
    "truthfulqa_mc1": (
        [
            {"Question": "q", "Best Answer": "b", "Correct Answers": "b; c", "Incorrect Answers": "w; v"},
            {"question": "q", "mc1_targets": {"choices": ["x", "y"], "labels": [0, 1]}},
        ],
        [(("b", "w", "v"), (0,)), (("x", "y"), (1,))],
    ),
    "truthfulqa_mc2": (
        [
            {"Question": "q", "Best Answer": "b", "Correct Answers": "b; c", "Incorrect Answers": "w; v"},
            {"question": "q", "mc2_targets": {"choices": ["x", "y", "z"], "labels": [1, 0, 1]}},
        ],
        [(("b", "c", "w", "v"), (0, 1)), (("x", "y", "z"), (0, 2))],
    ),
    "winogrande": (
        [
            {"sentence": "Ann saw Bea, but _ left.", "option1": "Ann", "option2": "Bea", "answer": "2"},
            {
                "instruction": "Choose to fill: sentence: A _ b. Option1: x Option2: y Answer format: z",
                "answer": "option1",
            },
        ],
        [(("Ann", "Bea"), (1,)), (("x", "y"), (0,))],
    ),
    "xstest": ([{"prompt": "p", "label": "safe"}, {"prompt": "q", "label": "unsafe"}], [None, None]),
}
ROWS |= dict.fromkeys(("arc_challenge", "openbookqa"), ROWS["arc_easy"])


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.mark.parametrize("name", TASKS)
def test_two_rows(name, tmp_path):
    rows, expected = ROWS[name]
    write(tmp_path / f"{name}.jsonl", rows)
    task = load_tasks([name])[name]
    items = read_items(name, task, tmp_path)
    assert [item.id for item in items] == [f"{name}.jsonl:1", f"{name}.jsonl:2"]
    for item, right in zip(items, expected, strict=True):
        if isinstance(right, tuple):
            assert (item.choices, item.gold) == right
        elif right is not None:
            assert item.answers[0] == right
        for template in task.templates.values():
            shown = ask(item, template, [items[0]] if template.answer else [], chat=False)
            assert len(shown.pairs) == max(1, len(item.choices))
            assert all(text for _, text in shown.pairs) == bool(item.choices)


@pytest.mark.parametrize("name", TASKS)
def test_real_rows(name):
    """The first files of each set; every template can be filled in, and examples too."""
    if not DATA.is_dir():
        pytest.skip(f"there is no {DATA}")
    task = load_tasks([name])[name]
    if not any(next(DATA.glob(pattern), None) for pattern in task.files):
        pytest.skip(f"{DATA} has no {name}")
    items, pool = load_items(name, task, DATA, Asking(shots=2, rows=3, seed=1))
    assert len(items) == 3
    assert len({item.id for item in (*items, *pool)}) >= len(pool)
    for item in items:
        for key, template in task.templates.items():
            if not template.answer:
                continue
            shots = examples_of(name, item, pool, Asking(shots=2), grouped=task.grouped)
            assert item.id not in [shot.id for shot in shots]
            question = ask(item, template, shots, chat=False)
            assert "{" not in template.ask or all(
                value not in question.shown for value in ("{question}", "{choice}")
            ), key
        if item.choices:
            assert all(0 <= i < len(item.choices) for i in item.gold)
            assert item.gold


def test_what_is_asked_word_for_word():
    item, shot = (Item({"question": q}, ("red", "blue"), (1,), id=q) for q in ("Sky?", "Sea?"))
    letters = Template("{question}\n{options}\nAnswer:", " {letter}", head="About {question}\n\n")
    found = ask(item, letters, [shot], chat=False)
    before = "About Sea?\n\nSea?\nA. red\nB. blue\nAnswer: B\n\nSky?\nA. red\nB. blue\nAnswer:"
    assert found == ([(before, " A"), (before, " B")], [])
    content = ask(item, Template("{question}", " {choice}"), [], chat=False)
    assert content == ([("Sky?", " red"), ("Sky?", " blue")], [("", " red"), ("", " blue")])
    gap = ask(Item({"a": "It is ", "b": " today"}, ("x", "y"), (0,)), Template("{a}{choice}", "{b}"), [], chat=True)
    assert gap.pairs == [("It is x", " today"), ("It is y", " today")]


def test_in_the_chat_format_examples_are_turns():
    item, shot = (Item({"question": q}, ("red", "blue"), (1,), id=q) for q in ("Sky?", "Sea?"))
    found = ask(item, Template("Q: {question}\nA:", " {choice}", head="Answer.\n"), [shot], chat=True)
    said = [("user", "Answer.\nQ: Sea?\nA:"), ("assistant", "blue"), ("user", "Q: Sky?\nA:")]
    turns = tuple(Message(role=role, content=text) for role, text in said)
    assert found.pairs == [(turns, "red"), (turns, "blue")]


def test_a_braced_text_is_only_a_text():
    item = Item({"question": "{letter} {0} {x}"}, ("{a}", "b"), (0,))
    assert ask(item, Template("{question}", "{choice}"), [], chat=False).pairs[0] == ("{letter} {0} {x}", "{a}")


LABELLED = {"question": "q", "answerKey": "A"}
WRONG = [
    ("gsm8k", [{"question": "q", "answer": "#### 2"}, {"question": "q"}], "gsm8k.jsonl:2: field 'answer': is missing"),
    ("gsm8k", [{"question": "q", "answer": "two"}], "gsm8k.jsonl:1: field 'answer': has no result"),
    ("ceval", [LETTERED | {"answer": "E"}], "field 'answer': is none of the choices; expected A, B, C, D, found 'E'"),
    ("bbq", [ROWS["bbq"][0][0] | {"label": 3}], "bbq.jsonl:1: field 'label': is none of the choices"),
    ("mmlu", [ROWS["mmlu"][0][0] | {"answer": 2}], "mmlu.jsonl:1: field 'answer': is none of the choices"),
    ("mmlu", [ROWS["mmlu"][0][0] | {"choices": "ab"}], "field 'choices': is not a list of texts"),
    ("arc_easy", [numbered("answer", "Answer") | {"answer": "answer3"}], "is none of the choices"),
    ("winogrande", [ROWS["winogrande"][0][0] | {"sentence": "no gap"}], "has no gap"),
    ("truthfulqa_mc1", [{"question": "q", "mc1_targets": {"choices": ["x"], "labels": [0]}}], "mc1_targets.labels"),
    ("cmrc2018", [{"context": "c", "question": "q", "answers": []}], "field 'answers': has no answer"),
    ("boolq", [{"passage": "P", "question": "q"}], "field 'label': is missing"),
    ("gsm8k", [{"question": "q", "answer": "x #### many"}], "gsm8k.jsonl:1: field 'answer': has no result"),
    ("gsm8k", [{"question": "q", "answer": "x #### 3 or 4"}], "gsm8k.jsonl:1: field 'answer': has no result"),
    ("arc_easy", [LABELLED | {"choices": {"text": ["a"], "label": ["A", "B"]}}], "field 'choices.label': is not a label"),
    ("arc_easy", [LABELLED | {"choices": {"text": ["a", "b"], "label": ["A", "A"]}}], "field 'choices.label': is not a label"),
    ("arc_easy", [LABELLED | {"choices": {"text": ["a", " "], "label": ["A", "B"]}}], "arc_easy.jsonl:1: has an empty choice"),
    ("mmlu", [ROWS["mmlu"][0][0] | {"choices": [str(i) for i in range(27)]}], "mmlu.jsonl:1: has 27 choices"),
    ("truthfulqa_mc1", [{"question": "q", "mc1_targets": 5}], "field 'mc1_targets': is not an object"),
    ("winogrande", [{"instruction": ["x"], "answer": "option1"}], "field 'instruction': is not text"),
    ("gsm8k", [3], "gsm8k.jsonl:1: is not an object"),
    ("own_choices", [{"question": "q", "A": "x", "B": "y", "answer": "C"}], "is none of the choices; expected A, B, found 'C'"),
    ("own_choices", [{"question": "q", "choices": ["x"], "answer": "x"}], "field 'choices': has fewer than two choices"),
    ("own_choices", [{"question": "q", "choices": ["x", " x"], "answer": "x"}], "field 'choices': has a choice twice"),
    ("own_answers", [{"question": "q"}], "field 'answer': is missing"),
    ("own_answers", [{"question": "q", "answers": ["x", " "]}], "field 'answers': is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rows", "said"), WRONG)
def test_a_wrong_row_is_one_line_with_its_place(name, rows, said, tmp_path):
    write(tmp_path / f"{name}.jsonl", rows)
    with pytest.raises(DataError) as caught:
        read_items(name, load_tasks([name])[name], tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_with_and_without_a_header(tmp_path):
    rows = [["What, and why?\nSay it.", "a", "b", "c", "d", "D"], ["Q", "a", "b", "c", "d", "A"]]
    write(tmp_path / "mmlu-original/val/my_subject_val.csv", rows)
    write(tmp_path / "mmlu-original/dev/my_subject_dev.csv", rows[1:])
    task = load_tasks(["mmlu"])["mmlu"]
    items, pool = load_items("mmlu", task, tmp_path, Asking(shots=1))
    assert [(item.gold, item.group, item.id[-2:]) for item in items] == [
        ((3,), "my_subject", ":1"),
        ((0,), "my_subject", ":3"),
    ]
    assert [item.id for item in pool] == ["mmlu-original/dev/my_subject_dev.csv:1"]
    assert items[0].fields["subject"] == "my subject"
    write(tmp_path / "mmlu-original/val/my_subject_val.csv", [*rows, ["short", "a"]])
    with pytest.raises(DataError, match=r"my_subject_val.csv:4: has 2 columns; expected 6: question, A, B"):
        read_items("mmlu", task, tmp_path)
    write(tmp_path / "ceval.csv", [list(LETTERED), list(LETTERED.values())])
    assert read_items("ceval", load_tasks(["ceval"])["ceval"], tmp_path)[0].gold == (2,)


def test_worked_examples_of_bbh(tmp_path):
    (tmp_path / "bbh/cot-prompts").mkdir(parents=True)
    worked = (
        "canary\n-----\nDo it.\n\nQ: one\nA: Let's think step by step.\nSo the answer is 1.\n\n"
        "Q: two\nA: Let's think step by step.\nThe answer is 2.\n"
    )
    (tmp_path / "bbh/cot-prompts/sums.txt").write_text(worked)
    (tmp_path / "bbh/bbh").mkdir()
    (tmp_path / "bbh/bbh/sums.json").write_text(json.dumps({"examples": [{"input": "three", "target": "3"}]}))
    task = load_tasks(["bbh"])["bbh"]
    (item,), pool = load_items("bbh", task, tmp_path, Asking(shots=2))
    shown = ask(item, task.templates["steps"], pool, chat=False).shown
    assert shown == worked.split("-----\n")[1].rstrip("\n") + "\n\nQ: three\nA: Let's think step by step."


def test_rows_without_worked_steps_are_no_examples(tmp_path):
    """bbh's own rows have none; its authors' examples are files of their own."""
    (tmp_path / "bbh/bbh").mkdir(parents=True)
    rows = [{"input": str(i), "target": "3"} for i in range(4)]
    (tmp_path / "bbh/bbh/sums.json").write_text(json.dumps({"examples": rows}))
    task = load_tasks(["bbh"])["bbh"]
    items, pool = load_items("bbh", task, tmp_path, Asking(shots=2))
    with pytest.raises(UsageError, match=r"bbh: bbh/bbh/sums\.json:\d has no answer to show as an example: leave out"):
        _questions("bbh", task, items, pool, Asking(shots=2))


def test_nothing_to_read(tmp_path):
    task = load_tasks(["gsm8k"])["gsm8k"]
    with pytest.raises(
        DataError, match=r"has no rows of gsm8k; looked for gsm8k/test.jsonl, gsm8k/train.jsonl, gsm8k.jsonl"
    ):
        read_items("gsm8k", task, tmp_path)
    with pytest.raises(DataError, match=r"there is no such folder"):
        read_items("gsm8k", task, tmp_path / "none")
    with pytest.raises(
        DataError, match=r"own_answers is not on the hub: --data names the folder that holds own_answers.js"
    ):
        read_items("own_answers", load_tasks(["own_answers"])["own_answers"], None)
    with pytest.raises(UsageError, match=r"no task 'gsm8'; did you mean 'gsm8k'"):
        load_tasks(["gsm8"])


def test_a_saved_folder_of_tables(tmp_path):
    """A snapshot of a set on the hub: Parquet files in a folder of the task's name."""
    datasets = pytest.importorskip("datasets")
    (tmp_path / "gsm8k").mkdir()
    datasets.Dataset.from_list(ROWS["gsm8k"][0]).to_parquet(tmp_path / "gsm8k" / "test-00000.parquet")
    items = read_items("gsm8k", load_tasks(["gsm8k"])["gsm8k"], tmp_path)
    assert [item.answers for item in items] == [("2",), ("1,000",)]


def test_rows_and_examples_follow_from_the_seed():
    items = [Item({"q": str(i)}, id=str(i), group="ab"[i % 2]) for i in range(20)]
    asking = Asking(shots=3, rows=5, seed=7)
    assert (
        choose_rows("t", items, asking)
        == choose_rows("t", items, asking)
        != choose_rows("t", items, Asking(rows=5, seed=8))
    )
    assert choose_rows("t", items, Asking(rows=50)) == items
    shots = examples_of("t", items[4], items, asking, grouped=True)
    assert shots == examples_of("t", items[4], list(items), asking, grouped=True)
    assert {shot.group for shot in shots} == {"a"}
    assert items[4] not in shots
    again = [*items, Item({"q": "4"}, id="20", group="a")]  # the same row, which would show the answer
    with pytest.raises(UsageError, match=r"--shots 10 are more than the 9 examples of a for 4"):
        examples_of("t", items[4], again, Asking(shots=10), grouped=True)


def test_contamination_by_words_and_by_characters():
    assert units("Don't panic: 你好，world 42!") == ["don", "t", "panic", "你", "好", "world", "42"]
    words = [f"w{i}" for i in range(20)]
    inside = " ".join(["before", *words[3:16], "after"]).upper() + "."
    items = [
        Item({"q": " ".join(words)}, id="copied"),
        Item({"q": " ".join(words[:3] + words[4:] + words[:3])}, id="changed"),
        Item({"q": "the sea"}, ("a short one",), id="short"),
        Item({}, ("天地玄黄宇宙洪荒日",), id="chinese"),
        Item({}, ("天地玄黄宇宙洪荒月",), id="other"),
    ]
    seen = contaminated(items, [inside, "话说天地玄黄，宇宙洪荒。日月", ""])
    assert seen == {"copied": True, "changed": False, "chinese": True, "other": False}
    assert contaminated(items, [" ".join(words[3:15])]) == dict.fromkeys(seen, False)  # twelve words


@pytest.mark.parametrize(
    ("name", "stereotyped"),
    [("lowSES", "low SES"), ("African American", "Black"), ("F-Black", "African American"), ("old", "old")],
)
def test_a_group_of_bbq_is_known_however_it_is_written(name, stereotyped):
    row = ROWS["bbq"][0][0] | {
        "answer_info": {"ans0": ["x", name], "ans1": ["y", "other"], "ans2": ["?", "unknown"]},
        "additional_metadata": {"stereotyped_groups": [stereotyped]},
        "question_polarity": "neg",
    }
    read = load_tasks(["bbq"])["bbq"].read
    assert read(Fields(row)).source == {"unknown": 2, "biased": 0}
    assert read(Fields(row | {"question_polarity": "nonneg"})).source == {"unknown": 2, "biased": 1}
    assert read(Fields(row | {"answer_info": {"ans0": [], "ans1": ["y"], "ans2": ["?"]}})).source is None
