"""The RLHF conventions, held at the level where peers break them: in the stages, not only in the formulas."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.tokens.batches import Example
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.objectives.ppo import FixedKL, policy_loss, value_loss
from tutelage.objectives.ranking import kwise_loss
from tutelage.records import Completion, Message, Prompt, Ranking
from tutelage.text.chat import render
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.models import new_scorer
from tutelage.train.ppo_update import Models, PPOSettings, experience, forward, minibatch_backward
from tutelage.train.pretraining_text import Ptx, PtxSettings
from tutelage.train.rankings import NONCONTEXTUAL, RankingExample, encode_rankings, score_packed, with_noncontextual
from tutelage.train.rl import answer_metrics, blend, minibatch_rows, prompt_order
from tutelage.train.rollouts import Rollouts, answer_logprobs, end_scores, sample
from tutelage.train.settings import Machine
from tutelage.train.sft import demonstration_loss

VOCABULARY = 300


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train(["a small text, and another"] * 20, VOCABULARY)


def tiny(seed: int = 0, family: str = "llama") -> Decoder:
    torch.manual_seed(seed)
    config = ModelConfig(
        family=family, vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=2, max_position_embeddings=96
    )
    model = Decoder(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # larger weights than at birth: differences must show
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return model


def tiny_scorer(seed: int = 1) -> ScalarModel:
    return ScalarModel.from_decoder(tiny(seed)).eval()


def some_settings(**changes) -> PPOSettings:
    needed = {"batch_size": 8, "minibatch": 4, "machine": {"device": "cpu", "dtype": "fp32"}}
    return PPOSettings.model_validate(needed | changes)


def some_models(policy: Decoder, critic: ScalarModel, reference: Decoder | None = None) -> Models:
    """What an update reads of the networks; it samples and scores nothing, and takes no step."""
    return Models(
        policy=policy, reference=reference or tiny(5), critic=critic, averaged=policy, scorers=(), optimizer=None, kl=FixedKL(0.1),
        tokenizer=None, ptx=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rollouts(tokenizer) -> Rollouts:
    prompts = [[tokenizer.bos_id, *range(20, 20 + 3 * i + 1), tokenizer.assistant_id] for i in range(8)]
    return sample(tiny(), prompts, tokenizer, max_tokens=12, temperature=1.0, seeds=range(30, 38), dtype="fp32")


WHOLE = [torch.arange(8)]


def padded(part: Rollouts, columns: int, pad_id: int) -> Rollouts:
    """The same rollouts with useless columns on the right."""
    wide = lambda x, fill: torch.nn.functional.pad(x, (0, columns), value=fill)  # noqa: E731
    return Rollouts(
        wide(part.ids, pad_id),
        part.prompt_lengths,
        wide(part.answer_ids, pad_id),
        wide(part.mask, False),
        part.finished,
        wide(part.sampler_logprobs, 0.0),
    )


# ---- rollouts


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_of_the_distribution_that_was_sampled(tokenizer, temperature):
    """What the engine reports while sampling equals what training recomputes, temperature included."""
    prompts = [[tokenizer.bos_id, 30 + i, tokenizer.assistant_id] for i in range(8)]
    drawn = sample(tiny(), prompts, tokenizer, max_tokens=10, temperature=temperature, seeds=range(8), dtype="fp32")
    recomputed = answer_logprobs(tiny(), tiny()(drawn.ids), drawn, temperature)
    torch.testing.assert_close(recomputed, drawn.sampler_logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("minibatch", "microbatch"), [(8, 0), (3, 0), (4, 3), (4, 1)])
def test_the_first_ratio_is_one_token_by_token(rollouts, dtype, shared, minibatch, microbatch):
    """Old log-probabilities come from forwards of the very rows, so not one token's ratio is off, in bf16 neither."""
    some = some_settings(minibatch=minibatch, microbatch=microbatch, machine={"device": "cpu", "dtype": dtype})
    policy = tiny()
    critic = ScalarModel(policy) if shared else tiny_scorer()
    minibatches, first_pass = minibatch_rows(rollouts.total_lengths.tolist(), some, step=0)
    assert sorted(torch.cat(first_pass).tolist()) == list(range(8))
    models = some_models(policy, critic)
    batch, _ = experience(rollouts, torch.zeros(8), models, 0.1, some, first_pass)
    for pieces in minibatches:  # no step in between: the ratio is 1 on all of them
        stats = minibatch_backward(models, batch, pieces, some)
        assert stats["farthest_ratio"] == pytest.approx(1.0, abs=1e-6)
        assert stats["clip_fraction"] == 0.0


