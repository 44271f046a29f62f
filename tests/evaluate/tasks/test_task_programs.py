"""Answers that are programs: their checks, many samples of each, and both from the command line."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from math import comb
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_start import logprobs_of, make_start

from tutelage.assistant.assistant import Assistant
from tutelage.cli import app as cli
from tutelage.errors import DataError, RecipeError, SandboxError, UsageError
from tutelage.evaluate.tasks import programs
from tutelage.evaluate.tasks.models import Local, Wrote
from tutelage.evaluate.tasks.rows import read_items
from tutelage.evaluate.tasks.run import Asking, run_task
from tutelage.evaluate.tasks.sets import humaneval, mbpp
from tutelage.evaluate.tasks.task import Answered, Fields, Item
from tutelage.generate.sampler import Sampling
from tutelage.recipes.tasks import TasksInputs, TasksSettings
from tutelage.records import Message
from tutelage.sandbox.programs import Check, called_names, human_eval
from tutelage.sandbox.run import standing_wall

DATA = Path(os.environ.get("TUTELAGE_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
ROOT = {
    "prompt": "from math import sqrt\n\n\ndef half(x):\n    return x / 2\n\n\ndef root(x):\n    '''The root.'''\n",
    "entry_point": "root",
    "test": "def check(candidate):\n    assert candidate(16) == half(8)\n",
    "canonical_solution": "    return sqrt(x)\n",
}


@pytest.fixture(scope="module")
def wall():
    try:
        standing_wall()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return make_start(tmp_path_factory.mktemp("programs"))


# ---- checks


def humaneval_item(**changes) -> Item:
    return humaneval.read(Fields(ROOT | changes))


def mbpp_item(*assertions: str, **more) -> Item:
    return mbpp.read(Fields({"text": "t", "code": "c", "test_list": list(assertions)} | more))


CHAT = "It is:\n```python\n{}```\nThat is all."
AREA = mbpp_item("assert math.isclose(area(3), 9)", "assert set(parts(2)) == {1, 2}", test_imports=["import math"])
CASES = [
    (humaneval.program(humaneval_item(), "    return sqrt(x)"), True),
    (humaneval.program(humaneval_item(), "    return x"), False),
    (humaneval.program(humaneval_item(), CHAT.format("def root(x):\n    return sqrt(x)\n")), True),
    (humaneval.program(humaneval_item(), CHAT.format("def root(x):\n    return half(x)\n")), False),
    (humaneval.program(humaneval_item(), CHAT.format("    return half(8)\n")), True),
    (humaneval.program(humaneval_item(), "Sorry, I cannot."), False),
    (mbpp.program(AREA, CHAT.format("def parts(n):\n    return [1, n]\n\ndef area(n):\n    return n * n\n")), True),
    (mbpp.program(AREA, "def parts(n):\n    return [1, n]\n\ndef area(n):\n    return n + n\n"), False),
    (mbpp.program(mbpp_item("assert sum(10, 15) == 6"), "def sum(a, b):\n    return 6\n"), True),
    (mbpp.program(mbpp_item("assert sum(10, 15) == 6"), "def total(a, b):\n    return 6\n"), False),
]


@pytest.mark.usefixtures("wall")
def test_right_answers_pass_and_wrong_ones_do_not():
    assert programs.passes([check for check, _ in CASES]) == [right for _, right in CASES]


@pytest.mark.usefixtures("wall")
@pytest.mark.skipif(not (DATA / "humaneval").is_dir(), reason=f"there is no {DATA / 'humaneval'}")
def test_whole_functions_of_humaneval_pass_and_mutated_ones_do_not():
    items = read_items("humaneval", humaneval.TASK, DATA)[::12]
    parts = [(item, item.fields["prompt"], item.fields["solution"]) for item in items]
    right = [humaneval.program(item, CHAT.format(prompt + solution)) for item, prompt, solution in parts]
    wrong = [humaneval.program(item, prompt + "    return\n" + solution) for item, prompt, solution in parts]
    assert all(check.source.count(item.fields["prompt"]) == 1 for item, check in zip(items, right, strict=True))
    assert programs.passes([*right, *wrong]) == [True] * len(items) + [False] * len(items)


@pytest.mark.usefixtures("wall")
def test_equal_programs_run_once(monkeypatch):
    ran: list[Check] = []
    whole = programs.run_all
    monkeypatch.setattr(programs, "run_all", lambda works, limits: ran.extend(works) or whole(works, limits))
    right, wrong = (check for check, _ in CASES[:2])
    assert programs.passes([right, wrong, human_eval(humaneval_item().source, "    return sqrt(x)"), right]) == [
        True,
        False,
        True,
        True,
    ]
    assert ran == [right, wrong]


@pytest.mark.parametrize(
    ("assertions", "setup", "names"),
    [
        ("assert f(g(1)) == 2\nassert f(3) == len([4])", "", ("f", "g")),
        ("assert f(g(1), Pair(2)) == h(2)", "from m import g\nimport os as h\nclass Pair: pass\ndef k(): pass", ("f",)),
        ("assert math.isclose(f(1), 1.0)", "import math", ("f",)),
        ("assert set(sum(1, 2)) == set([3])", "", ("set",)),
        ("assert sum(int('1'), 2) == 3", "", ("sum",)),
    ],
)
def test_the_names_that_assertions_call(assertions, setup, names):
    assert called_names(assertions, setup) == names


@pytest.mark.parametrize(
    ("assertions", "said"), [("assert 1 == 1", "calls no function"), ("assert f(", "is not Python")]
)
def test_assertions_that_call_nothing_are_named(assertions, said, tmp_path, capsys):
    (tmp_path / "mbpp.jsonl").write_text(json.dumps({"text": "t", "test_list": [assertions]}) + "\n")
    assert cli.main(["eval", "none", "--tasks", "mbpp", "--data", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"mbpp.jsonl:1: field 'test_list': {said}" in error
    assert error.count("\n") == 1


# ---- samples


def test_the_metrics_of_samples_by_hand():
    """Of five samples two pass; the likeliest on average is the fourth, or the first of equal ones."""
    passed = [True, False, False, True, False]
    expected = {"pass@1": 0.4, "pass@2": 1 - comb(3, 2) / comb(5, 2), "pass@5": 1.0, "random": 0.4, "oracle": 1.0}
    assert programs.sample_scores(passed, []) == pytest.approx(expected)
    means = [-1.0, -0.5, -3.0, -0.2, -0.5]
    assert programs.sample_scores(passed, means) == pytest.approx(expected | {"mean_logprob": 1.0})
    assert programs.sample_scores(passed, [-1.0, -0.5, -3.0, -2.0, -0.5])["mean_logprob"] == 0.0
    assert set(programs.sample_scores(passed[:3], [])) == {"pass@1", "pass@2", "pass@3", "random", "oracle"}


@given(st.lists(st.tuples(st.booleans(), st.floats(-9, 0)), min_size=1, max_size=30))
def test_more_samples_and_better_picks_never_pass_less(samples):
    passed, means = [right for right, _ in samples], [mean for _, mean in samples]
    found = programs.sample_scores(passed, means)
    rising = [found[f"pass@{k}"] for k in programs.KS if k <= len(passed)]
    assert rising == sorted(rising)
    assert found["random"] <= found["oracle"] >= max(rising)
    assert found["mean_logprob"] in {float(right) for right in passed}


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("chat", [False, True])
def test_a_sample_has_the_mean_log_probability_of_the_model_itself(start, chat, temperature):
    assistant = Assistant.load(start.folder / "sft", device="cpu", dtype="fp32")
    texts = ["a small text", "and another"]
    contexts = [(Message(role="user", content=text),) if chat else text for text in texts]
    sampling = Sampling(temperature=temperature, max_tokens=8, n=3)
    local = Local(assistant)
    found = local.sample(contexts, sampling, [5, 900], ())
    assert [len(several) for several in found] == [3, 3]
    rows = [local._prompt(context) for context in contexts]
    theirs = assistant.complete(rows, sampling, chat=chat, seeds=[5, 900], logprobs=True)
    for row, several, completions in zip(rows, found, theirs, strict=True):
        for wrote, one in zip(several, completions, strict=True):
            assert wrote.answer == Answered(one.text, one.finished)
            with torch.no_grad():
                own = [p.item() for p in logprobs_of(assistant.decoder, row, one.ids)]
            assert wrote.mean_logprob == pytest.approx(sum(own) / len(own), abs=1e-4)
            colder = sum(one.logprobs) / len(own)  # of the distribution that was sampled
            assert (wrote.mean_logprob == pytest.approx(colder, abs=1e-3)) == (temperature == 1)
        assert [wrote.read for wrote in several] == [len(row), 0, 0]
    alone = local.sample(contexts[1:], sampling, [900], ())
    assert [wrote.answer for wrote in alone[0]] == [wrote.answer for wrote in found[1]]


class Scripted:
    """Writes, as the i-th sample of a problem, the i-th of some answers."""

    context = None
    together = 3

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.answers, self.asked = answers, list[tuple[str, int]]()

    def sample(self, contexts, sampling, seeds, stop):
        self.asked += zip(contexts, seeds, strict=True)
        if len(self.asked) > 2:
            raise KeyboardInterrupt
        return [
            [Wrote(Answered(text), 1, 1, -float(i)) for i, text in enumerate(self.answers[context])]
            for context in contexts
        ]


@pytest.mark.usefixtures("wall")
def test_a_killed_run_of_samples_goes_on():
    """Three problems of three samples each, one at a time; the third is asked by the second run."""
    names = ("f", "g", "h")
    answers = {
        f"def {name}(n):\n    '''n.'''\n": [f"    return n + {i}\n" for i in offsets]
        for name, offsets in zip(names, ((0, 1, 0), (2, 0, 1), (1, 1, 2)), strict=True)
    }
    rows = [
        {"prompt": prompt, "entry_point": name, "test": "def check(c):\n    assert c(2) == 2\n"}
        for name, prompt in zip(names, answers, strict=True)
    ]
    items = [
        Item(one.fields, source=one.source, id=name)
        for name, one in zip(names, (humaneval.read(Fields(row)) for row in rows), strict=True)
    ]
    asking, kept, first, second = Asking(samples=3, temperature=0.5), [], Scripted(answers), Scripted(answers)
    with pytest.raises(KeyboardInterrupt):
        run_task("humaneval", humaneval.TASK, items, [], first, asking, keep=kept.extend)
    assert [sample["passed"] for sample in kept] == [[True, False, True], [False, True, False]]
    samples, _ = run_task("humaneval", humaneval.TASK, items, [], second, asking, kept)
    assert second.asked == first.asked[2:]  # with the seed that it would have had
    assert len({seed for _, seed in first.asked}) == 3
    assert samples[:2] == kept
    assert samples[2]["answers"] == answers[second.asked[0][0]]
    assert [sample["scores"]["pass@1"] for sample in samples] == pytest.approx([2 / 3, 1 / 3, 0])
    assert [sample["scores"]["mean_logprob"] for sample in samples] == [1, 0, 0]
    assert [sample["scores"]["oracle"] for sample in samples] == [1, 1, 0]


# ---- from the command line


@pytest.mark.usefixtures("wall")
@pytest.mark.parametrize("words", [[], ["--samples", "2", "--temperature", "0.7"]])
def test_programs_of_a_model(start, words, tmp_path, monkeypatch, capsys):
    """The test passes whatever runs, which is not all that a random model writes."""
    monkeypatch.setitem(humaneval.TASK.__dict__, "max_tokens", 5)
    row = {
        "prompt": "def f():\n    '''f'''\n",
        "entry_point": "f",
        "test": "def check(c):\n  try: c()\n  except NameError: pass\n",
    }
    (tmp_path / "humaneval.jsonl").write_text((json.dumps(row) + "\n") * 3)
    given = ["eval", str(start.folder / "sft"), "--tasks", "humaneval", "--data", str(tmp_path), "--device", "cpu"]
    assert cli.main([*given, "--out", str(tmp_path / "out"), *words]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]["humaneval"]
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert (found["metric"], found["rows"], len(samples)) == ("pass@1", 3, 3)
    assert found["ci"][0] <= found["score"] <= found["ci"][1]
    answers = [text for sample in samples for text in sample.get("answers", [sample.get("answer")])]
    assert len(answers) == (6 if words else 3)
    right = [runs(row["prompt"] + text) for text in answers]
    assert found["score"] == pytest.approx(sum(right) / len(right))
    said = capsys.readouterr().out
    assert "humaneval\tpass@1\t" in said
    if words:
        low, high = found["intervals"]["oracle"]
        assert f"humaneval\toracle\t{found['metrics']['oracle']:.1%}\t{low:.1%} to {high:.1%}\n" in said
        assert [one for sample in samples for one in sample["passed"]] == right
        assert set(found["intervals"]) == {"pass@1", "pass@2", "random", "oracle", "mean_logprob"}
        low, high = found["intervals"]["pass@2"]
        assert low <= found["metrics"]["pass@2"] <= high
        assert len({tuple(sample["answers"]) for sample in samples}) == 3  # equal problems, seeds of their own


def test_an_answer_gets_half_of_a_short_context(start):
    """A context of 64 tokens has room for 32 and an answer, whatever the task's longest."""
    subject = Local(Assistant.load(start.folder / "sft", device="cpu", dtype="fp32"))
    items = [Item({"prompt": "?" * n}, id=str(n)) for n in (31, 32)]
    task = replace(humaneval.TASK, program=None, grade=lambda item, answer: {"pass@1": float(answer.finished)})
    samples, left_out = run_task("t", task, items, [], subject, Asking(on_bad="skip"))
    assert ([sample["id"] for sample in samples], left_out) == (["31"], 1)
    assert samples[0]["written"] <= 32
    with pytest.raises(UsageError, match="the first 32 with 65 and 32 for the answer"):
        run_task("t", task, items, [], subject, Asking())


