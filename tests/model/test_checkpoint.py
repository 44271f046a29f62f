"""Model folders: what transformers writes and reads, and every way in which one can be wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_helpers import FAMILIES, build, randomise, small
from safetensors.torch import load_file, save_file

from tutelage.errors import CheckpointError
from tutelage.model.checkpoint import load_decoder, load_model, load_scalar, save_model
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.model.huggingface import config_to_hf

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


def test_loading_a_model_does_not_import_the_compiler(tmp_path):
    """torch._dynamo takes 0.8 s of each start."""
    save_model(tmp_path / "language", build(small("llama")))
    save_model(tmp_path / "reward", ScalarModel(build(small("llama"))), pad_id=0)
    script = (
        "import sys; from tutelage.model.checkpoint import load_model; "
        f"[load_model({str(tmp_path)!r} + kind) for kind in ('/language', '/reward')]; "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_load_save_gives_the_same_bytes(family, sharded, dtype, tmp_path):
    limit = 4000 if sharded else 10**9
    save_model(tmp_path / "one", build(small(family)).to(dtype), max_shard_bytes=limit)
    save_model(tmp_path / "two", load_decoder(tmp_path / "one"), max_shard_bytes=limit)
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "two").iterdir())
    assert sum(name.endswith(".safetensors") for name in names) > 1 or not sharded
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_any_stored_type_is_read_into_any_type(family, tmp_path):
    """Fused, transposed and head-by-head tensors: conversion on the way in equals conversion after."""
    types = (torch.float32, torch.bfloat16, torch.float16)
    model = build(small(family))
    for stored in types:
        save_model(tmp_path, model.to(stored))
        exact = load_decoder(tmp_path).state_dict()
        assert {weight.dtype for weight in exact.values()} == {stored}
        for wanted in types:
            state = load_decoder(tmp_path, dtype=wanted).state_dict()
            assert all(torch.equal(state[name], exact[name].to(wanted)) for name in exact)
            assert all(weight.is_contiguous() for weight in state.values())


def test_a_file_of_mixed_types_takes_the_type_of_most_numbers(tmp_path):
    save_model(tmp_path, build(small("llama")).to(torch.bfloat16))
    damage(tmp_path, lambda tensors: tensors.update({name: x.float() for name, x in tensors.items() if "norm" in name}))
    assert {weight.dtype for weight in load_decoder(tmp_path).parameters()} == {torch.bfloat16}
    assert load_decoder(tmp_path)(IDS).isfinite().all()


def test_numbers_are_not_looked_at(tmp_path):
    save_model(tmp_path, build(small("llama")))
    damage(tmp_path, lambda tensors: tensors["model.norm.weight"].fill_(torch.nan))
    assert load_decoder(tmp_path).final_norm.weight.isnan().all()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["embed_out.weight", "lm_head.weight"])
def test_the_output_layer_of_gpt_neox_goes_by_two_names(tied, name, tmp_path):
    model = build(small("gpt_neox", tie_embeddings=tied))
    save_model(tmp_path, model)
    output = (model.embed if tied else model.unembed).weight.detach().clone()
    damage(tmp_path, lambda tensors: (tensors.pop("embed_out.weight", None), tensors.update({name: output})))
    with torch.no_grad():
        back = load_decoder(tmp_path)
        assert torch.equal(back.logits(back(IDS)), model.logits(model(IDS)))


def test_the_first_gpt2_files_without_the_prefix_and_with_masks_are_read(tmp_path):
    model = build(small("gpt2"))
    save_model(tmp_path, model)
    tensors = {name.removeprefix("transformer."): x for name, x in load_file(tmp_path / "model.safetensors").items()}
    tensors |= {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8) for i in range(2)}
    save_file(tensors, tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(load_decoder(tmp_path)(IDS), model(IDS))


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


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reward_model_that_transformers_made_scores_the_same_here(family, tmp_path):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.for_model(**config_to_hf(small(family)), num_labels=1, pad_token_id=0)
    theirs = AutoModelForSequenceClassification.from_config(config).eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    ours, ids = load_scalar(tmp_path), IDS.clone()
    lengths = [12, 3, 7]
    for row, n in zip(ids, lengths, strict=True):
        row[n:] = 0
    with torch.no_grad():
        scores = ours(ids)[torch.arange(3), torch.tensor(lengths) - 1]
        torch.testing.assert_close(scores, theirs(ids).logits[:, 0], atol=1e-4, rtol=1e-5)
    assert ours.offset.item() == 0
    save_model(tmp_path / "again", ours, pad_id=0)
    assert (
        load_file(tmp_path / "again" / "model.safetensors").keys() == load_file(tmp_path / "model.safetensors").keys()
    )


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


def test_a_tied_output_layer_in_the_file_is_ignored(tmp_path):
    model = build(small("llama", tie_embeddings=True))
    save_model(tmp_path, model)
    damage(tmp_path, lambda tensors: tensors.update({"lm_head.weight": torch.ones(61, 24)}))
    with torch.no_grad():
        back = load_decoder(tmp_path)
        assert torch.equal(back.logits(back(IDS)), model.logits(model(IDS)))


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
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04pickle"), "damaged or not a safetensors file"),
        (lambda f: os.truncate(f / "model.safetensors", 4000), "damaged or not a safetensors file"),
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
        (
            lambda f: damage(f, lambda t: t.update({"model.norm.weight": torch.ones(24, dtype=torch.int8)})),
            "model.norm.weight is stored as I8; weights must be",
        ),
        (
            lambda f: (f / "model.safetensors").rename(f / "model.safetensors.index.json"),
            "model.safetensors.index.json cannot be read",
        ),
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


def test_the_folder_of_a_run_leads_to_its_newest_model(tmp_path):
    for number, stage in enumerate(["sft", "ppo", "pretrain"]):
        model = tmp_path / stage / "checkpoint"
        save_model(model, build(small("llama")))
        os.utime(model / "config.json", (number, number))
    with pytest.raises(CheckpointError, match=f"has no config.json: give a model folder, such as {model}$"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match=f"such as {tmp_path}/sft/checkpoint$"):
        load_model(tmp_path / "sft")


def test_several_end_ids_become_a_list(tmp_path):
    save_model(tmp_path, build(small("llama")), end_id=[2, 7], pad_id=0)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / name).read_text())["eos_token_id"] == [2, 7]


LOAD = """
import re, sys
from pathlib import Path
from tutelage.model.checkpoint import load_decoder
def memory(kind):
    return int(re.search(kind + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
load_decoder(sys.argv[2])  # what the first call imports and allocates is no part of a model
before = memory("VmRSS")
model = load_decoder(sys.argv[1])
print((memory("VmHWM") - before) / sum(w.numel() * w.element_size() for w in model.parameters()))
"""


@pytest.mark.proof
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_loading_holds_the_weights_once(family, tmp_path):
    """Some 300 MB in bf16, with layers that are fused and permuted; a process of its own, as peaks never fall."""
    config = small(family, vocab_size=32000, hidden_size=1024, num_heads=16, num_kv_heads=16, num_layers=8)
    with torch.device("meta"):
        model = Decoder(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for weight in model.parameters():
        weight.data.fill_(0.5)
    save_model(tmp_path / "big", model)
    save_model(tmp_path / "tiny", build(small(family)).to(torch.bfloat16))
    assert (tmp_path / "big" / "model.safetensors").stat().st_size > 250e6
    del model
    command = [sys.executable, "-c", LOAD, str(tmp_path / "big"), str(tmp_path / "tiny")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert 0.9 < float(done.stdout) < 1.3
