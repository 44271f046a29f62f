"""PPO in plain Python, one unpadded answer and one token at a time, to hold a run of the stage against.

The sampled answers, which of them each optimiser step learns from, and the windows of text come from a recording of the run;
``PlainPPO`` computes everything else: metrics, losses, gradients and weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from statistics import fmean, pstdev

import torch
from random_start import text_loss
from recording import Drawn
from torch import Tensor

from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.train.ppo_update import PPOSettings


def distributions(model: Decoder, prompt: list[int], answer: list[int], temperature: float) -> list[Tensor]:
    """The log-probabilities of all tokens at each place of the answer."""
    logits = model.logits(model(torch.tensor([prompt + answer])))[0]
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return [(logits[place] / temperature) - (logits[place] / temperature).exp().sum().log() for place in places]


def logprobs_of(model: Decoder, prompt: list[int], answer: list[int], temperature: float) -> list[Tensor]:
    rows = distributions(model, prompt, answer, temperature)
    return [row[token] for row, token in zip(rows, answer, strict=True)]


def values_of(critic: ScalarModel, prompt: list[int], answer: list[int]) -> list[Tensor]:
    """The value before each token of the answer."""
    every = critic(torch.tensor([prompt + answer]))[0]
    return [every[len(prompt) - 1 + j] for j in range(len(answer))]


def norm_of(gradients: Sequence[Tensor]) -> float:
    return math.sqrt(sum(g.square().sum().item() for g in gradients))


class PlainPPO:
    """Its own copies of the models, stepped by ``update``, which returns the metrics that the stage should log."""

    def __init__(self, knobs: PPOSettings, policy: Decoder, critic: ScalarModel) -> None:
        self.knobs, self.policy, self.critic = knobs, policy.eval(), critic.eval()
        self.shared = critic.decoder is policy
        self.reference, self.averaged = copy.deepcopy(policy), copy.deepcopy(policy)
        own = critic.head if self.shared else critic
        self.parts = [list(policy.parameters()), list(own.parameters())]
        self.optimizers = [
            torch.optim.AdamW(part, lr=lr, betas=(0.9, 0.95), eps=knobs.eps, weight_decay=0.0)
            for part, lr in zip(self.parts, (knobs.lr, knobs.value_lr), strict=True)
        ]

    def update(self, drawn: Drawn, scores: Sequence[float], factors: tuple[float, float]) -> dict[str, float]:
        """Learn from the answers, with learning rates of policy and critic at ``factors`` times their peaks; 0: it waits."""
        knobs, coef = self.knobs, self.knobs.kl.coef
        prompts, n = [r.ids for r in drawn.requests], len(drawn.requests)
        pairs = list(zip(prompts, drawn.answers, strict=True))
        metrics: dict[str, float] = {}
        with torch.no_grad():
            every = [distributions(self.policy, p, a, knobs.temperature) for p, a in pairs]
            old = [
                [float(row[t]) for row, t in zip(rows, a, strict=True)]
                for rows, (_, a) in zip(every, pairs, strict=True)
            ]
            ref = [[float(x) for x in logprobs_of(self.reference, p, a, knobs.temperature)] for p, a in pairs]
            old_values = [[float(x) for x in values_of(self.critic, p, a)] for p, a in pairs]
            entropies = [-float((row.exp() * row).sum()) for rows in every for row in rows]
        advantages, returns = [], []
        for i in range(n):
            rewards = [-coef * (mine - theirs) for mine, theirs in zip(old[i], ref[i], strict=True)]
            rewards[-1] += scores[i] - (0.0 if drawn.finished[i] else knobs.missing_end_penalty)
            following, row = 0.0, []
            for t in reversed(range(len(rewards))):
                next_value = old_values[i][t + 1] if t + 1 < len(rewards) else 0.0
                following = (
                    rewards[t] + knobs.gamma * next_value - old_values[i][t] + knobs.gamma * knobs.lam * following
                )
                row.insert(0, following)
            advantages.append(row)
            returns.append([a + v for a, v in zip(row, old_values[i], strict=True)])
        flat = [a for row in advantages for a in row]
        mean, deviation = fmean(flat), pstdev(flat)
        advantages = [[(a - mean) / deviation for a in row] for row in advantages]
        goals, guesses = ([x for row in rows for x in row] for rows in (returns, old_values))
        errors = [goal - guess for goal, guess in zip(goals, guesses, strict=True)]
        gaps = [[mine - theirs for mine, theirs in zip(*rows, strict=True)] for rows in zip(old, ref, strict=True)]
        metrics |= {
            "kl": fmean(sum(row) for row in gaps),
            "kl_k3": fmean(sum(math.exp(-gap) - 1 + gap for gap in row) for row in gaps),
            "kl_coef": coef,
            "entropy": fmean(entropies),
            "explained_variance": 1 - pstdev(errors) ** 2 / pstdev(goals) ** 2,
            "reward": fmean(scores),
            "reward_std": pstdev(scores),
            "length": fmean(map(len, drawn.answers)),
            "finished": fmean(map(float, drawn.finished)),
            "first_ratio": 1.0,
            "sampler_mismatch": 0.0,
        }
        logged: list[dict[str, float]] = []
        for rows, step in zip(drawn.minibatches(), drawn.steps, strict=True):
            count = sum(len(drawn.answers[i]) for i in rows)
            sums = dict.fromkeys(
                ("policy_loss", "value_loss", "ratio", "clip_fraction", "approx_kl_k1", "approx_kl_k3"), 0.0
            )
            for i in rows:
                new, values = logprobs_of(self.policy, *pairs[i], knobs.temperature), values_of(self.critic, *pairs[i])
                for t, advantage in enumerate(advantages[i]):
                    change = new[t] - old[i][t]
                    ratio = change.exp()
                    free, clipped = -advantage * ratio, -advantage * ratio.clamp(1 - knobs.clip, 1 + knobs.clip)
                    error = (values[t] - returns[i][t]) ** 2
                    if knobs.value_clip:
                        moved = (values[t] - old_values[i][t]).clamp(-knobs.value_clip, knobs.value_clip)
                        error = torch.maximum(error, (old_values[i][t] + moved - returns[i][t]) ** 2)
                    sums["policy_loss"] += torch.maximum(free, clipped) / count
                    sums["value_loss"] += 0.5 * error / count
                    sums["ratio"] += ratio.item() / count
                    sums["clip_fraction"] += float(clipped > free) / count
                    sums["approx_kl_k1"] += -change.item() / count
                    sums["approx_kl_k3"] += (ratio - 1 - change).item() / count
            loss = knobs.value_coef * sums["value_loss"] + (sums["policy_loss"] if factors[0] else 0)
            if step.windows:
                sums["ptx_loss"] = text_loss(self.policy, step.windows)
                loss = loss + knobs.ptx.coef * sums["ptx_loss"]
            metrics["grad_norm"] = self.step(loss, factors)
            logged.append({name: float(torch.as_tensor(value).detach()) for name, value in sums.items()})
        metrics |= {name: fmean(row[name] for row in logged) for name in logged[0]}
        with torch.no_grad():
            for kept, live in zip(self.averaged.parameters(), self.policy.parameters(), strict=True):
                kept.copy_(knobs.average * kept + (1 - knobs.average) * live)
        return metrics

    def step(self, loss: Tensor, factors: tuple[float, float]) -> float:
        """Take an optimiser step; the norm of the policy's gradient before clipping."""
        norms = []
        everything = [weight for part in self.parts for weight in part]
        found = dict(zip(everything, torch.autograd.grad(loss, everything, allow_unused=True), strict=True))
        peaks = (self.knobs.lr, self.knobs.value_lr)
        for part, optimizer, peak, factor in zip(self.parts, self.optimizers, peaks, factors, strict=True):
            if not factor:
                norms.append(0.0)
                continue
            gradients = [found[weight] for weight in part if found[weight] is not None]
            norms.append(norm_of(gradients))
            scale = min(1.0, self.knobs.gradient_clip / (norms[-1] + 1e-6)) if self.knobs.gradient_clip else 1.0
            for weight in part:
                weight.grad = None if found[weight] is None else found[weight] * scale
            optimizer.param_groups[0]["lr"] = peak * factor
            optimizer.step()
        return norms[0]
