"""PPO against PPO in plain Python: every number that a run logs, and the weights that it writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_ppo import PlainPPO
from random_start import PROMPTS, Start, make_start, random_decoder, save
from recording import Drawn, recorded
from toy_task import MACHINE, Job, logged, make_job, rows

from tutelage.data.formats import write_jsonl
from tutelage.errors import TrainingError
from tutelage.model.checkpoint import load_decoder, load_scalar
from tutelage.model.heads import ScalarModel
from tutelage.records import Completion, Message, Prompt, Ranking
from tutelage.text.chat import render
from tutelage.train import ppo, reward

FACTORS = (0.5, 1.0, 1.0, 0.75)
"""Learning rates over their peak: two updates of warm-up, then half a cosine down to a floor of 0.5, in four updates."""
AFTER = {1: (0.0, 0.5, 1.0, 1.0), 2: (0.0, 0.0, 0.5, 1.0)}
"""Those of a policy that first waits for one or two updates of the critic alone."""


def ppo_job(begin: Start, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": begin.folder / "sft", "reward_model": begin.folder / "reward",
        "prompts": begin.folder / "prompts.jsonl", "text": {"one": begin.folder / "text.jsonl"},
        "updates": 4, "batch_size": 6, "minibatch": 4, "microbatch": 3, "inner_epochs": 2, "max_tokens": 6,
        "temperature": 0.7, "gamma": 0.9, "lam": 0.6, "missing_end_penalty": 1.5, "kl": {"coef": 0.3},
        "lr": 1e-3, "value_lr": 3e-3, "eps": 1e-3, "warmup": 2, "floor": 0.5, "average": 0.6, "seed": 3,
        "clip": 0.1, "value_clip": 0.15, "gradient_clip": 0.5, "value_coef": 0.4, "ptx": {"windows": 2, "sequence": 8},
        "scorers": {
            "reward_model": {"weight": 0.5}, "place": {"weight": -0.1, "function": "test_ppo_wiring:place"},
        },
        "machine": MACHINE | {"checkpoint_every": 1, "keep_last": 9},
    }  # fmt: skip
    return make_job(ppo.main, out, values, changes)


def prompt_of(begin: Start, ids: list[int]) -> Prompt:
    rendered = {tuple(render(begin.tokenizer, p.messages, add_generation_prompt=True).ids): p for p in PROMPTS}
    return rendered[tuple(ids)]


def scores_of(begin: Start, drawn: Drawn, scorer: ScalarModel) -> dict[str, list[float]]:
    """What each scorer gives each answer."""
    found: dict[str, list[float]] = {"score_reward_model": [], "score_place": [], "gold": []}
    for request, answer, finished in zip(drawn.requests, drawn.answers, drawn.finished, strict=True):
        prompt, text = prompt_of(begin, request.ids), begin.tokenizer.decode(answer)
        found["score_reward_model"].append(scorer(torch.tensor([[*request.ids, *answer]]))[0, -1].item())
        found["score_place"].append(place(prompt, text))
        found["gold"].append(gold(prompt, text, finished))
    return found


def place(prompt: Prompt, answer: str) -> float:
    return (int(prompt.id) - 3) * (1 + len(answer) % 3)


def gold(prompt: Prompt, answer: str, finished: bool) -> float:
    return finished * (1 + int(prompt.id)) / 8


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Start:
    return make_start(tmp_path_factory.mktemp("wiring"))


CASES: dict[str, dict[str, Any]] = {
    "ppo": {},
    "ptx": {"ptx": {"coef": 0.7}},
    "shared": {"trunk": "shared"},
    "shared ptx, critic first": {"trunk": "shared", "ptx": {"coef": 0.7}, "value_warmup": 1, "gradient_clip": 0.0},
    "critic first": {"value_warmup": 2, "minibatch": 6, "microbatch": 0},
    "few tokens a pass": {
        "ptx": {"coef": 0.7},
        "microbatch": 0,
        "machine": MACHINE | {"checkpoint_every": 1, "keep_last": 9, "pass_tokens": 64},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_what_plain_python_computes(begin, tmp_path, monkeypatch, case):
    job = ppo_job(begin, tmp_path / "run", **CASES[case])
    knobs = job.knobs
    with recorded(monkeypatch) as record:
        checkpoint = ppo.main(knobs, job.inputs, job.out, gold=gold)
    updates = record.drawn
    policy, scorer = load_decoder(begin.folder / "sft"), load_scalar(begin.folder / "reward").eval()
    critic = copy.deepcopy(scorer)
    if knobs.trunk == "shared":
        critic = ScalarModel(policy)
        critic.head.weight.data = record.heads[-1]
    plain = PlainPPO(knobs, policy, critic)

    log = rows(checkpoint)
    assert len(log) == len(updates) == len(FACTORS)
    policy_factors = AFTER.get(knobs.value_warmup, FACTORS)
    every = zip(log, updates, policy_factors, FACTORS, strict=True)
    for number, (row, drawn, *factors) in enumerate(every):
        by_name = scores_of(begin, drawn, scorer)
        weighted = zip(*by_name.values(), strict=True)
        scores = [0.5 * model - 0.1 * of_place for model, of_place, _ in weighted]
        expected = plain.update(drawn, scores, tuple(factors))
        expected |= {name: sum(values) / 6 for name, values in by_name.items()}
        texts = [begin.tokenizer.decode(answer) for answer in drawn.answers]
        expected["duplicates"] = sum(texts.count(text) > 1 for text in texts) / 6
        expected["lr"] = knobs.lr * factors[0]
        written = checkpoint.parent / "checkpoints" / f"step-{number + 1:08d}" if number < 3 else checkpoint
        for name, weight in load_decoder(written).state_dict().items():
            torch.testing.assert_close(weight, plain.averaged.state_dict()[name], atol=3e-5, rtol=0)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=5e-4, abs=5e-5), f"{name} in update {number + 1}"

    # the batches: every answer once per inner epoch, cut into minibatches; the text moves on with each step
    for drawn in updates:
        parts = drawn.minibatches()
        sizes = [4, 2] * 2 if knobs.minibatch == 4 else [6, 6]
        assert list(map(len, parts)) == sizes
        assert 1 < max(step.widest for step in drawn.steps) <= (knobs.microbatch or knobs.minibatch)
        assert max(step.largest for step in drawn.steps) <= knobs.machine.pass_tokens
        half = len(parts) // 2
        for epoch in (parts[:half], parts[half:]):
            assert sorted(i for part in epoch for i in part) == list(range(6))
    assert 0 < sum(sum(drawn.finished) for drawn in updates) < 24
    assert max(row["clip_fraction"] for row in log) > 0.02
    assert max(row["grad_norm"] for row in log) > 0.5
    windows = [window for drawn in updates for step in drawn.steps for window in step.windows]
    learning = 4 * (len(updates) - knobs.value_warmup) if knobs.ptx.coef else 0
    assert len(windows) == 2 * learning
    assert len({tuple(window) for window in windows[:16]}) == len(windows[:16])


def test_the_sampler_gets_the_settings_and_new_randomness_for_every_answer_and_seed(begin, tmp_path, monkeypatch):
    with recorded(monkeypatch) as record:
        ppo_job(begin, tmp_path / "run").run()
    asked = [request for drawn in record.drawn for request in drawn.requests]
    assert len({request.sampling.seed for request in asked}) == len(asked) == 24
    for request in asked:
        alone = request.sampling.model_copy(update={"seed": 0})
        assert alone.model_dump(exclude_defaults=True) == {"temperature": 0.7, "max_tokens": 6}
        assert set(request.stop_ids) == set(begin.tokenizer.end_ids)
    for drawn in record.drawn:  # seven prompts, of which each update takes six
        assert len({prompt_of(begin, request.ids).id for request in drawn.requests}) == 6
    orders = {tuple(tuple(request.ids) for request in drawn.requests) for drawn in record.drawn}
    assert len(orders) == 4
    with recorded(monkeypatch) as record:
        ppo_job(begin, tmp_path / "other", seed=4).run()
    assert not {r.sampling.seed for drawn in record.drawn for r in drawn.requests} & {r.sampling.seed for r in asked}
    assert orders != {tuple(tuple(request.ids) for request in drawn.requests) for drawn in record.drawn}


def test_every_reward_model_scores_with_its_own_weights_and_on_the_machine_named(begin, tmp_path, monkeypatch):
    torch.manual_seed(5)
    second = ScalarModel.from_decoder(random_decoder(begin.tokenizer, 7))
    save(tmp_path / "second", second, begin.tokenizer)
    job = ppo_job(
        begin, tmp_path / "run", updates=1, reward_models={"second": tmp_path / "second"}, machine=MACHINE,
        scorers={"reward_model": {"weight": 0.5}, "second": {"weight": -2.0}},
    )  # fmt: skip
    with recorded(monkeypatch) as record:
        checkpoint = ppo.main(job.knobs, job.inputs, job.out, gold=gold)
    (drawn,), (row,) = record.drawn, rows(checkpoint)
    first = scores_of(begin, drawn, load_scalar(begin.folder / "reward").eval())["score_reward_model"]
    other = scores_of(begin, drawn, second.eval())["score_reward_model"]
    assert row["score_reward_model"] == pytest.approx(sum(first) / 6, rel=1e-4)
    assert row["score_second"] == pytest.approx(sum(other) / 6, rel=1e-4)
    assert row["reward"] == pytest.approx((0.5 * sum(first) - 2 * sum(other)) / 6, rel=1e-4)


def test_as_many_prompts_as_a_batch_are_enough(begin, tmp_path):
    job = ppo_job(begin, tmp_path / "run", updates=2, scorers={}, batch_size=len(PROMPTS), minibatch=len(PROMPTS))
    assert len(rows(job.run())) == 2


@pytest.mark.parametrize("on_one_trunk", [False, True])
def test_adapters_begin_as_the_checkpoints_and_the_scorer_and_reference_stay(
    begin, tmp_path, monkeypatch, on_one_trunk
):
    """A reward model with a trunk of its own, and one that is adapters on the policy's trunk."""
    lora = {"r": 2, "alpha": 8.0}
    reward_model = begin.folder / "reward"
    if on_one_trunk:
        values = {"checkpoint": begin.folder / "sft", "rankings": tmp_path / "rankings.jsonl", "lr": 0.05, "warmup": 0}
        completions = tuple(Completion(text=text) for text in ("a", "small text"))
        write_jsonl(
            values["rankings"], [Ranking(prompt=prompt, completions=completions, ranks=(1, 2)) for prompt in PROMPTS]
        )
        more = {"epochs": 3, "batch_size": 4, "lora": lora, "machine": MACHINE}
        reward_model = make_job(reward.main, tmp_path / "reward", values, more).run()
    job = ppo_job(
        begin, tmp_path / "run", reward_model=reward_model, lora=lora, updates=3, lr=5e-3, value_lr=5e-3, average=0.0
    )
    with recorded(monkeypatch) as record:
        checkpoint = ppo.main(job.knobs, job.inputs, job.out, gold=gold)
    policies = [begin.folder / "sft"] + [job.out / "checkpoints" / f"step-{step:08d}" for step in (1, 2)]
    scorer, start = load_scalar(reward_model).eval(), load_decoder(begin.folder / "sft")
    for row, drawn, folder in zip(rows(checkpoint), record.drawn, policies, strict=True):
        by_name = scores_of(begin, drawn, scorer)
        plain = PlainPPO(job.knobs, load_decoder(folder), copy.deepcopy(scorer))
        plain.reference = start
        scores = [0.5 * model - 0.1 * of_place for model, of_place, _ in zip(*by_name.values(), strict=True)]
        expected = plain.update(drawn, scores, (1.0, 1.0))
        for name in ("kl", "kl_k3", "entropy", "reward", "sampler_mismatch"):
            assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4), f"{name} in update {row['step']}"
        learned = row["step"] > 1
        assert (abs(row["kl"]) > 0.01) == learned
        assert (abs(row["explained_variance"] - expected["explained_variance"]) > 2e-3) == learned  # the critic


