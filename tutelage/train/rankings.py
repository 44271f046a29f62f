"""Rankings as a reward model reads them: tokenised, and packed into one row per prompt."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.data.formats import OnBad, read_rankings
from tutelage.data.prepare import opening, text_of
from tutelage.data.tokens.batches import REFUSED, pack_ranking, pad_right, tree_mask
from tutelage.data.tokens.mixing import split_by_key
from tutelage.errors import DataError, RecipeError, UsageError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.model.likelihood import per_token
from tutelage.objectives.language import token_logprobs
from tutelage.records import Ranking
from tutelage.settings import Rows
from tutelage.text.chat import render_answers
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.settings import warn_of_few_rows


@dataclass(frozen=True)
class RankingExample:
    """A tokenised prompt with its completions, and one tuple of ranks per labeller."""

    prompt: list[int]
    completions: list[list[int]]
    ranks: list[tuple[int, ...]]

    @property
    def size(self) -> int:
        """Tokens of the packed row."""
        return len(self.prompt) + sum(map(len, self.completions))


@dataclass(frozen=True)
class RankingSplit:
    """Rankings to learn from and to measure on, and how many were left out of each by reason."""

    examples: list[RankingExample]
    left_out: dict[str, int]
    heldout: list[RankingExample]
    heldout_left_out: dict[str, int]

    @classmethod
    def read(
        cls,
        path: Path,
        heldout: Path | None,
        share: float,
        seed: int,
        tokenizer: Tokenizer,
        longest: int,
        on_bad: OnBad,
    ) -> RankingSplit:
        """Both files, or one of which a ``share`` of the prompts is held out; those that begin alike stay on one side.

        Of two files that share prompts it is said: what is measured on them flatters.
        """
        rankings = _placed(path, on_bad)
        if heldout:
            held = _placed(heldout, on_bad)
            known = {text_of(one.prompt.messages) for _, one in held}
            if shared := sum(text_of(one.prompt.messages) in known for _, one in rankings):
                print(
                    f"warning: {shared} rankings of {path} are of prompts in {heldout}: accuracy on those says little"
                )
        else:
            rankings, held = split_by_key(rankings, lambda one: opening(one[1].prompt.messages), share, seed)
        return cls(
            *encode_rankings(rankings, tokenizer, longest, on_bad), *encode_rankings(held, tokenizer, longest, on_bad)
        )

    def require_some(self, longest: int, path: Path) -> None:
        """Say what was left out; DataError if nothing remains to learn from."""
        why = "left out " + ", ".join(f"{n} x {reason}" for reason, n in self.left_out.items())
        if not self.examples:
            raise DataError(f"no ranking with a preference fits in {longest} tokens: {why}", path=path)
        if self.left_out:
            print(f"{path}: {why}")

    def figures(self) -> dict[str, Any]:
        """What there is, for the run's result."""
        return {
            "prompts": len(self.examples),
            "rankings": sum(len(example.ranks) for example in self.examples),
            "left_out": self.left_out,
            "heldout": len(self.heldout),
            "heldout_left_out": self.heldout_left_out,
        }


def _placed(path: Path, on_bad: OnBad) -> list[tuple[str, Ranking]]:
    """The rankings of a file, each with its place."""
    places: list[str] = []
    rankings = list(read_rankings(path, on_bad=on_bad, places=places))
    return list(zip(places, rankings, strict=True))


def check_rankings(path: Path, rows: Rows, batch_size: int, epochs: int, warmup: int) -> Iterator[str]:
    """RecipeError if no answer is preferred to another; a warning if training ends within the warm-up."""
    if rows("preferences", path, 1) == 0:
        raise RecipeError(f"{path} has no ranking that prefers one answer to another")
    yield from warn_of_few_rows(rows, "rankings", path, batch_size, epochs, warmup)


def encode_rankings(
    rankings: Iterable[tuple[str, Ranking]], tokenizer: Tokenizer, max_length: int, on_bad: OnBad = "stop"
) -> tuple[list[RankingExample], dict[str, int]]:
    """The rankings that express a preference and fit, merged if they rank the same completions; counts of the others by reason.

    Each comes with its place in a file. An unfinished completion gets no end-of-turn token. A ranking that the chat template
    refuses raises DataError with its place, or is left out.
    """
    tokenizer.require_template()
    examples: dict[tuple[object, ...], RankingExample] = {}
    reasons: Counter[str] = Counter()
    for place, ranking in rankings:
        if len(set(ranking.ranks)) < 2:
            reasons["all tied"] += 1
            continue
        same = (text_of(ranking.prompt.messages), *((repr(c.message), c.finished) for c in ranking.completions))
        if same in examples:
            examples[same].ranks.append(ranking.ranks)
            continue
        answers, finished = zip(*((c.message, c.finished) for c in ranking.completions), strict=True)
        try:
            prompt, completions = render_answers(tokenizer, ranking.prompt.messages, answers, finished)
        except UsageError as error:
            if on_bad == "stop":
                raise DataError(str(error), path=place or None) from None
            reasons[REFUSED] += 1
            continue
        if not all(completions):
            reasons["an empty completion that did not end"] += 1
        elif any(len(prompt) + len(c) > max_length for c in completions):
            reasons["too long"] += 1
        else:
            examples[same] = RankingExample(prompt, completions, [ranking.ranks])
    return list(examples.values()), dict(reasons)


