"""The report's section on preferences: its numbers are those of preferences.json, and what was not measured is left out."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import fake_run
import numpy as np
import pytest
from test_report import Page, bare
from test_words import LATIN, Texts

from tutelage.errors import UsageError
from tutelage.evaluate.preferences import best_of_n
from tutelage.evaluate.preferences.agreement import agreement, labellers_alpha, position_bias
from tutelage.evaluate.preferences.outcomes import by_answers, by_rankings, by_scores
from tutelage.evaluate.preferences.step import PreferencesSettings, standing
from tutelage.evaluate.report.page import ReportInputs, ReportSettings, Translation, main
from tutelage.evaluate.reward_analysis import analysis, ensemble
from tutelage.records import Completion, Message, Prompt, Ranking

FAMILIES = ("closed_book", "harmful", "sum")
KNOBS = PreferencesSettings(resamples=100)
MODELS = ("base", "sft", "ppo_ptx")


def rankings(rng: random.Random) -> tuple[list[Ranking], list[list[float]]]:
    """Two people rank three models' answers to 30 prompts; and how good the answers are."""
    found, good = [], []
    for i in range(30):
        skill = [j + rng.gauss(0, 1) for j in range(3)]
        prompt = Prompt(messages=(Message(role="user", content=f"question {i}"),), meta={"family": FAMILIES[i % 3]})
        texts = tuple(Completion(text=f"answer {i} " + "word " * rng.randint(1, 9), model=name) for name in MODELS)
        for person in ("x", "y"):
            seen = [value + rng.gauss(0, 0.7) for value in skill]
            ranks = tuple(1 + sum(other > value for other in seen) for value in seen)
            shown = rng.sample(range(3), 3)
            one = Ranking(prompt=prompt, completions=texts, ranks=ranks, labeller=person, meta={"shown": shown})
            found.append(one)
            good.append(skill)
    return found, good


def preferences() -> dict[str, Any]:
    """What the step writes, from made-up scores by its own functions: two judges, two reward models, a run, best of 8."""
    rng = random.Random(0)
    names = [f"prompt {i}" for i in range(40)]
    gold = {name: [j * 0.2 + rng.random() for _ in names] for j, name in enumerate(MODELS)}
    reward = {name: [2 * value + rng.gauss(0, 0.5) for value in values] for name, values in gold.items()}
    texts = {name: ["x" * (20 + 10 * j + rng.randint(0, 20)) for _ in names] for j, name in enumerate(MODELS)}
    said = {"gold": by_scores(names, texts, gold), "reward": by_scores(names, texts, reward)}
    people, good = rankings(rng)
    scores = {
        name: [[value + rng.gauss(0, noise) for value in row] for row in good]
        for name, noise in (("reward", 0.5), ("second", 1.5))
    }
    heard = {"people": by_answers(people), "gold": by_answers(people, good)}
    proxy = [[rng.gauss(0, 1) for _ in range(8)] for _ in range(20)]
    true = [[0.5 + 0.1 * value + rng.gauss(0, 0.1) for value in row] for row in proxy]
    curve = best_of_n.curve(proxy, true)
    kl = np.linspace(0, 20, 25)
    fits = {
        kind: best_of_n.fit([r["kl"] for r in curve], [r[kind] - curve[0][kind] for r in curve], "best_of_n")
        for kind in ("proxy", "gold")
    }
    return {
        "samples": {
            "prompts": 40,
            "judges": {who: standing(each, KNOBS) for who, each in said.items()},
            "agreement": agreement(said),
        },
        "rankings": {
            "heldout": {
                "rankings": len(people),
                "too_long": 0,
                "people": standing(by_rankings(people), KNOBS),
                "alpha": labellers_alpha(people),
                "position": position_bias(people),
                "agreement": agreement(heard),
                "reward_models": {name: analysis(people, each, good) for name, each in scores.items()},
                "ensemble": ensemble(people, list(scores.values())),
            }
        },
        "best_of_n": {"proxy": "reward", "gold": "gold", "prompts": 20, "curve": curve, "fit": fits},
        "rl": {"ppo": {"proxy": best_of_n.over_kl(kl, 0.1 + 0.5 * np.sqrt(kl)), "gold": None}},
        "novelty": {"sft": {"novels": {"auroc": 0.9731, "own": 250, "foreign": 50, "known": 250}}},
    }


def reported(folder: Path, found: dict[str, Any], results: dict[str, Any]) -> Path:
    """The report of an evaluation without samples or runs."""
    (folder / "preferences").mkdir()
    (folder / "preferences" / "preferences.json").write_text(json.dumps(found))
    labels = fake_run.INSTRUCT.labels | {"second": "Second RM", "novels": "Novels"}
    zh = fake_run.INSTRUCT.zh | {"second": "第二个奖励模型", "novels": "小说"}
    settings = ReportSettings(labels=labels, zh=Translation(labels=zh))
    made = fake_run.write_evaluation(folder / "evaluate", results, [])
    return main(settings, ReportInputs(results=made, preferences=folder / "preferences"), folder / "report")


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return preferences()


@pytest.fixture(scope="module")
def report(tmp_path_factory, found) -> Path:
    return reported(tmp_path_factory.mktemp("preferences"), found, fake_run.results())


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page((report / "report.html").read_text())


def values(line: list[str]) -> list[float]:
    return [float(cell.split("|")[0]) for cell in line if "|" in cell]