def test_an_adaptive_coefficient_follows_the_kl_per_answer(begin, tmp_path):
    """By hand: coef (1 + e 6 / horizon) after each update, where e is kl / target - 1, clamped to 0.2 either way."""
    free = rows(ppo_job(begin, tmp_path / "free", updates=2, kl={"coef": 0.3, "horizon": 60}, lr=1e-2).run())
    assert [row["kl_coef"] for row in free] == [0.3, 0.3]  # fixed, unless an adaptive one is asked for
    target = free[1]["kl"] / 1.1
    kl = {"controller": "adaptive", "coef": 0.3, "target": target, "horizon": 60}
    log = rows(ppo_job(begin, tmp_path / "run", updates=3, kl=kl, floor=1.0, lr=1e-2).run())
    assert log[1]["kl"] == pytest.approx(free[1]["kl"], rel=1e-4)
    assert log[1]["kl"] > 0
    assert log[1]["kl_coef"] == pytest.approx(0.3 * (1 - 0.2 * 6 / 60))
    assert log[2]["kl_coef"] == pytest.approx(log[1]["kl_coef"] * (1 + 0.1 * 6 / 60), rel=1e-4)


def test_a_kl_budget_ends_the_run_at_the_first_update_above_it(begin, tmp_path):
    free = [row["kl"] for row in rows(ppo_job(begin, tmp_path / "free", lr=1e-2).run())]
    over = next(i for i, kl in enumerate(free) if kl > 0.001)
    checkpoint = ppo_job(begin, tmp_path / "run", kl={"budget": 0.001}, lr=1e-2).run()
    assert [row["kl"] for row in rows(checkpoint)] == pytest.approx(free[: over + 1], rel=1e-4, abs=1e-6)
    done = json.loads((checkpoint.parent / "done.json").read_text())
    assert done["stopped_by_kl_budget"] is True
    assert done["updates"] == over


