"""Plots: what they show, what they leave out, and that their SVG is plain, safe and the same every time."""

from __future__ import annotations

import math
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import Any

import fake_run
import pytest

from tutelage.evaluate.report import plots
from tutelage.evaluate.report.drawing import PALETTE, Plot, looks_of
from tutelage.evaluate.report.view import Evaluation
from tutelage.evaluate.report.words import Words

LOGS = {
    "pretrain": fake_run.metrics("pretrain", "lm", 64),
    "rm": fake_run.metrics("rm", "ranking", 60),
    "one": fake_run.metrics("one", "rl", 40),
    "two": fake_run.metrics("two", "rl", 40),
}


def evaluation(**models: dict[str, Any]) -> Evaluation:
    results = {"models": models, "against": ["sft"] if "sft" in models else [], "prompts": 3}
    return Evaluation.of(results if models else fake_run.results(), fake_run.INSTRUCT.labels, runs=LOGS)


def texts(plot: Plot | None) -> list[str]:
    """What is written in a drawing."""
    assert plot is not None
    return ["".join(node.itertext()) for node in ET.fromstring(plot.svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture(scope="module")
def every() -> list[Plot]:
    return plots.all_plots(evaluation(), LOGS)


def test_running_mean_by_hand() -> None:
    assert plots.running_mean([0.0, 3.0, 6.0, 3.0], 3) == [1.5, 3.0, 4.0, 4.5]
    assert plots.running_mean([1.0, 2.0], 0) == [1.0, 2.0]


def test_win_rates_leave_out_a_model_against_itself() -> None:
    made = fake_run.results()
    drawn = {plot.name: plot for plot in plots.model_plots(Evaluation.of(made, fake_run.INSTRUCT.labels))}
    assert list(drawn) == ["models_gold", "models_win_rate_vs_sft", "models_win_rate_vs_base"]
    shown = texts(drawn["models_win_rate_vs_sft"])
    for name in ("base", "ppo_ptx"):
        assert f"{made['models'][name]['win_rate_vs_sft']:.1%}" in shown
    assert "50.0%" not in shown
    assert "SFT" not in shown


def test_kl_is_a_root_and_negative_estimates_count_as_zero() -> None:
    rows = [{"step": 1, "kl": -0.5, "reward": 0.0}, {"step": 2, "kl": 4.0, "reward": 1.0}, {"step": 3, "reward": 2.0}]
    assert plots.against_sqrt_kl(rows, "reward") == ([0.0, 2.0], [0.0, 1.0])


def test_the_line_over_sqrt_kl_never_goes_back_and_holds_every_update() -> None:
    """PPO's KL goes up and down between updates; a line in the order of time would be a scribble."""
    rng = random.Random(0)
    x = [abs(rng.gauss(1.0, 0.4)) for _ in range(50)]
    y = [2 * value for value in x]
    bins, means = plots.binned(x, y)
    assert bins == sorted(bins)
    assert 6 <= len(bins) <= 12
    assert means == pytest.approx([2 * value for value in bins])
    # By hand: two bins of three.
    assert plots.binned([3, 1, 2, 9, 8, 7], [3, 1, 2, 0, 0, 3])[0] == [1.5, 5.0, 8.5]
    rows = [{"step": s, "kl": (1 + s % 3) ** 2, "reward": float(s)} for s in range(1, 40)]
    plot = plots.overoptimisation_plot({"a": rows}, looks_of("a"))
    assert plot is not None
    drawn = re.findall(r'<path d="([ML0-9. \n]+)" clip-path="[^"]*" style="fill: none; stroke: #0072b2', plot.svg)
    lines = [[float(x) for x in re.findall(r"[ML] ([0-9.]+) [0-9.]+", path)] for path in drawn]
    assert any(len(line) > 5 for line in lines)
    assert all(line == sorted(line) for line in lines), "a line that goes back"


def test_what_a_plot_says_in_words_agrees_with_what_it_draws() -> None:
    (found,) = plots.line_in_words(Words(), "SFT", [0.388, 0.37, 0.541, -0.5, 0.552])
    assert found == "SFT from 0.388 to 0.552, lowest −0.5, highest 0.552"
    assert plots.line_in_words(Words(), "SFT", []) == []
    gold = [0.5 + 0.1 * math.sin(step) for step in range(40)]
    rows = [{"step": step, "kl": step / 10, "reward": 0.0, "gold": value} for step, value in enumerate(gold, 1)]
    (plot,) = (p for p in plots.training_plots({"one": rows}, looks_of(["one"])) if p.name.endswith("gold"))
    words = ET.fromstring(plot.svg).get("aria-label") or ""
    assert f"lowest {min(gold):.3g}, highest {max(gold):.3g}" in words, (
        "of the logged values, not of their running mean"
    )
    numbers = [float(n) for n in re.findall(r"0\.\d+", words)]
    assert min(numbers) == numbers[2]
    assert max(numbers) == numbers[3]


def test_proxy_and_gold_have_a_panel_each_if_they_were_measured() -> None:
    rows = [{"step": s, "kl": float(s), "reward": s / 2, "gold": 1.0 - s / 10} for s in range(1, 6)]
    assert any("gold" in text for text in texts(plots.overoptimisation_plot({"a": rows}, looks_of("a"))))
    proxy = [{key: value for key, value in row.items() if key != "gold"} for row in rows]
    assert not any("gold" in text for text in texts(plots.overoptimisation_plot({"a": proxy}, looks_of("a"))))


def test_panels_are_decided_by_columns_and_shared_by_runs_of_a_kind(every: list[Plot]) -> None:
    names = {plot.name for plot in every}
    assert {"models_gold", "calibration", "overoptimisation"} <= names
    assert {"training_pretrain_loss", "training_rm_loss", "training_rm_accuracy"} <= names
    assert {f"training_one_two_{key}" for key in ("kl", "reward", "entropy", "clip_fraction", "length")} <= names
    by_name = {plot.name: plot for plot in every}
    assert "Pretraining: loss, nats per token" in texts(by_name["training_pretrain_loss"])
    assert {"ONE", "TWO", "entropy, nats per token"} <= set(texts(by_name["training_one_two_entropy"]))
    assert any("ranking loss" in text for text in texts(by_name["training_rm_loss"]))


def test_what_was_not_measured_is_not_drawn() -> None:
    bare = evaluation(sft={"gold": None}, other={"gold": float("nan")})
    assert plots.all_plots(bare, {}) == []
    assert plots.training_plots({"sft": [{"step": 1, "lr": 1.0}]}, bare.looks) == []
    assert plots.overoptimisation_plot({"sft": [{"step": 1, "kl": 1.0, "reward": 1.0}]}, bare.looks) is None


def test_svg_is_plain_safe_and_repeatable(every: list[Plot]) -> None:
    for plot, again in zip(every, plots.all_plots(evaluation(), LOGS), strict=True):
        assert plot.svg == again.svg
        root = ET.fromstring(plot.svg)
        assert root.get("role") == "img"
        assert (root.get("aria-label") or "").startswith(plot.title)
        assert "<text" in plot.svg
        assert "<style" not in plot.svg, "a style element would apply to the whole page"
        assert not re.search(r"https?://(?!www\.w3\.org/)", plot.svg)
        assert len(plot.svg) < 60_000


def test_themed_svgs_share_a_page(every: list[Plot]) -> None:
    for plot in every:
        assert not re.findall(r"#[0-9a-f]{6}\b", plot.themed), "a colour that would not follow the page's scheme"
        assert set(re.findall(r"var\(--([a-z]+)\)", plot.themed)) <= set(PALETTE)
    ids = [name for plot in every for name in re.findall(r' id="([^"]+)"', plot.themed)]
    assert len(ids) == len(set(ids))
    targets = {name for plot in every for name in re.findall(r'(?:url\(#|href="#)([^")]+)', plot.themed)}
    assert targets
    assert targets <= set(ids)


def test_names_are_text_not_markup_or_formulas() -> None:
    figures = {"gold": 0.5, "gold_ci": [0.4, 0.6]}
    (plot,) = plots.model_plots(evaluation(**{"sft": figures, "<b>$x^2$</b>": figures}))
    assert "<b>$x^2$</b>" in texts(plot)
    assert "<b>" not in plot.svg


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("sft", "SFT"),
        ("ppo_ptx", "PPO ptx"),
        ("rm_1", "RM 1"),
        ("base_few_shot", "Base few shot"),
        ("x", "X"),
        ("", ""),
    ],
)
def test_labels_from_names(name: str, label: str) -> None:
    assert looks_of([name])[name].label == label


def test_looks_follow_the_order_and_may_be_given() -> None:
    looks = looks_of(["few_shot", "base", "c", "few_shot"], {"c": "See"}, {"c": "pink"}, grey=["base"])
    assert [(look.label, look.colour) for look in looks.values()] == [
        ("Few shot", "blue"),
        ("Base", "grey"),
        ("See", "pink"),
    ]
    assert len({look.marker for look in looks.values()}) == 3


def test_matplotlib_is_loaded_only_to_draw_and_its_settings_are_left_alone() -> None:
    code = "import sys, tutelage.evaluate.report.page; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert plots.model_plots(evaluation())
    assert dict(matplotlib.rcParams) == before
