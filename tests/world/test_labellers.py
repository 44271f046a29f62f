"""The labellers against a judge of fixed scores: formula, ties, order, agreement, and the ceiling for a ranker."""

import random
from dataclasses import replace
from itertools import combinations, permutations
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import DataError
from tutelage.evaluate.reward_model import ranking_accuracy
from tutelage.records import Answers, Completion, Message, Prompt, Ranking
from tutelage.world.facts import World, make_world
from tutelage.world.judge import Judge, Judgement
from tutelage.world.labellers import (
    Labeller,
    Seen,
    agreement,
    best_possible_accuracy,
    expected_preference,
    label_seen,
    length_feature,
    make_labellers,
    politeness_feature,
    see,
    with_agreement,
)
from tutelage.world.tasks import FAMILIES, make_task
from tutelage.world.trainers import TrainerRates, demonstrate

PLAIN = Labeller("plain", length_bias=0.0, politeness_bias=0.0, strictness=1.0, noise=0.0)


class ByTable:
    """A judge that reads the score off the answer: `"0.7 whatever"` is worth 0.7."""

    def judge(self, prompt: Prompt, answer: str, finished: bool = True) -> Judgement:
        score = float(answer.split()[0])
        return judgement(score)


def judgement(score: float, **parts: float) -> Judgement:
    whole = {"success": 1.0, "truth": 1.0, "constraints": 1.0, "harmless": 1.0, "language": 1.0, "form": 1.0}
    return Judgement(score=score, **{**whole, **parts})


JUDGE = ByTable()


def label(labeller: Labeller, judge: Judge, work: Answers, *, seed: int) -> Ranking:
    return label_seen(
        labeller, work, [see(judge, work.prompt, completion) for completion in work.completions], seed=seed
    )


def answers(*texts: str, number: int = 0) -> Answers:
    prompt = Prompt(messages=(Message(role="user", content=f"Question {number}"),), id=f"p{number}")
    return Answers(prompt=prompt, completions=tuple(Completion(text=text) for text in texts))


def sample(count: int, k: int = 4, seed: int = 0) -> list[Answers]:
    """Answers of scores from 0 to 1 and of several lengths."""
    rng = random.Random(seed)
    return [
        answers(*(f"{rng.random():.3f} {'word ' * rng.randrange(30)}{i}" for i in range(k)), number=n)
        for n in range(count)
    ]


def test_without_noise_and_bias_the_order_is_the_judges() -> None:
    ranking = label(PLAIN, JUDGE, answers("0.1", "0.9", "0.5", "0.3"), seed=0)
    assert ranking.ranks == (4, 1, 2, 3)
    assert ranking.ratings == (2, 6, 4, 3)  # 1 + round(6 * score), by hand
    assert not ranking.all_bad
    assert ranking.labeller == "plain"
    assert label(PLAIN, JUDGE, answers("0.1", "0.15"), seed=0).all_bad


def test_close_answers_tie_with_the_best_of_their_group() -> None:
    # The threshold of strictness 1 is 0.10: 0.92 and 0.87 tie with 0.95, 0.83 does not (0.12), and heads the next group.
    assert label(PLAIN, JUDGE, answers("0.83", "0.95", "0.87", "0.92", "0.76"), seed=0).ranks == (4, 1, 1, 1, 4)
    strict = replace(PLAIN, strictness=1.25)  # flaws weigh 1.25 times as much and the threshold is 0.08
    assert label(strict, JUDGE, answers("0.95", "0.87"), seed=0).ranks == (1, 2)


def test_strict_labellers_rate_flaws_lower() -> None:
    mild, strict = replace(PLAIN, strictness=0.8), replace(PLAIN, strictness=1.25)
    flawed = answers("0.5", "0.3")
    assert label(mild, JUDGE, flawed, seed=0).ratings == (5, 4)  # 1 + 6 * (1 - 0.8 * flaw) = 4.60, 3.64
    assert label(strict, JUDGE, flawed, seed=0).ratings == (3, 2)  # 1 + 6 * (1 - 1.25 * flaw) = 3.25, 1.75


