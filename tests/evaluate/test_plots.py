"""Plots: what they show, what they leave out, and that their SVG is plain, safe and the same every time."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import fake_run
import pytest

from tutelage.evaluate import plots
from tutelage.evaluate.run_output import read_run
from tutelage.evaluate.svg import Plot, palette_css


def texts(plot: Plot) -> list[str]:
    """What is written in the drawing itself."""
    root = ET.fromstring(plot.svg())
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_wilson_by_hand() -> None:
    # 8 of 10: centre (0.8 + 0.19208) / 1.38416, half 1.96 sqrt(0.016 + 0.009604) / 1.38416
    low, high = plots.wilson(0.8, 10)
    assert (low, high) == pytest.approx((0.490, 0.943), abs=5e-4)
    assert plots.wilson(1.0, 5)[1] == 1.0


def test_running_mean_by_hand() -> None:
    assert plots.running_mean([0.0, 3.0, 6.0, 3.0], 3) == [1.5, 3.0, 4.0, 4.5]
    assert plots.running_mean([1.0, 2.0], 0) == [1.0, 2.0]
    narrowing = plots.running_mean([9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 7)
    assert narrowing == [3.0, 2.25, 1.8, 9 / 7, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_thin_keeps_short_series_and_averages_long_ones() -> None:
    assert plots.thin([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], most=3) == ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert plots.thin([1.0, 2.0, 3.0], [4.0, 6.0, 9.0], most=2) == ([1.5, 3.0], [5.0, 9.0])


def test_win_rates_leave_out_a_stage_against_itself() -> None:
    plot = plots.win_rate_figure(fake_run.results()["stages"])
    assert plot is not None
    shown = texts(plot)
    assert "70.3%" in shown
    assert "94.7%" in shown
    assert "50.0%" not in shown
    assert "PPO-ptx 70.3% (interval 67.0% to 73.8%)" in plot.description


def test_overoptimisation_is_drawn_against_the_root_of_the_kl() -> None:
    rows = [{"step": s, "kl": float(s * s), "reward": s / 2, "gold": 1.0 - s / 10} for s in range(1, 6)]
    plot = plots.overoptimisation_figure({"ppo": rows})
    assert plot is not None
    assert "from 0.50 at √KL 1.0 to 2.50 at √KL 5.0" in plot.description
    assert "from 0.90 at √KL 1.0 to 0.50 at √KL 5.0" in plot.description
    assert any("√nats" in text for text in texts(plot))
    no_gold = plots.overoptimisation_figure({"ppo": [{k: v for k, v in row.items() if k != "gold"} for row in rows]})
    assert no_gold is not None
    assert not any("gold" in text for text in texts(no_gold))


def test_negative_kl_estimates_count_as_zero() -> None:
    rows = [{"step": 1, "kl": -0.5, "reward": 0.0}, {"step": 2, "kl": 4.0, "reward": 1.0}]
    plot = plots.overoptimisation_figure({"ppo": rows})
    assert plot is not None
    assert "at √KL 0.0 to 1.00 at √KL 2.0" in plot.description


def test_family_changes_prefer_accuracy_and_fall_back_to_the_score() -> None:
    stages = {
        "sft": {"families": {"sum": {"gold": 0.5, "accuracy": 0.25}}},
        "ppo": {"families": {"sum": {"gold": 0.75, "accuracy": 0.75}}},
    }
    plot = plots.family_change_figure(stages)
    assert plot is not None
    assert plot.description == "PPO against SFT: sum +0.50"
    for stage in stages.values():
        del stage["families"]["sum"]["accuracy"]
    plot = plots.family_change_figure(stages)
    assert plot is not None
    assert plot.description == "PPO against SFT: sum +0.25"


def test_what_was_not_measured_is_not_drawn() -> None:
    assert plots.score_figure({"sft": {"gold": None}, "ppo": {"gold": float("nan")}}) is None
    assert plots.win_rate_figure({"sft": {"win_rate_vs_sft": 0.5}}) is None
    assert plots.family_change_figure({"base": {}, "sft": {}}) is None
    assert plots.reward_accuracy_figure({"longer_wins_accuracy": 0.5}) is None
    assert plots.calibration_figure([]) is None
    assert plots.overoptimisation_figure({"ppo": [{"step": 1, "reward": 1.0}]}) is None
    assert plots.training_figures({"sft": [{"step": 1, "lr": 1.0}]}) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run.write_run(tmp_path_factory.mktemp("plots") / "run")


def test_svg_is_plain_safe_and_repeatable(run: Path, tmp_path: Path) -> None:
    paths = plots.save_plots(run, tmp_path / "a")
    assert {"score", "win_rate", "overoptimisation", "calibration"} <= {path.stem for path in paths}
    for path, again in zip(paths, plots.save_plots(run, tmp_path / "b"), strict=True):
        assert path.read_bytes() == again.read_bytes()
        text = path.read_text()
        root = ET.fromstring(text)
        assert root.get("role") == "img"
        assert root.findtext("{http://www.w3.org/2000/svg}title")
        assert root.findtext("{http://www.w3.org/2000/svg}desc")
        assert "<text" in text
        assert "var(--" not in text
        assert not re.search(r"https?://", text.replace("http://www.w3.org/2000/svg", ""))
        assert "<style" not in text, "a style element would apply to the whole page"
        assert path.stat().st_size < 60_000


def test_themed_svgs_share_a_page(run: Path) -> None:
    svgs = [plot.svg(themed=True) for plot in plots.run_plots(read_run(run))]
    for svg in svgs:
        assert not re.findall(r"#[0-9a-f]{6}\b", svg), "a colour that would not follow the page's scheme"
        used = set(re.findall(r"var\(--([a-z0-9_]+)\)", svg))
        for colours in palette_css():
            assert used <= set(re.findall(r"--([a-z0-9_]+):#", colours))
    ids = [name for svg in svgs for name in re.findall(r' id="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    targets = {name for svg in svgs for name in re.findall(r'(?:url\(#|href="#)([^")]+)', svg)}
    assert targets
    assert targets <= set(ids)


def test_names_are_text_not_markup_or_formulas() -> None:
    stages = {"sft": {"gold": 0.5}, "<b>$x^2$</b>": {"gold": 0.6}}
    plot = plots.score_figure(stages)
    assert plot is not None
    assert "<b>$x^2$</b>" in texts(plot)
    assert "<b>" not in plot.svg()


def test_matplotlib_is_loaded_only_to_draw() -> None:
    code = "import sys, tutelage.evaluate.report; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_matplotlib_settings_are_left_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot = plots.score_figure(fake_run.results()["stages"])
    assert plot is not None
    plot.svg()
    assert dict(matplotlib.rcParams) == before
