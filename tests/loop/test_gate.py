"""The gate: its level and its power against exact fractions and simulated trials, and what its bounds refuse."""

from __future__ import annotations

import random
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import UsageError
from tutelage.loop.gate import GateSettings, Measured, Plan, plan, tail, verdict, wins_needed

SAME = Measured(length=20.0, refusals=0.1, bits_per_byte=1.0)
BOUNDS = GateSettings()


def exact_tail(n: int, least: int, rate: Fraction) -> Fraction:
    return sum((comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(max(least, 0), n + 1)), Fraction(0))


@given(st.integers(1, 80), st.integers(0, 81), st.sampled_from([Fraction(1, 2), Fraction(3, 5), Fraction(9, 10)]))
def test_tails_are_those_of_exact_fractions(n, least, rate):
    assert tail(n, least, float(rate)) == pytest.approx(float(exact_tail(n, least, rate)), abs=1e-12)


@given(st.integers(1, 120), st.sampled_from([Fraction(1, 20), Fraction(1, 5), Fraction(1, 100)]))
def test_the_wins_that_are_needed_are_the_fewest_at_the_level(n, alpha):
    needed = wins_needed(n, float(alpha))
    assert exact_tail(n, needed, Fraction(1, 2)) <= alpha
    assert exact_tail(n, needed - 1, Fraction(1, 2)) > alpha


def test_the_plan_has_its_power_and_no_smaller_one_keeps_it():
    """Its numbers by exact fractions: 169 comparisons notice a win rate of 60% with a probability of 82%."""
    planned = plan()
    assert (planned.comparisons, planned.wins_needed) == (169, 96)
    assert planned.power == pytest.approx(float(exact_tail(169, 96, Fraction(3, 5))), abs=1e-9)
    power = {n: exact_tail(n, wins_needed(n, 0.05), Fraction(3, 5)) for n in range(168, 260)}
    assert power.pop(168) < Fraction(4, 5) <= min(power.values())
    assert "noticed with a probability of 82%" in str(planned)
    few = plan(most=30)
    assert (few.comparisons, few.power < 0.5) == (30, True)
    assert plan(most=3).wins_needed == 4  # so few can show nothing


@pytest.mark.parametrize("ties", [0, 20, 60])
def test_ties_cost_no_power(ties):
    """At a win rate of 60% with ties as half a win, with 0 to 60% of ties: the sum over the number of decided comparisons."""
    planned, decided = plan(), Fraction(100 - ties, 100)
    wins = (Fraction(1, 5) / decided + 1) / 2
    power = sum(
        comb(planned.comparisons, m) * float(decided) ** m * (ties / 100) ** (planned.comparisons - m)
        * tail(m, wins_needed(m, planned.alpha), float(wins))
        for m in range(1, planned.comparisons + 1)
    )  # fmt: skip
    assert power >= planned.power - 1e-9


@pytest.mark.parametrize("most", [169, 40])
def test_an_identical_model_is_seldom_promoted(most):
    """200 trials, a third of whose comparisons tie, with the judge's number of them and with as few as people may be asked for.
    The level is exact, so also below 5% without a draw."""
    planned, rng, promoted = plan(most=most), random.Random(0), 0
    for _ in range(200):
        draws = rng.choices((0, 1, 2), k=planned.comparisons)
        promoted += verdict(planned, tuple(draws.count(i) for i in range(3)), SAME, SAME, SAME, BOUNDS).promote
    assert 0 < promoted <= 10
    assert all(exact_tail(m, wins_needed(m, 0.05), Fraction(1, 2)) <= Fraction(1, 20) for m in range(1, 170, 7))


def test_answers_that_are_all_the_same_show_nothing():
    assert not verdict(plan(), (0, 169, 0), SAME, SAME, SAME, BOUNDS).promote


def test_a_better_model_is_promoted_and_its_mirror_image_refused():
    better = verdict(plan(), (96, 0, 73), SAME, SAME, SAME, BOUNDS)
    assert better.promote
    assert better.reasons == ("better: 96 wins, 0 ties, 73 losses, p = 0.0451",)
    assert not verdict(plan(), (95, 0, 74), SAME, SAME, SAME, BOUNDS).promote
    reversed_ = verdict(plan(), (73, 0, 96), SAME, SAME, SAME, BOUNDS)
    assert not reversed_.promote
    assert "not shown to be better" in reversed_.reasons[0]


def test_the_number_of_comparisons_is_the_planned_one():
    for outcome in ((90, 0, 10), (170, 0, 0)):
        with pytest.raises(UsageError, match="169 comparisons were planned"):
            verdict(plan(), outcome, SAME, SAME, SAME, BOUNDS)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (Measured(20, 0.1, 1.06), "alignment tax: 1.0600 bits per byte, more than 1.0500"),
        (Measured(20, 0.1, float("nan")), "alignment tax: nan"),
        (Measured(20, 0.1, None), "alignment tax: not measured"),
        (Measured(41, 0.1, 1.0), "length: 41.0 tokens on average, not 10.0 to 40.0"),
        (Measured(9.9, 0.1, 1.0), "length: 9.9 tokens"),
        (
            Measured(20, 0.21, 1.0),
            "refusals: 21.0% of answers refuse, the serving model's 10.0%; they may differ by 10.0%",
        ),
    ],
)
def test_each_bound_refuses_by_itself_and_names_its_numbers(new, said):
    found = verdict(plan(), (120, 0, 49), new, SAME, SAME, BOUNDS)
    assert not found.promote
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith(said)


def test_what_is_just_within_the_bounds_passes():
    for new in (Measured(40, 0.2, 1.05), Measured(10, 0.0, 0.5)):
        assert verdict(plan(), (120, 0, 49), new, SAME, SAME, BOUNDS).promote
    free = BOUNDS.model_copy(update={"alignment_tax": None})
    assert verdict(plan(), (120, 0, 49), Measured(20, 0.1), SAME, SAME, free).promote


def test_the_tax_is_measured_from_the_sft_model():
    """Otherwise each round could add a little to the last one's."""
    worse = Measured(20, 0.1, 1.08)
    assert not verdict(plan(), (120, 0, 49), worse, Measured(20, 0.1, 1.04), SAME, BOUNDS).promote


def test_so_few_people_that_all_wins_would_show_nothing_are_refused():
    for alpha in (0.05, 0.01, 0.25):
        least = next(n for n in range(1, 20) if Fraction(1, 2**n) <= Fraction(alpha))
        assert GateSettings(people=least, alpha=alpha).people == least
        with pytest.raises(ValueError, match=f"fewer than {least} comparisons show nothing"):
            GateSettings(people=least - 1, alpha=alpha)


def test_a_plan_comes_back_from_its_record():
    assert Plan(**vars(plan())) == plan()