@pytest.mark.parametrize(
    ("bias", "strength", "liked"),
    [
        ("length_bias", 0.1, "0.5 long " + "word " * 40),
        ("politeness_bias", 0.2, "0.5 I am happy to help, thanks"),
        ("politeness_bias", 0.2, "0.5 谢谢您,请看"),
    ],
)
def test_a_bias_pushes_its_way(bias: str, strength: float, liked: str) -> None:
    two = answers("0.5 no", liked)
    assert label(replace(PLAIN, **{bias: strength}), JUDGE, two, seed=0).ranks == (2, 1)
    assert label(replace(PLAIN, **{bias: -strength}), JUDGE, two, seed=0).ranks == (1, 2)
    assert label(PLAIN, JUDGE, two, seed=0).ranks == (1, 1)


def test_features_by_hand() -> None:
    assert length_feature("") == -2.0  # log2(4 / 16)
    assert length_feature("one two three four") == -1.0
    assert length_feature("水" * 20) == 0.0  # 20 * 0.6 = 12 words
    assert length_feature("word " * 10_000) == 4.0
    assert [politeness_feature(t) for t in ("no", "thanks", "Sorry, please", "你好", "谢谢", "谢谢,不客气")] == [
        0.0, 0.5, 1.0, 0.0, 0.5, 1.0,
    ]  # fmt: skip
    assert politeness_feature("a thankless displeasure") == 0.0


FAULTS: dict[str, dict[str, float]] = {
    "harmful": {"harmless": 0.0, "success": 0.0},
    "false": {"truth": 0.0, "success": 0.0},
    "beside the point": {"success": 0.2},
    "in another language": {"language": 0.0},
    "fine": {},
}


def test_flags_say_what_the_judge_saw() -> None:
    class Harsh:
        def judge(self, prompt: Prompt, answer: str, finished: bool = True) -> Judgement:
            return judgement(0.5, **FAULTS[answer])

    seen = [label(PLAIN, Harsh(), answers(*FAULTS, number=n), seed=0).flags for n in range(300)]
    by_answer = [{flag for flags in seen for flag in flags[i]} for i in range(5)]
    assert by_answer == [{"harmful"}, {"false"}, {"off_task"}, {"off_task"}, set()]
    noticed = sum(bool(flags[0]) for flags in seen)
    assert 250 <= noticed <= 290  # 10% are overlooked: 270 +- 4 standard deviations of 5.2


NOISY = Labeller("noisy", length_bias=0.03, politeness_bias=0.1, strictness=1.1, noise=0.3)


@given(st.permutations(["0.2 a", "0.5 b", "0.55 thanks", "0.9 c c c c"]), st.integers(0, 50))
def test_ranks_permute_with_the_completions(texts: list[str], seed: int) -> None:
    base = label(NOISY, JUDGE, answers("0.2 a", "0.5 b", "0.55 thanks", "0.9 c c c c"), seed=seed)
    moved = label(NOISY, JUDGE, answers(*texts), seed=seed)
    place = {c.text: (rank, rating) for c, rank, rating in zip(base.completions, base.ranks, base.ratings, strict=True)}
    assert [place[text] for text in texts] == list(zip(moved.ranks, moved.ratings, strict=True))
    assert moved.seconds == base.seconds


def test_labels_do_not_depend_on_the_order_of_the_work() -> None:
    people, work = make_labellers(0)[:3], sample(20)
    forth = {(p.name, a.prompt.id): label(p, JUDGE, a, seed=5) for p in people for a in work}
    back = {(p.name, a.prompt.id): label(p, JUDGE, a, seed=5) for a in reversed(work) for p in reversed(people)}
    assert forth == back
    assert any(label(p, JUDGE, a, seed=6).ranks != forth[p.name, a.prompt.id].ranks for p in people for a in work)


def test_the_same_text_always_ties() -> None:
    for n in range(20):
        ranking = label(NOISY, JUDGE, answers("0.4 x", "0.9 y", "0.4 x", number=n), seed=0)
        assert ranking.ranks[0] == ranking.ranks[2]


def test_two_to_nine_answers() -> None:
    for count in (1, 10):
        with pytest.raises(DataError, match="2 to 9"):
            label(PLAIN, JUDGE, answers(*(f"0.5 {i}" for i in range(count))), seed=0)


def test_labellers_are_drawn_from_the_seed() -> None:
    people = make_labellers(3, training=12, heldout=4)
    assert people == make_labellers(3)
    assert people[:5] == make_labellers(3, training=5, heldout=0)  # a larger staff keeps the old hands
    assert [p.heldout for p in people] == [False] * 12 + [True] * 4
    assert len({p.name for p in people}) == 16
    assert people != make_labellers(4)


