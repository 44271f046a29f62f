"""The optimisers: AdamW, and Muon for the matrices inside a decoder's layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Protocol

import torch
from torch import nn

from tutelage.model.decoder import Layer

OptimizerName = Literal["adamw", "muon"]


class Optimizer(Protocol):
    """What a stage needs of one; ``torch.optim.Optimizer`` is one."""

    param_groups: list[dict[str, Any]]
    """Each with ``lr``, and ``peak``: the learning rate that the schedule's factor is of."""

    def step(self) -> Any: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


def make_optimizer(name: OptimizerName, model: nn.Module, lr: float, *, weight_decay: float) -> Optimizer:
    """The optimiser of this name over all parameters of one model, at the peak learning rate ``lr``."""
    if name == "muon":
        return MuonWithAdamW(model, lr, weight_decay=weight_decay)
    return adamw([(model, lr)], weight_decay=weight_decay)


def adamw(
    modules: Iterable[tuple[nn.Module, float]], *, weight_decay: float, beta2: float = 0.95, eps: float = 1e-8
) -> torch.optim.AdamW:
    """AdamW over (module, peak learning rate) pairs; vectors (norms, biases) are not decayed."""
    return _adamw(
        [(p, peak) for module, peak in modules for p in module.parameters()], weight_decay, beta2=beta2, eps=eps
    )


class MuonWithAdamW:
    """Muon (Jordan et al. 2024) for the matrices inside the layers, AdamW for embeddings, heads and vectors.

    Muon's step is its averaged gradient made orthogonal, so that every direction of a matrix learns at the same rate. It is
    scaled to the size of AdamW's, 0.2 sqrt(max(rows, columns)) (Liu et al. 2025, equation 4): one learning rate does for both.
    """

    def __init__(self, model: nn.Module, lr: float, *, weight_decay: float) -> None:
        layers = [module for module in model.modules() if isinstance(module, Layer)]
        inside = [p for layer in layers for p in layer.parameters() if p.requires_grad and p.dim() == 2]
        known = set(map(id, inside))
        outside = [p for p in model.parameters() if id(p) not in known]
        groups = [{"params": inside, "lr": lr, "peak": lr, "weight_decay": weight_decay}]
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(groups, adjust_lr_fn="match_rms_adamw"),
            _adamw([(p, lr) for p in outside], weight_decay),
        )
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.parts[0].state_dict(), "adamw": self.parts[1].state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, name in zip(self.parts, ("muon", "adamw"), strict=True):
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def _adamw(
    parameters: Iterable[tuple[nn.Parameter, float]], weight_decay: float, *, beta2: float = 0.95, eps: float = 1e-8
) -> torch.optim.AdamW:
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter, peak in parameters:
        if parameter.requires_grad:
            groups.setdefault((peak, parameter.dim() >= 2), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": chosen, "lr": peak, "peak": peak, "weight_decay": weight_decay if matrices else 0.0}
            for (peak, matrices), chosen in groups.items()
        ],
        betas=(0.9, beta2),
        eps=eps,
        fused=True,
    )
