"""Classifiers as transformers reads them, and as they come back."""

from __future__ import annotations

import json

import pytest
import torch
from model_helpers import FAMILIES, build, randomise, small

from tutelage.assistant.assistant import Assistant
from tutelage.errors import CheckpointError
from tutelage.model.checkpoint import load_classifier, load_decoder, load_scalar, save_model
from tutelage.model.heads import Classifier, ScalarModel
from tutelage.model.huggingface import config_to_hf, kind_of

LABELS = ("no", "perhaps", "yes")
PAD = 0
LENGTHS = [9, 4, 7, 6]
IDS = torch.arange(36).reshape(4, 9) % 50 + 5
IDS = torch.where(torch.arange(9) < torch.tensor(LENGTHS)[:, None], IDS, PAD)
LAST = torch.tensor(LENGTHS) - 1


def classifier(family: str, format="classification", labels=LABELS) -> Classifier:
    model = Classifier(build(small(family)), format, labels).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def theirs(folder):
    from transformers import AutoModelForSequenceClassification

    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_equal_those_of_transformers(family, tmp_path):
    model = classifier(family)
    save_model(tmp_path, model, end_id=2, pad_id=PAD)
    other, back = theirs(tmp_path), load_classifier(tmp_path)
    logits = model(IDS, LAST, [1] * 4)[0]
    torch.testing.assert_close(other(IDS).logits, logits, atol=1e-4, rtol=1e-5)
    assert torch.equal(back(IDS, LAST, [1] * 4)[0], logits)
    assert (back.labels, back.format) == (LABELS, "classification")
    assert other.config.id2label == dict(enumerate(LABELS))
    assert other.config.label2id == {label: i for i, label in enumerate(LABELS)}


@torch.no_grad()
def test_the_two_orders_of_a_similarity_are_added(tmp_path):
    """So the texts may be exchanged, and transformers' logits of the two rows add up to ours."""
    model = classifier("llama", "similarity")
    save_model(tmp_path, model, end_id=2, pad_id=PAD)
    logits = model(IDS, LAST, [2, 2])[0]
    torch.testing.assert_close(theirs(tmp_path)(IDS).logits.view(2, 2, 3).sum(1), logits, atol=1e-4, rtol=1e-5)
    exchanged = torch.tensor([1, 0, 3, 2])
    torch.testing.assert_close(model(IDS[exchanged], LAST[exchanged], [2, 2])[0], logits)
    assert load_classifier(tmp_path).format == "similarity"


@torch.no_grad()
def test_choices_have_one_output_each(tmp_path):
    model = classifier("qwen3", "choice", ())
    save_model(tmp_path, model, end_id=2, pad_id=PAD)
    scores = theirs(tmp_path)(IDS).logits[:, 0]
    logits = model(IDS, LAST, [3, 1])[0]
    torch.testing.assert_close(logits[0], scores[:3], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(logits[1], torch.tensor([scores[3], -torch.inf, -torch.inf]), atol=1e-4, rtol=1e-5)
    back = load_classifier(tmp_path)
    assert (back.format, back.labels) == ("choice", ())


@torch.no_grad()
def test_a_classifier_that_transformers_made_is_one_of_texts(tmp_path):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.for_model(**config_to_hf(small("qwen2")), num_labels=3, pad_token_id=PAD)
    other = AutoModelForSequenceClassification.from_config(config).eval()
    randomise(other)
    other.save_pretrained(tmp_path)
    model = load_classifier(tmp_path)
    torch.testing.assert_close(model(IDS, LAST, [1] * 4)[0], other(IDS).logits, atol=1e-4, rtol=1e-5)
    assert (model.format, model.labels) == ("classification", ("LABEL_0", "LABEL_1", "LABEL_2"))


def test_kinds_are_told_apart(tmp_path):
    decoder = build(small("llama"))
    for name, model in (
        ("rm", ScalarModel(decoder)), ("cl", Classifier(decoder, "entailment", LABELS)),
        ("choice", Classifier(decoder, "choice", ())),
    ):  # fmt: skip
        save_model(tmp_path / name, model, pad_id=PAD)
    for load, name, message in (
        (load_scalar, "cl", "holds a classifier: a reward model is needed"),
        (load_scalar, "choice", "holds a classifier: a reward model is needed"),
        (load_decoder, "cl", "holds a classifier: a language model is needed"),
        (load_classifier, "rm", "holds a reward model: a classifier is needed"),
        (Assistant.load, "cl", "holds a classifier: a language model or a reward model is needed"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path / name)
    path = tmp_path / "cl" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tutelage_format": "essay"}))
    with pytest.raises(CheckpointError, match="'essay' is not supported: it must be one of classification, entailment"):
        load_classifier(tmp_path / "cl")


def test_the_kind_of_a_config():
    one = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}
    assert kind_of(one) == "classifier"  # transformers makes two labels of none
    assert kind_of(one | {"num_labels": 1}) == "scalar"
    assert kind_of(one | {"num_labels": 1, "tutelage_format": "choice"}) == "classifier"
