"""When PPO learns, and from what: warm-ups, the critic's lead, the KL budget and controller, minibatches and microbatches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toy_task import Toy, make_toy, ppo_job, pretrain_job, reward_job, sft_job

from tutelage.model.checkpoint import load_decoder


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def tuned(toy, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    return sft_job(toy, pretrain_job(toy, folder / "base", steps=40).run(), folder / "sft", epochs=1).run()


@pytest.fixture(scope="module")
def scorer(toy, tuned, tmp_path_factory) -> Path:
    return reward_job(toy, tuned, tmp_path_factory.mktemp("stages") / "reward").run()


@pytest.fixture
def ppo(toy, tuned, scorer, tmp_path):
    def run(name: str = "run", **changes) -> tuple[list[dict[str, float]], dict[str, float], dict[str, torch.Tensor]]:
        """(rows of the log, closing figures, the weights of the result)"""
        out = tmp_path / name
        checkpoint = ppo_job(toy, tuned, scorer, out, **changes).run()
        log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return log, json.loads((out / "done.json").read_text()), load_decoder(checkpoint).state_dict()

    return run


def differ(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(weight, others[name]) for name, weight in some.items())


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_the_policy_waits_for_the_critic_and_then_warms_up(ppo, tuned, trunk):
    """Two updates of the critic alone: the policy's weights stay, the KL controller too; then its rate rises from lr/3."""
    kl = {"controller": "adaptive", "coef": 0.1, "target": 1.0, "horizon": 200}
    given = {"value_warmup": 2, "warmup": 3, "lr": 3e-4, "kl": kl, "trunk": trunk}
    log, _, after_three = ppo("three", updates=3, **given)
    assert [row["lr"] for row in log] == pytest.approx([0.0, 0.0, 1e-4])
    assert [row["kl_coef"] for row in log[:3]] == [0.1, 0.1, 0.1]
    assert log[0]["kl"] == log[1]["kl"] == 0
    assert log[0]["value_loss"] > log[2]["value_loss"]
    assert differ(after_three, load_decoder(tuned).state_dict())
    longer, _, _ = ppo("five", updates=6, **given)
    assert [row["lr"] for row in longer] == pytest.approx([0.0, 0.0, 1e-4, 2e-4, 3e-4, 3e-4])
    assert longer[3]["kl_coef"] < 0.1  # the third update, whose policy was still the reference, moved it down


def test_a_batch_over_the_kl_budget_is_not_trained_on(ppo):
    """The result is the policy that sampled it, as if the run had been one update shorter."""
    log, closing, _ = ppo("free", updates=8, lr=3e-3, kl={"coef": 0.0})
    over = next(i for i, row in enumerate(log) if row["kl"] > 0.02)
    assert 0 < over < 7
    log, closing, weights = ppo("budget", updates=8, lr=3e-3, kl={"coef": 0.0, "budget": 0.02})
    assert len(log) == over + 1
    assert "policy_loss" not in log[-1]
    assert closing["stopped_by_kl_budget"] is True
    assert closing["updates"] == over
    _, shorter, same = ppo("shorter", updates=over, lr=3e-3, kl={"coef": 0.0})
    assert shorter["stopped_by_kl_budget"] is False
    assert not differ(weights, same)


def test_the_last_update_may_be_the_one_over_budget(ppo):
    _, closing, _ = ppo("last", updates=1, kl={"coef": 0.0, "budget": 1e-9})
    assert closing["stopped_by_kl_budget"] is False  # the first policy is the reference: its KL is 0
    log, _, _ = ppo("all", updates=2, lr=3e-3, kl={"coef": 0.0})
    _, closing, _ = ppo("over", updates=2, lr=3e-3, kl={"coef": 0.0, "budget": log[1]["kl"] / 2})
    assert (closing["updates"], closing["stopped_by_kl_budget"]) == (1, True)


def test_several_minibatches_move_the_ratio_and_the_clip_acts(ppo):
    log, _, _ = ppo(updates=6, lr=3e-3, minibatch=4, warmup=0)
    assert all(row["first_ratio"] == pytest.approx(1, abs=1e-6) for row in log)
    assert max(row["clip_fraction"] for row in log) > 0
    one, _, _ = ppo("one", updates=3, lr=3e-3, minibatch=16, batch_size=16, warmup=0)
    assert all(row["clip_fraction"] == 0 for row in one)


def test_the_clip_of_the_values_is_their_own(ppo):
    narrow, _, _ = ppo("narrow", updates=3, minibatch=4, value_clip=1e-6, value_lr=1e-2, warmup=0)
    free, _, _ = ppo("free", updates=3, minibatch=4, value_clip=0, value_lr=1e-2, warmup=0)
    wide, _, _ = ppo("wide", updates=3, minibatch=4, value_clip=1e6, value_lr=1e-2, warmup=0)
    assert [row["value_loss"] for row in free] == pytest.approx([row["value_loss"] for row in wide], rel=1e-4)
    assert free[0]["value_loss"] < narrow[0]["value_loss"]  # the maximum of two errors


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"minibatch": 32, "batch_size": 16}, "minibatch 32 is larger than batch_size 16"),
        ({"microbatch": 9, "minibatch": 8, "batch_size": 16}, "microbatch 9 is larger than minibatch 8"),
        ({"value_warmup": 4, "updates": 4}, "value_warmup 4 leaves none of the 4 updates to the policy"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(ppo, changes, problem):
    with pytest.raises(ValueError, match=problem):
        ppo(**changes)
