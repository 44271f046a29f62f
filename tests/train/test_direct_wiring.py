"""DPO, IPO and Diamante against plain Python: one unpadded answer, and one token or pair, at a time."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import toy_task
from plain_adamw import Plain, assert_logged, assert_same_weights
from random_start import Start, logprobs_of, make_start, talk
from recording import recorded
from test_stage_wiring import RANKINGS, ranking
from torch import Tensor
from toy_task import MACHINE, Job, logged, make_job, rows

from tutelage.data.formats import write_jsonl
from tutelage.errors import DataError, RecipeError, TrainingError
from tutelage.model.checkpoint import load_decoder, load_scalar
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.records import Ranking
from tutelage.text.chat import render_answers
from tutelage.train import direct

BETA, MARGIN, CLIP = 0.5, 0.3, 2.5
FACTORS = (0.5, 1.0, 1.0, 0.75)


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Start:
    start = make_start(tmp_path_factory.mktemp("direct"))
    write_jsonl(start.folder / "rankings.jsonl", RANKINGS)
    return start


def direct_job(begin: Start, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": begin.folder / "sft", "rankings": begin.folder / "rankings.jsonl",
        "heldout": begin.folder / "rankings.jsonl", "beta": BETA, "batch_size": 3, "epochs": 2, "lr": 1e-3,
        "warmup": 2, "floor": 0.5, "clip": CLIP, "evaluate_every": 1, "max_tokens": 6, "machine": MACHINE,
    }  # fmt: skip
    return make_job(direct.main, out, values, changes)


def encoded(begin: Start, one: Ranking) -> tuple[list[int], list[list[int]]]:
    texts, finished = [c.text for c in one.completions], [c.finished for c in one.completions]
    return render_answers(begin.tokenizer, one.prompt.messages, texts, finished)


def plain_losses(
    begin: Start, knobs: direct.DirectSettings, model: Decoder, reference: Decoder, one: Ranking
) -> tuple[Tensor, dict[str, float]]:
    """The mean over pairs of one ranking, and its figures."""
    prompt, answers = encoded(begin, one)
    own, ref = ([sum(logprobs_of(m, prompt, a)) for a in answers] for m in (model, reference))
    ratios = [mine - theirs.detach() for mine, theirs in zip(own, ref, strict=True)]
    losses, right, margins = [], [], []
    for i, better in enumerate(one.ranks):
        for j, worse in enumerate(one.ranks):
            if better < worse:
                if knobs.loss == "ipo":
                    gap = ratios[i] / len(answers[i]) - ratios[j] / len(answers[j])
                    losses.append((gap - 1 / (2 * BETA)) ** 2)
                else:
                    losses.append((1 + (-BETA * (ratios[i] - ratios[j]) + knobs.margin).exp()).log())
                margins.append(BETA * (ratios[i] - ratios[j]).item())
                right.append(0.5 if margins[-1] == 0 else float(margins[-1] > 0))
    best = fmean(BETA * r.item() for r, rank in zip(ratios, one.ranks, strict=True) if rank == min(one.ranks))
    return torch.stack(losses).mean(), {"accuracy": fmean(right), "margin": fmean(margins), "best_reward": best}


def learned(begin: Start, record: Any, examples: list[tuple[list[int], list[list[int]]]]) -> list[list[int]]:
    """The numbers of the rankings that each step learned from; the fourth shares the third's answers."""
    packed = [[*prompt, *(token for answer in answers for token in answer)] for prompt, answers in examples]
    members = {0: [0], 1: [1], 2: [2, 3], 3: [4], 4: [5]}
    return [[number for i in step.chosen(packed) for number in members[i]] for step in record.steps]


