import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.objectives import ppo

seeds = st.integers(0, 10_000)


def draw_batch(seed, b=3, s=7):
    """Random tensors of b answers, and a mask with gaps (a row may be empty)."""
    generator = torch.Generator().manual_seed(seed)
    names = ("logprobs", "old_logprobs", "ref_logprobs", "values", "old_values", "rewards", "advantages", "returns")
    batch = {name: torch.randn(b, s, generator=generator) * 0.4 for name in names}
    batch["mask"] = torch.rand(b, s, generator=generator) < 0.6
    batch["scores"] = torch.randn(b, generator=generator)
    return batch


# ---- masked statistics


def test_masked_mean_by_hand():
    x, mask = torch.tensor([[1.0, 2.0], [6.0, math.nan]]), torch.tensor([[True, True], [True, False]])
    assert ppo.masked_mean(x, mask).item() == 3.0
    assert ppo.masked_mean(x, mask, count=18).item() == 0.5
    assert ppo.masked_mean(x, torch.zeros_like(mask)).item() == 0.0


def test_whiten_by_hand():
    # mean 2.5, variance (2.25 + 0.25 + 0.25 + 2.25) / 4 = 1.25, deviation 1.118034
    x = torch.tensor([[1.0, 2.0, 99.0], [3.0, 4.0, math.nan]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    expected = torch.tensor([[-1.341641, -0.447214, 0.0], [0.447214, 1.341641, 0.0]])
    torch.testing.assert_close(ppo.whiten(x, mask), expected, atol=1e-5, rtol=0)


def test_whiten_of_one_value_and_of_equal_values():
    assert ppo.whiten(torch.tensor([[5.0]]), torch.tensor([[True]])).item() == 0.0
    equal = ppo.whiten(torch.full((1, 7), 0.1), torch.ones(1, 7, dtype=torch.bool))
    assert equal.abs().max().item() < 1e-3


def test_explained_variance_by_hand():
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, 4.0, 50.0]]), torch.tensor([[True, True, True, True, False]])
    # returns - values = 0, 0, 0, 1 with variance 0.1875, over 1.25
    assert ppo.explained_variance(torch.tensor([[1.0, 2, 3, 3, 7]]), returns, mask).item() == pytest.approx(0.85)
    assert ppo.explained_variance(returns + 5, returns, mask).item() == pytest.approx(1.0)
    assert ppo.explained_variance(torch.full_like(returns, 9.0), returns, mask).item() == pytest.approx(0.0, abs=1e-6)
    assert ppo.explained_variance(-returns, returns, mask).item() == pytest.approx(-3.0)


def test_explained_variance_where_there_is_nothing_to_explain():
    mask = torch.ones(1, 7, dtype=torch.bool)
    for constant in (0.1, 0.0):
        assert ppo.explained_variance(torch.arange(7.0)[None], torch.full((1, 7), constant), mask).item() == 0.0
    small = 1e-7 * torch.arange(7.0)[None]  # varies as much as its size allows
    assert ppo.explained_variance(small, small, mask).item() == pytest.approx(1.0)


# ---- Kullback-Leibler divergence


@given(seeds)
@settings(max_examples=40)
def test_both_estimates_average_to_the_exact_divergence(seed):
    generator = torch.Generator().manual_seed(seed)
    p, q = torch.randn(2, 6, generator=generator).softmax(-1).tolist()
    exact = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    logp, logq = torch.tensor(p).log(), torch.tensor(q).log()
    k1, k3 = ppo.kl_k1(logp, logq), ppo.kl_k3(logp, logq)
    for estimate in (k1, k3):
        mean = sum(a * e for a, e in zip(p, estimate.tolist(), strict=True))
        assert mean == pytest.approx(exact, rel=1e-4, abs=1e-6)
    assert (k3 >= 0).all()
    assert (k1 < 0).any()  # k1 of a word that pi makes less likely


def test_k3_is_exact_near_zero_and_finite_far_away():
    near = ppo.kl_k3(torch.tensor(0.0), torch.tensor(-1e-4))
    assert near.item() == pytest.approx(0.5e-8, rel=1e-2)  # x^2 / 2; exp(x) - 1 - x would be a multiple of 6e-8
    assert torch.isfinite(ppo.kl_k3(torch.tensor(-500.0), torch.tensor(0.0)))
    assert ppo.kl_k3(torch.tensor(0.0), torch.tensor(-500.0)).item() == pytest.approx(19.0)  # log-ratios end at -20


