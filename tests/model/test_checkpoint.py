"""Model folders: what transformers writes and reads, and every way in which one can be wrong."""

import json
import os

import pytest
import torch
from model_helpers import FAMILIES, build, small
from safetensors.torch import load_file, save_file

from tutelage.errors import CheckpointError
from tutelage.model import checkpoint
from tutelage.model.checkpoint import load_decoder, load_model, load_scalar, save_model
from tutelage.model.heads import ScalarModel

IDS = torch.randint(1, 61, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_language_model_comes_back_bit_for_bit_without_touching_the_generator(family, tmp_path):
    model = build(small(family))
    save_model(tmp_path, model, bos_id=1, end_id=2, pad_id=0)
    state = torch.get_rng_state()
    back = load_decoder(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert back.config == model.config
    assert not back.training
    assert all(weight.requires_grad for weight in back.parameters())
    with torch.no_grad():
        assert torch.equal(back.logits(back(IDS)), model.logits(model(IDS)))
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_transformers_made_and_saved_is_read_with_equal_logits(family, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    from tutelage.model.huggingface import config_to_hf

    torch.manual_seed(0)
    hf = config_to_hf(small(family)) | {"initializer_range": 0.3}
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**hf)).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_decoder(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(IDS)), theirs(IDS).logits, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reward_model_scores_the_same_in_transformers(family, tmp_path):
    from transformers import AutoModelForSequenceClassification

    scorer = ScalarModel.from_decoder(build(small(family))).eval()
    scorer.offset.fill_(0.75)
    save_model(tmp_path, scorer, end_id=2, pad_id=0)
    theirs, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    lengths = [12, 5, 8]
    ids = torch.stack([torch.where(torch.arange(12) < n, row, 0) for row, n in zip(IDS, lengths, strict=True)])
    back = load_scalar(tmp_path)
    with torch.no_grad():
        ours, read = scorer(ids), back(ids)
        last = ours[torch.arange(3), torch.tensor(lengths) - 1]
        torch.testing.assert_close(theirs(ids).logits[:, 0] - 0.75, last, atol=1e-4, rtol=1e-5)
    assert torch.equal(ours, read)
    assert back.offset.item() == 0.75


def test_kinds_are_not_mixed_up(tmp_path):
    model = build(small("llama"))
    save_model(tmp_path / "lm", model)
    save_model(tmp_path / "rm", ScalarModel(model))  # a shared trunk: the output layer stays behind
    with pytest.raises(CheckpointError, match="holds a language model: a reward model is needed"):
        load_scalar(tmp_path / "lm")
    with pytest.raises(CheckpointError, match="holds a reward model: a language model is needed"):
        load_decoder(tmp_path / "rm")


def test_dtype_and_training_after_loading(tmp_path):
    save_model(tmp_path, build(small("qwen2")))
    half = load_decoder(tmp_path, dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    save_model(tmp_path / "half", half)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert next(load_decoder(tmp_path / "half").parameters()).dtype == torch.bfloat16
    model = load_decoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")  # nothing may still point into the file
    model.logits(model(IDS)).sum().backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight.sub_(0.1 * weight.grad)


def test_files_of_the_first_gpt2_are_read(tmp_path):
    """No ``transformer.`` prefix, causal masks among the weights."""
    model = build(small("gpt2"))
    save_model(tmp_path, model)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old |= {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64).tril() for i in range(2)}
    save_file(old, tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(load_decoder(tmp_path)(IDS), model(IDS))


def test_a_tied_output_layer_in_the_file_must_be_the_embedding(tmp_path):
    save_model(tmp_path, build(small("llama", tie_embeddings=True)))
    tensors = load_file(tmp_path / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": embedding.clone()}, tmp_path / "model.safetensors")
    load_decoder(tmp_path)
    save_file(tensors | {"lm_head.weight": embedding + 1}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from the embedding"):
        load_decoder(tmp_path)


def damage(folder, change):
    """Apply ``change`` to the tensors of the folder's weights file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object, not list"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text('{"model_type": "t5"}'), "config.json: model_type 't5'"),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04pickle"), "damaged or no safetensors file"),
        (lambda f: os.truncate(f / "model.safetensors", 4000), "damaged or no safetensors file"),
        (lambda f: damage(f, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")), "lacks model.layers.1.mlp.up_proj"),
        (lambda f: damage(f, lambda t: t.update(odd=torch.ones(1))), "has extra odd"),
        (
            lambda f: damage(f, lambda t: t.update({"model.norm.weight": torch.ones(23)})),
            "model.norm.weight is [23], config.json makes it [24]",
        ),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "pytorch_model.bin, pickled weights, which can run code",
        ),
        (lambda f: (f / "model.safetensors").rename(f / "model.safetensors.index.json"), "sharded weights"),
    ],
)
def test_every_damage_is_one_clear_error(harm, message, tmp_path):
    save_model(tmp_path, build(small("llama")))
    harm(tmp_path)
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_folder(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist: give a model folder"):
        load_model(tmp_path / "nowhere")


def test_a_failed_write_leaves_the_old_model(tmp_path, monkeypatch):
    old = build(small("llama"), seed=1)
    save_model(tmp_path, old)
    before = sorted(p.name for p in tmp_path.iterdir())

    def full_disk(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_model(tmp_path, build(small("llama"), seed=2))
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    with torch.no_grad():
        assert torch.equal(load_decoder(tmp_path)(IDS), old(IDS))