@pytest.mark.parametrize(
    ("loss", "margin", "microbatch", "tokens"),
    [("dpo", 0.0, 8, 999), ("dpo", MARGIN, 1, 999), ("ipo", 0.0, 2, 999), ("dpo", 0.0, 8, 70)],
)
def test_a_run_is_what_plain_python_computes(begin, tmp_path, monkeypatch, loss, margin, microbatch, tokens):
    job = direct_job(
        begin, tmp_path / "run", loss=loss, margin=margin, microbatch=microbatch,
        machine=MACHINE | {"pass_tokens": tokens},
    )  # fmt: skip
    with recorded(monkeypatch) as record:
        checkpoint = job.run()
    model, reference = (load_decoder(begin.folder / "sft") for _ in range(2))
    plain = Plain(model, 1e-3, 0.0, CLIP)
    batches = learned(begin, record, [encoded(begin, one) for one in RANKINGS[:3] + RANKINGS[4:]])
    assert sorted(batches[0] + batches[1]) == sorted(batches[2] + batches[3]) == list(range(6))
    assert max(step.widest for step in record.steps) == (2 if tokens == 70 else min(microbatch, 3))
    log = {int(row["step"]): row for row in rows(checkpoint)}
    for number, (batch, factor, drawn) in enumerate(zip(batches, FACTORS, record.drawn, strict=True), 1):
        found = [plain_losses(begin, job.knobs, model, reference, RANKINGS[i]) for i in batch]
        mean = torch.stack([one for one, _ in found]).mean()
        figures = {name: fmean(row[name] for _, row in found) for name in found[0][1]}
        if number == 1:
            del figures["accuracy"]  # every margin is 0 to rounding
        norm = plain.step(mean, factor)
        with torch.no_grad():
            every = [plain_losses(begin, job.knobs, model, reference, one) for one in RANKINGS]
            pairs = [(r.ids, a) for r, a in zip(drawn.requests, drawn.answers, strict=True)]
            gaps = [sum(logprobs_of(model, *p)) - sum(logprobs_of(reference, *p)) for p in pairs]
        assert_logged(
            log[number], loss=mean.item(), grad_norm=norm, lr=1e-3 * factor, **figures,
            heldout_loss=fmean(one.item() for one, _ in every),
            heldout_accuracy=fmean(row["accuracy"] for _, row in every),
            heldout_margin=fmean(row["margin"] for _, row in every), kl=fmean(map(float, gaps)),
        )  # fmt: skip
    assert len(record.drawn[0].requests) == 5  # each prompt once
    assert log[1]["margin"] == pytest.approx(0.0, abs=1e-5)  # the policy begins as its reference
    assert log[4]["heldout_margin"] > 0
    assert_same_weights(load_decoder(checkpoint), model)


DEMONSTRATIONS = [talk("?", "yes and so on"), talk("and?", "a text"), talk("other", "b"), talk("so?", "n")]


@pytest.mark.parametrize("with_demonstrations", [False, True])
def test_diamante_is_what_plain_python_computes(begin, tmp_path, monkeypatch, with_demonstrations):
    """The human answer is the demonstration or the best; one answer to another prompt is last. Two steps of all rankings."""
    human = tmp_path / "demonstrations.jsonl"
    write_jsonl(human, DEMONSTRATIONS)
    job = direct_job(
        begin, tmp_path / "run", loss="diamante", batch_size=9, epochs=2,
        demonstrations=human if with_demonstrations else None,
    )  # fmt: skip
    strangers: list[list[list[int]]] = []
    plainly = direct.with_noncontextual

    def noted(example, *rest):
        found = plainly(example, *rest)
        if len(strangers) == 0 or len(strangers[-1]) == (3 if with_demonstrations else 5):
            strangers.append([])
        strangers[-1].append((example, found))
        return found

    monkeypatch.setattr(direct, "with_noncontextual", noted)
    with recorded(monkeypatch) as record:
        checkpoint = job.run()
    policy = load_decoder(begin.folder / "sft")
    model = ScalarModel(policy)
    model.head.weight.data = record.heads[0]
    plain = Plain(model, 1e-3, 0.0, CLIP)
    log = {int(row["step"]): row for row in rows(checkpoint)}
    asked = {tuple(encoded(begin, one)[0]) for one in RANKINGS}
    for number, (step, factor) in enumerate(zip(strangers, (0.5, 1.0), strict=True), 1):
        nats, preferences, tokens = [], [], 0
        for example, with_one in step:
            assert tuple(example.prompt) in asked
            *_, stranger = with_one.completions
            assert stranger not in example.completions
            human_answers = [begin.tokenizer.decode(c) for c in example.completions]
            for ranks in with_one.ranks:
                best = [c for c, rank in zip(with_one.completions, ranks, strict=True) if rank == min(ranks)]
                if with_demonstrations:
                    (only,) = best
                    said = {"?": "yes and so on", "and?": "a text", "so?": "n"}
                    assert begin.tokenizer.decode(only) in said.values()
                    assert begin.tokenizer.decode(only) == human_answers[-1]
                nats += [-p for answer in best for p in logprobs_of(policy, example.prompt, answer)]
                tokens += sum(map(len, best))
                scores = [model(torch.tensor([[*example.prompt, *c]]))[0, -1] for c in with_one.completions]
                pairs = [
                    (1 + (scores[j] - scores[i]).exp()).log()
                    for i, a in enumerate(ranks) for j, b in enumerate(ranks) if a < b
                ]  # fmt: skip
                preferences.append(torch.stack(pairs).mean())
        assert len(nats) == tokens
        likelihood, preference = torch.stack(nats).mean(), torch.stack(preferences).mean()
        norm = plain.step(likelihood + preference, factor)
        assert_logged(
            log[number], loss=(likelihood + preference).item(), likelihood_loss=likelihood.item(),
            preference_loss=preference.item(), grad_norm=norm,
        )  # fmt: skip
    assert_same_weights(load_decoder(checkpoint), policy)
    scorer = load_scalar(tmp_path / "run" / "scorer").eval()
    row = torch.tensor([[*strangers[0][0][0].prompt, 5]])
    torch.testing.assert_close(scorer(row), model(row), atol=2e-5, rtol=0)
    left_out = json.loads((tmp_path / "run" / "done.json").read_text())["left_out"]
    assert left_out == ({"no demonstration of this prompt that fits": 2} if with_demonstrations else {})


