"""SFT, pretraining and reward models against plain Python: one unpadded row, and one token or pair, at a time."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from plain_adamw import Plain, assert_logged, assert_same_weights
from random_start import Start, logprobs_of, make_start, random_decoder, save, talk, text_loss
from recording import recorded
from test_ppo_wiring import ppo_job
from torch import Tensor
from toy_task import MACHINE, Job, make_job, rows

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import write_jsonl
from tutelage.model.checkpoint import load_decoder, load_scalar
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.records import Completion, Conversation, Document, Message, Prompt, Ranking
from tutelage.seeds import derive
from tutelage.text.chat import render, render_answers
from tutelage.train import pretrain, reward, sft

DEMONSTRATIONS = [
    talk("?", "yes"),
    talk("a small text?", "no, another and another one"),
    talk("a", "b", "c", "dd"),
    talk("what?", "n"),
    talk("and?", "a small text, and another small text, and a third"),
    talk("so?", "and so on", "how long?", "as long as a small text"),
    talk("!", "!!"),
    talk("and then?", "then another"),
]
CLIPS = {"sft": 8.0, "pretrain": 5.0, "reward": 2.5}
"""Of gradient norms some are above and some below: AdamW does not notice a clip that acts on all alike."""
CHINESE = [Document(text="红色的门，蓝色的帽子。"), Document(text="a small text 和另一个"), Document(text="路很长。")]


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Start:
    start = make_start(tmp_path_factory.mktemp("stages"))
    for name, records in (("demonstrations", DEMONSTRATIONS), ("chinese", CHINESE), ("rankings", RANKINGS)):
        write_jsonl(start.folder / f"{name}.jsonl", records)
    write_jsonl(start.folder / "heldout.jsonl", DEMONSTRATIONS * 9)  # more than one forward pass
    return start


# ---- SFT


def counted(begin: Start, conversation: Conversation) -> tuple[list[int], list[bool]]:
    """The tokens of a demonstration, and which of them count."""
    one = render(begin.tokenizer, conversation.messages).until_end()
    return list(one.ids), list(one.loss_mask)


def imitation_nats(begin: Start, model: Decoder, conversations: Iterable[Conversation]) -> list[Tensor]:
    """-log p of every token that counts."""
    nats = []
    for conversation in conversations:
        ids, mask = counted(begin, conversation)
        nats += [-p for p, counts in zip(logprobs_of(model, ids[:1], ids[1:]), mask[1:], strict=True) if counts]
    return nats


def sft_job(begin: Start, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": begin.folder / "sft", "demonstrations": begin.folder / "demonstrations.jsonl",
        "heldout": begin.folder / "heldout.jsonl", "text": {"one": begin.folder / "text.jsonl"},
        "epochs": 2, "batch_size": 5, "lr": 1e-3, "warmup": 2, "floor": 0.5, "clip": CLIPS["sft"],
        "ptx": {"windows": 3, "sequence": 8}, "machine": MACHINE,
    }  # fmt: skip
    return make_job(sft.main, out, values, changes)


@pytest.mark.parametrize("coef", [0.0, 0.6])
@pytest.mark.parametrize(("microbatch", "tokens"), [(0, 1 << 14), (3, 1 << 14), (1, 1 << 14), (0, 70), (0, 8)])
def test_sft_is_what_plain_python_computes(begin, tmp_path, monkeypatch, microbatch, tokens, coef):
    with recorded(monkeypatch) as record:
        machine = MACHINE | {"pass_tokens": tokens}
        checkpoint = sft_job(begin, tmp_path / "run", microbatch=microbatch, ptx={"coef": coef}, machine=machine).run()
    model = load_decoder(begin.folder / "sft")
    plain = Plain(model, 1e-3, 0.1, CLIPS["sft"])
    inputs = [counted(begin, conversation)[0][:-1] for conversation in DEMONSTRATIONS]  # nothing follows the last token
    batches = [step.chosen(inputs) for step in record.steps]
    assert sorted(batches[0] + batches[1]) == sorted(batches[2] + batches[3]) == list(range(8))
    widest = max(step.widest for step in record.steps)
    if tokens > 70:
        assert widest == max(microbatch or 5, 3 if coef else 0)
    else:
        assert widest in ((1,) if tokens == 8 else (2, 3, 4))
        assert max(step.largest for step in record.steps) <= tokens
    expected = []
    for step, batch, factor in zip(record.steps, batches, (0.5, 1.0, 1.0, 0.75), strict=True):
        loss = torch.stack(imitation_nats(begin, model, [DEMONSTRATIONS[i] for i in batch])).mean()
        text = text_loss(model, step.windows) if coef else torch.zeros(())
        norm = plain.step(loss + coef * text, factor)
        with torch.no_grad():
            heldout = torch.stack(imitation_nats(begin, model, DEMONSTRATIONS)).mean().item()
        row = {"loss": loss.item(), "grad_norm": norm, "heldout_loss": heldout, "lr": 1e-3 * factor}
        expected.append(row | ({"ptx_loss": text.item()} if coef else {}))
    log = rows(checkpoint)
    assert [row["step"] for row in log] == [2, 4]  # after each epoch
    for row in log:
        assert_logged(row, **expected[int(row["step"]) - 1])
    assert len({tuple(window) for step in record.steps for window in step.windows}) == (12 if coef else 0)
    assert expected[3]["heldout_loss"] < expected[1]["heldout_loss"]  # so the last epoch is the result
    assert_same_weights(load_decoder(checkpoint), model)


def test_the_result_of_sft_is_the_epoch_with_the_lowest_heldout_loss(begin, tmp_path):
    """At too high a learning rate the losses go up and down; the checkpoint has the loss of the lowest."""
    write_jsonl(tmp_path / "heldout.jsonl", DEMONSTRATIONS[:3])
    write_jsonl(tmp_path / "others.jsonl", DEMONSTRATIONS[3:])
    job = sft_job(
        begin, tmp_path / "run", epochs=6, lr=0.02, demonstrations=tmp_path / "others.jsonl",
        heldout=tmp_path / "heldout.jsonl",
    )  # fmt: skip
    checkpoint = job.run()
    losses = [row["heldout_loss"] for row in rows(checkpoint) if "heldout_loss" in row]
    assert len(losses) == 6
    assert min(losses) < losses[-1] - 0.01
    with torch.no_grad():
        kept = torch.stack(imitation_nats(begin, load_decoder(checkpoint), DEMONSTRATIONS[:3])).mean().item()
    assert kept == pytest.approx(min(losses), rel=1e-4)


def test_sft_selects_by_the_reward_models_mean_score_of_sampled_answers(begin, tmp_path, monkeypatch):
    job = sft_job(
        begin, tmp_path / "run", epochs=3, lr=0.01, reward_model=begin.folder / "reward",
        prompts=begin.folder / "prompts.jsonl", max_tokens=5,
    )  # fmt: skip
    with recorded(monkeypatch) as record:
        checkpoint = job.run()
    scorer = load_scalar(begin.folder / "reward").eval()
    means = []
    for drawn in record.drawn:
        assert [r.sampling.temperature for r in drawn.requests] == [1.0] * 7
        assert [r.sampling.max_tokens for r in drawn.requests] == [5] * 7
        whole = [[*r.ids, *answer] for r, answer in zip(drawn.requests, drawn.answers, strict=True)]
        means.append(fmean(scorer(torch.tensor([ids]))[0, -1].item() for ids in whole))
    measured = [row["reward"] for row in rows(checkpoint) if "reward" in row]
    assert measured == pytest.approx(means, rel=1e-4, abs=1e-5)
    best = json.loads((checkpoint.parent / "done.json").read_text())["best_step"]
    assert best == 2 * (1 + means.index(max(means)))
    assert json.loads((checkpoint / "lineage.json").read_text())["step"] == best


def test_dropout_is_on_in_training_and_off_in_measurements(begin, tmp_path):
    """Weights that do not move: without dropout the loss on all demonstrations would be the held-out loss, in every epoch."""
    still = {"lr": 1e-12, "weight_decay": 0.0, "batch_size": 8, "epochs": 3}
    with torch.no_grad():
        loss = torch.stack(imitation_nats(begin, load_decoder(begin.folder / "sft"), DEMONSTRATIONS)).mean().item()
    for dropout in (0.0, 0.5):
        log = rows(sft_job(begin, tmp_path / str(dropout), dropout=dropout, **still).run())
        assert [row["heldout_loss"] for row in log] == pytest.approx([loss] * 3, rel=1e-4)
        assert all((abs(row["loss"] - loss) > 1e-3) == (dropout > 0) for row in log)


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward"])
def test_muon_makes_the_update_of_a_matrix_orthogonal(begin, tmp_path, stage):
    """Its singular values are alike, at 0.2 sqrt(16) times the learning rate at the first step."""
    make = {"pretrain": pretrain_job, "sft": sft_job, "reward": reward_job}[stage]
    once = {"pretrain": {"steps": 1}, "sft": {"epochs": 1, "batch_size": 8}, "reward": {"epochs": 1, "batch_size": 9}}
    job = make(begin, tmp_path / "run", optimizer="muon", weight_decay=0.0, lr=0.01, warmup=2, **once[stage])
    checkpoint = job.run()
    after = load_scalar(checkpoint).decoder if stage == "reward" else load_decoder(checkpoint)
    before = load_decoder(begin.folder / "sft")
    name = next(n for n, _ in before.named_parameters() if n.endswith("attention.out.weight"))
    change = after.state_dict()[name] - before.state_dict()[name]
    assert change.shape == (16, 16)
    sizes = torch.linalg.svdvals(change) / (0.5 * 0.01 * 0.2 * 4)
    assert sizes[-2] > 0.4
    assert sizes[0] < 1.4


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_what_is_longer_than_max_length_is_left_out(begin, tmp_path, stage):
    make = {"sft": sft_job, "reward": reward_job}[stage]
    checkpoint = make(begin, tmp_path / "run", max_length=14).run()
    if stage == "sft":
        sizes = [len(counted(begin, conversation)[0]) for conversation in DEMONSTRATIONS]
    else:
        sizes = []
        for one in RANKINGS:
            texts = [c.text for c in one.completions]
            prompt, answers = render_answers(begin.tokenizer, one.prompt.messages, texts)
            sizes.append(len(prompt) + max(map(len, answers)))
    done = json.loads((checkpoint.parent / "done.json").read_text())
    assert 0 < sum(size > 14 for size in sizes) < len(sizes)
    assert sum(done["left_out"].values()) == sum(size > 14 for size in sizes)


# ---- pretraining


def pretrain_job(begin: Start, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": begin.folder / "sft", "text": {"one": begin.folder / "text.jsonl"},
        "heldout": begin.folder / "chinese.jsonl", "sequence": 8, "batch_size": 5, "steps": 3, "lr": 0.01, "warmup": 2,
        "floor": 0.5, "clip": CLIPS["pretrain"], "evaluate_every": 1, "machine": MACHINE,
    }  # fmt: skip
    return make_job(pretrain.main, out, values, changes)


def bits_per_byte(begin: Start, model: Decoder, sequence: int) -> float:
    """Every token of the Chinese text but the first, in windows that are read one after another."""
    order = sorted(range(len(CHINESE)), key=lambda i: derive(0, "heldout.documents", i))
    stream = [i for d in (CHINESE[i] for i in order) for i in (begin.tokenizer.bos_id, *begin.tokenizer.encode(d.text))]
    nats = 0.0
    with torch.no_grad():
        for start in range(0, len(stream) - 1, sequence):
            window = stream[start : start + sequence + 1]
            nats -= sum(p.item() for p in logprobs_of(model, window[:1], window[1:]))
    return nats / math.log(2) / sum(len(d.text.encode("utf-8")) for d in CHINESE)


@pytest.mark.parametrize(("microbatch", "tokens"), [(0, 1 << 14), (3, 1 << 14), (1, 1 << 14), (0, 31), (0, 7)])
def test_pretraining_is_what_plain_python_computes(begin, tmp_path, monkeypatch, microbatch, tokens):
    with recorded(monkeypatch) as record:
        machine = MACHINE | {"pass_tokens": tokens}
        checkpoint = pretrain_job(begin, tmp_path / "run", microbatch=microbatch, machine=machine).run()
    model = load_decoder(begin.folder / "sft")
    plain = Plain(model, 0.01, 0.1, CLIPS["pretrain"])
    log = rows(checkpoint)
    for row, step, factor in zip(log, record.steps, (0.5, 1.0, 1.0), strict=True):
        assert [len(window) for window in step.windows] == [9] * 5
        assert step.widest == {31: 3, 7: 1}.get(tokens, microbatch or 5)  # windows of 8
        loss = text_loss(model, step.windows)
        norm = plain.step(loss, factor)
        bits = bits_per_byte(begin, model, 8)
        assert_logged(row, loss=loss.item(), grad_norm=norm, lr=0.01 * factor, bits_per_byte=bits)
    assert len({tuple(window) for step in record.steps for window in step.windows}) == 15
    assert_same_weights(load_decoder(checkpoint), model)


@pytest.fixture(scope="module")
def two_texts(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    for name in ("a", "b"):
        text = " ".join(f"{name}{i}" for i in range(400))
        write_jsonl(folder / f"{name}.jsonl", [Document(text=text)])
    return {"one": folder / "a.jsonl", "other": folder / "b.jsonl"}


@pytest.mark.parametrize("stage", ["pretrain", "sft", "ppo"])
def test_texts_are_mixed_by_their_weights_and_the_seed_draws_them(begin, two_texts, tmp_path, monkeypatch, stage):
    ptx = {"coef": 0.1, "weights": {"one": 3.0}, "windows": 4}
    make = {
        "pretrain": lambda out, seed: pretrain_job(
            begin, out, text=two_texts, weights={"one": 3.0}, batch_size=4, steps=4, seed=seed
        ),
        "sft": lambda out, seed: sft_job(begin, out, text=two_texts, ptx=ptx, seed=seed),
        "ppo": lambda out, seed: ppo_job(
            begin, out, text=two_texts, ptx=ptx, updates=1, scorers={}, minibatch=3, inner_epochs=2, seed=seed
        ),
    }[stage]
    drawn = []
    for seed in range(2):
        with recorded(monkeypatch) as record:
            make(tmp_path / str(seed), seed).run()
        windows = [begin.tokenizer.decode(window) for step in record.steps for window in step.windows]
        assert len(windows) == 16
        assert sum("a" in window for window in windows) == 12
        assert sum("b" in window for window in windows) == 4
        drawn.append(windows)
    assert set(drawn[0]) != set(drawn[1])


def test_a_uniform_model_needs_log2_v_bits_per_token_of_chinese_text(begin, tmp_path):
    """(n - 1) log2 V / bytes: all tokens but the first are predicted, and bytes are not characters."""
    uniform = random_decoder(begin.tokenizer, 0)
    with torch.no_grad():
        uniform.unembed.weight.zero_()
    save(tmp_path / "uniform", uniform, begin.tokenizer)
    job = pretrain_job(begin, tmp_path / "run", checkpoint=tmp_path / "uniform", steps=1, lr=1e-12, weight_decay=0.0)
    tokens = sum(1 + len(begin.tokenizer.encode(d.text)) for d in CHINESE)
    size = sum(len(d.text.encode("utf-8")) for d in CHINESE)
    expected = (tokens - 1) * math.log2(begin.tokenizer.vocab_size) / size
    assert rows(job.run())[0]["bits_per_byte"] == pytest.approx(expected, rel=1e-6)


def test_the_best_bits_per_byte_is_the_lowest_and_is_kept_beside_the_result(begin, tmp_path):
    machine = MACHINE | {"keep_best": "bits_per_byte"}
    checkpoint = pretrain_job(begin, tmp_path / "run", steps=6, lr=0.05, machine=machine).run()
    bits = [row["bits_per_byte"] for row in rows(checkpoint)]
    best = checkpoint.parent / "checkpoints" / "best"
    assert json.loads((best / "lineage.json").read_text())["step"] == 1 + bits.index(min(bits))
    assert bits_per_byte(begin, load_decoder(best), 8) == pytest.approx(min(bits), rel=1e-4)
    assert bits_per_byte(begin, load_decoder(checkpoint), 8) == pytest.approx(bits[-1], rel=1e-4)
    assert min(bits) < bits[-1]


# ---- reward models


def ranking(question: str, answers: Sequence[str], ranks: Sequence[int], unfinished: int = 0) -> Ranking:
    completions = [Completion(text=answer, finished=i >= unfinished) for i, answer in enumerate(answers)]
    prompt = Prompt(messages=(Message(role="user", content=question),))
    return Ranking(prompt=prompt, completions=tuple(completions), ranks=tuple(ranks))


RANKINGS = [
    ranking("?", ("yes", "no, another", "a"), (1, 2, 2)),
    ranking("a small text?", ("small", "another small text, and so on"), (2, 1)),
    ranking("and?", ("a", "b", "and so on", "no"), (3, 1, 1, 2)),
    ranking("and?", ("a", "b", "and so on", "no"), (1, 2, 3, 4)),  # another labeller
    ranking("so?", ("so and so", "n"), (1, 2), unfinished=1),
    ranking("a small text, and?", ("small", "another", "!"), (1, 1, 2)),
]


def reward_job(begin: Start, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": begin.folder / "sft", "rankings": begin.folder / "rankings.jsonl",
        "heldout": begin.folder / "rankings.jsonl", "batch_size": 3, "epochs": 2, "lr": 1e-3, "warmup": 2,
        "floor": 0.5, "clip": CLIPS["reward"], "evaluate_every": 1, "machine": MACHINE,
    }  # fmt: skip
    return make_job(reward.main, out, values, changes)


def ranking_losses(begin: Start, model: ScalarModel, one: Ranking, ties: str) -> tuple[Tensor, float]:
    """The mean of -log sigmoid(better - worse) over the pairs, where a tie is half a win each; the share in the right order."""
    texts, finished = [c.text for c in one.completions], [c.finished for c in one.completions]
    prompt, completions = render_answers(begin.tokenizer, one.prompt.messages, texts, finished)
    scores = [model(torch.tensor([[*prompt, *completion]]))[0, -1] for completion in completions]
    losses, right = [], []
    for i, (score, rank) in enumerate(zip(scores, one.ranks, strict=True)):
        for other, lower in list(zip(scores, one.ranks, strict=True))[i + 1 :]:
            margin = score - other if rank < lower else other - score
            if rank != lower:
                losses.append((1 + (-margin).exp()).log())
                right.append(float(margin > 0))
            elif ties == "half":
                losses.append(0.5 * (1 + (-margin).exp()).log() + 0.5 * (1 + margin.exp()).log())
    return torch.stack(losses).mean(), fmean(right)


@pytest.mark.parametrize(
    ("ties", "microbatch", "tokens"),
    [("half", 8, 999), ("half", 2, 999), ("half", 1, 999), ("skip", 2, 999), ("half", 8, 70), ("half", 8, 8)],
)
def test_a_reward_model_is_what_plain_python_computes(begin, tmp_path, monkeypatch, ties, microbatch, tokens):
    """Two labellers of the same completions share a forward pass, and count as two rankings."""
    with recorded(monkeypatch) as record:
        machine = MACHINE | {"pass_tokens": tokens}
        checkpoint = reward_job(begin, tmp_path / "run", ties=ties, microbatch=microbatch, machine=machine).run()
    model = ScalarModel.from_decoder(load_decoder(begin.folder / "sft"))
    model.head.weight.data = record.heads[0]
    plain = Plain(model, 1e-3, 0.1, CLIPS["reward"])
    packed = []
    for one in RANKINGS[:3] + RANKINGS[4:]:
        finished = [c.finished for c in one.completions]
        prompt, completions = render_answers(
            begin.tokenizer, one.prompt.messages, [c.text for c in one.completions], finished
        )
        packed.append([*prompt, *(i for completion in completions for i in completion)])
    members = {0: [0], 1: [1], 2: [2, 3], 3: [4], 4: [5]}
    batches = [[number for i in step.chosen(packed) for number in members[i]] for step in record.steps]
    assert sorted(batches[0] + batches[1]) == sorted(batches[2] + batches[3]) == list(range(6))
    assert max(step.widest for step in record.steps) == {999: min(microbatch, 3), 70: 2, 8: 1}[tokens]
    assert max(step.largest for step in record.steps) <= tokens
    log = {int(row["step"]): row for row in rows(checkpoint)}
    for number, (batch, factor) in enumerate(zip(batches, (0.5, 1.0, 1.0, 0.75), strict=True), 1):
        losses, right = zip(*(ranking_losses(begin, model, RANKINGS[i], ties) for i in batch), strict=True)
        loss = torch.stack(losses).mean()
        norm = plain.step(loss, factor)
        with torch.no_grad():
            every = [ranking_losses(begin, model, one, ties) for one in RANKINGS]
        assert_logged(
            log[number], loss=loss.item(), grad_norm=norm, accuracy=fmean(right), lr=1e-3 * factor,
            heldout_loss=fmean(loss.item() for loss, _ in every), heldout_accuracy=fmean(right for _, right in every),
        )  # fmt: skip
    assert_same_weights(load_scalar(checkpoint), model)


def test_answers_to_other_prompts_are_drawn_anew_at_every_step_and_do_not_count_in_the_accuracy(
    begin, tmp_path, monkeypatch
):
    still = {"lr": 1e-12, "weight_decay": 0.0, "batch_size": 6, "epochs": 4}
    alone = rows(reward_job(begin, tmp_path / "alone", **still).run())
    with recorded(monkeypatch) as record:
        strangers = rows(reward_job(begin, tmp_path / "strangers", noncontextual=1, **still).run())
    assert [row["accuracy"] for row in strangers] == pytest.approx([row["accuracy"] for row in alone])
    assert all(abs(one["loss"] - other["loss"]) > 1e-3 for one, other in zip(alone, strangers, strict=True))
    assert len({frozenset(step.rows) for step in record.steps}) == 4


def test_no_prompt_is_both_trained_and_held_out(begin, tmp_path, monkeypatch):
    """Without a held-out file a share of the prompts is measured on, with all of their rankings and follow-ups."""
    rankings = []
    for i in range(40):
        question = f"number {i * i + 100}?"
        rankings += [ranking(question, answers, (1, 2)) for answers in (("a", "b"), ("c", "d"))]
        dialogue = (*talk(question, f"x{i}").messages, Message(role="user", content="so?"))
        completions = (Completion(text="e"), Completion(text="f"))
        rankings.append(Ranking(prompt=Prompt(messages=dialogue), completions=completions, ranks=(1, 2)))
    write_jsonl(tmp_path / "rankings.jsonl", rankings)
    held = []
    for seed in range(2):
        job = reward_job(
            begin, tmp_path / f"run{seed}", rankings=tmp_path / "rankings.jsonl", heldout=None, heldout_share=0.3,
            batch_size=16, evaluate_every=0, epochs=1, seed=seed,
        )  # fmt: skip
        with recorded(monkeypatch) as record:
            checkpoint = job.run()
        trained = {row for step in record.steps for row in step.rows}
        sides = [
            {i for i in range(40) if any(f"number {i * i + 100}?" in begin.tokenizer.decode(row) for row in side)}
            for side in (trained, record.only_read)
        ]
        assert not sides[0] & sides[1]
        assert sides[0] | sides[1] == set(range(40))
        assert 4 <= len(sides[1]) <= 20
        held.append(sides[1])
        done = json.loads((checkpoint.parent / "done.json").read_text())
        assert (done["prompts"], done["heldout"]) == (3 * len(sides[0]), 3 * len(sides[1]))
    assert held[0] != held[1]


def test_every_checkpoint_of_a_reward_model_scores_demonstrations_zero_and_training_does_not_notice(begin, tmp_path):
    machine = MACHINE | {"checkpoint_every": 1, "keep_last": 9}
    demonstrations = begin.folder / "demonstrations.jsonl"
    centred = reward_job(begin, tmp_path / "centred", demonstrations=demonstrations, machine=machine).run()
    plain = reward_job(begin, tmp_path / "plain", machine=machine).run()
    assert rows(centred) == rows(plain)
    folders = sorted((centred.parent / "checkpoints").glob("step-*"))
    assert len(folders) == 3
    for folder in [*folders, centred]:
        scores = Assistant.load(folder, device="cpu", dtype="fp32").scores([d.messages for d in DEMONSTRATIONS])
        assert fmean(scores) == pytest.approx(0.0, abs=1e-5)
        twin = load_scalar(plain.parent / folder.relative_to(centred.parent))
        assert twin.offset == 0
        assert_same_weights(load_scalar(folder).decoder, copy.deepcopy(twin.decoder), atol=0)
