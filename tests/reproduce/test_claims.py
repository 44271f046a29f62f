"""Claims: their recipes, their figures, their verdicts, and one from its command to its page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tutelage.cli.app import main
from tutelage.errors import DataError, UsageError
from tutelage.recipes.steps import Recipe, plan
from tutelage.reproduce import command, running, sums
from tutelage.reproduce.claim import Claim, Contrast, Given, names, read_claim, recipe_of
from tutelage.reproduce.page import in_words, page
from tutelage.reproduce.running import KINDS_OF_CLAIMS, Found, figure, judged
from tutelage.reproduce.verdict import verdict
from tutelage.settings import validated

# ---- verdicts


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([0.20, 0.21, 0.22], "reproduced"),
        ([-0.20, -0.21, -0.22], "opposite"),
        ([0.1, 0.2, 0.3], "undecided"),  # 0.2 +- 4.303 * 0.1 / sqrt(3) = 0.248
        ([0.1, 0.1, 0.1], "reproduced"),
        ([0.0, 0.0, 0.0], "undecided"),
        ([0.3], "undecided"),
    ],
)
def test_verdicts_by_hand(differences, word):
    assert verdict(differences).word == word


def test_what_could_have_been_seen_is_half_the_interval():
    """Student's t with two degrees of freedom at 97.5% is 4.302653."""
    found = verdict([0.1, 0.2, 0.3])
    assert found.could_see == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert found.low == pytest.approx(0.2 - found.could_see)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=5))
def test_the_opposite_claim_has_the_opposite_verdict(differences):
    mirror = {"reproduced": "opposite", "opposite": "reproduced", "undecided": "undecided"}
    assert verdict([-d for d in differences]).word == mirror[verdict(differences).word]


# ---- recipes


@pytest.mark.parametrize("name", names())
def test_every_claim_is_a_recipe_whose_figures_its_steps_write(name, tmp_path):
    claim = read_claim(name)
    for place in re.findall(r"DATA/([^'\"]*)", str(claim.steps)):  # the folders of real data need only be there
        (tmp_path / "data" / place).mkdir(parents=True, exist_ok=True)
    recipe = recipe_of(name, claim, 1, tmp_path, Given(tmp_path / "data"))
    assert recipe["seed"] == 1
    steps = plan(validated(Recipe, recipe, name), name, KINDS_OF_CLAIMS)
    own = {f"{name}.{step}": knobs["seed"] for step, knobs in claim.steps.items() if "seed" in knobs}
    assert set(own) <= {"gpt2.data"}  # a fixed seed is an exception, said in its file
    assert all(step.knobs.seed == own.get(step.name, 1) for step in steps if hasattr(step.knobs, "seed"))
    for contrast in claim.contrasts.values():
        for place in (one for one in (*contrast.more, *contrast.less) if isinstance(one, str)):
            step, _, rest = place.partition("/")
            assert step in claim.steps
            keys = rest.partition("#")[2].split(".")
            found = claim.steps[step]["inputs"].get(keys[0])
            assert found is None or keys[1] in found, place


def a_claim(**more) -> Claim:
    steps = {
        "few": {"kind": "sft", "inputs": {"checkpoint": "base", "demonstrations": "world/demonstrations.jsonl"}},
        "evaluate": {"kind": "evaluate", "inputs": {"models": {"few": "few"}, "prompts": "DATA/prompts.jsonl"}},
    }
    contrasts = {"a over b": Contrast(says="a is more", more=("evaluate/results.json#a.b",))}
    return Claim(title="t", paper="p", claim="c", here="h", contrasts=contrasts, steps=steps | more)


