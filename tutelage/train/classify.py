"""Discriminative fine-tuning: a pretrained model learns to classify (GPT-1, Radford et al. 2018, sections 3.2 and 3.3).

    tutelage classify --checkpoint runs/base/checkpoint --train reviews.jsonl --out runs/polarity

The loss is L2 + lambda L1 (equation 5): -log p of the class, which a linear head reads at the last token, and ``lm_coef`` times the
language-model loss on the same texts. ``from_scratch`` is the control without pretraining. The result is the model after the last
step; a checkpoint chosen on the held-out rows would make its accuracy on them too high.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tutelage.data.tokens.batches import cut_by_length, pad_right
from tutelage.files import write_atomic
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.heads import Classifier
from tutelage.model.likelihood import summed_nll
from tutelage.objectives.classification import class_loss, confusion, macro_f1, precision_recall_f1
from tutelage.objectives.language import over_count
from tutelage.records import TaskFormat
from tutelage.seeds import derive
from tutelage.settings import Inputs, ModelPath, Rows
from tutelage.statistics import calibration_error, wilson
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.labelled import Item, encode_labelled, labels_of, read_split, require_classes, require_some
from tutelage.train.loop import Metrics, Schedule, Training, apply_gradients, epoch_batches, train
from tutelage.train.memory import say_memory
from tutelage.train.models import load_trainable
from tutelage.train.optimizer import Optimizer, make_optimizer
from tutelage.train.settings import (
    LearningSettings,
    WeightDecay,
    longest_row,
    require_microbatch,
    rows_of,
    warn_of_few_rows,
)

PREDICTIONS = "predictions.jsonl"
"""One line per held-out example: where it is from, its label, what was predicted, and the probability of each class."""


class ClassifyInputs(Inputs):
    """What fine-tuning a classifier reads."""

    checkpoint: ModelPath = Field(description="language model to start from: a folder, or a name on the hub")
    train: Path = Field(description="labelled examples to learn from")
    heldout: Path | None = Field(None, description="labelled examples to measure on; none: a share of those")


class ClassifySettings(LearningSettings):
    """Knobs of ``tutelage classify``."""

    format: TaskFormat = Field("classification", description="what an example is")
    labels: tuple[str, ...] = Field((), description="the classes, in the order of the outputs; none: those in the data")
    from_scratch: bool = Field(False, description="draw all weights anew: the control without pretraining")
    lm_coef: float = Field(
        0.5, ge=0, description="weight of the language-model loss on the texts (GPT-1: 0.5); 0: none"
    )
    heldout_share: float = Field(0.1, gt=0, lt=1, description="share of texts to measure on without a held-out file")
    epochs: int = Field(3, gt=0, description="passes over the examples")
    batch_size: int = Field(32, gt=0, description="examples per step")
    microbatch: int = Field(0, ge=0, description="most examples per forward pass; 0: no limit")
    max_length: int = Field(512, ge=8, description="longest row; of longer texts the beginning is cut off [tokens]")
    lr: float = Field(5e-4, gt=0, description="peak learning rate (GPT-1, 117 M parameters: 6.25e-5)")
    floor: float = Field(0.0, ge=0, le=1, description="last learning rate, as a share of the peak (linear in between)")
    weight_decay: WeightDecay = 0.01
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout while training, before the head too")
    evaluate_every: int = Field(0, ge=0, description="steps between held-out measurements; 0: only at the end")

    @model_validator(mode="after")
    def _fits_together(self) -> ClassifySettings:
        require_microbatch(self.microbatch, self.batch_size)
        if self.from_scratch and self.lora.r:
            raise ValueError(
                "from_scratch and lora: adapters on untrained weights learn nothing; choose one of the two"
            )
        if self.labels and self.format == "choice":
            raise ValueError("labels: the rows of format choice bring their own choices; leave labels out")
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels: give two different ones or more, found {', '.join(self.labels)}")
        return self

    def check_data(self, inputs: Inputs, rows: Rows) -> Iterator[str]:
        """Training should outlast the warm-up."""
        assert isinstance(inputs, ClassifyInputs)
        yield from warn_of_few_rows(
            rows, self.format, inputs.train, self.batch_size, self.epochs, self.warmup, "examples"
        )


def main(knobs: ClassifySettings, inputs: ClassifyInputs, out: Path) -> Path:
    """Run the stage; returns the checkpoint folder."""
    with parallel.open_stage(out, "classify", knobs, inputs) as (run, inputs):
        if run.finished:
            return run.checkpoint
        format, on_bad = knobs.format, knobs.on_bad

        # data
        tokenizer = Tokenizer.load(inputs.checkpoint)
        decoder = starting_point(knobs, inputs.checkpoint, tokenizer)
        longest = longest_row(knobs.max_length, decoder.config.max_position_embeddings)
        split = read_split(inputs.train, inputs.heldout, format, knobs.heldout_share, knobs.seed, on_bad)
        labels = () if format == "choice" else knobs.labels or labels_of(split[0])
        examples = encode_labelled(split[0], tokenizer, format, labels, longest, on_bad)
        require_classes(examples.items, labels, inputs.train)
        heldout = encode_labelled(split[1], tokenizer, format, labels, longest, on_bad)
        require_some(heldout.items, labels, inputs.heldout or inputs.train)
        left_out, heldout_left_out = split[2] | examples.reasons, split[3] | heldout.reasons
        for path, reasons in ((inputs.train, left_out), (inputs.heldout or inputs.train, heldout_left_out)):
            if reasons:
                print(f"{path}: " + ", ".join(f"{count} x {reason}" for reason, count in reasons.items()))
        batches = epoch_batches(examples.items, knobs.batch_size, knobs.epochs, knobs.seed, "classify.order")

        # model and optimiser
        torch.manual_seed(derive(knobs.seed, "classify.head"))
        model = Classifier(decoder, format, labels).train()
        optimizer = make_optimizer(knobs.optimizer, model, knobs.lr, weight_decay=knobs.weight_decay)
        widest = max(item.longest for item in examples.items)
        several = max(len(item.rows) for item in examples.items)
        rows = rows_of(widest, several * (knobs.microbatch or knobs.batch_size), knobs.machine.pass_tokens)
        say_memory([model], [decoder], max(rows, several), widest, knobs.machine.dtype, knobs.optimizer)
        latest: list[list[float]] = []

        def evaluate(step: int) -> Metrics:
            latest[:] = probabilities(model, heldout.items, tokenizer.pad_id, knobs)
            return heldout_metrics(latest, heldout.items, labels)

        training = Training(
            modules={"model": model},
            optimizer=optimizer,
            update=lambda step: classify_update(knobs, model, optimizer, batches[step], tokenizer.pad_id),
            schedule=Schedule(
                len(batches), knobs.warmup, knobs.floor, derive(knobs.seed, "classify.dropout"), knobs.evaluate_every,
                log_every=2, decay="linear",
            ),
            result=(model, tokenizer),
            evaluate=evaluate,
            measures=("heldout_loss", "heldout_accuracy", *(["heldout_macro_f1"] if labels else [])),
            show=("loss", "accuracy", "heldout_accuracy"),
        )  # fmt: skip
        outcome = train(run, training, knobs.machine)
        if run.writer:
            lines = [json.dumps(row, ensure_ascii=False) for row in predictions(latest, heldout.items, labels)]
            write_atomic(out / PREDICTIONS, "".join(f"{line}\n" for line in lines).encode())
        figures = {"examples": len(examples.items), "left_out": left_out, "heldout": len(heldout.items)}
        figures |= {"heldout_left_out": heldout_left_out}
        run.finish(figures | class_figures(latest, examples.items, heldout.items, labels) | outcome.measured)
        return run.checkpoint


def starting_point(knobs: ClassifySettings, checkpoint: Path, tokenizer: Tokenizer) -> Decoder:
    """The checkpoint's language model with or without adapters, or one of the same architecture whose weights are all fresh."""
    torch.manual_seed(derive(knobs.seed, "classify.adapters"))
    decoder = load_trainable(checkpoint, tokenizer, knobs.lora, knobs.machine)
    if knobs.from_scratch:  # init_weights would leave the norms as they were pretrained
        torch.manual_seed(derive(knobs.seed, "classify.weights"))
        fresh = Decoder(decoder.config).to(decoder.embed.weight.device, decoder.embed.weight.dtype)
        fresh.recompute = decoder.recompute
        decoder = fresh
    if not knobs.lm_coef:
        decoder.unembed = None
    decoder.dropout = knobs.dropout
    return decoder


