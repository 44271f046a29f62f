"""DPO, IPO and GRPO against TRL's own loss code: ``python tests/objectives/against_trl.py [folder that holds trl]``.

TRL computes its losses in methods of its trainers. They are called here without a trainer: on a stand-in that holds the settings
they read, and with a model that returns the given log-probabilities. Prints the largest difference of losses and of gradients, and
exits with 1 if one is above 1e-5, with 3 if TRL cannot be imported.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tutelage.objectives.direct import dpo_loss, ipo_loss
from tutelage.objectives.grpo import answer_weights, group_advantages, grpo_loss

CLOSE = 1e-5


class Anything:
    """An accelerator of one process: what it gathers is what it is given."""

    device, num_processes, sync_gradients = torch.device("cpu"), 1, True

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    gather_for_metrics = gather
    gather_object = gather

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        return tensor


def stand_in(trainer: type, **settings: Any) -> Any:
    """An object of the trainer's class that was never initialised: it has these settings and nothing else."""
    made = object.__new__(trainer)
    made.__dict__.update(
        accelerator=Anything(), model=torch.nn.Linear(1, 1), aux_loss_enabled=False,
        _metrics={mode: defaultdict(list) for mode in ("train", "eval")},
        _total_train_tokens=0, _tp_size=1, **settings,
    )  # fmt: skip
    return made


def padded(lengths: Tensor, columns: int) -> Tensor:
    return torch.arange(columns) < lengths[:, None]


def compared(name: str, ours: Tensor, theirs: Tensor, own: Tensor, their: Tensor) -> bool:
    """Print the differences of the losses and of the gradients by two leaves; whether both are small."""
    found = torch.autograd.grad(ours, own)[0], torch.autograd.grad(theirs, their)[0]
    loss, gradient = abs(ours.item() - theirs.item()), (found[0] - found[1]).abs().max().item()
    print(f"{name:<34} loss {theirs.item():10.6f}  difference {loss:.1e}  of gradients {gradient:.1e}")
    return max(loss, gradient) < CLOSE


def direct(loss_type: str, beta: float, prompts: int = 6, columns: int = 9) -> bool:
    """Pairs of completions of different lengths. TRL's rows: all chosen ones, then all rejected ones, with a prompt of 3 tokens."""
    from trl import DPOTrainer

    lengths = torch.randint(1, columns + 1, (2 * prompts,))
    mask = padded(lengths, columns)
    own, reference = (-3 * torch.rand(2 * prompts, columns) for _ in range(2))
    own.requires_grad_()
    their = own.detach().clone().requires_grad_()
    completion = torch.cat([torch.zeros(2 * prompts, 3, dtype=torch.long), mask.long()], dim=1)
    sums = (reference * mask).sum(1)

    def model(**options: Any) -> Any:
        """Log-probabilities at all positions but the first: 0 where nothing is learned, as TRL's head returns them."""
        rows = torch.cat([torch.zeros(2 * prompts, 2), their * mask], dim=1)
        zeros = torch.zeros_like(rows)
        return SimpleNamespace(log_probs=rows, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    model.training = True  # type: ignore[attr-defined]
    trainer = stand_in(
        DPOTrainer, beta=beta, loss_types=[loss_type], loss_weights=[1.0], ld_alpha=None, precompute_ref_logps=True,
        f_divergence_type="reverse_kl", use_weighting=False, label_smoothing=0.0,
    )  # fmt: skip
    chosen, rejected = sums.chunk(2)
    inputs = {
        "input_ids": completion, "attention_mask": torch.ones_like(completion), "completion_mask": completion,
        "ref_chosen_logps": chosen, "ref_rejected_logps": rejected,
    }  # fmt: skip
    theirs = trainer._compute_loss(model, inputs, False)

    def table(rows: Tensor) -> Tensor:
        return torch.stack(rows.chunk(2), dim=1)

    ranks, there = torch.tensor([[1, 2]] * prompts), torch.ones(prompts, 2, dtype=torch.bool)
    given = table((own * mask).sum(1)), table(sums)
    if loss_type == "ipo":
        ours = ipo_loss(*given, table(lengths), ranks, there, beta=beta)
    else:
        ours = dpo_loss(*given, ranks, there, beta=beta)
    return compared(f"{loss_type}, beta {beta}", ours, theirs, own, their)


def grouped(loss_type: str, beta: float, groups: int = 3, group: int = 4, columns: int = 7) -> bool:
    """Answers of different lengths by a policy that has moved since it sampled them, so that some ratios are clipped."""
    from trl import GRPOTrainer

    answers = groups * group
    lengths = torch.randint(1, columns + 1, (answers,))
    mask = padded(lengths, columns)
    old = -3 * torch.rand(answers, columns)
    own = (old + 0.3 * torch.randn(answers, columns)).requires_grad_()
    their = own.detach().clone().requires_grad_()
    reference = old + 0.3 * torch.randn(answers, columns)
    advantages = group_advantages(torch.randn(answers), group)

    trainer = stand_in(
        GRPOTrainer, beta=beta, loss_type=loss_type, epsilon_low=0.2, epsilon_high=0.2, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, importance_sampling_level="token", use_vllm=False, num_generations=group,
        vllm_importance_sampling_correction=False, _entropy_bonus_enabled=False, max_completion_length=columns,
        current_gradient_accumulation_steps=1,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
    )  # fmt: skip
    trainer._get_per_token_logps_and_entropies = lambda *words, **named: (their, torch.zeros_like(their), None)
    ids = torch.zeros(answers, columns, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": torch.ones_like(ids), "completion_ids": ids, "completion_mask": mask.long(),
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    theirs = trainer._compute_loss(SimpleNamespace(training=True), inputs)
    weights = answer_weights(mask, answers, mask.sum()) if loss_type == "grpo" else None
    ours, stats = grpo_loss(own, old, reference, advantages, mask, clip=0.2, kl_coef=beta, weights=weights)
    assert stats["clip_fraction"] > 0
    return compared(f"{loss_type}, beta {beta}", ours, theirs, own, their)


def main(folder: str | None = None) -> int:
    sys.path[:0] = [folder] if folder else []
    try:
        import trl
    except ImportError as error:
        print(f"TRL cannot be imported: {error}")
        return 3
    print(f"TRL {trl.__version__}")
    torch.manual_seed(0)
    right = [direct(kind, beta) for kind in ("sigmoid", "ipo") for beta in (0.1, 0.5)]
    right += [grouped(kind, beta) for kind in ("grpo", "dapo", "bnpo") for beta in (0.0, 0.04)]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