def test_a_claim_rests_on_the_demos_steps_and_its_own_are_named_after_it(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prompts.jsonl").touch()
    recipe = recipe_of("mine", a_claim(), 2, tmp_path, Given(tmp_path / "data"), {"base": {"steps": 7}})
    assert list(recipe["steps"]) == ["world", "tokenizer", "base", "mine.few", "mine.evaluate"]
    assert recipe["out"] == str(tmp_path / "seed-2")
    assert recipe["steps"]["base"]["steps"] == 7
    inputs = recipe["steps"]["mine.evaluate"]["inputs"]
    assert inputs == {"models": {"few": "mine.few"}, "prompts": str(tmp_path / "data" / "prompts.jsonl")}
    assert recipe["steps"]["mine.few"]["inputs"]["checkpoint"] == "base"


def test_a_model_is_the_claims_or_the_one_that_is_given(tmp_path):
    asked = {"kind": "tasks", "inputs": {"models": {"it": "MODEL"}, "data": "DATA/"}, "tasks": ["gsm8k"]}
    (tmp_path / "prompts.jsonl").touch()
    claim = a_claim(asked=asked).model_copy(update={"model": "owner/name"})
    for outside, expected in ((Given(tmp_path), "owner/name"), (Given(tmp_path, "there"), "there")):
        recipe = recipe_of("mine", claim, 0, tmp_path, outside)
        assert recipe["steps"]["mine.asked"]["inputs"]["models"] == {"it": expected}
    found = Found(claim.contrasts["a over b"], (0.1, 0.2), (0.0, 0.0), verdict([0.1, 0.2]))
    assert "`MODEL` was there." in page("mine", claim, (0, 1), {"a over b": found}, [(0.0, 0.0)] * 2, model="there")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"give --data, the folder that has prompts\.jsonl"):
        recipe_of("mine", a_claim(), 0, tmp_path, Given())
    with pytest.raises(UsageError, match=r"--data: .*/none has no prompts\.jsonl, which mine is about"):
        recipe_of("mine", a_claim(), 0, tmp_path, Given(tmp_path / "none"))
    with pytest.raises(UsageError, match="models that it trains itself: leave out --model"):
        recipe_of("mine", a_claim(), 0, tmp_path, Given(tmp_path, "gpt2"))
    with pytest.raises(UsageError, match="there is no claim 'gpt33'; did you mean 'gpt3'"):
        read_claim("gpt33")


# ---- figures


def test_figures_are_read_where_the_claim_says(tmp_path):
    (tmp_path / "mine.evaluate").mkdir()
    (tmp_path / "base").mkdir()
    (tmp_path / "mine.evaluate" / "results.json").write_text('{"a": {"b": 0.5, "c": [1, 2]}, "word": "x"}')
    (tmp_path / "base" / "metrics.jsonl").write_text('{"loss": 3}\n{"loss": 2}\n')
    assert figure(tmp_path, "mine", "evaluate/results.json#a.b") == 0.5
    assert figure(tmp_path, "mine", "evaluate/results.json#a.c.1") == 2
    assert figure(tmp_path, "mine", "base/metrics.jsonl#loss") == 2
    assert figure(tmp_path, "mine", 0.5) == 0.5
    for place in (
        "evaluate/results.json#a.d",
        "evaluate/results.json#word",
        "evaluate/none.json#a",
        "base/metrics.jsonl#x",
    ):
        with pytest.raises(DataError, match="has no number at"):
            figure(tmp_path, "mine", place)


def test_a_contrast_is_the_difference_of_means_seed_by_seed(tmp_path):
    for seed, (a, b, c) in enumerate([(3, 1, 2), (5, 1, 4)]):
        folder = tmp_path / f"seed-{seed}" / "mine.evaluate"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"a": a, "b": b, "c": c}))
    place = "evaluate/results.json#{}".format
    contrast = Contrast(says="s", more=(place("a"),), less=(place("b"), place("c")))
    claim = a_claim().model_copy(update={"contrasts": {"x": contrast}})
    (found,) = judged("mine", claim, [tmp_path / "seed-0", tmp_path / "seed-1"]).values()
    assert (found.more, found.less) == ((3, 5), (1.5, 2.5))
    assert found.verdict.mean == 2


def test_the_page_says_what_could_have_been_seen_and_that_one_seed_decides_nothing():
    contrast = a_claim().contrasts["a over b"]
    several = Found(contrast, (0.1, 0.2, 0.3), (0.0, 0.0, 0.0), verdict([0.1, 0.2, 0.3]))
    said = page("mine", a_claim(), (0, 1, 2), {"a over b": several}, [(60.0, 120.0)] * 3)
    assert "## A over b: undecided" in said
    assert "undecided: +0.200 [-0.048, +0.448]; a difference of 0.248 could have been seen." in said
    assert (
        "Seeds 0, 1, 2. The steps of this claim took 3.0 minutes, those of the demo, which all claims share, 6." in said
    )
    twice = Contrast(says="s", more=("warm/r.json#a.b",), less=("cold/r.json#a.b",))
    apart = page("mine", a_claim(), (0,), {"x": Found(twice, (0.3,), (0.1,), verdict([0.2]))}, [(0.0, 0.0)])
    assert "| seed | warm: `a.b` | cold: `a.b` | difference |" in apart
    assert in_words(Found(contrast, (0.3,), (0.0,), verdict([0.3]))) == "undecided: +0.300; one seed decides nothing."


