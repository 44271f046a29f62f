"""The optimisers: AdamW, and Muon for the matrices in a decoder's layers; fp32 master weights for bf16 models."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from tutelage.errors import RecipeError
from tutelage.model.decoder import Layer
from tutelage.model.device import autocast_dtype
from tutelage.model.lora import LoRALinear

OptimizerName = Literal["adamw", "muon"]


class Stateful(Protocol):
    """What a resumed run needs besides weights: an optimiser, a KL controller."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


class Optimizer(Stateful, Protocol):
    """What a stage uses of an optimiser; ``torch.optim.Optimizer`` fits."""

    param_groups: list[dict[str, Any]]
    """Each has ``lr`` and ``peak``, the learning rate that the schedule scales."""

    def step(self) -> Any: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...


def make_optimizer(name: OptimizerName, model: nn.Module, lr: float, *, weight_decay: float) -> Optimizer:
    """The named optimiser over all trainable parameters of a model, at the peak learning rate ``lr``."""
    if name == "muon":
        return with_masters(MuonWithAdamW(model, lr, weight_decay=weight_decay))
    return adamw([(model, lr, 0)], weight_decay=weight_decay)


def adamw(modules: Iterable[tuple[nn.Module, float, int]], *, weight_decay: float, eps: float = 1e-8) -> Optimizer:
    """AdamW over (module, peak learning rate, steps to wait before the warm-up); vectors (norms, biases) are not decayed."""
    given = [(p, peak, wait) for module, peak, wait in modules for p in module.parameters()]
    return with_masters(_adamw(given, weight_decay, eps=eps))


def _adamw(
    given: Iterable[tuple[nn.Parameter, float, int]], weight_decay: float, eps: float = 1e-8
) -> torch.optim.AdamW:
    groups: dict[tuple[float, int, bool], list[nn.Parameter]] = {}
    for parameter, peak, wait in given:
        if parameter.requires_grad:
            groups.setdefault((peak, wait, parameter.dim() >= 2), []).append(parameter)
    settings = [
        {"params": chosen, "lr": peak, "peak": peak, "wait": wait, "weight_decay": weight_decay if matrices else 0.0}
        for (peak, wait, matrices), chosen in groups.items()
    ]
    return torch.optim.AdamW(settings, betas=(0.9, 0.95), eps=eps, fused=True)


class MuonWithAdamW:
    """Muon for the matrices in the layers; AdamW, at the same learning rate, for embeddings, heads and vectors."""

    def __init__(self, model: nn.Module, lr: float, *, weight_decay: float) -> None:
        layers = [module for module in model.modules() if isinstance(module, Layer)]
        inside = [p for layer in layers for p in layer.parameters() if p.requires_grad and p.dim() == 2]
        stacks = {id(weight): rows for layer in layers for weight, rows in stacked(layer)}
        known = set(map(id, inside))
        outside = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        matrices = [(p, stacks.get(id(p), (len(p),))) for p in inside]
        self.parts: dict[str, torch.optim.Optimizer] = {"muon": Muon(matrices, lr, weight_decay=weight_decay)}
        if outside:  # nothing, if only adapters are trained
            self.parts["adamw"] = _adamw([(p, lr, 0) for p in outside], weight_decay)
        self._gather_groups()

    def _gather_groups(self) -> None:
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts.values():
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts.values():
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self._gather_groups()


