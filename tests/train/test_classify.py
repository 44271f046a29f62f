"""GPT-1's fine-tuning: its loss against plain Python, a task that it learns, its result, and runs that are disturbed."""

from __future__ import annotations

import copy
import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from random_start import Start, logprobs_of, make_start, random_decoder, save
from real_process import SAVING, assert_same_end, die, finish, said, saved_step, start, start_ranks
from safetensors.torch import load_file
from toy_task import MACHINE, Job, logged, make_job

from tutelage.assistant.classifier import TextClassifier
from tutelage.data.formats import write_jsonl
from tutelage.errors import DataError, RecipeError
from tutelage.model.heads import Classifier
from tutelage.recipes.steps import plan, read_recipe
from tutelage.records import Labelled
from tutelage.settings import validated
from tutelage.train import classify
from tutelage.train.classify import ClassifySettings, classify_backward, forward, probabilities, starting_point
from tutelage.train.labelled import Item, encode_labelled
from tutelage.train.loop import lr_factor

FORMATS = ("classification", "entailment", "similarity", "choice")
LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Start:
    """Random checkpoints, and a task: whether a text says "another" or "small"."""
    start = make_start(tmp_path_factory.mktemp("classify"))
    save(start.folder / "other", random_decoder(start.tokenizer, 7), start.tokenizer)
    rng = random.Random(0)
    words = ["a", "text", "and", "an", "other"]
    rows = []
    for i in range(240):
        said = [rng.choice(words) for _ in range(rng.randint(1, 6))]
        said.insert(rng.randrange(len(said) + 1), "small" if i % 2 else "another")
        rows.append(Labelled(text=f"{i} {' '.join(said)}", label="little" if i % 2 else "more"))
    write_jsonl(start.folder / "train.jsonl", rows[:180])
    write_jsonl(start.folder / "heldout.jsonl", rows[180:])
    return start


def classify_job(begin: Start, out: Path, **changes: Any) -> Job:
    values = {
        "checkpoint": begin.folder / "sft", "train": begin.folder / "train.jsonl",
        "heldout": begin.folder / "heldout.jsonl", "epochs": 1, "batch_size": 16, "lr": 1e-2, "warmup": 2,
        "machine": MACHINE,
    }  # fmt: skip
    return make_job(classify.main, out, values, changes)


def settings(**changes: Any) -> ClassifySettings:
    return ClassifySettings.model_validate({"machine": MACHINE, "dropout": 0.0} | changes)


def some_items(begin: Start, format) -> list[Item]:
    """Eight examples of different lengths; of choices, of different numbers of them."""
    examples = []
    for i in range(8):
        choices = tuple("and so on"[: j + 1] for j in range(2 + i % 3)) if format == "choice" else ()
        label = str(i % 2) if choices else LABELS[i % 3]
        examples.append(
            Labelled(text="a small text " * (i % 4 + 1), second="z" * (i + 1), choices=choices, label=label)
        )
    labels = () if format == "choice" else LABELS
    return encode_labelled([("", one) for one in examples], begin.tokenizer, format, labels, 60).items


def some_model(begin: Start, format) -> Classifier:
    model = Classifier(random_decoder(begin.tokenizer, 3), format, () if format == "choice" else LABELS).train()
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(4))
    return model


def plain_loss(model: Classifier, items: list[Item], lm_coef: float) -> torch.Tensor:
    """One unpadded row at a time, by the formulas: mean -log p of the class, and mean -log p of every token but the first."""
    by_class, by_token = [], []
    for item in items:
        read = [model.decoder(torch.tensor([row]))[0, -1] for row in item.rows]
        logits = torch.stack([h @ model.head.weight[0] for h in read])
        if model.format != "choice":
            logits = model.head.weight @ sum(read)
        by_class.append(logits.exp().sum().log() - logits[item.label])
        by_token += [-p for row in item.rows for p in logprobs_of(model.decoder, row[:1], row[1:])]
    loss = torch.stack(by_class).mean()
    return loss + lm_coef * torch.stack(by_token).mean() if lm_coef else loss


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("lm_coef", [0.0, 0.5])
def test_loss_and_gradient_are_those_of_a_plain_loop_however_a_batch_is_cut(begin, format, lm_coef):
    """Without padding, one row at a time; so padding and microbatches change nothing: 1 x 8 is 8 x 1."""
    items, model = some_items(begin, format), some_model(begin, format)
    plain = copy.deepcopy(model)
    expected = plain_loss(plain, items, lm_coef)
    expected.backward()
    for microbatch, tokens, pad_id in ((0, 16384, begin.tokenizer.pad_id), (1, 16384, 9), (3, 16384, 9), (0, 64, 9)):
        model.zero_grad()
        knobs = settings(lm_coef=lm_coef, microbatch=microbatch, machine=MACHINE | {"pass_tokens": tokens})
        metrics = classify_backward(model, items, pad_id, knobs)
        assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-5)
        assert metrics["loss"] == pytest.approx(metrics["class_loss"] + lm_coef * metrics.get("lm_loss", 0.0))
        for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
            if other.grad is None:
                assert one.grad is None, name  # the output layer, where the texts are not learned
            else:
                torch.testing.assert_close(one.grad, other.grad, atol=2e-5, rtol=1e-4, msg=name)