def test_prompts_without_room_for_an_answer_are_left_out(begin, tmp_path):
    long = Prompt(messages=(Message(role="user", content="?" * 56),), id="8")  # with six tokens more than the context
    write_jsonl(tmp_path / "prompts.jsonl", [*PROMPTS, long])
    checkpoint = ppo_job(begin, tmp_path / "run", updates=1, prompts=tmp_path / "prompts.jsonl").run()
    done = json.loads((checkpoint.parent / "done.json").read_text())
    assert (done["prompts"], sum(done["left_out"].values())) == (7, 1)


def test_prompts_longer_than_the_knob_are_left_out(begin, tmp_path):
    sizes = [len(render(begin.tokenizer, p.messages, add_generation_prompt=True).ids) for p in PROMPTS]
    most = sorted(sizes)[-2]  # one or more are longer
    fitting = sum(size <= most for size in sizes)
    job = ppo_job(begin, tmp_path / "run", updates=1, scorers={}, max_prompt=most, batch_size=4, minibatch=4)
    done = json.loads((job.run().parent / "done.json").read_text())
    assert (done["prompts"], done["left_out"]) == (fitting, {"too long": len(sizes) - fitting})
    assert fitting < len(sizes)


def test_a_run_that_died_goes_on_with_its_averaged_weights_and_its_coefficient(begin, tmp_path):
    kl = {"controller": "adaptive", "coef": 0.3, "target": 0.1, "horizon": 60}
    machine = {"save_every": 1e-9}
    calls = 0

    def dies(prompt: Prompt, answer: str, finished: bool) -> float:
        nonlocal calls
        calls += 1
        if calls > 2 * 6:  # in the third update
            raise TrainingError("the judge left")
        return gold(prompt, answer, finished)

    whole, died = (ppo_job(begin, tmp_path / name, kl=kl, machine=machine) for name in ("whole", "died"))
    with pytest.raises(TrainingError, match="the judge left"):
        ppo.main(died.knobs, died.inputs, died.out, gold=dies)
    assert [row["step"] for row in logged(died.out)] == [1, 2]
    checkpoints = [ppo.main(job.knobs, job.inputs, job.out, gold=gold) for job in (whole, died)]
    assert logged(whole.out) == logged(died.out)
    assert len({row["kl_coef"] for row in logged(whole.out)}) == 4
    one, other = (load_decoder(checkpoint).state_dict() for checkpoint in checkpoints)
    assert all(torch.equal(one[name], other[name]) for name in one)
