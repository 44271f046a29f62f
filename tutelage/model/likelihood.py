"""The likelihood of given tokens: for held-out text and for measuring how far two models have drifted apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast


@torch.no_grad()
def negative_log_likelihood(
    model: Decoder, ids: Tensor, targets: Tensor, dtype: str = "auto", batch_size: int = 32
) -> Tensor:
    """For each row, the sum of -log p(target) over positions with a target other than -1: [b] nats.

    ``ids`` and ``targets`` are [b, s]; ``targets[i, t]`` is the token to predict after ``ids[i, :t + 1]``.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    rows = []
    for part, wanted in zip(ids.split(batch_size), targets.split(batch_size), strict=True):
        part, wanted = part.to(device), wanted.to(device)
        counted = wanted >= 0
        with autocast(device, dtype):
            logits = model.logits(model(part)[counted])
        nll = torch.zeros(part.shape, device=device)
        nll[counted] = F.cross_entropy(logits.float(), wanted[counted], reduction="none")
        rows.append(nll.double().sum(1))
    model.train(was_training)
    return torch.cat(rows).cpu()