def test_the_loss_by_hand(begin):
    """A head of zeros finds three classes equally likely, and a decoder of zeros every token."""
    items, model = some_items(begin, "classification"), some_model(begin, "classification")
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    metrics = classify_backward(model, items, 9, settings(lm_coef=0.5))
    vocabulary = torch.tensor(float(begin.tokenizer.vocab_size))
    assert metrics["class_loss"] == pytest.approx(1.098612, abs=1e-5)
    assert metrics["lm_loss"] == pytest.approx(vocabulary.log().item(), abs=1e-5)
    assert metrics["loss"] == pytest.approx(1.098612 + 0.5 * vocabulary.log().item(), abs=1e-4)


def test_a_similarity_does_not_know_which_text_is_the_first(begin):
    model = some_model(begin, "similarity")
    pair = [("", Labelled(text="a small text", second="another", label="a")),
            ("", Labelled(text="another", second="a small text", label="a"))]  # fmt: skip
    items = encode_labelled(pair, begin.tokenizer, "similarity", LABELS, 60).items
    one, other = probabilities(model, items, 9, settings(format="similarity"))
    assert one == pytest.approx(other, rel=1e-5)


def test_dropout_acts_while_training_alone(begin):
    items, model = some_items(begin, "classification"), some_model(begin, "classification")
    model.decoder.dropout = 0.5
    with torch.no_grad():
        assert not forward(model, items, 9)[0].allclose(forward(model, items, 9)[0])
    assert probabilities(model, items, 9, settings()) == probabilities(model, items, 9, settings())
    assert model.training


def test_the_decay_is_linear():
    given = [lr_factor(step, 10, warmup=2, floor=0.2, decay="linear") for step in (0, 1, 2, 6, 10, 99)]
    assert given == pytest.approx([0.5, 1.0, 1.0, 0.6, 0.2, 0.2])
    assert lr_factor(1, 10, warmup=4, floor=0.0, decay="linear") == lr_factor(1, 10, warmup=4, floor=0.0) == 0.5


@pytest.fixture(scope="module")
def learned(begin, tmp_path_factory) -> Path:
    return classify_job(begin, tmp_path_factory.mktemp("run") / "learned", epochs=8, evaluate_every=20).run()


def test_it_learns_and_reports(begin, learned):
    done = json.loads((learned.parent / "done.json").read_text())
    rows = logged(learned.parent)
    assert done["heldout_accuracy"] > 0.95
    assert done["heldout_accuracy_low"] < done["heldout_accuracy"] <= done["heldout_accuracy_high"]
    assert done["heldout_macro_f1"] > 0.95
    assert 0 <= done["heldout_calibration_error"] < 0.2
    assert rows[-1]["heldout_accuracy"] == done["heldout_accuracy"]
    assert rows[-1]["lm_loss"] < rows[0]["lm_loss"]
    for row in rows:
        assert row["lr"] == pytest.approx(
            1e-2 * lr_factor(int(row["step"]) - 1, 96, warmup=2, floor=0.0, decay="linear")
        )
    assert sum("heldout_accuracy" in row for row in rows) > 2
    assert {name: (figures["trained"], figures["heldout"]) for name, figures in done["classes"].items()} == {
        "little": (90, 30), "more": (90, 30),
    }  # fmt: skip
    assert done["heldout_commonest"] == 0.5
    found = [json.loads(line) for line in (learned.parent / "predictions.jsonl").read_text().splitlines()]
    assert sum(row["label"] == row["predicted"] for row in found) / 60 == pytest.approx(done["heldout_accuracy"])
    assert found[1]["place"] == f"{begin.folder / 'heldout.jsonl'}:2"
    counts = [
        [sum((r["label"], r["predicted"]) == (a, b) for r in found) for b in done["classes"]] for a in done["classes"]
    ]
    assert done["confusion"] == counts