def test_adapters_learn_against_the_checkpoint(begin, tmp_path):
    log = rows(direct_job(begin, tmp_path / "run", lora={"r": 2}, lr=0.02, epochs=4).run())
    assert log[0]["margin"] == pytest.approx(0.0, abs=1e-5)
    assert log[-1]["heldout_margin"] > 0.05


@pytest.mark.parametrize("loss", ["dpo", "diamante"])
def test_a_run_that_died_ends_as_one_that_did_not(begin, tmp_path, monkeypatch, loss):
    """It dies in its third step, is started again, and has the same log and weights, bit for bit."""
    whole, died = (
        direct_job(begin, tmp_path / name, loss=loss, machine=MACHINE | {"save_every": 1e-9})
        for name in ("whole", "died")
    )
    whole.run()
    plainly, calls = direct.direct_update, []

    def dies(*given):
        calls.append(given)
        if len(calls) == 3:
            raise TrainingError("gone")
        return plainly(*given)

    with monkeypatch.context() as patch:
        patch.setattr(direct, "direct_update", dies)
        with pytest.raises(TrainingError, match="gone"):
            died.run()
    died.run()
    assert logged(whole.out) == logged(died.out)
    for folder in ("checkpoint", *(["scorer"] if loss == "diamante" else [])):
        one, other = ((job.out / folder / "model.safetensors").read_bytes() for job in (whole, died))
        assert one == other


def test_what_cannot_be_is_said_in_one_line(begin, tmp_path):
    human = tmp_path / "demonstrations.jsonl"
    write_jsonl(human, DEMONSTRATIONS[2:3])
    with pytest.raises(RecipeError, match="demonstrations are for loss diamante: dpo learns from rankings alone"):
        direct_job(begin, tmp_path / "a", demonstrations=human).run()
    with pytest.raises(DataError, match="left out 5 x no demonstration of this prompt that fits"):
        direct_job(begin, tmp_path / "b", demonstrations=human, loss="diamante").run()
    with pytest.raises(ValueError, match="margin is part of dpo: leave it out with loss ipo"):
        direct_job(begin, tmp_path / "c", loss="ipo", margin=0.1)


def test_without_a_heldout_file_some_prompts_are_measured_on(begin, tmp_path):
    many = [ranking(f"{i} small?", ("a", "b"), (1, 2)) for i in range(12)]
    write_jsonl(tmp_path / "many.jsonl", many)
    job = direct_job(
        begin, tmp_path / "run", rankings=tmp_path / "many.jsonl", heldout=None, heldout_share=0.3, epochs=1
    )
    done = json.loads((job.run().parent / "done.json").read_text())
    assert done["heldout"] + done["prompts"] == 12
    assert done["heldout"] > 0


def test_dpo_learns_to_prefer_the_right_answer_and_says_how_far_it_went(toy, tuned, tmp_path):
    """On held-out prompts of the toy task, where SFT is right two times in three."""
    done = json.loads(
        (toy_task.direct_job(toy, tuned, tmp_path / "run", epochs=4).run().parent / "done.json").read_text()
    )
    assert done["heldout_accuracy"] > 0.75
    assert done["kl_k3"] > 0.01
