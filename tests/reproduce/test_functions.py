"""The step "functions": its problems are right, in HumanEval's format, and none of them was learned."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tutelage.data.formats import read_documents
from tutelage.errors import DataError, SandboxError
from tutelage.evaluate.tasks.programs import passes
from tutelage.evaluate.tasks.rows import read_items
from tutelage.evaluate.tasks.sets import humaneval
from tutelage.reproduce.functions import Function, FunctionsSettings, NoInputs, chains, main
from tutelage.sandbox.run import standing_wall
from tutelage.world.tasks.code import functions


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return main(FunctionsSettings(rows=400, problems=60), NoInputs(), tmp_path_factory.mktemp("made") / "functions")


def problems(folder) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "humaneval" / "HumanEval.jsonl").read_text().splitlines()]


def unnamed(text: str) -> str:
    """A function without its name."""
    return text.partition("(")[2]


def test_a_chain_as_it_is_written():
    indices = {one["returns"]: i for i, one in enumerate(functions())}
    found = Function("use", (indices["text.split()"],))
    assert (
        found.prompt + found.body == 'def use(text):\n    """Return the words of the text."""\n    return text.split()'
    )
    found = Function("run", tuple(indices[returns] for returns in ("sorted(items)", "items[-1]", "n * 2")))
    assert found.prompt == (
        'def run(items):\n    """Let items be the items in order. Let n be the last item. Return twice n."""'
    )
    assert found.body == "\n    items = sorted(items)\n    n = items[-1]\n    return n * 2"
    assert found.value([[4, 1, 7]]) == 14


def test_each_function_takes_what_the_one_before_it_returns():
    """Of two: after 5 of (a, b) and 5 of (n) that return numbers 7 of (n); after 5 of (items) 7, after sorted 6; after 4 of (text)
    that return text 6, after len 7."""
    assert (len(chains(1)), len(chains(2))) == (24, 5 * 7 + 5 * 7 + 5 * 7 + 6 + 4 * 6 + 7)
    for chain in chains(2):
        assert Function("f", chain).problem(0)["test"].count("assert") == 4


def test_references_give_the_values_of_the_tests_when_python_runs_them(made):
    every = problems(made)
    assert len(every) == 60
    for one in every:
        names: dict = {}
        exec(one["prompt"] + one["canonical_solution"] + "\n" + one["test"], names)
        assert names[one["entry_point"]].__doc__.endswith(".")
        names["check"](names[one["entry_point"]])
        assert one["test"].count("assert candidate(") == 4


def test_references_pass_in_the_sandbox_and_others_fail(made):
    try:
        standing_wall()
    except SandboxError as error:
        pytest.skip(str(error))
    items = read_items("humaneval", humaneval.TASK, made)[::12]
    right = [humaneval.program(item, item.fields["solution"]) for item in items]
    wrong = [humaneval.program(item, "\n    return" + item.fields["solution"]) for item in items]
    assert passes([*right, *wrong]) == [True] * 5 + [False] * 5


def test_no_problem_was_learned(made):
    learned = {unnamed(document.text) for document in read_documents(made / "functions.jsonl")}
    asked = {unnamed(one["prompt"] + one["canonical_solution"]) for one in problems(made)}
    assert len(asked) == 60
    assert learned.isdisjoint(asked)
    assert all(one["canonical_solution"].count("\n") == 4 for one in problems(made))
    lines = Counter(text.count("\n") - 1 for text in learned)
    assert set(lines) == {1, 2, 3, 4}
    assert min(lines.values()) >= 20
    names = {document.text.split("(")[0] for document in read_documents(made / "functions.jsonl")}
    assert len(names) == 25


def test_the_seed_decides(made, tmp_path):
    knobs = FunctionsSettings(rows=400, problems=60)
    same = main(knobs, NoInputs(), tmp_path / "same")
    other = main(knobs.model_copy(update={"seed": 1}), NoInputs(), tmp_path / "other")
    assert problems(same) == problems(made)
    assert (same / "functions.jsonl").read_bytes() == (made / "functions.jsonl").read_bytes()
    assert problems(other) != problems(made)


def test_too_many_problems_are_refused(tmp_path):
    with pytest.raises(DataError, match="142 problems and others to train on are wanted of 142 functions of 2 lines"):
        main(FunctionsSettings(problems=142, lines=2), NoInputs(), tmp_path / "x")
    assert not (tmp_path / "x").exists()