def classify_update(
    knobs: ClassifySettings, model: Classifier, optimizer: Optimizer, batch: Sequence[Item], pad_id: int
) -> Metrics:
    """One optimisation step."""
    metrics = classify_backward(model, batch, pad_id, knobs)
    return metrics | {"grad_norm": apply_gradients(optimizer, knobs.clip, model)}


def classify_backward(model: Classifier, batch: Sequence[Item], pad_id: int, knobs: ClassifySettings) -> Metrics:
    """Add the gradient of the batch's loss to the model's; the loss and its two parts, in nats per example and per token.

    The language-model loss is the mean over all tokens but the first of every row, in the whole batch. (GPT-1's code takes the
    mean over each row first, so that a token counts less in a long text.)
    """
    mine = parallel.shard(batch)
    tokens = sum(len(row) - 1 for item in batch for row in item.rows)
    class_total = lm_total = right = 0.0
    for part in passes(mine, knobs):
        with autocast(next(model.parameters()).device, knobs.machine.dtype):
            logits, hidden, ids, counted = forward(model, part, pad_id)
            classes = torch.tensor([item.label for item in part], device=ids.device)
            loss = by_class = class_loss(logits, classes, len(batch))
            if knobs.lm_coef:
                nll = summed_nll(model.decoder, hidden[:, :-1][counted], ids[:, 1:][counted])
                by_token = over_count(nll, tokens)
                loss = by_class + knobs.lm_coef * by_token
                lm_total += by_token.item()
        loss.backward()
        class_total += by_class.item()
        right += (logits.argmax(1) == classes).sum().item()
    class_total, lm_total = parallel.total(class_total), parallel.total(lm_total)
    metrics = {"loss": class_total + knobs.lm_coef * lm_total, "class_loss": class_total}
    metrics |= {"lm_loss": lm_total} if knobs.lm_coef else {}
    return metrics | {"accuracy": parallel.total(right) / len(batch), "tokens": float(tokens)}


