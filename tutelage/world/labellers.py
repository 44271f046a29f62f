"""Simulated labellers: people who rank answers by their worth, with noise and tastes of their own.

A labeller's utility of an answer is

    u = 1 - strictness * (1 - score) + length_bias * length + politeness_bias * politeness + noise * e,  e ~ N(0, 1)

with the judge's score in [0, 1]. Answers are ranked by it, and tie if they are closer than the labeller can tell. The draw of e is
keyed by seed, labeller, prompt and answer, so it depends neither on the order of the work nor on the other answers.

The noise sets how often people agree: it is NOISE, or what `with_agreement` finds for the answers at hand. InstructGPT's
training labellers agreed on 72.6 +- 1.5% of pairs and the held-out ones on 77.3 +- 1.3% (Ouyang et al. 2022, section 3.4).
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist

from tutelage.errors import DataError
from tutelage.records import Answers, Completion, Prompt, Ranking
from tutelage.world.judge import Judge, Judgement

NOISE = 0.33
"""Mean standard deviation of a labeller's noise, in units of the judge's score.

Measured on demonstrations of imperfect trainers (default rates, five per prompt without repetitions, 400 prompts of all families,
labellers of seeds 0 and 1): two training labellers agree on 72.4% of pairs, two held-out ones on 70 and 73%; 10% of pairs are
ties, and a perfect ranker gets 78.8% right. A noise of 0.30 gives about 74.5% agreement, 0.36 about 70.4%.
"""
TIE_THRESHOLD = 0.10
"""Answers whose utilities differ by no more than this tie for a labeller of strictness 1."""
LENGTH_BIAS = (0.015, 0.050)
"""Mean and standard deviation over labellers of the utility of a doubling of the length."""
POLITENESS_BIAS = (0.030, 0.060)
"""Mean and standard deviation over labellers of the utility of polite words (two or more against none)."""
STRICTNESS = (0.8, 1.25)
"""Range of what a flaw costs, relative to the judge. The strict also tie less: threshold / strictness."""
MISSED_FLAG = 0.1
"""Share of the flags that a labeller of strictness 1 overlooks."""

_POLITE = re.compile(
    r"\b(?:please|thank|thanks|sorry|happy|glad|welcome|pleasure|gladly|kindly|apologi[sz]e|hope)\b"
    r"|请|谢谢|感谢|抱歉|对不起|很高兴|不客气|乐意|希望|您",
    re.IGNORECASE,
)
_STEPS = tuple(math.sqrt(p) % 1.0 for p in (2, 3, 5, 7))
_CHINESE = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True)
class Labeller:
    """See the module's formula. `noise` is a standard deviation; all but `strictness` (a factor) are utilities."""

    name: str
    length_bias: float
    politeness_bias: float
    strictness: float
    noise: float
    heldout: bool = False

    @property
    def tie_threshold(self) -> float:
        return TIE_THRESHOLD / self.strictness


@dataclass(frozen=True)
class Seen:
    """What any labeller sees in an answer: the judge's view, its length and its politeness."""

    judgement: Judgement
    length: float
    politeness: float


def make_labellers(seed: int, *, training: int = 12, heldout: int = 4) -> list[Labeller]:
    """`training` labellers, then `heldout` ones, who label nothing that is trained on; all drawn alike.

    Tastes are spread evenly over their distributions (a Weyl sequence from a random start), so that a dozen people, or four,
    are already typical of all; a larger staff begins with the smaller one.
    """
    staff = [("labeller", i) for i in range(training)] + [("heldout", i) for i in range(heldout)]
    people = []
    for group, i in staff:
        rng = random.Random(f"{seed}:labellers:{group}")
        length, politeness, strictness, noise = ((rng.random() + i * step) % 1.0 for step in _STEPS)
        people.append(
            Labeller(
                name=f"{group}-{i:02}",
                length_bias=NormalDist(*LENGTH_BIAS).inv_cdf(0.01 + 0.98 * length),
                politeness_bias=NormalDist(*POLITENESS_BIAS).inv_cdf(0.01 + 0.98 * politeness),
                strictness=STRICTNESS[0] + (STRICTNESS[1] - STRICTNESS[0]) * strictness,
                noise=NOISE * (0.8 + 0.4 * noise),
                heldout=group == "heldout",
            )
        )
    return people


def see(judge: Judge, prompt: Prompt, completion: Completion) -> Seen:
    text = completion.text
    return Seen(judge.judge(prompt, text, completion.finished), length_feature(text), politeness_feature(text))


