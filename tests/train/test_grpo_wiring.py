"""GRPO against GRPO in plain Python: every number that a run logs, and the weights that it writes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev, stdev
from typing import Any

import pytest
import torch
import toy_task
from plain_ppo import distributions, logprobs_of, norm_of
from random_start import Start, make_start, text_loss
from recording import Drawn, recorded
from test_ppo_wiring import gold, prompt_of, scores_of
from toy_task import MACHINE, Job, assert_reward_rises, logged, make_job, rows

from tutelage.errors import DataError, RecipeError, TrainingError
from tutelage.model.checkpoint import load_decoder, load_scalar
from tutelage.train import grpo

FACTORS = (0.5, 1.0, 1.0)
"""Learning rates over their peak: two updates of warm-up, and the first of the cosine."""


def grpo_job(begin: Start, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": begin.folder / "sft", "reward_models": {"reward_model": begin.folder / "reward"},
        "prompts": begin.folder / "prompts.jsonl", "text": {"one": begin.folder / "text.jsonl"},
        "updates": 3, "prompts_per_update": 2, "group": 3, "minibatch": 4, "microbatch": 3, "inner_epochs": 2,
        "max_tokens": 6, "temperature": 0.7, "missing_end_penalty": 1.5, "kl": {"coef": 0.3}, "lr": 1e-3, "eps": 1e-3,
        "warmup": 2, "floor": 0.5, "average": 0.6, "seed": 3, "clip": 0.1, "gradient_clip": 0.5,
        "ptx": {"windows": 2, "sequence": 8},
        "scorers": {
            "reward_model": {"weight": 0.5}, "place": {"weight": -0.1, "function": "test_ppo_wiring:place"},
        },
        "machine": MACHINE | {"checkpoint_every": 1, "keep_last": 9},
    }  # fmt: skip
    return make_job(grpo.main, out, values, changes)


class PlainGRPO:
    """Its own copies of the models, stepped by ``update``, which returns the metrics that the stage should log."""

    def __init__(self, knobs: grpo.GRPOSettings, begin: Start) -> None:
        self.knobs = knobs
        self.policy, self.reference, self.averaged = (load_decoder(begin.folder / "sft").eval() for _ in range(3))
        self.weights = list(self.policy.parameters())
        self.optimizer = torch.optim.AdamW(self.weights, betas=(0.9, 0.95), eps=knobs.eps, weight_decay=0.0)

    def update(self, drawn: Drawn, scores: list[float], factor: float) -> dict[str, float]:
        knobs, group = self.knobs, self.knobs.group
        pairs = [(r.ids, answer) for r, answer in zip(drawn.requests, drawn.answers, strict=True)]
        with torch.no_grad():
            every = [distributions(self.policy, p, a, knobs.temperature) for p, a in pairs]
            old = [
                [float(row[t]) for row, t in zip(rows, a, strict=True)]
                for rows, (_, a) in zip(every, pairs, strict=True)
            ]
            ref = [[float(x) for x in logprobs_of(self.reference, p, a, knobs.temperature)] for p, a in pairs]
        penalised = [
            score - (0.0 if done else knobs.missing_end_penalty)
            for score, done in zip(scores, drawn.finished, strict=True)
        ]
        advantages = []
        for start in range(0, len(penalised), group):
            members = penalised[start : start + group]
            scale = stdev(members) + 1e-4 if knobs.scale else 1.0
            advantages += [(score - fmean(members)) / scale for score in members]
        gaps = [[mine - theirs for mine, theirs in zip(*both, strict=True)] for both in zip(old, ref, strict=True)]
        metrics = {
            "kl": fmean(sum(row) for row in gaps),
            "kl_k3": fmean(sum(math.exp(-gap) - 1 + gap for gap in row) for row in gaps),
            "kl_coef": knobs.kl.coef,
            "entropy": fmean(-float((row.exp() * row).sum()) for rows in every for row in rows),
            "reward": fmean(scores),
            "reward_std": pstdev(scores),
            "length": fmean(map(len, drawn.answers)),
            "finished": fmean(map(float, drawn.finished)),
            "first_ratio": 1.0,
            "sampler_mismatch": 0.0,
        }
        logs = []
        for members, step in zip(drawn.minibatches(), drawn.steps, strict=True):
            tokens = sum(len(drawn.answers[i]) for i in members)
            sums: dict[str, Any] = dict.fromkeys(
                ("policy_loss", "kl_loss", "ratio", "clip_fraction", "approx_kl_k3"), 0.0
            )
            for i in members:
                share = 1 / tokens if knobs.mean == "tokens" else 1 / (len(members) * len(drawn.answers[i]))
                for t, now in enumerate(logprobs_of(self.policy, *pairs[i], knobs.temperature)):
                    change, away = now - old[i][t], ref[i][t] - now
                    ratio = change.exp()
                    free, clipped = advantages[i] * ratio, advantages[i] * ratio.clamp(1 - knobs.clip, 1 + knobs.clip)
                    sums["policy_loss"] -= share * torch.minimum(free, clipped)
                    sums["kl_loss"] += share * (away.exp() - 1 - away)
                    sums["ratio"] += ratio.item() / tokens
                    sums["clip_fraction"] += float(clipped < free) / tokens
                    sums["approx_kl_k3"] += (ratio - 1 - change).item() / tokens
            loss = sums["policy_loss"] + knobs.kl.coef * sums["kl_loss"]
            if step.windows:
                sums["ptx_loss"] = text_loss(self.policy, step.windows)
                loss = loss + knobs.ptx.coef * sums["ptx_loss"]
            gradients = torch.autograd.grad(loss, self.weights)
            metrics["grad_norm"] = norm_of(gradients)
            for weight, gradient in zip(self.weights, gradients, strict=True):
                weight.grad = gradient * min(1.0, knobs.gradient_clip / (metrics["grad_norm"] + 1e-6))
            self.optimizer.param_groups[0]["lr"] = knobs.lr * factor
            self.optimizer.step()
            logs.append({name: float(torch.as_tensor(value).detach()) for name, value in sums.items()})
        with torch.no_grad():
            for kept, live in zip(self.averaged.parameters(), self.weights, strict=True):
                kept.copy_(knobs.average * kept + (1 - knobs.average) * live)
        return metrics | {name: fmean(log[name] for log in logs) for name in logs[0]}


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Start:
    return make_start(tmp_path_factory.mktemp("grpo"))


CASES: dict[str, dict[str, Any]] = {
    "mean over tokens": {},
    "mean over answers, with text": {"mean": "answers", "ptx": {"coef": 0.7}},
    "not scaled, one row a pass": {"scale": False, "microbatch": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_what_plain_python_computes(begin, tmp_path, monkeypatch, case):
    job = grpo_job(begin, tmp_path / "run", **CASES[case])
    with recorded(monkeypatch) as record:
        checkpoint = grpo.main(job.knobs, job.inputs, job.out, gold=gold)
    plain, scorer = PlainGRPO(job.knobs, begin), load_scalar(begin.folder / "reward").eval()
    log = rows(checkpoint)
    assert len(log) == len(record.drawn) == 3
    for number, (row, drawn, factor) in enumerate(zip(log, record.drawn, FACTORS, strict=True)):
        asked = [prompt_of(begin, request.ids).id for request in drawn.requests]
        assert asked == [asked[0]] * 3 + [asked[3]] * 3
        assert asked[0] != asked[3]
        by_name = scores_of(begin, drawn, scorer)
        scores = [0.5 * model - 0.1 * place for model, place, _ in zip(*by_name.values(), strict=True)]
        expected = plain.update(drawn, scores, factor)
        expected |= {name: fmean(values) for name, values in by_name.items()}
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-4), f"{name} in update {number + 1}"
        assert row["lr"] == pytest.approx(1e-3 * factor)
        assert sum(map(len, drawn.minibatches())) == 12  # six answers, twice
        widest = max(step.widest for step in drawn.steps)
        assert widest == 1 if job.knobs.microbatch == 1 else 1 < widest <= 3
    for name, weight in load_decoder(checkpoint).state_dict().items():
        torch.testing.assert_close(weight, plain.averaged.state_dict()[name], atol=5e-5, rtol=0)
    assert len({request.sampling.seed for drawn in record.drawn for request in drawn.requests}) == 18
    assert max(row["clip_fraction"] for row in log) > 0
    assert max(row["grad_norm"] for row in log) > 0.5


def test_how_an_update_is_cut_into_passes_changes_nothing(begin, tmp_path):
    """One update of one step: eight passes of one row, or one of eight."""
    logs, weights = [], []
    for microbatch in (1, 0):
        job = grpo_job(
            begin, tmp_path / str(microbatch), microbatch=microbatch, updates=1, group=4, minibatch=8, inner_epochs=1
        )
        checkpoint = job.run()
        logs.append(rows(checkpoint)[0])
        weights.append(load_decoder(checkpoint).state_dict())
    assert logs[0] == pytest.approx(logs[1], rel=1e-4, abs=1e-5)
    assert abs(logs[0]["first_ratio"] - 1) < 1e-5
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-5, rtol=0)


def test_groups_of_equal_scores_teach_nothing(begin, tmp_path):
    """A constant reward: no advantage and, at the reference, no KL. The weights stay."""
    job = rewarded_by(
        grpo_job(begin, tmp_path / "run", updates=1, missing_end_penalty=0.0, average=0.0, inner_epochs=1),
        same={"function": "test_grpo_wiring:same"},
    )
    checkpoint = job.run()
    (row,) = rows(checkpoint)
    assert (row["equal_groups"], row["policy_loss"], row["grad_norm"]) == (1.0, 0.0, pytest.approx(0.0, abs=1e-6))
    before = load_decoder(begin.folder / "sft").state_dict()
    for name, weight in load_decoder(checkpoint).state_dict().items():
        torch.testing.assert_close(weight, before[name], atol=1e-6, rtol=0)


def rewarded_by(job: Job, **scorers: Any) -> Job:
    """The job without reward models, and with these scorers alone."""
    knobs = type(job.knobs).model_validate(job.knobs.model_dump() | {"scorers": scorers})
    return replace(job, knobs=knobs, inputs=job.inputs.model_copy(update={"reward_models": {}}))


def same(prompt: object, answer: str) -> float:
    return 1.0


def test_a_kl_budget_ends_the_run_at_the_first_update_above_it(begin, tmp_path):
    free = [row["kl"] for row in rows(grpo_job(begin, tmp_path / "free", lr=1e-2).run())]
    over = next(i for i, kl in enumerate(free) if kl > 0.001)
    assert over > 0
    checkpoint = grpo_job(begin, tmp_path / "run", kl={"budget": 0.001}, lr=1e-2).run()
    assert [row["kl"] for row in rows(checkpoint)] == pytest.approx(free[: over + 1], rel=1e-4, abs=1e-6)
    done = json.loads((checkpoint.parent / "done.json").read_text())
    assert (done["stopped_by_kl_budget"], done["updates"]) == (True, over)


def test_a_run_that_died_goes_on_with_its_averaged_weights_and_its_coefficient(begin, tmp_path):
    kl = {"controller": "adaptive", "coef": 0.3, "target": 0.1, "horizon": 60}
    whole, died = (
        grpo_job(begin, tmp_path / name, kl=kl, ptx={"coef": 0.5}, machine=MACHINE | {"save_every": 1e-9})
        for name in ("whole", "died")
    )
    calls = 0

    def dies(prompt: Any, answer: str, finished: bool) -> float:
        nonlocal calls
        calls += 1
        if calls > 2 * 6:  # in the third update
            raise TrainingError("the judge left")
        return gold(prompt, answer, finished)

    with pytest.raises(TrainingError, match="the judge left"):
        grpo.main(died.knobs, died.inputs, died.out, gold=dies)
    assert [row["step"] for row in logged(died.out)] == [1, 2]
    one, other = (grpo.main(job.knobs, job.inputs, job.out, gold=gold) for job in (whole, died))
    assert logged(whole.out) == logged(died.out)
    assert len({row["kl_coef"] for row in logged(whole.out)}) == 3
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_adapters_share_the_trunk_with_the_reference(begin, tmp_path):
    log = rows(grpo_job(begin, tmp_path / "run", lora={"r": 2}, lr=5e-3, average=0.0).run())
    assert abs(log[0]["kl"]) < 1e-5
    assert abs(log[2]["kl"]) > 1e-3


def test_what_cannot_be_is_said_in_one_line(begin, tmp_path):
    with pytest.raises(RecipeError, match="nothing adds to the reward: give reward_models, or scorers with a weight"):
        rewarded_by(grpo_job(begin, tmp_path / "a")).run()
    with pytest.raises(DataError, match="7 prompts that fit are fewer than prompts_per_update 8"):
        grpo_job(begin, tmp_path / "b", prompts_per_update=8).run()
    with pytest.raises(ValueError, match="minibatch 7 is larger than prompts_per_update x group 6"):
        grpo_job(begin, tmp_path / "c", minibatch=7)


def test_grpo_raises_the_reward(toy, tuned, scorer, tmp_path):
    assert_reward_rises(rows(toy_task.grpo_job(toy, tuned, scorer, tmp_path / "run", updates=20).run()))
