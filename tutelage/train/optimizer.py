"""The optimisers: AdamW, and Muon for the matrices inside a decoder's layers; fp32 masters of bf16 weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from tutelage.errors import RecipeError
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
        return with_masters(MuonWithAdamW(model, lr, weight_decay=weight_decay))
    return adamw([(model, lr)], weight_decay=weight_decay)


def adamw(
    modules: Iterable[tuple[nn.Module, float]], *, weight_decay: float, beta2: float = 0.95, eps: float = 1e-8
) -> Optimizer:
    """AdamW over (module, peak learning rate) pairs; vectors (norms, biases) are not decayed."""
    pairs = [(p, peak) for module, peak in modules for p in module.parameters()]
    return with_masters(_adamw(pairs, weight_decay, beta2=beta2, eps=eps))


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


def with_masters(optimizer: Optimizer) -> Optimizer:
    """The optimiser itself where all its weights are fp32, else one that steps fp32 masters of those that are not."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    return MasterWeights(optimizer) if any(p.dtype != torch.float32 for p in weights) else optimizer


class MasterWeights:
    """Steps fp32 copies of bf16 weights, and rounds these to them (Micikevicius et al. 2018, section 3.1).

    A bf16 number has 8 bits: a step below 1/256 of a weight would be lost. Gradients are summed over microbatches in fp32.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        """Takes over ``optimizer``, which must not have stepped yet. RecipeError where torch cannot sum in fp32."""
        self.optimizer = optimizer
        self.pairs: list[tuple[nn.Parameter, Tensor]] = []
        for group in optimizer.param_groups:
            group["params"] = [self._master(weight) for weight in group["params"]]
        self.param_groups = optimizer.param_groups

    def _master(self, weight: nn.Parameter) -> Tensor:
        if weight.dtype == torch.float32:
            return weight
        if not hasattr(weight, "grad_dtype"):
            raise RecipeError(f"machine.weights bf16 needs a newer torch than {torch.__version__}: 2.10 or later")
        weight.grad_dtype = torch.float32
        master = weight.detach().float()
        self.pairs.append((weight, master))
        return master

    @torch.no_grad()
    def step(self) -> None:
        for weight, master in self.pairs:
            master.grad = weight.grad
        self.optimizer.step()
        for weight, master in self.pairs:
            weight.copy_(master)
            master.grad = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)
        for weight, _ in self.pairs:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "masters": [master for _, master in self.pairs]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.param_groups = self.optimizer.param_groups
        for (weight, master), saved in zip(self.pairs, state_dict["masters"], strict=True):
            master.copy_(saved)
            weight.copy_(master)


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