def mean_utility(labeller: Labeller, seen: Seen) -> float:
    """The labeller's utility of an answer without the noise."""
    return (
        1.0
        - labeller.strictness * (1.0 - seen.judgement.score)
        + labeller.length_bias * seen.length
        + labeller.politeness_bias * seen.politeness
    )


def label_seen(labeller: Labeller, answers: Answers, views: Sequence[Seen], *, seed: int) -> Ranking:
    """One labeller's ranking of 2 to 9 answers, with ratings, flags and seconds. `views`: what `see` gives for each answer."""
    if not 2 <= len(answers.completions) <= 9:
        found = len(answers.completions)
        raise DataError("cannot be ranked", field="completions", expected="2 to 9 answers", found=found)
    utilities, flags = [], []
    for completion, seen in zip(answers.completions, views, strict=True):
        rng = _stream(seed, labeller, answers.prompt, completion)
        utilities.append(mean_utility(labeller, seen) + labeller.noise * rng.gauss(0.0, 1.0))
        flags.append(_flags(labeller, seen.judgement, rng))
    ratings = tuple(1 + round(6 * min(max(utility, 0.0), 1.0)) for utility in utilities)
    return Ranking(
        prompt=answers.prompt,
        completions=answers.completions,
        ranks=_ranks(utilities, labeller.tie_threshold),
        ratings=ratings,
        flags=tuple(flags),
        all_bad=max(ratings) <= 3,
        labeller=labeller.name,
        seconds=_seconds(answers, random.Random(f"{seed}:label:{labeller.name}:{prompt_key(answers.prompt)}:seconds")),
        source="world",
    )


def _stream(seed: int, labeller: Labeller, prompt: Prompt, completion: Completion) -> random.Random:
    """The labeller's random stream for an answer: first the noise, then what is overlooked."""
    return random.Random(f"{seed}:label:{labeller.name}:{prompt_key(prompt)}:{completion.finished}:{completion.text}")


def _ranks(utilities: Sequence[float], threshold: float) -> tuple[int, ...]:
    """Ranks from 1; whatever is within the threshold of the best of a group shares its rank (1, 1, 3: no 2)."""
    ranks = [0] * len(utilities)
    head, place = math.inf, 0
    for position, i in enumerate(sorted(range(len(utilities)), key=lambda i: -utilities[i]), start=1):
        if head - utilities[i] > threshold:
            head, place = utilities[i], position
        ranks[i] = place
    return tuple(ranks)


def _flags(labeller: Labeller, judgement: Judgement, rng: random.Random) -> tuple[str, ...]:
    """What is wrong with an answer, as far as the labeller notices it; off_task: it does not answer what was asked."""
    flags = [flag for flag, part in (("harmful", judgement.harmless), ("false", judgement.truth)) if part < 0.5]
    if judgement.language < 0.5 or (judgement.success < 0.5 and not flags):
        flags.append("off_task")
    missed = MISSED_FLAG / labeller.strictness
    return tuple(flag for flag in flags if rng.random() >= missed)


def _seconds(answers: Answers, rng: random.Random) -> float:
    """About 20 s, and 1 s for every 3 words to be read."""
    texts = [message.text for message in answers.prompt.messages] + [c.text for c in answers.completions]
    return round((20.0 + sum(map(_words, texts)) / 3.0) * rng.lognormvariate(0.0, 0.3), 1)


def length_feature(text: str) -> float:
    """Doublings of the length against 16 words, from -2 (nothing) to 4; a Chinese character counts as 0.6 words."""
    return min(math.log2((_words(text) + 4.0) / 16.0), 4.0)


def _words(text: str) -> float:
    return len(_CHINESE.sub(" ", text).split()) + 0.6 * len(_CHINESE.findall(text))


def politeness_feature(text: str) -> float:
    """0, 0.5 or 1 for no polite word, one, and two or more."""
    return min(len(_POLITE.findall(text)), 2) / 2


def prompt_key(prompt: Prompt) -> str:
    """What identifies a prompt: its id, or its messages if it has none."""
    return prompt.id or "\n".join(f"{message.role}: {message.text}" for message in prompt.messages)