def test_rows_depend_on_themselves_alone(rollouts):
    models = some_models(tiny(), tiny_scorer())
    batch, _ = experience(rollouts, torch.zeros(8), models, 0.1, some_settings(), WHOLE)
    for size in (1, 3):
        stats = minibatch_backward(models, batch, torch.arange(8).split(size), some_settings())
        assert stats["farthest_ratio"] == pytest.approx(1.0, abs=1e-4)


def test_the_farthest_ratio_is_that_of_the_token_that_moved_most(rollouts):
    batch, _ = experience(rollouts, torch.zeros(8), some_models(tiny(), tiny_scorer()), 0.1, some_settings(), WHOLE)
    new = answer_logprobs(tiny(9), tiny(9)(rollouts.ids), rollouts, 1.0)
    ratios = [math.exp(x) for x in (new - batch.logprobs)[rollouts.mask].tolist()]
    stats = minibatch_backward(some_models(tiny(9), tiny_scorer()), batch, torch.arange(8).split(3), some_settings())
    assert stats["farthest_ratio"] == pytest.approx(max(ratios, key=lambda ratio: abs(ratio - 1)), rel=1e-3)
    old = batch.logprobs.clone()
    old[0, 0] += math.log(2)  # a ratio of 1/2, farther from 1 than one of 1.3 in another forward pass
    old[7, 0] -= math.log(1.3)
    moved = dataclasses.replace(batch, logprobs=old)
    stats = minibatch_backward(some_models(tiny(), tiny_scorer()), moved, torch.arange(8).split(3), some_settings())
    assert stats["farthest_ratio"] == pytest.approx(0.5, rel=1e-3)


def test_padding_changes_no_experience_and_no_loss(rollouts, tokenizer):
    models = some_models(tiny(), tiny_scorer())
    wide = padded(rollouts, 7, tokenizer.pad_id)
    results = []
    for part in (rollouts, wide):
        scores = end_scores(tiny_scorer(2), part, Machine(dtype="fp32"))
        batch, metrics = experience(part, scores, models, 0.1, some_settings(minibatch=8), WHOLE)
        logprobs, values = forward(tiny(9), models.critic, part, 1.0, "fp32")
        loss, _ = policy_loss(logprobs, batch.logprobs, batch.advantages, part.mask)
        critic_loss = value_loss(values + 0.3, batch.values, batch.returns, part.mask)
        results.append((scores, loss, critic_loss, torch.tensor(list(metrics.values()))))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_score_is_read_at_the_last_real_token(rollouts):
    scorer = tiny_scorer(2)
    scores = end_scores(scorer, rollouts, Machine(dtype="fp32"))
    for i in range(len(rollouts.ids)):
        length = int(rollouts.prompt_lengths[i] + rollouts.lengths[i])
        alone = scorer(rollouts.ids[i : i + 1, :length])[0, -1]
        assert scores[i].item() == pytest.approx(alone.item(), abs=1e-4)


def test_a_missing_end_is_penalised_and_a_finished_answer_is_not(rollouts):
    finished = torch.tensor([True, False] * 4)
    part = Rollouts(**(vars(rollouts) | {"finished": finished}))
    policy = tiny()
    models = some_models(policy, tiny_scorer(), reference=policy)

    def returns(penalty: float) -> torch.Tensor:
        some = some_settings(missing_end_penalty=penalty, lam=1.0)
        batch, _ = experience(part, torch.zeros(8), models, 0.0, some, WHOLE)
        return (batch.returns * part.mask).sum(1) / part.lengths

    torch.testing.assert_close(returns(2.0) - returns(0.0), torch.where(finished, 0.0, -2.0), atol=1e-5, rtol=0)