def test_the_result_says_the_same_here_and_in_transformers(begin, learned):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    found = [json.loads(line) for line in (learned.parent / "predictions.jsonl").read_text().splitlines()]
    texts = [json.loads(line)["text"] for line in (begin.folder / "heldout.jsonl").read_text().splitlines()]
    ours = TextClassifier.load(learned, device="cpu", dtype="fp32")
    assert ours.model.labels == ("little", "more")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(learned),
        AutoModelForSequenceClassification.from_pretrained(learned),
    )
    batch = tokenizer(
        [f"<|bos|>{text}<|end|>" for text in texts], padding=True, return_tensors="pt", add_special_tokens=False
    )
    with torch.no_grad():
        theirs = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(1)
    for row, one, other in zip(found, ours.probabilities(texts), theirs.tolist(), strict=True):
        assert one == pytest.approx(row["probabilities"], abs=1e-5)
        assert other == pytest.approx(row["probabilities"], abs=1e-5)
    assert model.config.id2label == {0: "little", 1: "more"}


def test_fresh_weights_have_nothing_of_the_checkpoint(begin):
    made = [
        starting_point(settings(from_scratch=True, seed=seed), begin.folder / name, begin.tokenizer).state_dict()
        for name, seed in (("sft", 0), ("other", 0), ("sft", 1))
    ]
    known = starting_point(settings(), begin.folder / "sft", begin.tokenizer).state_dict()
    for name, weight in made[0].items():
        assert weight.equal(made[1][name])
        if "norm" in name:
            assert (weight == 1).all()
        else:
            assert not weight.allclose(known[name])
            assert not weight.allclose(made[2][name])


@pytest.mark.parametrize("format", ["entailment", "choice"])
def test_adapters_and_the_other_formats_train(begin, tmp_path, format):
    """The merged checkpoint says what the model with adapters said."""
    rows = [
        Labelled(
            text=f"{i} and", second="small" if i % 2 else "another", choices=("small", "another"), label=str(i % 2)
        )
        for i in range(24)
    ]
    if format == "choice":
        file, given = (
            tmp_path / "rows.jsonl",
            [{"question": r.text, "choices": r.choices, "answer": int(r.label)} for r in rows],
        )
        file.write_text("".join(json.dumps(row) + "\n" for row in given))
    else:
        write_jsonl(file := tmp_path / "rows.jsonl", [row.model_copy(update={"choices": ()}) for row in rows])
    job = classify_job(
        begin, tmp_path / "run", format=format, train=file, heldout=None, heldout_share=0.3, lora={"r": 2}, batch_size=6
    )
    checkpoint = job.run()
    found = [json.loads(line) for line in (checkpoint.parent / "predictions.jsonl").read_text().splitlines()]
    held = [rows[int(row["place"].rpartition(":")[2]) - 1] for row in found]
    given = TextClassifier.load(checkpoint, device="cpu", dtype="fp32").probabilities(held)
    assert [row["probabilities"] for row in found] == [pytest.approx(one, abs=1e-5) for one in given]
    assert_same_in_peft(begin.folder / "sft", checkpoint)
    done = json.loads((checkpoint.parent / "done.json").read_text())
    assert done["examples"] + done["heldout"] == 24
    if format == "choice":
        assert done["heldout_chance"] == 0.5
        assert "heldout_macro_f1" not in done


def assert_same_in_peft(base: Path, checkpoint: Path) -> None:
    """The adapters and the head on the base model are the merged checkpoint."""
    import peft
    from transformers import AutoModelForSequenceClassification

    merged = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    whole = AutoModelForSequenceClassification.from_pretrained(base, num_labels=merged.config.num_labels)
    adapted = peft.PeftModel.from_pretrained(whole, checkpoint / "adapter").eval()
    ids = torch.arange(30, 42)[None]
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-4)


# ---- disturbed runs


def die_in_step(step: int) -> None:
    update, calls = classify.classify_update, []

    def mortal(*arguments: Any) -> Any:
        calls.append(1)
        return update(*arguments) if len(calls) < step else die()

    classify.classify_update = mortal


def test_a_run_killed_twice_ends_as_an_undisturbed_one(begin, tmp_path):
    more = {"epochs": 2, "dropout": 0.1, "evaluate_every": 5, **SAVING}
    whole, job = (classify_job(begin, tmp_path / name, **more) for name in ("whole", "killed"))
    assert finish(start(whole)) == 0, said(whole).read_text()
    for step, saved in ((9, 6), (6, 9)):
        assert finish(start(job, partial(die_in_step, step))) == -9
        assert saved_step(job.out) == saved
    assert finish(start(job)) == 0, said(job).read_text()
    assert_same_end(whole.out, job.out)


def test_two_ranks_are_one(begin, tmp_path):
    more = {"batch_size": 13, "microbatch": 4, "dropout": 0.0}
    one, two = (classify_job(begin, tmp_path / name, **more) for name in ("one", "two"))
    one.run()
    for process in start_ranks(two):
        assert finish(process) == 0, said(two, 0).read_text()
    expected, found = (load_file(job.out / "checkpoint" / "model.safetensors") for job in (one, two))
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-4, rtol=0)
    for row, other in zip(logged(one.out), logged(two.out), strict=True):
        assert other == pytest.approx(row, rel=1e-4, abs=1e-4)