def with_agreement(
    people: Sequence[Labeller], judge: Judge, work: Sequence[Answers], share: float, *, seed: int
) -> list[Labeller]:
    """The same people with their noise scaled so that two of them agree on this share of the pairs of these answers.

    Agreement depends on how far apart the answers are: a noise set on trainers' answers would be too large for the answers of
    a model, which are nearly all bad. The factor is between a quarter and four, whichever share these can reach.
    """
    # For each answer, and each person: the utility without noise, and the e that the noise multiplies, as `label_seen` draws it.
    drawn = []
    for answers in work:
        views = [(completion, see(judge, answers.prompt, completion)) for completion in answers.completions]
        drawn.append(
            [
                [(mean_utility(p, seen), _stream(seed, p, answers.prompt, c).gauss(0.0, 1.0)) for c, seen in views]
                for p in people
            ]
        )

    def votes(factor: float) -> Iterator[list[int]]:
        for rows in drawn:
            ranks = [
                _ranks([mean + factor * person.noise * e for mean, e in row], person.tie_threshold)
                for person, row in zip(people, rows, strict=True)
            ]
            yield from ([r[i] - r[j] for r in ranks] for i, j in combinations(range(len(ranks[0])), 2))

    low, high = 0.25, 4.0  # agreement falls with noise
    for _ in range(12):
        middle = math.sqrt(low * high)
        same, compared = _agreed(votes(middle))
        low, high = (middle, high) if not compared or same / compared > share else (low, middle)
    return [replace(person, noise=person.noise * low) for person in people]


def agreement(rankings: Iterable[Ranking]) -> float:
    """The share of pairs on which two labellers agree, of all those that neither of them tied.

    Any two labellers are compared on the answers to a prompt that both have ranked.
    """
    votes: dict[tuple[object, ...], dict[str, int]] = {}
    for ranking in rankings:
        ranks = {(c.text, c.finished): rank for c, rank in zip(ranking.completions, ranking.ranks, strict=True)}
        for (a, rank_a), (b, rank_b) in combinations(sorted(ranks.items()), 2):
            votes.setdefault((prompt_key(ranking.prompt), a, b), {})[ranking.labeller] = rank_a - rank_b
    same, compared = _agreed(row.values() for row in votes.values())
    if not compared:
        raise DataError("no two labellers ranked the same answers", expected="rankings of one prompt by several people")
    return same / compared


def _agreed(votes: Iterable[Collection[int]]) -> tuple[int, int]:
    """How often two people agree, and how often both have a preference. A row has everybody's votes on one pair: < 0, 0 or > 0."""
    same = compared = 0
    for row in votes:
        one, other = sum(vote < 0 for vote in row), sum(vote > 0 for vote in row)
        same += math.comb(one, 2) + math.comb(other, 2)
        compared += math.comb(one + other, 2)
    return same, compared


def best_possible_accuracy(rankings: Iterable[Ranking], labellers: Sequence[Labeller], judge: Judge) -> float:
    """The accuracy on these rankings of a ranker who knows what the labellers prefer on average, but not their noise.

    As for a reward model, it is the share of untied pairs in the right order, over all pairs of a prompt, whoever ranked them; then
    the mean over prompts. No reward model can expect a higher one. Rankings that tie everything are left out.
    """
    seen: dict[tuple[str, str, bool], Seen] = {}
    shares: dict[str, list[float]] = {}
    for ranking in rankings:
        prompt = prompt_key(ranking.prompt)
        keys = [(prompt, completion.text, completion.finished) for completion in ranking.completions]
        for key, completion in zip(keys, ranking.completions, strict=True):
            if key not in seen:
                seen[key] = see(judge, ranking.prompt, completion)
        for (a, rank_a), (b, rank_b) in combinations(zip(keys, ranking.ranks, strict=True), 2):
            if rank_a != rank_b:
                first, second = (a, b) if rank_a < rank_b else (b, a)
                vote = expected_preference(labellers, seen[first], seen[second])
                right = 0.5 if math.isclose(vote, 0.5, abs_tol=1e-12) else float(vote > 0.5)
                shares.setdefault(prompt, []).append(right)
    if not shares:
        raise DataError("no ranking has a pair without a tie", expected="one or more")
    return sum(sum(right) / len(right) for right in shares.values()) / len(shares)


def expected_preference(labellers: Sequence[Labeller], a: Seen, b: Seen) -> float:
    """P(u(a) > u(b)), averaged over the labellers: Phi(m / s), with m the difference of the mean utilities, s = sqrt(2) noise.

    Ties are left out because accuracy counts untied pairs, and which pairs are tied depends on the other answers.
    """
    total = 0.0
    for labeller in labellers:
        m = mean_utility(labeller, a) - mean_utility(labeller, b)
        if labeller.noise > 0.0:
            total += 0.5 * math.erfc(-m / (2.0 * labeller.noise))
        else:
            total += 0.5 + 0.5 * (m > 0) - 0.5 * (m < 0)
    return total / len(labellers)
