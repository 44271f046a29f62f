"""Learning from rankings without a reward model: DPO, IPO, and Diamante's joint loss.

A prompt has up to k completions with a rank each, as in ``ranking.py``: rank 1 is best, equal ranks do not form a pair. Every loss
is a mean over the pairs of a prompt and then over the prompts, so a prompt weighs the same however many completions it has; with
two completions it is the loss of the papers.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tutelage.objectives.language import Count, filled, over_count
from tutelage.objectives.ranking import better_pairs, kwise_loss


def implicit_rewards(logprobs: Tensor, ref_logprobs: Tensor, beta: float) -> Tensor:
    """beta (log pi(y|x) - log ref(y|x)): the reward whose best policy under a KL penalty of weight beta is pi.

    Rafailov et al. 2023, equation 5, without the term of the prompt alone, which cancels in every pair.

    Args: logprobs, ref_logprobs: [p, k], each a sum over the tokens of a completion.
    Returns: [p, k] float32.
    """
    return beta * (logprobs.float() - ref_logprobs.float())


def dpo_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    ranks: Tensor,
    mask: Tensor,
    *,
    beta: float,
    margin: float = 0.0,
    count: Count | None = None,
) -> Tensor:
    """Direct preference optimisation: -log sigmoid(r_w - r_l - margin) of ``implicit_rewards`` r.

    Rafailov et al. 2023, equation 7; ``margin`` is the offset of Amini et al. 2024 (ODPO), here the same for every pair:
    rewards that differ by less count as undecided.

    Args:
        logprobs, ref_logprobs: [p, k] sums over the tokens of each completion; the gradient flows through the first alone.
        ranks, mask: [p, k]; the mask is True where there is a completion.
        margin: in the unit of the rewards [nats times beta].
        count: the global number of prompts with a pair; by default those given here.
    Returns: a scalar in nats per pair.
    """
    rewards = implicit_rewards(filled(logprobs, mask), filled(ref_logprobs.detach(), mask), beta)
    return _mean_over_pairs(-F.logsigmoid(_differences(rewards) - margin), ranks, mask, count)


def ipo_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    lengths: Tensor,
    ranks: Tensor,
    mask: Tensor,
    *,
    beta: float,
    count: Count | None = None,
) -> Tensor:
    """Identity preference optimisation: (h_w - h_l - 1 / (2 beta))^2, where h is log pi - log ref **per token**.

    Azar et al. 2024, equation 17, whose tau is beta. The paper writes h as a sum over tokens; TRL divides by the length, which its
    authors say is what the experiments did, and so do we: with sums the target depends on how long the answers are.

    Args: those of ``dpo_loss``, and
        lengths: [p, k] tokens of each completion, those that the log-probabilities are sums over.
    Returns: a scalar in squared nats per token.
    """
    ratio = filled(logprobs, mask) - filled(ref_logprobs.detach(), mask)
    per_token = ratio / lengths.clamp(min=1)
    return _mean_over_pairs((_differences(per_token) - 1 / (2 * beta)).square(), ranks, mask, count)


def diamante_loss(
    scores: Tensor,
    logprobs: Tensor,
    ranks: Tensor,
    mask: Tensor,
    *,
    tokens: Count,
    count: Count | None = None,
) -> tuple[Tensor, Tensor]:
    """Diamante's joint loss (Lu et al. 2022): the likelihood of the human answer, and human above model above random answer.

    L = L_NLL + L_PE, where L_NLL is the negative log-likelihood per token of the answers of the best rank, and L_PE the mean of
    -log sigmoid(s_i - s_j) over the pairs in which i is ranked before j: with one answer of each kind, ranked 1, 2 and 3, these are
    the paper's three. The scores s come from a linear head on the same network.

    Args:
        scores: [p, k] scores of the completions. logprobs: [p, k] sums over their tokens. ranks, mask: [p, k].
        tokens: the global number of tokens of the answers of the best rank.
        count: the global number of prompts with a pair; by default those given here.
    Returns: L_NLL in nats per token, and L_PE in nats per pair; the joint loss is their sum.
    """
    best = best_of(ranks, mask)
    likelihood = over_count(-filled(logprobs, best).sum(), tokens)
    return likelihood, kwise_loss(scores, ranks, mask, count=count)


def best_of(ranks: Tensor, mask: Tensor) -> Tensor:
    """[p, k] True on the completions of the best rank of each prompt."""
    beyond = ranks.max() + 1 if ranks.numel() else 1
    found = ranks.masked_fill(~mask, int(beyond))
    return mask & (found == found.min(1, keepdim=True).values)


def mean_margin(values: Tensor, ranks: Tensor, mask: Tensor, count: Count | None = None) -> Tensor:
    """The mean of v_w - v_l over the pairs of a prompt and over the prompts; ``values`` [p, k], others as in ``dpo_loss``."""
    return _mean_over_pairs(_differences(filled(values.detach(), mask)), ranks, mask, count)


def _differences(x: Tensor) -> Tensor:
    """x_i - x_j, [p, k] -> [p, k, k]."""
    return x[:, :, None] - x[:, None, :]


def _mean_over_pairs(values: Tensor, ranks: Tensor, mask: Tensor, count: Count | None) -> Tensor:
    """The mean of values [p, i, j] over the pairs of a prompt in which i is better, and the mean of that over prompts."""
    better = better_pairs(ranks, mask)
    pairs = better.sum((1, 2))
    per_prompt = values.masked_fill(~better, 0.0).sum((1, 2)) / pairs.clamp(min=1)
    return over_count(per_prompt.sum(), (pairs > 0).sum() if count is None else count)