def test_kl_is_summed_over_the_answer_and_not_averaged():
    k1 = torch.tensor([[0.5, 0.25, math.nan], [1.0, -2.0, 4.0]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    assert ppo.kl_per_answer(k1, mask).tolist() == [0.75, 5.0]


# ---- rewards and advantages


def test_rewards_by_hand():
    nan = math.nan
    logprobs = torch.tensor([[-1.0, -2.0, -3.0, nan], [-1.0, -1.0, nan, -1.0], [-1.0, -1.0, -1.0, -1.0]])
    ref = torch.tensor([[-2.0, -2.0, -1.0, 5.0], [-1.5, 9.0, 7.0, -1.0], [-2.0, -2.0, -2.0, -2.0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, True], [False, False, False, False]])
    rewards = ppo.token_rewards(torch.tensor([10.0, -4.0, 99.0]), logprobs, ref, mask, kl_coef=0.1)
    expected = torch.tensor([[-0.1, 0.0, 0.2 + 10.0, 0.0], [-0.05, 0.0, 0.0, -4.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(rewards, expected)


@given(seeds)
@settings(max_examples=40)
def test_rewards_of_an_answer_sum_to_the_score_minus_the_kl(seed):
    x = draw_batch(seed)
    rewards = ppo.token_rewards(x["scores"], x["logprobs"], x["ref_logprobs"], x["mask"], kl_coef=0.3)
    kl = ppo.kl_per_answer(ppo.kl_k1(x["logprobs"], x["ref_logprobs"]), x["mask"])
    torch.testing.assert_close(rewards.sum(1), torch.where(x["mask"].any(1), x["scores"] - 0.3 * kl, 0.0))
    assert (rewards[~x["mask"]] == 0).all()


def gae_by_sums(rewards, values, gamma, lam):
    """A_t = sum over l of (gamma lam)^l delta_{t+l} of one answer without gaps."""
    after = [*values, 0.0][1:]
    deltas = [r + gamma * v_next - v for r, v, v_next in zip(rewards, values, after, strict=True)]
    return [sum((gamma * lam) ** i * d for i, d in enumerate(deltas[t:])) for t in range(len(deltas))]


@given(seeds, st.integers(0, 9), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=100)
def test_gae_against_a_plain_loop_over_the_counted_tokens(seed, s, gamma, lam):
    x = draw_batch(seed, s=s)
    rewards, values, mask = x["rewards"], x["values"].clone(), x["mask"]
    values[~mask] = math.nan
    advantages, returns = ppo.gae(rewards, values, mask, gamma, lam)
    for b in range(len(mask)):
        counted = mask[b].nonzero().flatten().tolist()
        v = values[b, counted].tolist()
        expected = gae_by_sums(rewards[b, counted].tolist(), v, gamma, lam)
        assert advantages[b, counted].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
        total = [a + value for a, value in zip(expected, v, strict=True)]
        assert returns[b, counted].tolist() == pytest.approx(total, rel=1e-4, abs=1e-5)
    assert (advantages[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


def test_gae_by_hand():
    # deltas 0 + 0.25 - 0.5 = -0.25 and 1 - 0.25 = 0.75; the token between them is another speaker's
    advantages, returns = ppo.gae(
        torch.tensor([[0.0, 5.0, 1.0]]), torch.tensor([[0.5, 9.0, 0.25]]), torch.tensor([[True, False, True]])
    )
    torch.testing.assert_close(advantages, torch.tensor([[-0.25 + 0.95 * 0.75, 0.0, 0.75]]))
    torch.testing.assert_close(returns, torch.tensor([[0.9625, 0.0, 1.0]]))


def test_gae_with_lambda_one_is_the_return_minus_the_value():
    rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[3.0, -1.0, 0.5]])
    _, returns = ppo.gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=0.5, lam=1.0)
    torch.testing.assert_close(returns, torch.tensor([[1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4, 4.0]]))


def test_no_gradient_flows_through_rewards_and_advantages():
    x = {k: v.requires_grad_() if v.is_floating_point() else v for k, v in draw_batch(0).items()}
    rewards = ppo.token_rewards(x["scores"], x["logprobs"], x["ref_logprobs"], x["mask"], 0.1)
    advantages, returns = ppo.gae(x["rewards"], x["values"], x["mask"])
    assert not any(t.requires_grad for t in (rewards, advantages, returns))


# ---- losses


@given(seeds)
@settings(max_examples=40)
def test_an_unchanged_policy_has_ratio_one_exactly(seed):
    x = draw_batch(seed)
    logprobs = x["logprobs"].clone().requires_grad_()
    loss, stats = ppo.policy_loss(logprobs, x["logprobs"], x["advantages"], x["mask"])
    loss.backward()
    n = max(int(x["mask"].sum()), 1)
    assert loss.item() == -ppo.masked_mean(x["advantages"], x["mask"]).item()
    assert stats["ratio"].item() == (1.0 if x["mask"].any() else 0.0)
    assert stats["clip_fraction"].item() == stats["approx_kl_k1"].item() == stats["approx_kl_k3"].item() == 0.0
    torch.testing.assert_close(logprobs.grad, (-x["advantages"] / n).masked_fill(~x["mask"], 0.0))


def test_policy_loss_by_hand():
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5]])
    advantages = torch.tensor([[1.0, -1.0, -1.0, 1.0]])
    logprobs = ratio.log().requires_grad_()
    loss, stats = ppo.policy_loss(logprobs, torch.zeros(1, 4), advantages, torch.ones(1, 4, dtype=torch.bool), clip=0.2)
    loss.backward()
    # max(-1.5, -1.2), max(1.5, 1.2), max(0.5, 0.8), max(-0.5, -0.8): the first and the third are clipped
    assert loss.item() == pytest.approx((-1.2 + 1.5 + 0.8 - 0.5) / 4)
    assert logprobs.grad[0].tolist() == pytest.approx([0.0, 1.5 / 4, 0.0, -0.5 / 4])
    assert stats["clip_fraction"].item() == 0.5
    assert stats["ratio"].item() == pytest.approx(1.0)
    assert stats["approx_kl_k1"].item() == pytest.approx(-(math.log(1.5) + math.log(0.5)) / 2)
    assert stats["approx_kl_k3"].item() == pytest.approx(-(math.log(1.5) + math.log(0.5)) / 2)  # the mean ratio is 1
    assert not any(s.requires_grad for s in stats.values())


def test_policy_loss_of_a_ratio_beyond_all_bounds_is_finite():
    logprobs = torch.tensor([[0.0, 0.0]], requires_grad=True)
    loss, stats = ppo.policy_loss(
        logprobs, torch.tensor([[-500.0, 500.0]]), torch.tensor([[0.0, -1.0]]), torch.ones(1, 2, dtype=torch.bool)
    )
    loss.backward()
    assert torch.isfinite(torch.stack([loss, *stats.values(), logprobs.grad.sum()])).all()


def test_value_loss_by_hand():
    values = torch.tensor([[1.0, 1.0, 0.1, 1.0]], requires_grad=True)
    old, returns = torch.zeros(1, 4), torch.tensor([[2.0, 0.0, 1.0, 0.15]])
    loss = ppo.value_loss(values, old, returns, torch.ones(1, 4, dtype=torch.bool), clip=0.2)
    loss.backward()
    # errors of V and of its clipped self: 1 and 3.24; 1 and 0.04; 0.81 twice (inside the clip); 0.7225 and 0.0025
    assert loss.item() == pytest.approx(0.5 * (3.24 + 1 + 0.81 + 0.7225) / 4)
    assert values.grad[0].tolist() == pytest.approx([0.0, 1.0 / 4, -0.9 / 4, 0.85 / 4])
    plain = ppo.value_loss(values, old, returns, torch.ones(1, 4, dtype=torch.bool), clip=None)
    assert plain.item() == pytest.approx(0.5 * (1 + 1 + 0.81 + 0.7225) / 4)


def test_values_are_clipped_around_the_old_ones_in_both_directions_by_hand():
    values, old = torch.tensor([[3.0, 1.0, 2.1]]), torch.tensor([[2.0, 2.0, 2.0]])
    returns = torch.tensor([[4.0, 0.0, 3.0]])
    loss = ppo.value_loss(values, old, returns, torch.ones(1, 3, dtype=torch.bool), clip=0.5)
    # V clipped is 2.5, 1.5, 2.1: the larger errors are 1.5^2, 1.5^2, 0.9^2
    assert loss.item() == pytest.approx(0.5 * (2.25 + 2.25 + 0.81) / 3)


@given(seeds)
@settings(max_examples=40)
def test_eight_microbatches_add_up_to_one_batch(seed):
    x = draw_batch(seed, b=8)
    x["mask"][3] = False  # a microbatch in which nothing counts
    count = x["mask"].sum()

    def run(rows, logprobs, values):
        part = {k: v[rows] for k, v in x.items()}
        loss, stats = ppo.policy_loss(
            logprobs[rows], part["old_logprobs"], part["advantages"], part["mask"], count=count
        )
        value = ppo.value_loss(values[rows], part["old_values"], part["returns"], part["mask"], count=count)
        return torch.stack([loss, value, *stats.values()])

    totals, gradients = [], []
    for chunks in ([slice(0, 8)], [slice(i, i + 1) for i in range(8)]):
        logprobs, values = x["logprobs"].clone().requires_grad_(), x["values"].clone().requires_grad_()
        for rows in chunks:
            out = run(rows, logprobs, values)
            (out[0] + out[1]).backward()
            totals.append(out.detach())
        gradients.append((logprobs.grad, values.grad))
    torch.testing.assert_close(torch.stack(totals[1:]).sum(0), totals[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    default, _ = ppo.policy_loss(x["logprobs"], x["old_logprobs"], x["advantages"], x["mask"])
    torch.testing.assert_close(default, totals[0][0])


# ---- padding


def everything(x):
    """Every function of the module on one batch: [b, s] results and scalars or [b] results, with the gradients."""
    x = {k: v.clone() for k, v in x.items()}
    x["logprobs"].requires_grad_()
    x["values"].requires_grad_()
    mask = x["mask"]
    policy, stats = ppo.policy_loss(x["logprobs"], x["old_logprobs"], x["advantages"], mask)
    value = ppo.value_loss(x["values"], x["old_values"], x["returns"], mask)
    (policy + value).backward()
    advantages, returns = ppo.gae(x["rewards"], x["values"], mask, 0.9, 0.8)
    per_token = {
        "policy gradient": x["logprobs"].grad,
        "value gradient": x["values"].grad,
        "rewards": ppo.token_rewards(x["scores"], x["logprobs"], x["ref_logprobs"], mask, 0.1),
        "advantages": advantages,
        "returns": returns,
        "whitened": ppo.whiten(x["advantages"], mask),
    }
    others = {
        "policy": policy,
        "value": value,
        **stats,
        "kl": ppo.kl_per_answer(ppo.kl_k1(x["logprobs"], x["ref_logprobs"]), mask),
        "explained": ppo.explained_variance(x["values"], x["returns"], mask),
    }
    return per_token, others


@given(seeds, st.lists(st.integers(0, 7), min_size=1, max_size=6), st.sampled_from([math.nan, math.inf, 1e30, -3.0]))
@settings(max_examples=60)
def test_padding_changes_nothing(seed, places, garbage):
    """Columns that do not count, anywhere in the sequence, with anything in them."""
    x = draw_batch(seed)
    order = sorted([*((t, True) for t in range(7)), *((t - 0.5, False) for t in places)])
    real = torch.tensor([is_real for _, is_real in order])
    padded = {}
    for name, t in x.items():
        if t.dim() == 1:
            padded[name] = t
        else:
            wide = t.new_zeros(len(t), len(order)) if name == "mask" else t.new_full((len(t), len(order)), garbage)
            wide[:, real] = t
            padded[name] = wide

    tokens, others = everything(x)
    wide_tokens, wide_others = everything(padded)
    for name, expected in others.items():
        torch.testing.assert_close(wide_others[name], expected, msg=lambda m, name=name: f"{name}: {m}")
    for name, expected in tokens.items():
        torch.testing.assert_close(wide_tokens[name][:, real], expected, msg=lambda m, name=name: f"{name}: {m}")
        assert (wide_tokens[name][:, ~real] == 0).all(), name


def test_bfloat16_inputs_are_computed_in_float32():
    x = {k: v.bfloat16() if v.is_floating_point() else v for k, v in draw_batch(4).items()}
    same = {k: v.float() if v.is_floating_point() else v for k, v in x.items()}
    tokens, others = everything(x)
    exact_tokens, exact_others = everything(same)
    for name, expected in (exact_tokens | exact_others).items():
        found = (tokens | others)[name]
        if not name.endswith("gradient"):  # that has the type of the input
            assert found.dtype == torch.float32, name
            torch.testing.assert_close(found, expected, msg=lambda m, name=name: f"{name}: {m}")


# ---- KL controllers


def test_adaptive_controller_by_hand_and_resumed():
    controller = ppo.AdaptiveKL(init=0.1, target=6.0, horizon=100)
    controller.update(9.0, 50)  # 50% above, cut to 20%: 0.1 (1 + 0.2 * 50 / 100)
    assert controller.coef == pytest.approx(0.11)
    controller.update(5.4, 50)  # 10% below
    assert controller.coef == pytest.approx(0.11 * 0.95)

    resumed = ppo.AdaptiveKL(init=0.1, target=6.0, horizon=100)
    resumed.load_state_dict(controller.state_dict())
    for c in (controller, resumed):
        c.update(0.0, 50)  # 100% below, cut to 20%
        assert c.coef == pytest.approx(0.09405)
    assert resumed.coef == controller.coef
    controller.update(6.0, 50)
    assert controller.coef == resumed.coef  # on target nothing moves


def test_fixed_controller_stays():
    controller = ppo.FixedKL(0.02)
    controller.update(100.0, 64)
    assert controller.coef == 0.02
    resumed = ppo.FixedKL(0.5)
    resumed.load_state_dict(controller.state_dict())
    assert resumed.coef == 0.02
