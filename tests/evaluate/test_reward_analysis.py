"""Where reward models err, novelty of prompts, and the step that measures preferences, by hand and against plain loops."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_start import make_start

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import write_jsonl
from tutelage.errors import RecipeError, UsageError
from tutelage.evaluate.novelty import Known, features, novelty_figures, passages
from tutelage.evaluate.preferences.step import PreferencesInputs, PreferencesSettings, main, of_best
from tutelage.evaluate.reward_analysis import analysis, ensemble
from tutelage.records import Answers, Completion, Document, Message, Prompt, Ranking
from tutelage.statistics import auroc
from tutelage.text.chat import render


def prompt(text, **meta):
    return Prompt(messages=(Message(role="user", content=text),), meta=meta)


def ranking(question, ranks, texts, models=("m", "n"), **meta):
    completions = tuple(Completion(text=t, model=models[i % 2]) for i, t in enumerate(texts))
    return Ranking(prompt=prompt(question, **meta), completions=completions, ranks=tuple(ranks))


numbers = st.lists(st.integers(-3, 3), min_size=1, max_size=8)


@given(numbers, numbers)
def test_auroc_against_a_double_loop(positive, negative):
    loop = np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])
    assert auroc(positive, negative) == pytest.approx(loop)
    assert auroc(negative, positive) == pytest.approx(1 - loop)


def test_one_class_has_no_auroc():
    with pytest.raises(ValueError, match="negatives"):
        auroc([1.0], [])


def test_analysis_by_hand():
    rankings = [
        ranking("a", [1, 2, 3], ["xx", "xx", "xxxx"], family="sum"),
        ranking("b", [1, 2], ["x" * 20, "x" * 19], family="story"),
    ]
    found = analysis(rankings, [[3, 1, 2], [0, 1]], gold=[[0.9, 0.8, 0.1], [0.6, 0.5]])
    assert {name: row["accuracy"] for name, row in found["by_family"].items()} == {"story": 0, "sum": 2 / 3}
    near, far = found["by_rank_distance"]["1"], found["by_rank_distance"]["2"]
    assert (near["accuracy"], near["pairs"]) == (0.25, 3)  # half of the first prompt's two, none of the second's
    assert (far["accuracy"], far["pairs"]) == (1, 1)
    assert sum(row["pairs"] for row in found["by_gold_difference"].values()) == 4
    # of one length: xx and xx (right), 20 and 19 letters (wrong)
    assert (found["length"]["equal_length"]["accuracy"], found["length"]["equal_length"]["pairs"]) == (0.5, 2)
    score, length = [1, -1, 0, -0.5, 0.5], [-2 / 3, -2 / 3, 4 / 3, 0.5, -0.5]
    expected = np.dot(score, length) / np.sqrt(np.dot(score, score) * np.dot(length, length))
    assert found["length"]["correlation"] == pytest.approx(expected)


def test_an_ensemble_whose_disagreement_knows_its_errors():
    rankings = [ranking(str(i), [1, 2], ["x", "y"]) for i in range(4)]
    one, two = [[2, 0], [2, 0], [2, 0], [-2, 0]], [[2, 0], [2, 0], [2, 0], [1, 0]]
    found = ensemble(rankings, [one, two])
    assert (found["accuracy"], found["error_auroc"], found["margin_auroc"]) == (0.75, 1.0, 1.0)
    assert ensemble(rankings, [one, two], [0, 1])["error_auroc"] is None  # the second alone is always right
    with pytest.raises(UsageError, match="not all 0"):
        ensemble(rankings, [one, two], [0, 0])
    with pytest.raises(UsageError, match="found 1"):
        ensemble(rankings, [one])


def test_mahalanobis_distance_by_hand():
    known = Known.of(np.array([[1.0, 0], [-1, 0], [0, 2], [0, -2]]), shrink=0.0)
    # variances 2/3 and 8/3 about 0
    assert known.distance(np.array([[2.0, 0], [0, 2]])) == pytest.approx([np.sqrt(4 / (2 / 3)), np.sqrt(4 / (8 / 3))])
    with pytest.raises(UsageError, match="two known prompts"):
        Known.of(np.zeros((3, 2)))


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    return make_start(tmp_path_factory.mktemp("preferences"))


OWN = [prompt("a small text, and another " + "?" * i) for i in range(1, 13)]
NOVEL = Document(text="ZQX JKV 0123 WWWW #### @@@@ %%%% ~~~~ " * 20)


def test_features_do_not_depend_on_padding_and_foreign_prompts_are_told_apart(begin):
    model = Assistant.load(begin.folder / "reward", device="cpu", dtype="fp32")
    together = features(model, OWN)
    assert together[3] == pytest.approx(features(model, OWN[3:4])[0], abs=1e-5)
    assert len(render(model.tokenizer, OWN[-1].messages, add_generation_prompt=True).ids) < model.context
    found = novelty_figures(model, [*OWN, *OWN], {"novels": passages([NOVEL], OWN), "own": OWN[1::2]})
    assert found["novels"]["auroc"] >= 0.9
    assert found["own"]["auroc"] == pytest.approx(0.5)
    assert found["own"]["known"] == 6  # repeated prompts count once
    with pytest.raises(UsageError, match="three different prompts"):
        novelty_figures(model, OWN[:2], {"novels": OWN})


def test_passages_are_whole_sentences_of_about_the_lengths_of_prompts():
    text = "One is here. Two\nis “there.” Three is a somewhat longer sentence! 四在这里。五也在。Six"
    whole = ["One is here.", "Two is “there.”", "Three is a somewhat longer sentence!", "四在这里。", "五也在。", "Six"]
    like = [Prompt(messages=(Message(role="user", content="x" * n),)) for n in (4, 28)]
    found = [one.messages[0].text for one in passages([Document(text=text)], like, most=12)]
    assert found[:2] == [whole[0], " ".join(whole[1:2])]
    joined = {" ".join(whole[i:j]) for i in range(6) for j in range(i + 1, 7)} | {
        "四在这里。五也在。",
        "四在这里。五也在。Six",
        "五也在。Six",
    }
    assert set(found) <= joined, set(found) - joined
    assert len(found) > 3


def test_answers_of_which_equal_ones_were_left_out_are_no_sample():
    answers = [
        Answers(prompt=p, completions=tuple(Completion(text="x" * i) for i in range(n)))
        for n, p in ((3, OWN[0]), (8, OWN[1]))
    ]
    with pytest.raises(UsageError, match=r"prompts have 3 to 8 answers.*--distinct false"):
        of_best(PreferencesSettings(), answers, {}, None)


def test_the_step_measures_what_its_inputs_allow(begin, tmp_path):
    folder = begin.folder
    rankings = [ranking(f"{i}?", [1, 2] if i % 3 else [2, 1], [f"text {i}", "another"]) for i in range(12)]
    write_jsonl(folder / "rankings.jsonl", rankings)
    answers = [Answers(prompt=p, completions=tuple(Completion(text="x" * i) for i in range(1, 9))) for p in OWN]
    write_jsonl(folder / "answers.jsonl", answers)
    write_jsonl(folder / "known.jsonl", OWN)
    (folder / "novel.txt").write_text(NOVEL.text)
    talk = {"prompt": [{"role": "user", "content": "?"}], "family": "", "language": ""}
    sample = {"finished": True, "reward": None}
    made = [{"a": {"text": "xx", "gold": 1.0, **sample}, "b": {"text": "x", "gold": 0.0, **sample}}] * 5
    rows = [talk | {"prompt": [{"role": "user", "content": f"{i}?"}], "answers": row} for i, row in enumerate(made)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = {"one": folder / "reward", "two": folder / "reward"}
    inputs = PreferencesInputs(
        samples=folder / "samples.jsonl", rankings={"people": folder / "rankings.jsonl"}, reward_models=reward,
        answers=folder / "answers.jsonl", prompts=folder / "known.jsonl", foreign={"novels": folder / "novel.txt"},
    )  # fmt: skip
    knobs = PreferencesSettings(resamples=100, gold="two", device="cpu", dtype="fp32")
    found = json.loads((main(knobs, inputs, tmp_path / "out") / "preferences.json").read_text())
    assert set(found) == {"samples", "rankings", "best_of_n", "novelty"}
    gold = found["samples"]["judges"]["gold"]
    assert gold["win_rates"][0]["win_rate"] == 1.0
    assert gold["ratings"]["a"]["rating"] == pytest.approx(np.log(5.5 / 0.5) / 2)
    assert {(row["a"], row["b"]) for row in found["samples"]["agreement"]} == {
        ("gold", "one"),
        ("gold", "two"),
        ("one", "two"),
    }
    assert found["samples"]["agreement"][-1]["raw"] == 1.0  # the same model twice
    people = found["rankings"]["people"]
    assert people["people"]["win_rates"][0]["win_rate"] == pytest.approx(8 / 12)
    assert people["ensemble"]["disagreement"] == 0.0
    assert [row["n"] for row in found["best_of_n"]["curve"]] == [1, 2, 4, 8]
    assert found["best_of_n"]["curve"][3]["proxy"] == found["best_of_n"]["curve"][3]["gold"]
    assert found["best_of_n"]["fit"]["proxy"]["method"] == "best_of_n"


@pytest.mark.parametrize(
    ("knobs", "inputs", "said"),
    [
        ({}, {}, "nothing to measure"),
        ({}, {"answers": "x"}, "give reward_models"),
        (
            {"proxy": "on"},
            {"answers": "x", "reward_models": {"one": "x"}},
            "proxy: 'on' is not one of the reward models",
        ),
        ({"judge": "localhost"}, {"samples": "x"}, "judge: an address"),
        ({}, {"foreign": {"novels": "x"}}, "give prompts"),
    ],
)
def test_what_cannot_be_measured_is_said(knobs, inputs, said):
    with pytest.raises(RecipeError, match=said):
        PreferencesSettings(**knobs).check(PreferencesInputs.model_validate(inputs))


def test_a_sample_that_is_none_is_named(tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"prompt": []}\n')
    inputs = PreferencesInputs(samples=tmp_path / "samples.jsonl")
    with pytest.raises(UsageError, match=r"samples.jsonl:1: is not a sample"):
        main(PreferencesSettings(), inputs, tmp_path / "out")