def test_preferences_against_monte_carlo() -> None:
    """P(a is ranked first) is Phi((m - tie threshold) / (sqrt(2) noise)), with m the difference of utilities without noise."""
    rng = random.Random(0)
    for a, b in [("0.6 a", "0.5 b and more"), ("0.3 sorry, please", "0.6 b"), ("0.52 a", "0.5 b")]:
        for person in (NOISY, Labeller("other", -0.05, 0.02, 0.9, 0.15)):
            mean_a, mean_b = (
                1 - person.strictness * (1 - float(text.split()[0]))
                + person.length_bias * length_feature(text) + person.politeness_bias * politeness_feature(text)
                for text in (a, b)
            )  # fmt: skip
            spread = NormalDist(0, 2**0.5 * person.noise)
            wins = 0
            for n in range(600):
                ranks = label(person, JUDGE, answers(a, b, number=rng.randrange(10**9)), seed=n).ranks
                wins += ranks[0] < ranks[1]
            expected = spread.cdf(mean_a - mean_b - person.tie_threshold)
            assert wins / 600 == pytest.approx(expected, abs=0.075)  # 3.7 standard errors of 0.0204 at most


def test_expected_preference_by_hand() -> None:
    labeller = replace(PLAIN, noise=0.2 / 2**0.5)
    a, b, close = (Seen(judgement(score), 0.0, 0.0) for score in (0.7, 0.5, 0.5))
    assert expected_preference([labeller], a, b) == pytest.approx(0.84134, abs=1e-5)  # Phi(0.2 / 0.2)
    assert expected_preference([labeller], b, a) == pytest.approx(0.15866, abs=1e-5)
    assert expected_preference([labeller, PLAIN], a, b) == pytest.approx((0.84134 + 1) / 2, abs=1e-5)
    assert expected_preference([PLAIN, labeller], b, close) == 0.5  # equal with and without noise


def test_no_ranker_beats_the_best_possible() -> None:
    # Strong biases that a ranker by score alone misses. All six label all answers, so the population is what was asked.
    people = [replace(p, length_bias=p.length_bias - 0.3) for p in make_labellers(1)[:6]]
    rankings = [label(p, JUDGE, a, seed=0) for a in sample(150) for p in people]
    best = best_possible_accuracy(rankings, people, JUDGE)
    texts = [[completion.text for completion in ranking.completions] for ranking in rankings]
    rng = random.Random(0)
    by_score, longer, by_chance = (
        ranking_accuracy(rankings, [list(map(score, row)) for row in texts])[0].mean
        for score in (lambda text: float(text.split()[0]), len, lambda text: rng.random())
    )
    assert 0.99 > best > by_score + 0.03
    assert by_score > by_chance > longer
    assert by_chance == pytest.approx(0.5, abs=0.02)


def test_without_noise_the_best_possible_is_one_and_labellers_agree() -> None:
    work = sample(30)
    rankings = [label(replace(PLAIN, name=name), JUDGE, a, seed=0) for a in work for name in ("one", "two")]
    assert best_possible_accuracy(rankings, [PLAIN], JUDGE) == 1.0
    assert agreement(rankings) == 1.0


def ranking(labeller: str, *ranks: int, texts: tuple[str, ...] = ("a", "b", "c"), number: int = 0) -> Ranking:
    base = answers(*texts, number=number)
    return Ranking(prompt=base.prompt, completions=base.completions, ranks=ranks, labeller=labeller)


def test_agreement_by_hand() -> None:
    one, two = ranking("one", 1, 2, 3), ranking("two", 1, 3, 2)
    assert agreement([one, two]) == pytest.approx(2 / 3)
    tied = ranking("three", 1, 1, 3)  # does not count on (a, b); agrees with `one` on the other two
    assert agreement([one, tied]) == 1.0
    assert agreement([one, two, tied]) == pytest.approx((2 + 2 + 1) / (3 + 2 + 2))
    shuffled = ranking("four", 3, 1, 2, texts=("c", "a", "b"))
    assert agreement([one, shuffled]) == 1.0
    with pytest.raises(DataError, match="no two labellers"):
        agreement([one, ranking("two", 1, 2, 3, number=1), ranking("one", 3, 2, 1)])