# ---- bad input


def spoilt(begin: Start, tmp_path: Path, *rows: Labelled, name: str = "train") -> Path:
    path = tmp_path / f"{name}.jsonl"
    path.write_text(
        (begin.folder / f"{name}.jsonl").read_text() + "".join(f"{row.model_dump_json()}\n" for row in rows)
    )
    return path


def test_labels_of_one_class_are_refused(begin, tmp_path):
    write_jsonl(path := tmp_path / "one.jsonl", [Labelled(text=f"text {i}", label="yes") for i in range(4)])
    with pytest.raises(DataError, match=r"one\.jsonl: field 'label': all 4 examples to train on have the label 'yes'"):
        classify_job(begin, tmp_path / "run", train=path).run()
    assert not (tmp_path / "run").exists()


def test_a_label_outside_the_classes_has_its_place_and_a_way_past_it(begin, tmp_path, capsys):
    more = {"train": spoilt(begin, tmp_path, Labelled(text="x", label="most")), "labels": ("more", "little")}
    message = r"train\.jsonl:181: field 'label': is none of the labels; expected more, little, found 'most'"
    with pytest.raises(DataError, match=message):
        classify_job(begin, tmp_path / "run", **more).run()
    checkpoint = classify_job(begin, tmp_path / "run", **more, on_bad="skip").run()
    done = json.loads((checkpoint.parent / "done.json").read_text())
    assert done["left_out"] == {"label that is none of the given ones": 1}
    assert "train.jsonl: 1 x label that is none of the given ones" in capsys.readouterr().out
    assert TextClassifier.load(checkpoint).model.labels == ("more", "little")
    held = spoilt(begin, tmp_path, Labelled(text="x", label="most"), name="heldout")
    with pytest.raises(DataError, match=r"heldout\.jsonl:61: field 'label': is none of the labels"):
        classify_job(begin, tmp_path / "held", heldout=held).run()
    write_jsonl(held, [Labelled(text="x", label="most")])
    with pytest.raises(DataError, match=r"heldout\.jsonl: no example has one of the labels little, more"):
        classify_job(begin, tmp_path / "none", heldout=held, on_bad="skip").run()


def test_long_texts_and_held_out_ones_are_counted(begin, tmp_path, capsys):
    known = json.loads((begin.folder / "heldout.jsonl").read_text().splitlines()[0])
    path = spoilt(
        begin, tmp_path, Labelled(text="long " * 200, label="more"), Labelled(text=f" {known['text']}\n", label="more")
    )
    checkpoint = classify_job(begin, tmp_path / "run", train=path).run()
    done = json.loads((checkpoint.parent / "done.json").read_text())
    assert done["left_out"] == {"also among the held-out rows": 1, "shortened": 1}
    assert done["examples"] == 181
    assert "1 x shortened" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["a"]}, "labels: give two different ones or more"),
        ({"labels": ["a", "a"]}, "labels: give two different ones or more"),
        ({"labels": ["a", "b"], "format": "choice"}, "bring their own choices"),
        ({"from_scratch": True, "lora": {"r": 2}}, "adapters on untrained weights learn nothing"),
        ({"batch_size": 2, "microbatch": 3}, "microbatch 3 is larger than batch_size 2"),
        ({"format": "essay"}, "format should be"),
    ],
)
def test_settings_that_do_not_fit_together(changes, message):
    with pytest.raises(RecipeError, match=message):
        validated(ClassifySettings, changes, "here")


RECIPE = """
name: gpt1
out: {out}
steps:
  pretrained: &arm
    kind: classify
    inputs: {{checkpoint: {checkpoint}, train: {train}}}
    seed: 1
  scratch: {{<<: *arm, from_scratch: true}}
  without: {{<<: *arm, lm_coef: 0}}
  wrong:
    kind: sft
    inputs: {{checkpoint: pretrained, demonstrations: {train}}}
"""


def test_the_arms_of_the_claim_are_steps_of_a_recipe(begin, tmp_path):
    """And a classifier is no language model to go on from."""
    text = RECIPE.format(out=tmp_path, checkpoint=begin.folder / "sft", train=begin.folder / "train.jsonl")
    (path := tmp_path / "r.yaml").write_text(text)
    recipe = read_recipe(path)
    with pytest.raises(
        RecipeError, match=r"step 'pretrained' \(classify\) makes a classifier, and a language model is"
    ):
        plan(recipe)
    arms = plan(recipe.model_copy(update={"steps": dict(list(recipe.steps.items())[:3])}))
    assert [(s.knobs.from_scratch, s.knobs.lm_coef, s.knobs.seed) for s in arms] == [
        (False, 0.5, 1), (True, 0.5, 1), (False, 0, 1),
    ]  # fmt: skip
