"""Preferences with the embedded world's judge, where there is a world."""

from __future__ import annotations

from pathlib import Path

from tutelage.evaluate.preferences import step
from tutelage.evaluate.preferences.step import PreferencesInputs, PreferencesSettings
from tutelage.world.build import load_judge


def main(knobs: PreferencesSettings, inputs: PreferencesInputs, out: Path) -> Path:
    """Measure preferences and reward models; returns the folder of preferences.json."""
    judge = None if inputs.world is None else load_judge(inputs.world).judge
    return step.main(knobs, inputs, out, judge=judge)
