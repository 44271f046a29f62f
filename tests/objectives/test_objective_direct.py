"""DPO, IPO and Diamante's loss against loops over pairs and numbers worked by hand."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.objectives.direct import best_of, diamante_loss, dpo_loss, implicit_rewards, ipo_loss, mean_margin

LOSSES = ["dpo", "dpo with a margin", "ipo"]


@dataclass
class Case:
    logprobs: list
    reference: list
    lengths: list
    ranks: list
    mask: list

    def loss(self, which: str, logprobs: torch.Tensor, count=None, more: int = 0) -> torch.Tensor:
        """One of the losses, with ``more`` absent completions full of garbage at the end of each row."""

        def table(rows: list, garbage: float) -> torch.Tensor:
            return torch.tensor([[*row, *[garbage] * more] for row in rows])

        reference, ranks, mask = table(self.reference, math.nan), table(self.ranks, 1), table(self.mask, False)
        if which == "ipo":
            return ipo_loss(logprobs, reference, table(self.lengths, 0), ranks, mask, beta=0.3, count=count)
        margin = 0.7 if "margin" in which else 0.0
        return dpo_loss(logprobs, reference, ranks, mask, beta=0.3, margin=margin, count=count)

    def by_loops(self, which: str) -> float:
        prompts = []
        for own, ref, size, place, there in zip(
            self.logprobs, self.reference, self.lengths, self.ranks, self.mask, strict=True
        ):
            terms = []
            for w in range(len(own)):
                for loser in range(len(own)):
                    if not (there[w] and there[loser] and place[w] < place[loser]):
                        continue
                    if which == "ipo":
                        h = (own[w] - ref[w]) / size[w] - (own[loser] - ref[loser]) / size[loser]
                        terms.append((h - 1 / 0.6) ** 2)
                    else:
                        r = 0.3 * (own[w] - own[loser] - ref[w] + ref[loser]) - (0.7 if "margin" in which else 0.0)
                        terms.append(math.log1p(math.exp(-r)))
            prompts += [fmean(terms)] if terms else []
        return fmean(prompts) if prompts else 0.0


@st.composite
def cases(draw):
    p, k = draw(st.integers(1, 4)), draw(st.integers(2, 5))

    def table(element):
        return draw(st.lists(st.lists(element, min_size=k, max_size=k), min_size=p, max_size=p))

    nats = st.integers(-40, 0).map(lambda n: n / 4)
    return Case(table(nats), table(nats), table(st.integers(1, 9)), table(st.integers(1, 3)), table(st.booleans()))


@given(cases(), st.sampled_from(LOSSES))
@settings(max_examples=40)
def test_against_loops_over_pairs(case, which):
    assert case.loss(which, torch.tensor(case.logprobs)).item() == pytest.approx(
        case.by_loops(which), rel=1e-5, abs=1e-6
    )


@given(cases(), st.sampled_from(LOSSES))
@settings(max_examples=40)
def test_absent_completions_change_no_loss_and_no_gradient_whatever_stands_there(case, which):
    plain = torch.tensor(case.logprobs, requires_grad=True)
    padded = torch.cat([plain.detach(), torch.full((len(plain), 2), math.nan)], dim=1).requires_grad_()
    alone, beside = case.loss(which, plain), case.loss(which, padded, more=2)
    alone.backward()
    beside.backward()
    torch.testing.assert_close(beside, alone)
    torch.testing.assert_close(padded.grad[:, :-2], plain.grad)
    assert padded.grad[:, -2:].eq(0).all()


@given(cases(), st.sampled_from(LOSSES))
@settings(max_examples=40)
def test_microbatches_with_the_global_count_add_up_to_the_batch(case, which):
    whole = torch.tensor(case.logprobs, requires_grad=True)
    ranked = [
        any(m and n and a < b for m, a in zip(there, place, strict=True) for n, b in zip(there, place, strict=True))
        for there, place in zip(case.mask, case.ranks, strict=True)
    ]
    case.loss(which, whole).backward()
    parts = torch.tensor(case.logprobs, requires_grad=True)
    total = 0.0
    for i in range(len(parts)):
        row = Case(*([table[i]] for table in (case.logprobs, case.reference, case.lengths, case.ranks, case.mask)))
        loss = row.loss(which, parts[i : i + 1], count=sum(ranked))
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(case.by_loops(which), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(parts.grad, whole.grad)


def pair(chosen: float, rejected: float) -> torch.Tensor:
    return torch.tensor([[chosen, rejected]])


PAIR = {"ranks": torch.tensor([[1, 2]]), "mask": torch.ones(1, 2, dtype=torch.bool)}


def test_by_hand():
    """h = (-3 + 4) - (-6 + 5) = 2: DPO at beta 1/2 is log(1 + e^-1), its gradient beta sigmoid(-1) either way."""
    own, reference = pair(-3.0, -6.0).requires_grad_(), pair(-4.0, -5.0)
    assert implicit_rewards(own, reference, 0.5).tolist() == [[0.5, -0.5]]
    loss = dpo_loss(own, reference, beta=0.5, **PAIR)
    loss.backward()
    assert loss.item() == pytest.approx(0.31326169)
    assert own.grad.tolist()[0] == pytest.approx([-0.5 * 0.26894142, 0.5 * 0.26894142])
    assert dpo_loss(own, reference, beta=0.5, margin=1.0, **PAIR).item() == pytest.approx(math.log(2))
    # of 2 and 4 tokens: h = 1/2 + 1/4, and the target is 1 / (2 beta) = 1
    assert ipo_loss(own, reference, torch.tensor([[2, 4]]), beta=0.5, **PAIR).item() == pytest.approx(0.0625)
    assert mean_margin(own, **PAIR).item() == 3.0


def test_a_reference_gets_no_gradient():
    own, reference = pair(-3.0, -6.0).requires_grad_(), pair(-4.0, -5.0).requires_grad_()
    for loss in (
        dpo_loss(own, reference, beta=0.5, **PAIR),
        ipo_loss(own, reference, torch.tensor([[2, 4]]), beta=0.5, **PAIR),
    ):
        loss.backward()
    assert reference.grad is None


def test_diamantes_loss_is_the_likelihood_of_the_human_answer_and_three_pairs():
    """Human, model, random: -log sigmoid of 2, 3 and 1, and -log p of the human answer over its 4 tokens."""
    scores, nats = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[-2.0, -9.0, math.nan]], requires_grad=True)
    ranks, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.bool)
    likelihood, preference = diamante_loss(scores, nats, ranks, mask, tokens=4)
    assert likelihood.item() == 0.5
    assert preference.item() == pytest.approx(fmean(math.log1p(math.exp(-d)) for d in (2, 3, 1)))
    likelihood.backward()
    assert nats.grad.tolist() == [[-0.25, 0.0, 0.0]]


def test_the_best_are_all_of_the_first_rank_among_those_that_are_there():
    ranks = torch.tensor([[2, 1, 1, 3], [1, 2, 3, 2], [0, 1, 2, 3]])
    mask = torch.tensor([[True] * 4, [False, True, True, True], [True] * 4])
    expected = [[False, True, True, False], [False, True, False, True], [True, False, False, False]]
    assert best_of(ranks, mask).tolist() == expected


@pytest.mark.proof
def test_losses_and_gradients_are_trls():
    """In a process of its own: TRL is no dependency. TRL_FOLDER may name a folder that holds it."""
    script = Path(__file__).with_name("against_trl.py")
    folder = [os.environ["TRL_FOLDER"]] if "TRL_FOLDER" in os.environ else []
    run = subprocess.run([sys.executable, str(script), *folder], capture_output=True, text=True)
    if run.returncode == 3:
        pytest.skip(run.stdout.strip() + ": install trl, or set TRL_FOLDER")
    assert run.returncode == 0, run.stdout + run.stderr