def test_duplicates_are_all_answers_that_another_prompt_got_too(rollouts):
    texts = ["a", "a", "b", "c", "c", "c", "d", "e"]
    apart = [[i] for i in range(8)]
    assert answer_metrics(rollouts, torch.zeros(8), {}, texts, apart)["duplicates"] == 5 / 8
    in_pairs = [[i // 2] for i in range(8)]  # the two a's answer one prompt; of the c's one and two
    assert answer_metrics(rollouts, torch.zeros(8), {}, texts, in_pairs)["duplicates"] == 3 / 8


def test_kl_is_zero_against_itself_and_positive_against_another(rollouts):
    def metrics(reference: Decoder) -> dict[str, float]:
        models = some_models(tiny(), tiny_scorer(), reference)
        return experience(rollouts, torch.zeros(8), models, 0.1, some_settings(), WHOLE)[1]

    same, other = metrics(tiny()), metrics(tiny(5))
    assert same["kl"] == pytest.approx(0.0, abs=1e-4)
    assert other["kl_k3"] > 0.5


# ---- one batch is its microbatches


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_sft_one_times_eight_is_eight_times_one(tokenizer):
    """Losses are means over all counted tokens of the batch, not means of microbatch means: short answers weigh the same."""
    examples = []
    for i in range(8):
        messages = [Message(role="user", content="q" * (i + 1)), Message(role="assistant", content="a" * (9 - i))]
        rendered = render(tokenizer, messages)
        examples.append(Example(rendered.ids, rendered.loss_mask))
    count = sum(sum(e.loss_mask) for e in examples)
    whole, split = tiny(), tiny()
    demonstration_loss(whole, examples, count, tokenizer.pad_id, "fp32").backward()
    for example in examples:
        demonstration_loss(split, [example], count, tokenizer.pad_id, "fp32").backward()
    for one, other in zip(gradients(whole), gradients(split), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def ranking_examples(seed: int = 0) -> list[RankingExample]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(20, VOCABULARY, (n,), generator=generator).tolist()  # noqa: E731
    shapes = [(5, (3, 7, 2)), (9, (4, 4)), (2, (6, 1, 5, 3)), (7, (2, 9))]
    return [RankingExample(draw(p), [draw(c) for c in cs], [tuple(range(1, len(cs) + 1))]) for p, cs in shapes]


def test_reward_one_times_four_is_four_times_one(tokenizer):
    examples = ranking_examples()
    whole, split = tiny_scorer(), tiny_scorer()
    scores, ranks, mask = score_packed(whole, examples, tokenizer.pad_id, "fp32")
    kwise_loss(scores, ranks, mask, count=4).backward()
    for example in examples:
        scores, ranks, mask = score_packed(split, [example], tokenizer.pad_id, "fp32")
        kwise_loss(scores, ranks, mask, count=4).backward()
    for one, other in zip(gradients(whole), gradients(split), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_labellers_of_the_same_completions_share_a_forward_and_weigh_as_much_as_apart(tokenizer):
    prompt = Prompt(messages=(Message(role="user", content="Name three colours."),))
    other = Prompt(messages=(Message(role="user", content="Say hello."),))
    some = tuple(Completion(text=text) for text in ("red, blue", "no", "green"))
    rankings = [
        Ranking(prompt=prompt, completions=some, ranks=(1, 3, 2)),
        Ranking(prompt=other, completions=some[:2], ranks=(1, 2)),
        Ranking(prompt=prompt, completions=some, ranks=(2, 3, 1)),
        Ranking(prompt=prompt, completions=some, ranks=(1, 1, 1)),  # no preference: left out
        Ranking(prompt=prompt, completions=some[::-1], ranks=(1, 2, 3)),
    ]
    together, left_out = encode_rankings([("", ranking) for ranking in rankings], tokenizer, 512)
    assert left_out == {"all tied": 1}
    assert [len(example.ranks) for example in together] == [2, 1, 1]
    apart = [example for ranking in rankings for example in encode_rankings([("", ranking)], tokenizer, 512)[0]]
    assert [len(example.ranks) for example in apart] == [1, 1, 1, 1]
    models = tiny_scorer(), tiny_scorer()
    for model, examples in zip(models, (together, apart), strict=True):
        scores, ranks, mask = score_packed(model, examples, tokenizer.pad_id, "fp32")
        assert len(scores) == 4
        kwise_loss(scores, ranks, mask, tie="half").backward()
    for one, another in zip(*map(gradients, models), strict=True):
        torch.testing.assert_close(one, another, atol=1e-5, rtol=1e-4)


@given(seed=st.integers(0, 99), count=st.integers(0, 3), max_length=st.integers(9, 20))
def test_answers_to_other_prompts_stand_below_all_ranks_and_fit(seed, count, max_length):
    examples = ranking_examples()
    for example in examples:
        whole = with_noncontextual(example, examples, count, max_length, random.Random(seed))
        own = len(example.completions)
        assert (whole.prompt, whole.completions[:own]) == (example.prompt, example.completions)
        strangers = whole.completions[own:]
        others = [c for other in examples if other is not example for c in other.completions]
        assert all(c in others and len(example.prompt) + len(c) <= max_length for c in strangers)
        assert len(strangers) <= count
        assert whole.ranks == [ranks + (NONCONTEXTUAL,) * len(strangers) for ranks in example.ranks]


def test_where_nothing_of_another_prompt_fits_a_ranking_stays_as_it_is():
    example, *_ = ranking_examples()
    alone = with_noncontextual(example, [example, example], 2, 512, random.Random(0))
    crowded = with_noncontextual(example, ranking_examples(), 2, len(example.prompt), random.Random(0))
    assert alone == crowded == example


@pytest.mark.parametrize("shared", [False, True])
def test_ppo_one_times_eight_is_eight_times_one(rollouts, shared):
    """The stage's own minibatch step, cut into forwards of eight, three and one answers: the same gradient."""
    old = some_models(tiny(), tiny_scorer())
    batch, _ = experience(rollouts, torch.arange(8.0), old, 0.1, some_settings(), WHOLE)

    def gradient(size: int) -> list[torch.Tensor]:
        policy = tiny(9)
        torch.manual_seed(0)
        critic = ScalarModel(policy) if shared else tiny_scorer()
        minibatch_backward(some_models(policy, critic), batch, torch.arange(8).split(size), some_settings())
        return gradients(policy) + gradients(critic.head if shared else critic)

    whole = gradient(8)
    assert len(whole) >= 16
    for size in (3, 1):
        for one, other in zip(whole, gradient(size), strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)


def test_while_the_critic_warms_up_the_policy_gets_no_gradient(rollouts):
    policy, critic = tiny(9), tiny_scorer()
    batch, _ = experience(rollouts, torch.arange(8.0), some_models(tiny(), critic), 0.1, some_settings(), WHOLE)
    minibatch_backward(some_models(policy, critic), batch, WHOLE, some_settings(), critic_alone=True)
    assert all(gradient.abs().max() == 0 for gradient in gradients(policy))
    assert any(gradient.abs().max() > 0 for gradient in gradients(critic))


# ---- the reward model


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_shared_prefix_gives_the_scores_of_separate_sequences(tokenizer, family):
    """[prompt | c1 | c2 | ...] under a tree mask against each prompt + completion by itself: scores and gradients."""
    examples = ranking_examples()
    torch.manual_seed(0)
    packed_model = new_scorer(tiny(1, family)).eval()
    separate_model = copy.deepcopy(packed_model)
    scores, _, mask = score_packed(packed_model, examples, tokenizer.pad_id, "fp32")
    separate = torch.zeros_like(scores)
    for p, example in enumerate(examples):
        for k, completion in enumerate(example.completions):
            separate[p, k] = separate_model(torch.tensor([example.prompt + completion]))[0, -1]
    torch.testing.assert_close(scores[mask], separate[mask], atol=1e-4, rtol=1e-4)
    (scores[mask] ** 2).sum().backward()
    (separate[mask] ** 2).sum().backward()
    for one, other in zip(gradients(packed_model), gradients(separate_model), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


# ---- the KL coefficient


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"coef": 0.0}, "cannot start at 0"), ({"horizon": 1}, "kl.horizon 1 is too short for batch_size 8")],
)
def test_an_adaptive_coefficient_that_could_not_move_or_would_change_its_sign_is_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        some_settings(kl={"controller": "adaptive"} | changes)
    some_settings(kl=changes)


# ---- PPO-ptx


def test_the_ptx_gradient_is_the_sum_of_the_two(rollouts):
    """One joint gradient: that of the PPO loss plus ptx_coef times that of the pretraining loss."""
    windows = torch.randint(20, VOCABULARY, (3, 17))
    ptx = Ptx(
        PtxSettings(coef=0.7, windows=3, sequence=16),
        SimpleNamespace(batch=lambda *_: windows.numpy()),
        Machine(dtype="fp32"),
    )
    critic = tiny_scorer()
    batch, _ = experience(rollouts, torch.arange(8.0), some_models(tiny(), critic), 0.1, some_settings(), WHOLE)
    joint, alone, text = tiny(9), tiny(9), tiny(9)
    for model in (joint, alone):
        minibatch_backward(some_models(model, critic), batch, WHOLE, some_settings())
    loss = ptx.backward(joint, 0)
    logits = text.logits(text(windows[:, :-1]))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for both, one, other in zip(gradients(joint), gradients(alone), gradients(text), strict=True):
        torch.testing.assert_close(both, one + 0.7 * other, atol=1e-5, rtol=1e-4)


# ---- randomness is keyed by (seed, step), not by what happened before


@settings(max_examples=30)
@given(total=st.integers(8, 200), batch=st.integers(1, 8), seed=st.integers(0, 99))
def test_every_prompt_once_an_epoch_in_an_order_of_its_own(total, batch, seed):
    per_epoch = total // batch
    epochs = [
        [i for step in range(e * per_epoch, (e + 1) * per_epoch) for i in prompt_order(total, batch, step, seed)]
        for e in range(2)
    ]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == per_epoch * batch
    if total > 20:
        assert epochs[0] != epochs[1]
    assert prompt_order(total, batch, per_epoch, seed) == epochs[1][:batch]


def test_weight_averaging_by_hand():
    mean, live = tiny(0), tiny(1)
    expected = [0.75 * m + 0.25 * p for m, p in zip(mean.parameters(), live.parameters(), strict=True)]
    blend(mean, live, 0.75)
    for got, wanted in zip(mean.parameters(), expected, strict=True):
        torch.testing.assert_close(got, wanted)
    blend(mean, live, 0.0)
    assert all(torch.equal(m, p) for m, p in zip(mean.parameters(), live.parameters(), strict=True))
