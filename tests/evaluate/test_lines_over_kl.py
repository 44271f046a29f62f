"""Lines and curves through the log of an RL run: closed forms, numbers worked by hand, and a log that is known to follow one."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import fake_run
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import UsageError
from tutelage.evaluate.preferences.best_of_n import fit, line, over_kl
from tutelage.reproduce.claim import read_claim
from tutelage.reproduce.running import judged, tabled

VALUES = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=12)


def test_a_line_by_hand():
    """Through (0, 1), (1, 2), (2, 2), (3, 5): slope 6/5, intercept 7/10; squares left 0.09 + 0.01 + 1.21 + 0.49, in all 9."""
    found = line([0, 1, 2, 3], [1, 2, 2, 5])
    assert found == pytest.approx({"intercept": 0.7, "slope": 1.2, "rmse": math.sqrt(1.8 / 4), "r2": 0.8})


@given(VALUES)
def test_what_a_line_explains_is_the_square_of_the_correlation(points):
    x, y = zip(*points, strict=True)
    if len(set(x)) < 3:
        with pytest.raises(UsageError, match="a line needs three different places"):
            line(x, y)
        return
    found = line(x, y)
    if len(set(y)) == 1:
        assert found["r2"] is None
        return
    assert found["r2"] == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, abs=1e-9)
    assert found["slope"] == pytest.approx(np.cov(x, y, bias=True)[0, 1] / np.var(x), abs=1e-9)


@pytest.mark.parametrize(("law", "better", "worse"), [(math.sqrt, "sqrt_kl", "kl"), (float, "kl", "sqrt_kl")])
def test_the_line_of_the_law_that_made_the_reward_explains_it(law, better, worse):
    kl = np.linspace(0, 30, 40)
    found = over_kl(kl, [0.5 + 0.2 * law(k) for k in kl])
    right, wrong = found["lines"][better], found["lines"][worse]
    assert (right["intercept"], right["slope"], right["r2"]) == pytest.approx((0.5, 0.2, 1.0))
    assert wrong["r2"] < 0.97
    assert wrong["rmse"] > right["rmse"] + 1e-3


def test_gaos_curve_is_through_the_gain_and_the_lines_through_the_reward():
    kl = np.linspace(0, 20, 30)
    d = np.sqrt(kl[1:])
    reward = [3.0, *(3.0 + d * (0.5 - 0.1 * np.log(d)))]
    found = over_kl(kl, reward)
    assert (found["alpha"], found["beta"], found["r2"]) == pytest.approx((0.5, 0.1, 1.0), abs=1e-9)
    assert found["lines"]["kl"]["intercept"] > 3.0  # a concave curve is above its chord: the line begins too high


def test_what_a_curve_explains_by_hand():
    """d = 1, 2, 4, gains 1, 1, 4, best-of-n's curve d (alpha - beta d): least squares by the normal equations."""
    d, r = np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 4.0])
    x = np.stack([d, -d * d], 1)
    alpha, beta = np.linalg.inv(x.T @ x) @ x.T @ r
    left = sum((gain - (alpha * at - beta * at * at)) ** 2 for at, gain in zip(d, r, strict=True))
    found = fit(d**2, r, "best_of_n")
    assert (found["alpha"], found["beta"]) == pytest.approx((alpha, beta))
    assert found["r2"] == pytest.approx(1 - left / ((1 - 2) ** 2 + (1 - 2) ** 2 + (4 - 2) ** 2))


def test_estimates_below_zero_are_the_start():
    assert over_kl([-0.2, 1, 4, 9], [0, 1, 2, 3]) == over_kl([0, 1, 4, 9], [0, 1, 2, 3])
    with pytest.raises(UsageError, match="three different KL"):
        over_kl([0, 1, 1, 4], [0, 1, 1, 2])


def test_the_step_fits_the_proxy_and_the_gold_reward_of_a_log(tmp_path: Path):
    from tutelage.evaluate.preferences.step import PreferencesInputs, PreferencesSettings, main

    rows = [
        {"step": i, "kl": i**2 / 4, "reward": 0.1 + 0.3 * i / 2} | ({"gold": 0.5 + 0.01 * i**2 / 4} if i % 2 else {})
        for i in range(20)
    ]
    short = fake_run.write_run(tmp_path / "short", rows[:2])
    inputs = PreferencesInputs(runs={"long": fake_run.write_run(tmp_path / "long", rows), "short": short})
    out = main(PreferencesSettings(), inputs, tmp_path / "out")
    found = json.loads((out / "preferences.json").read_text())["rl"]
    proxy, gold = found["long"]["proxy"]["lines"], found["long"]["gold"]["lines"]
    assert (proxy["sqrt_kl"]["slope"], proxy["sqrt_kl"]["r2"]) == pytest.approx((0.3, 1.0))
    assert (gold["kl"]["slope"], gold["kl"]["r2"]) == pytest.approx((0.01, 1.0))
    assert found["short"] == {"proxy": None, "gold": None}

    made = tmp_path / "seed-0" / "sqrt-kl.curves"
    shutil.copytree(out, made)
    claim = read_claim("sqrt-kl")
    scores, rises = judged("sqrt-kl", claim, [made.parent]).values()
    assert (scores.more[0], rises.more[0], rises.less[0]) == pytest.approx((1.0, 0.3, 0.0))
    assert scores.less[0] == proxy["kl"]["r2"]
    assert claim.table is not None
    rows = tabled("sqrt-kl", claim.table, [made.parent])
    assert rows[0] == ["the reward model's score", "1.000", f"{proxy['kl']['r2']:.3f}", *rows[0][3:]]
    assert rows[1][-1] == "9.500"
    assert "–" not in {cell for row in rows for cell in row}
