"""Shards: written under a limit, and read with every check."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from model_helpers import FAMILIES, build, small
from safetensors.torch import load_file, save_file

from tutelage.errors import CheckpointError
from tutelage.model import weight_files
from tutelage.model.checkpoint import load_decoder, load_model, save_model
from tutelage.model.decoder import Decoder
from tutelage.model.weight_files import INDEX, WEIGHTS, find_weights, read_into

IDS = torch.randint(1, 61, (2, 12), generator=torch.Generator().manual_seed(0))
SHARD = 16000  # bytes: small("llama") becomes five files


def same(one: Decoder, other: Decoder) -> bool:
    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_come_back_and_transformers_reads_them(family, tmp_path):
    from transformers import AutoModelForCausalLM

    model = build(small(family))
    save_model(tmp_path, model, max_shard_bytes=SHARD)
    assert not (tmp_path / WEIGHTS).exists()
    index = json.loads((tmp_path / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    sizes = {name: [x.numel() * 4 for x in load_file(tmp_path / name).values()] for name in files}
    assert all(sum(size) <= SHARD or len(size) == 1 for size in sizes.values())
    assert index["metadata"]["total_size"] == sum(map(sum, sizes.values()))
    assert same(load_decoder(tmp_path), model)
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(IDS).logits, model.logits(model(IDS)), atol=1e-4, rtol=1e-5)
        theirs.save_pretrained(tmp_path / "theirs", max_shard_size="16KB")
        assert (tmp_path / "theirs" / INDEX).exists()
        assert same(load_decoder(tmp_path / "theirs"), model)


def test_a_limit_that_holds_all_is_one_file(tmp_path):
    size = sum(weight.numel() * 4 for weight in build(small("llama")).parameters())
    save_model(tmp_path / "one", build(small("llama")), max_shard_bytes=size)
    save_model(tmp_path / "two", build(small("llama")), max_shard_bytes=size - 1)
    assert len(list((tmp_path / "one").glob("*.safetensors"))) == 1
    assert len(list((tmp_path / "two").glob("*.safetensors"))) == 2


def damage(folder: Path, number: int, change) -> None:
    """Apply ``change`` to the tensors of a shard."""
    path = sorted(folder.glob("*.safetensors"))[number - 1]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "model-00002-of-00005.safetensors").unlink(), "lacks model-00002-of-00005.safetensors, which"),
        (
            lambda f: os.truncate(f / "model-00003-of-00005.safetensors", 5000),
            "model-00003-of-00005.safetensors is damaged or not a safetensors file",
        ),
        (
            lambda f: (f / "model-00001-of-00005.safetensors").write_bytes(b"\x80\x04pickle"),
            "model-00001-of-00005.safetensors is damaged or not a safetensors file",
        ),
        (
            lambda f: damage(f, 5, lambda t: t.pop(NORM)),
            f"lacks {NORM}",
        ),
        (
            lambda f: damage(f, 1, lambda t: t.update(odd=torch.ones(1))),
            "has extra odd (in model-00001-of-00005.safetensors)",
        ),
        (
            lambda f: damage(f, 5, lambda t: t.update({NORM: torch.ones(23)})),
            f"model-00005-of-00005.safetensors: {NORM} is [23], config.json makes it [24]",
        ),
        (lambda f: (f / INDEX).write_text("{"), f"{INDEX} cannot be read"),
        (lambda f: (f / INDEX).write_text("{}"), f"{INDEX} has no weight_map"),
        (
            lambda f: (f / INDEX).rename(f / "pytorch_model.bin"),
            "pytorch_model.bin, pickled weights, which can run code",
        ),
    ],
)
def test_every_damage_of_shards_is_one_clear_error(harm, message, tmp_path):
    save_model(tmp_path, build(small("llama")), max_shard_bytes=SHARD)
    harm(tmp_path)
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_reading_in_chunks_fills_views_of_any_strides(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "_CHUNK", chunk)
    x = torch.randn(12, 7, dtype=torch.float64)
    save_file({"a": x}, tmp_path / WEIGHTS)
    stored = find_weights(tmp_path)["a"]
    targets = [torch.empty(12, 7, dtype=torch.float32), torch.empty(7, 12).t(), torch.empty(3, 2, 2, 7).transpose(0, 1)]
    for target in targets:
        read_into(stored, target)
        assert torch.equal(target.reshape(12, 7), x.float())


@pytest.mark.parametrize(("before", "after"), [(10**9, SHARD), (SHARD, 10**9), (SHARD, 20000)])
def test_a_write_replaces_the_weights_of_another_number_of_files_and_nothing_else(before, after, tmp_path):
    save_model(tmp_path / "clean", build(small("llama"), 2), max_shard_bytes=after)
    for name in ("tokenizer.json", "adapter_model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"x")
    save_model(tmp_path, build(small("llama"), 1), max_shard_bytes=before)
    save_model(tmp_path, build(small("llama"), 2), max_shard_bytes=after)
    assert same(load_decoder(tmp_path), build(small("llama"), 2))
    others = {"clean", "tokenizer.json", "adapter_model.safetensors", "pytorch_model.bin"}
    assert {path.name for path in tmp_path.iterdir()} - others == {p.name for p in (tmp_path / "clean").iterdir()}
