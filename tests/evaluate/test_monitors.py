"""Findings in the logs of RL runs: each from a log made for it, none from a healthy one."""

import pytest

from tutelage.evaluate.report.monitors import findings, thirds
from tutelage.evaluate.report.words import LANGUAGES, Words

HEALTHY = [
    {
        "reward": i * 0.1,
        "gold": 0.5 + i * 0.01,
        "length": 20 + i % 2,
        "duplicates": 0.02,
        "finished": 0.98,
        "kl": i * 0.5,
    }
    for i in range(12)
]


def changed(**columns):
    return [row | {key: change(i) for key, change in columns.items()} for i, row in enumerate(HEALTHY)]


def test_a_healthy_run_has_no_finding():
    assert findings(HEALTHY) == []
    assert findings(HEALTHY, kl_budget=5.5) == []
    assert findings([]) == []


@pytest.mark.parametrize(
    ("rows", "budget", "key"),
    [
        (changed(gold=lambda i: 0.6 - i * 0.02), 0, "gold_falls"),
        (changed(length=lambda i: 20 + 3 * i), 0, "length"),
        (changed(duplicates=lambda i: i / 40), 0, "duplicates"),
        (changed(finished=lambda i: 1 - i / 50), 0, "unfinished"),
        (HEALTHY, 5.0, "kl"),
    ],
)
def test_each_sign_is_found_alone(rows, budget, key):
    (finding,) = findings(rows, budget)
    assert finding.key == f"monitor.{key}"
    for language in LANGUAGES:
        assert all(value in Words(language)(finding.key, **finding.values) for value in finding.values.values())


def test_noise_is_no_movement_and_few_values_say_nothing():
    assert thirds([{"gold": value} for value in (1, 2, 1, 2, 1, 2)], "gold").moved() == 0
    assert thirds([{"gold": 1}] * 5, "gold") is None