def stacked(layer: Layer) -> list[tuple[Tensor, tuple[int, ...]]]:
    """The weights of a layer that stack several matrices (q, k, v; gate, up), each with the row counts of its parts."""
    attention, mlp = layer.attention, layer.mlp
    shares = (attention.heads, attention.kv_heads, attention.kv_heads), (1, 1) if mlp.gated else (1,)
    found: list[tuple[Tensor, tuple[int, ...]]] = []
    for module, parts in zip((attention.qkv, mlp.up), shares, strict=True):
        if isinstance(module, LoRALinear):
            found.append((module.a, (module.r,) * len(module.sizes)))
        else:
            found.append((module.weight, tuple(module.out_features // sum(parts) * part for part in parts)))
    return found


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): the update of a matrix is its averaged gradient, made orthogonal.

    Updates are scaled to the size of AdamW's by 0.2 sqrt(max(rows, columns)) (Liu et al. 2025, equation 4); momentum is Nesterov's.
    The arithmetic is that of ``torch.optim.Muon``. Matrices of the same shape, which a decoder has in every layer, go through the
    iteration together, which takes less than half the time for small ones.
    """

    def __init__(
        self, matrices: Iterable[tuple[nn.Parameter, tuple[int, ...]]], lr: float, *, weight_decay: float
    ) -> None:
        """``matrices``: each with the row counts of the matrices stacked in it, which are made orthogonal separately."""
        by_rows: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for matrix, rows in matrices:
            by_rows.setdefault(rows, []).append(matrix)
        settings = {"lr": lr, "peak": lr, "weight_decay": weight_decay, "momentum": 0.95}
        super().__init__([{"params": alike, "rows": rows} for rows, alike in by_rows.items()], settings)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            learning = [weight for weight in group["params"] if weight.grad is not None]
            for together in _of_one_shape(learning):
                updates = torch.stack([self._averaged(weight, group["momentum"]) for weight in together])
                for weight, update in zip(together, _orthogonal(updates, group["rows"]), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    for part, step in zip(weight.split(group["rows"]), update.split(group["rows"]), strict=True):
                        part.add_(step, alpha=-group["lr"] * 0.2 * math.sqrt(max(part.shape)))

    def _averaged(self, weight: Tensor, momentum: float) -> Tensor:
        """The gradient with Nesterov's momentum; updates the buffer."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)


_TOGETHER = 1 << 25
"""Most numbers that go through Muon's iteration at once, which bounds its memory; a single matrix may have more."""


def _of_one_shape(matrices: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The matrices grouped by shape, with at most _TOGETHER numbers, or one matrix, in a group."""
    shapes: dict[torch.Size, list[nn.Parameter]] = {}
    for matrix in matrices:
        shapes.setdefault(matrix.shape, []).append(matrix)
    groups = []
    for shape, alike in shapes.items():
        count = max(1, _TOGETHER // shape.numel())
        groups += [alike[start : start + count] for start in range(0, len(alike), count)]
    return groups


def _orthogonal(updates: Tensor, rows: tuple[int, ...]) -> Tensor:
    """``orthogonal`` of each part of stacked matrices [n, sum of rows, columns]."""
    if len(set(rows)) == 1:  # parts of the same shape go together as well
        return orthogonal(updates.reshape(-1, rows[0], updates.shape[-1])).reshape(updates.shape)
    return torch.cat([orthogonal(part) for part in updates.split(rows, 1)], 1)


def orthogonal(matrices: Tensor) -> Tensor:
    """U V' of each matrix U S V' in [n, rows, columns], approximately: five Newton-Schulz steps (Jordan et al. 2024).

    Singular values end between 0.7 and 1.2: the coefficients are chosen to raise small ones fastest. bf16 is enough, but fp32 where
    bf16 is not fast: on a processor with AVX2 alone, four matrices of 512 x 128 take 290 ms in bf16 and 6 in fp32.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices.shape[1] <= matrices.shape[2]
    x = (matrices if wide else matrices.mT).to(autocast_dtype(matrices.device))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def with_masters(optimizer: Optimizer) -> Optimizer:
    """The optimiser itself if all its weights are fp32, else ``MasterWeights`` around it."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    return MasterWeights(optimizer) if any(p.dtype != torch.float32 for p in weights) else optimizer


class MasterWeights:
    """Steps fp32 copies of bf16 weights and rounds the result back (Micikevicius et al. 2018, section 3.1).

    bf16 has 8 significant bits, so a step below 1/256 of a weight would be lost. Microbatch gradients are summed in fp32.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        """Takes over ``optimizer``, which must not have stepped yet. Raises RecipeError if torch cannot sum in fp32."""
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
