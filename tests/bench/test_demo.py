"""What the comparison of two demos makes of its turns, worked by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import demo


def test_turns_are_compared_round_by_round(tmp_path, monkeypatch, capsys):
    """9 of 10 and 22 of 20 seconds: the median of 0.9 and 1.1."""
    seconds, asked = iter([9.0, 10.0, 22.0, 20.0]), []

    def turn(checkout, options):
        asked.append((checkout, options))
        whole = next(seconds)
        return {"seconds": whole, "steps": {"base": whole / 2}, "gold": {"sft": whole / 100}}

    monkeypatch.setattr(demo, "turn", turn)
    demo.main([str(tmp_path), "--rounds", "2", "--out", str(tmp_path / "demo.json"), "--options", "--seed 1"])
    assert asked == [(demo.HERE.parent, ["--seed", "1"]), (tmp_path, ["--seed", "1"])] * 2
    found = json.loads((tmp_path / "demo.json").read_text())
    assert found["share"]["median"] == pytest.approx(1.0)
    said = capsys.readouterr().out
    assert "base" + " " * 15 + "7.8" + " " * 7 + "7.5\n" in said
    assert "this, the judge's score: sft 0.090\n" in said
    assert "this takes 1.000 [0.950, 1.050] of the older one's time" in said