def runs(source: str) -> bool:
    """Whether a few tokens of nonsense are a program."""
    try:
        exec(source, {})
    except (SyntaxError, NameError):
        return False
    return True


def test_without_a_wall_nothing_is_loaded(tmp_path, monkeypatch, capsys):
    def refuse():
        raise SandboxError("no code is run: install bubblewrap")

    monkeypatch.setattr(programs, "standing_wall", refuse)
    for task in ("humaneval", "mbpp"):
        assert cli.main(["eval", str(tmp_path / "no-model"), "--tasks", f"gsm8k,{task}"]) == 2
        said = f"{task}: the answers are programs, and no code is run: install bubblewrap\n"
        assert capsys.readouterr().err.endswith(said)
    knobs, inputs = TasksSettings(tasks=("humaneval",)), TasksInputs(models={"a": tmp_path}, data=tmp_path)
    with pytest.raises(RecipeError, match="install bubblewrap"):
        list(knobs.check_data(inputs, lambda kind, path, enough: None))
    with pytest.raises(DataError, match="has no rows of gsm8k"):
        list(TasksSettings(tasks=("gsm8k",)).check_data(inputs, lambda kind, path, enough: None))
    (tmp_path / "lock").touch()  # the folder of a step that comes before, and has not written all of it
    assert not list(TasksSettings(tasks=("gsm8k",)).check_data(inputs, lambda kind, path, enough: None))
    with pytest.raises(RecipeError, match="gsm8k has no template nonsense; it has question"):
        TasksSettings(tasks=("gsm8k",), templates=("nonsense",)).check(inputs)


def test_a_step_refuses_samples_of_other_tasks(tmp_path):
    inputs = TasksInputs(models={"a": tmp_path}, data=tmp_path)
    with pytest.raises(RecipeError, match="programs, and those of gsm8k are not"):
        TasksSettings(tasks=("humaneval", "gsm8k"), samples=3).check(inputs)
    TasksSettings(tasks=("humaneval", "mbpp"), samples=3).check(inputs)
    with pytest.raises(RecipeError, match="world is for `tutelage eval`"):
        TasksSettings(tasks=("piqa,world",)).check(inputs)
    assert TasksSettings(tasks=("humaneval, mbpp", "piqa")).tasks == ("humaneval", "mbpp", "piqa")