NONCONTEXTUAL = 1 << 30
"""The rank of an answer to another prompt, which is worse than any rank that a labeller gives."""


def with_noncontextual(
    example: RankingExample, others: Sequence[RankingExample], count: int, max_length: int, rng: random.Random
) -> RankingExample:
    """The ranking with ``count`` answers to other prompts ranked last; fewer if hardly any fits in ``max_length``.

    They teach that an answer is good *for a prompt* (Liu et al. 2024, RRM, section 3). Without them, a phrase that is good wherever
    the policy uses it now ("Nobody can know that") may score high everywhere, and PPO would use it everywhere.
    """
    strangers: list[list[int]] = []
    for _ in range(10 * count):
        other = rng.choice(others)
        completion = rng.choice(other.completions)
        fits = len(example.prompt) + len(completion) <= max_length
        if fits and other.prompt != example.prompt and completion not in example.completions:
            strangers.append(completion)
        if len(strangers) == count:
            break
    ranks = [ranks + (NONCONTEXTUAL,) * len(strangers) for ranks in example.ranks]
    return RankingExample(example.prompt, example.completions + strangers, ranks)


def score_packed(
    model: ScalarModel, examples: Sequence[RankingExample], pad_id: int, dtype: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, ranks and mask, each [r, k] with one row per ranking. Each prompt runs once, and its rankings share the scores."""
    with autocast(model.head.weight.device, dtype):
        hidden, last = run_packed(model.decoder, examples, pad_id)
        values = model.score(hidden)
    scores = values.float().gather(1, last)
    ranks, mask, owner = ranks_of(examples, scores.device)
    return scores[owner], ranks, mask


def run_packed(decoder: Decoder, examples: Sequence[RankingExample], pad_id: int) -> tuple[Tensor, Tensor]:
    """Hidden states [e, s, d] of the packed rows, and [e, k] the index of each completion's last token."""
    device = decoder.embed.weight.device
    packed = [pack_ranking(example.prompt, example.completions) for example in examples]
    ids, _ = pad_right([p.ids for p in packed], pad_id)
    positions, _ = pad_right([p.positions for p in packed], 0)
    segments, _ = pad_right([p.segments for p in packed], -1)
    last, _ = pad_right([p.last for p in packed], 0, multiple=1)
    seen = tree_mask(segments.to(device))
    return decoder(ids.to(device), positions=positions.to(device), attention_mask=seen), last.to(device)


def ranks_of(examples: Sequence[RankingExample], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ranks and mask, each [r, k] with one row per ranking, and [r] the example that each row is about."""
    ranks, mask = pad_right([list(ranks) for example in examples for ranks in example.ranks], 0, multiple=1)
    owner = torch.tensor([i for i, example in enumerate(examples) for _ in example.ranks])
    return ranks.to(device), mask.to(device), owner.to(device)


def completion_logprobs(decoder: Decoder, hidden: Tensor, examples: Sequence[RankingExample]) -> Tensor:
    """[e, k] the log-probability of each completion given its prompt [nats], from ``run_packed``'s hidden states; 0 if absent.

    A completion's first token is predicted at the end of the prompt, which all completions share.
    """
    at: list[tuple[int, int, int, int, int]] = []
    for row, example in enumerate(examples):
        start = len(example.prompt)
        for number, completion in enumerate(example.completions):
            before = [len(example.prompt) - 1, *range(start, start + len(completion) - 1)]
            at += [(row, number, i, before[i], token) for i, token in enumerate(completion)]
            start += len(completion)
    rows, numbers, columns, places, tokens = torch.tensor(at, device=hidden.device).T
    found = per_token(decoder, hidden[rows, places], token_logprobs, tokens)
    every = torch.zeros(len(examples), int(numbers.max()) + 1, int(columns.max()) + 1, device=hidden.device)
    every[rows, numbers, columns] = found  # and not index_add, whose order of addition differs from run to run on a GPU
    return every.sum(-1)


def completion_lengths(examples: Sequence[RankingExample], device: torch.device) -> Tensor:
    """[e, k] tokens of each completion; 0 if absent."""
    return pad_right([list(map(len, example.completions)) for example in examples], 0, multiple=1)[0].to(device)