def test_labellers_agree_as_people_did() -> None:
    """InstructGPT's agreed on 72.6 +- 1.5% of pairs. On answers as trainers write them, ours are to be at 73 +- 3%."""
    world = make_world(0)
    judge, work = Judge(world), trainers_answers(world, 7)
    people = make_labellers(0)
    rankings: dict[str, list[Ranking]] = {"training": [], "heldout": []}
    for item in work:
        views = [see(judge, item.prompt, completion) for completion in item.completions]
        for person in people:
            rankings["heldout" if person.heldout else "training"].append(label_seen(person, item, views, seed=0))
    assert agreement(rankings["training"]) == pytest.approx(0.73, abs=0.03)
    assert agreement(rankings["heldout"]) == pytest.approx(0.73, abs=0.04)
    pairs = [(a, b) for r in rankings["training"] for a, b in combinations(r.ranks, 2)]
    assert 0.05 < sum(a == b for a, b in pairs) / len(pairs) < 0.15


@pytest.mark.parametrize("share", [0.62, 0.73, 0.85])
def test_noise_is_found_for_an_agreement(share: float) -> None:
    people, work = make_labellers(0)[:5], sample(120)
    staff = with_agreement(people, JUDGE, work, share, seed=0)
    fresh = [label(person, JUDGE, a, seed=1) for a in work for person in staff]  # other noise than it was found on
    assert agreement(fresh) == pytest.approx(share, abs=0.025)
    assert [replace(person, noise=0.0) for person in staff] == [replace(person, noise=0.0) for person in people]
    assert len({round(new.noise / old.noise, 6) for new, old in zip(staff, people, strict=True)}) == 1


def test_people_who_cannot_agree_are_as_sure_as_people_get() -> None:
    work = [answers("0.50 a", "0.50 b", number=n) for n in range(50)]  # a tie but for the noise
    people = make_labellers(0)[:4]
    staff = with_agreement(people, JUDGE, work, 0.99, seed=0)
    assert all(new.noise == pytest.approx(0.25 * old.noise, rel=0.01) for new, old in zip(staff, people, strict=True))
    assert any(len(set(label(person, JUDGE, a, seed=0).ranks)) > 1 for a in work for person in staff)


def trainers_answers(world: World, per_family: int, k: int = 5) -> list[Answers]:
    """What a model that imitates the trainers would answer: k demonstrations of each prompt, without repetitions."""
    work = []
    for family in FAMILIES:
        for i in range(per_family):
            language = "zh" if i % 10 < 3 else "en"
            rng = random.Random(f"{family}:{i}")
            task = make_task(world, family, language, rng, entities=None, templates="train")
            texts = {demonstrate(task, rates=TrainerRates(), rng=rng).messages[-1].content: None for _ in range(k)}
            if len(texts) > 1:
                work.append(Answers(prompt=task.prompt, completions=tuple(Completion(text=t) for t in texts)))
    return work


def test_best_possible_accuracy_is_a_mean_over_prompts() -> None:
    # Three pairs of one prompt, all in order; one pair of another, not; then a pair on which nobody can have a view.
    texts = ("0.9 a", "0.5 b", "0.2 c")
    rankings = [ranking("one", 1, 2, 3, texts=texts), ranking("one", 2, 1, texts=texts[:2], number=1)]
    assert best_possible_accuracy(rankings, [PLAIN], JUDGE) == 0.5
    even = ranking("one", 1, 2, texts=("0.5 a", "0.5 b"), number=2)
    assert best_possible_accuracy([*rankings, even], [PLAIN], JUDGE) == 0.5
    with pytest.raises(DataError, match="without a tie"):
        best_possible_accuracy([ranking("one", 1, 1, 1, texts=texts)], [PLAIN], JUDGE)


def test_a_prompt_without_an_id_is_known_by_its_words() -> None:
    completions = answers("0.4 a", "0.5 b").completions
    ranks = []
    for question in ("one", "two"):
        asked = Answers(prompt=Prompt(messages=(Message(role="user", content=question),)), completions=completions)
        ranks.append([label(NOISY, JUDGE, asked, seed=s).ranks for s in range(30)])
    assert ranks[0] != ranks[1]
    assert len(set(ranks[0])) > 1


def test_every_order_of_four_is_found_under_noise() -> None:
    """With equal scores every answer is as likely to be first: no place in the list is favoured."""
    wide = replace(PLAIN, noise=1.0)
    orders = {label(wide, JUDGE, answers(*(f"0.5 {c}" for c in "abcd"), number=n), seed=0).ranks for n in range(600)}
    assert set(permutations((1, 2, 3, 4))) <= orders