def passes(items: Sequence[Item], knobs: ClassifySettings) -> list[list[Item]]:
    """The examples of each forward pass. One with many choices goes through in one piece, however long it is."""
    several = max((len(item.rows) for item in items), default=1)
    tokens = max(1, knobs.machine.pass_tokens // several)
    return [
        [items[i] for i in rows] for rows in cut_by_length([one.longest for one in items], knobs.microbatch, tokens)
    ]


def forward(model: Classifier, items: Sequence[Item], pad_id: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits [b, k], hidden states [n, s, d] and ids [n, s] of the items' n rows, and [n, s - 1] where the next id is real."""
    device = next(model.parameters()).device
    ids, mask = (tensor.to(device) for tensor in pad_right([row for item in items for row in item.rows], pad_id))
    logits, hidden = model(ids, mask.sum(1) - 1, [len(item.rows) for item in items])
    return logits, hidden, ids, mask[:, 1:]


@torch.no_grad()
def probabilities(model: Classifier, items: Sequence[Item], pad_id: int, knobs: ClassifySettings) -> list[list[float]]:
    """Of each example the probability of each class, or of each of its choices."""
    model.eval()
    found: dict[int, list[float]] = {}
    for part in passes(items, knobs):
        with autocast(next(model.parameters()).device, knobs.machine.dtype):
            rows = forward(model, part, pad_id)[0].cpu().double().softmax(1).tolist()
        for item, row in zip(part, rows, strict=True):
            found[id(item)] = row[: len(item.rows)] if model.format == "choice" else row
    model.train()
    return [found[id(item)] for item in items]


def heldout_metrics(found: Sequence[Sequence[float]], items: Sequence[Item], labels: Sequence[str]) -> Metrics:
    """What the probabilities are worth: -log p of the class [nats], accuracy with its 95% interval, macro F1, calibration."""
    classes = torch.tensor([item.label for item in items])
    predicted = torch.tensor([max(range(len(row)), key=row.__getitem__) for row in found])
    given = torch.tensor([row[item.label] for row, item in zip(found, items, strict=True)], dtype=torch.float64)
    right = predicted == classes
    _, low, high = wilson(int(right.sum()), len(items))
    metrics = {
        "heldout_loss": -given.clamp(min=1e-300).log().mean().item(),
        "heldout_accuracy": right.double().mean().item(),
        "heldout_accuracy_low": low,
        "heldout_accuracy_high": high,
        "heldout_calibration_error": calibration_error(torch.tensor([max(row) for row in found]), right),
    }
    return metrics | ({"heldout_macro_f1": macro_f1(confusion(predicted, classes, len(labels)))} if labels else {})


def class_figures(
    found: Sequence[Sequence[float]], trained: Sequence[Item], items: Sequence[Item], labels: Sequence[str]
) -> dict[str, Any]:
    """Of each class: examples trained and measured on, precision, recall and F1; and the accuracy of always saying the commonest.

    For choices, which have no classes, only what guessing would give.
    """
    if not labels:
        return {"heldout_chance": sum(1 / len(item.rows) for item in items) / len(items)}
    classes = torch.tensor([item.label for item in items])
    predicted = torch.tensor([max(range(len(row)), key=row.__getitem__) for row in found])
    counts = confusion(predicted, classes, len(labels))
    names = ("precision", "recall", "f1")
    scores = [dict(zip(names, row, strict=True)) for row in torch.stack(precision_recall_f1(counts), 1).tolist()]
    seen = torch.bincount(torch.tensor([item.label for item in trained]), minlength=len(labels)).tolist()
    held = counts.sum(1).tolist()
    classes_by_name = {label: {"trained": seen[i], "heldout": held[i]} | scores[i] for i, label in enumerate(labels)}
    commonest = held[max(range(len(labels)), key=seen.__getitem__)]
    return {"classes": classes_by_name, "confusion": counts.tolist(), "heldout_commonest": commonest / len(items)}


def predictions(
    found: Sequence[Sequence[float]], items: Sequence[Item], labels: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Rows of PREDICTIONS, in the order of the held-out examples: runs with the same rows can be compared in pairs."""
    for row, item in zip(found, items, strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        names = [labels[i] for i in (item.label, best)] if labels else [item.label, best]
        yield {"place": item.place, "label": names[0], "predicted": names[1], "probabilities": list(row)}