# ---- from the command to the page

SMALL = {
    "world": {"people": 12, "documents": 300, "heldout_documents": 10, "demonstrations": 60, "heldout_demonstrations": 4,
              "prompts": 40, "heldout_prompts": 24},
    "tokenizer": {"vocab_size": 400},
    "base": {"steps": 12, "batch_size": 2, "compile": False, "model": {"layers": 1, "hidden_size": 32, "heads": 2}},
}  # fmt: skip
IN_A_PROCESS = f"""
import sys
from tutelage.reproduce import claim
whole = claim.recipe_of
claim.recipe_of = lambda name, one, seed, out, given, overrides=None: whole(name, one, seed, out, given, {SMALL})
from tutelage.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


def words(out: Path) -> list[str]:
    return ["reproduce", "gpt3", "--seeds", "0", "--out", str(out)]


@pytest.mark.slow
def test_a_reproduction_that_is_killed_goes_on_to_the_same_verdict(tmp_path, monkeypatch, capsys):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", IN_A_PROCESS, *words(tmp_path / "b")], env=environment, stdout=subprocess.DEVNULL
    ) as process:
        while not (tmp_path / "b" / "seed-0" / "base" / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "b" / "gpt3.json").exists()
    torch.set_num_threads(1)
    for module in (command, running):
        monkeypatch.setattr(module, "recipe_of", lambda *given: recipe_of(*given[:5], SMALL))
    assert main(words(tmp_path / "a")) == 0
    capsys.readouterr()
    assert main(words(tmp_path / "b")) == 0
    assert "one shot over none: " in capsys.readouterr().out
    verdicts = [json.loads((tmp_path / run / "gpt3.json").read_text()) for run in "ab"]
    assert verdicts[0] == verdicts[1]
    shown = (tmp_path / "b" / "README.md").read_text().splitlines()
    mean = verdicts[0]["verdicts"]["one shot over none"]["mean"]
    assert f"| [gpt3](gpt3.md): shots against none | one shot over none * | undecided | {mean:+.3f} | 1 |" in shown
    assert "## One shot over none: " in (tmp_path / "b" / "gpt3.md").read_text()
    assert main(["reproduce", "--out", str(tmp_path / "b")]) == 0
    listed = capsys.readouterr().out
    word = verdicts[0]["verdicts"]["one shot over none"]["word"]
    assert f"  one shot over none: {word}\n" in listed
    assert "not run" in listed


def test_a_seed_twice_and_an_unknown_claim_are_one_line_each(tmp_path, capsys):
    assert main(["reproduce", "gpt3", "--seeds", "1", "--seeds", "1", "--out", str(tmp_path)]) == 2
    assert "a seed is given twice" in capsys.readouterr().err
    assert main(["reproduce", "gpt4", "--out", str(tmp_path)]) == 2
    assert "there is no claim 'gpt4'; did you mean 'gpt3'" in capsys.readouterr().err


def test_sums_are_right_and_none_is_asked_that_was_learned(tmp_path):
    out = sums.main(sums.SumsSettings(rows=300, questions=100), sums.NoInputs(), tmp_path / "sums")

    def rows(name: str) -> list:
        return [json.loads(row) for row in (out / name).read_text().splitlines()]

    direct, steps, asked = rows("direct.jsonl"), rows("steps.jsonl"), rows("gsm8k/test.jsonl")
    assert (len(direct), len(steps), len(asked)) == (300, 300, 100)
    for short, long in zip(direct, steps, strict=True):
        question, answer = (message["content"] for message in short["messages"])
        terms = [int(word) for word in re.findall(r"\d+", question)]
        a, b, c = terms
        assert answer == str(a + b + c)
        assert long["messages"][0]["content"] == question
        assert long["messages"][1]["content"] == f"{a} + {b} = {a + b}. {a + b} + {c} = {a + b + c}."
    learned = {row["messages"][0]["content"] for row in direct}
    assert learned.isdisjoint(row["question"] for row in asked)
    for row in asked:
        assert int(row["answer"].rpartition("#### ")[2]) == sum(map(int, re.findall(r"\d+", row["question"])))
