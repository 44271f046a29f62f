"""What a training step shows while it runs."""

from __future__ import annotations

import re

import pytest

from tutelage.train.loop import _progress

METRICS = {"reward": 12.345678, "gold": 0.5, "kl": 1.25, "length": 43.5, "finished": 0.75}


@pytest.mark.parametrize(("columns", "last"), [(62, "reward 12.346"), (80, "gold 0.500"), (200, "12,345 tok/s")])
def test_the_bar_and_the_time_left_stay_on_a_narrow_terminal(capsys, monkeypatch, columns, last):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    with _progress("ppo", 0, 1000, tuple(METRICS)) as report:
        for step in range(1, 4):
            report(step, METRICS, 12_345.0)
    out = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().out)
    line = out.replace("\r", "\n").rstrip().splitlines()[-1]
    assert len(line.rstrip()) <= columns
    assert re.fullmatch(r"ppo +[━╸╺]{16} (\d+:\d\d:\d\d|-:--:--) step 3/1000  .*" + re.escape(last), line.rstrip())


def test_elsewhere_every_figure_is_printed(capsys):
    with _progress("ppo", 0, 10, tuple(METRICS)) as report:
        report(10, METRICS, 0.0)
    figures = "reward 12.346  gold 0.500  kl 1.250  length 43.500  finished 0.750"
    assert capsys.readouterr().out == f"ppo       step 10/10  {figures}  0 s left\n"