def test_the_section_stands_after_the_reward_models(page: Page) -> None:
    at = page.sections.index("preferences")
    assert page.sections[at - 1 : at + 2] == ["reward-models", "preferences", "samples"]
    assert "#preferences" in [a.get("href") for tag, a in page.tags if tag == "a"]


def test_win_rates_are_those_of_each_judge(page: Page, found) -> None:
    head, *lines = page.rows["wins-samples"]
    assert head == ["Models", "Judge", "Reward model"]
    judges = found["samples"]["judges"]
    assert [line[0] for line in lines] == ["Base over SFT", "Base over PPO-ptx", "SFT over PPO-ptx"]
    for i, line in enumerate(lines):
        assert values(line) == [judges[who]["win_rates"][i]["win_rate"] for who in ("gold", "reward")]
    row = judges["gold"]["win_rates"][0]
    assert f"equal length {row['length_controlled']:.1%}" in lines[0][1]
    head, *lines = page.rows["wins-rankings_1"]
    assert head == ["Models", "People"]
    assert "equal length" in lines[0][1]


def test_agreement_stands_with_where_it_was_measured(page: Page, found) -> None:
    _, *lines = page.rows["agreement-table"]
    assert [line[0] for line in lines] == [
        "Judge and Reward modelanswers of this evaluation to 40 prompts", "People and Judgeheld-out prompts",
    ]  # fmt: skip
    expected = found["samples"]["agreement"][0]
    assert values(lines[0]) == [expected[key] for key in ("raw", "decided", "kappa", "alpha", "items")]
    position = found["rankings"]["heldout"]["position"]
    assert f"shown first won {position['first_wins']:.1%} of {position['pairs']} pairs" in page.text


def test_where_reward_models_err(page: Page, report: Path, found) -> None:
    models = found["rankings"]["heldout"]["reward_models"]
    _, *lines = page.rows["families-rankings_1"]
    assert [line[0] for line in lines] == ["closed book", "harmful", "sum"]
    for family, line in zip(FAMILIES, lines, strict=True):
        by = [models[name]["by_family"][family] for name in ("reward", "second")]
        assert values(line) == [by[0]["pairs"], *(row["accuracy"] for row in by)]
    _, *lines = page.rows["length-table"]
    for name, line in zip(("reward", "second"), lines, strict=True):
        length = models[name]["length"]
        wanted = [length["correlation"], length["label_correlation"], length["equal_length"]["accuracy"]]
        assert values(line) == [*wanted, models[name]["calibration_error"]]
    drawn = (report / "plots" / "margin_rankings_1_by_gold_difference.svg").read_text()
    for label, row in models["reward"]["by_gold_difference"].items():
        assert f"Reward model, {label.replace(' to ', '–')} {row['accuracy']:.1%}" in drawn


def test_ratings_best_of_n_curves_and_foreign_prompts(page: Page, report: Path, found) -> None:
    drawn = (report / "plots" / "ratings_samples_1.svg").read_text()
    for name, label in (("base", "Base"), ("sft", "SFT"), ("ppo_ptx", "PPO-ptx")):
        rating = found["samples"]["judges"]["gold"]["ratings"][name]["rating"]
        assert f"{label} {rating:.2f}".replace("-0", "−0") in drawn
    _, *lines = page.rows["best-table"]
    assert [line[0] for line in lines] == ["1", "2", "4", "8"]
    assert values(lines[3]) == [found["best_of_n"]["curve"][3][key] for key in ("kl", "proxy", "gold")]
    _, *lines = page.rows["curves-table"]
    assert [line[:2] for line in lines] == [["PPO", "Reward model"]], "gold has too few updates"
    assert values(lines[0])[0] == pytest.approx(1)
    assert page.rows["novelty-table"] == [["Model", "Novels"], ["SFT", "0.9731|0.97350 against 250"]]


def test_cells_are_named_and_ids_differ(report: Path, page: Page) -> None:
    text = (report / "report.html").read_text()
    section = text.split('<section id="preferences">')[1].split("</section>")[0]
    for table in re.findall(r'<table class="wide".*?</table>', section, re.DOTALL):
        assert "<td>" not in table
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))


def test_the_chinese_page_says_the_same_in_chinese(report: Path) -> None:
    text = (report / "report.zh.html").read_text()
    seen = " ".join(Texts(text.split('<section id="preferences">')[1].split("</section>")[0]).found)
    words = set(re.findall(r"[A-Za-z]{2,}", seen)) | set(re.findall(r"\b[A-Z]\b", seen))
    assert words <= LATIN | {"AUROC", "Bradley", "Terry", "Cohen", "Krippendorff", "Gao", "log"}


@pytest.mark.parametrize("kept", ["samples", "rankings", "best_of_n", "rl", "novelty"])
def test_each_part_stands_alone(kept: str, found, tmp_path: Path) -> None:
    results = bare(**{name: {} for name in MODELS})
    page = Page((reported(tmp_path, {kept: found[kept]}, results) / "report.html").read_text())
    tables = {
        "samples": {"wins-samples", "agreement-table"},
        "rankings": {"wins-rankings_1", "agreement-table", "length-table", "families-rankings_1"},
        "best_of_n": {"best-table"}, "rl": {"curves-table"}, "novelty": {"novelty-table"},
    }  # fmt: skip
    of_step = set().union(*tables.values())
    assert set(page.rows) & of_step == tables[kept]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    made = fake_run.write_evaluation(tmp_path / "evaluate", bare(only={}), [])
    with pytest.raises(UsageError, match=r"preferences\.json not found"):
        main(ReportSettings(), ReportInputs(results=made, preferences=tmp_path), tmp_path / "out")
