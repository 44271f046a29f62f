"""Shards: written under a limit, read with every check, and no moment at which an interrupted write costs the old model."""

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
from tutelage.model.weight_files import INDEX, WEIGHTS, find_weights, read_into, write_folder

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


# -- reading what is wrong -------------------------------------------------------------------------------------------------


def reindex(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


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
            f"model-00005-of-00005.safetensors lacks {NORM}, by {INDEX}",
        ),
        (
            lambda f: damage(f, 1, lambda t: t.update(odd=torch.ones(1))),
            "model-00001-of-00005.safetensors has extra odd (in model-00001-of-00005.safetensors), by",
        ),
        (
            lambda f: reindex(f, lambda places: places.update({NORM: "model-00001-of-00005.safetensors"})),
            f"model-00001-of-00005.safetensors lacks {NORM}",
        ),
        (
            lambda f: damage(f, 5, lambda t: t.update({NORM: torch.ones(23)})),
            f"model-00005-of-00005.safetensors: {NORM} is [23], config.json makes it [24]",
        ),
        (
            lambda f: (damage(f, 5, lambda t: t.pop(NORM)), reindex(f, lambda places: places.pop(NORM))),
            f"lacks {NORM}",
        ),
        (
            lambda f: (
                damage(f, 1, lambda t: t.update(odd=torch.ones(1))),
                reindex(f, lambda places: places.update(odd="model-00001-of-00005.safetensors")),
            ),
            "has extra odd (in model-00001-of-00005.safetensors)",
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


# -- interrupted writes ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


class Gallows:
    """Stops every change of files from the ``at``-th on, as a kill does: no clean-up runs after it either."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.at, self.done, self.renamed = at, 0, False
        for where, name in (
            (os, "replace"),
            (os, "unlink"),
            (os, "fsync"),
            (weight_files, "save_file"),
            (weight_files, "_write_text"),
        ):
            monkeypatch.setattr(where, name, self.counted(name, getattr(where, name)))

    def counted(self, name, call):
        def wrapped(*arguments, **options):
            self.done += 1
            if self.done == self.at and name == "save_file":
                arguments[1].write_bytes(b"half a file")
            if self.done >= self.at:
                raise Killed
            self.renamed |= name == "replace"
            return call(*arguments, **options)

        return wrapped


@pytest.mark.parametrize("before", [None, 20000, SHARD])
@pytest.mark.parametrize("after", [None, SHARD])
def test_a_write_killed_at_any_moment_leaves_the_old_model_or_the_new(before, after, tmp_path):
    """Whichever of one file and shards follows which; and the next write leaves nothing behind."""
    models = [build(small("llama", num_layers=1), seed) for seed in range(3)]
    limits = [before or 10**9, after or 10**9]
    save_model(tmp_path / "clean", models[1], max_shard_bytes=limits[1])
    wanted = sum(path.suffix == ".safetensors" for path in (tmp_path / "clean").iterdir())
    outcomes, at = [], 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        save_model(folder, models[0], max_shard_bytes=limits[0])
        (folder / "tokenizer.json").write_text("{}")
        with pytest.MonkeyPatch.context() as patch:
            gallows = Gallows(patch, at)
            try:
                save_model(folder, models[1], max_shard_bytes=limits[1])
                killed = False
            except Killed:
                killed = True
        found = load_decoder(folder)
        outcomes.append(same(found, models[1]))
        assert outcomes[-1] or same(found, models[0])
        assert gallows.renamed or not outcomes[-1]
        if not killed:
            break
        save_model(folder, models[2], max_shard_bytes=limits[1])
        assert same(load_decoder(folder), models[2])
        names = {path.name for path in folder.iterdir()}
        assert {"tokenizer.json", "config.json", "generation_config.json"} <= names
        assert sum(name.endswith(".safetensors") for name in names) == wanted
        assert not any(name.endswith(".tmp") for name in names)
        assert (INDEX in names) == (wanted > 1)
    assert at > 10
    assert outcomes == sorted(outcomes)  # old up to some moment, new from there on
    assert not outcomes[0]
    assert outcomes[-1]


@pytest.mark.parametrize("before", [None, SHARD])
@pytest.mark.parametrize("after", [None, SHARD])
def test_another_shape_takes_over_in_one_step(before, after, tmp_path):
    """Weights and config.json cannot change place together: one moment may show a mismatch, as an error, and no other."""
    models = [build(small("llama", num_layers=1)), build(small("llama", num_layers=1, intermediate_size=40))]
    errors = at = 0
    killed = True
    while killed:
        at += 1
        folder = tmp_path / str(at)
        save_model(folder, models[0], max_shard_bytes=before or 10**9)
        with pytest.MonkeyPatch.context() as patch:
            Gallows(patch, at)
            try:
                save_model(folder, models[1], max_shard_bytes=after or 10**9)
                killed = False
            except Killed:
                pass
        try:
            found = load_decoder(folder)
        except CheckpointError:
            errors += 1
        else:
            assert same(found, models[0]) or same(found, models[1])
    assert errors <= 1


@pytest.mark.parametrize("limit", [10**9, SHARD])
def test_a_failed_write_leaves_the_old_model_and_no_other_file(limit, tmp_path, monkeypatch):
    old = build(small("llama"), seed=1)
    save_model(tmp_path, old, max_shard_bytes=limit)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(tensors, path, metadata):
        if tensors.keys() & {NORM}:
            path.write_bytes(b"half a file")
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata)

    monkeypatch.setattr(weight_files, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_model(tmp_path, build(small("llama"), seed=2), max_shard_bytes=limit)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_only_our_own_files_are_cleared_up(tmp_path):
    mine = [
        "model-00001-of-00009.safetensors",
        "model-3-00001-of-00009.safetensors",
        f".{WEIGHTS}.77.tmp",
        ".config.json.9.tmp",
    ]
    others = ["adapter_model.safetensors", "pytorch_model.bin", "model.onnx", ".notes.tmp", "consolidated.safetensors"]
    for name in mine + others:
        (tmp_path / name).write_bytes(b"x")
    write_folder(tmp_path, {"a": torch.ones(3)}, {})
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, *others}
