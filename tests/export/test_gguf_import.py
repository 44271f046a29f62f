"""GGUF files as folders: what was exported comes back, other programs' files are read as transformers and llama.cpp read them."""

from __future__ import annotations

import builtins
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_files import imported, rewritten
from gguf_server import ask, export_gguf, greedy, llama_cpp
from refusals import refused
from test_gguf_export import FAMILIES, SCALINGS, TEXTS, checkpoint, scaled
from test_gguf_tokenizer import texts

from tutelage.assistant.assistant import Assistant
from tutelage.cli import app as cli
from tutelage.errors import CheckpointError, UsageError
from tutelage.export.gguf import tensors
from tutelage.export.gguf_import import import_gguf
from tutelage.generate.sampler import Sampling
from tutelage.model.checkpoint import load_decoder, save_model
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.rope import frequencies
from tutelage.records import Message, Prompt
from tutelage.text.chat import render
from tutelage.text.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf")
KINDS = ["f32", "bf16", "q8_0", "q4_0"]


def numbers(file: Path) -> dict[str, np.ndarray]:
    """What the gguf package makes of a file's tensors."""
    return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(file).tensors}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("good")
    export_gguf(checkpoint(place / "model", "llama", True), place / "a.gguf", "f32")
    return place / "a.gguf"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_exported_comes_back(family, kind, tmp_path):
    """Settings, weights, tokenizer and ends; exported again, an f32 file is the same to the byte. A Mistral is a Llama there."""
    folder, file, back = (
        checkpoint(tmp_path / "model", family, family != "qwen2"),
        tmp_path / "a.gguf",
        tmp_path / "back",
    )
    export_gguf(folder, file, kind)
    assert imported(file, back) == []
    model, wanted = load_decoder(back), load_decoder(folder)
    same = {"init_std": 0.02} | ({"family": "llama"} if family == "mistral" else {})
    assert model.config == wanted.config.model_copy(update=same)
    # GPT-2's positions are f32 in any file.
    assert model.embed.weight.dtype == (torch.bfloat16 if kind == "bf16" and family != "gpt2" else torch.float32)
    held, stored = tensors(model), numbers(file)
    assert stored.keys() == held.keys()
    for name, values in stored.items():
        assert np.array_equal(held[name].float().numpy(), values.reshape(held[name].shape)), name
    for (name, one), other in zip(model.state_dict().items(), wanted.state_dict().values(), strict=True):
        if kind in ("f32", "bf16"):
            stored_as = (
                torch.bfloat16
                if kind == "bf16" and one.dim() > 1 and name != "position_embedding.weight"
                else one.dtype
            )
            assert torch.equal(one, other.to(stored_as).to(one.dtype)), name
    tokenizer, ours = Tokenizer.load(back), Tokenizer.load(folder)
    assert tokenizer.fingerprint == ours.fingerprint
    assert (tokenizer.end_ids, tokenizer.pad_id) == (ours.end_ids, ours.pad_id)
    assert (back / "chat_template.jinja").read_text() == (folder / "chat_template.jinja").read_text()
    if kind == "f32":
        export_gguf(back, tmp_path / "b.gguf", kind)
        assert (tmp_path / "b.gguf").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "qwen2", "qwen3"])
def test_a_folder_equals_what_transformers_reads(family, tmp_path):
    """transformers knows no GPT-NeoX in GGUF, and some settings of the others only by their classes' defaults."""
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.train(TEXTS, 300)
    torch.manual_seed(4)
    grouped = {} if family == "gpt2" else {"num_kv_heads": 2, "head_dim": 128 if family == "qwen3" else 16}
    config = ModelConfig(
        family=family, vocab_size=300, hidden_size=64, num_layers=2, num_heads=4, max_position_embeddings=1024, **grouped
    )  # fmt: skip
    model = Decoder(config)
    for name, weight in model.named_parameters():
        weight.data += 0.1 * torch.randn_like(weight) * ("norm" in name or "bias" in name)
    save_model(tmp_path / "model", model, bos_id=tokenizer.bos_id, end_id=tokenizer.end_id, pad_id=tokenizer.pad_id)
    tokenizer.save(tmp_path / "model")
    ids = torch.randint(6, 300, (1, 60), generator=torch.manual_seed(3))
    for kind in ("f32", "q8_0"):
        file, folder = tmp_path / f"{kind}.gguf", tmp_path / kind
        export_gguf(tmp_path / "model", file, kind)
        imported(file, folder)
        read = transformers.AutoModelForCausalLM.from_pretrained
        theirs = read(tmp_path, gguf_file=file.name, dtype=torch.float32).eval()
        again, ours = read(folder, dtype=torch.float32).eval(), load_decoder(folder)
        with torch.no_grad():
            wanted = theirs(ids).logits
            assert (again(ids).logits - wanted).abs().max() < 1e-4
            assert (ours.logits(ours(ids)) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize(("family", "scaling"), SCALINGS, ids=lambda value: str(value)[:60])
def test_rope_scaling_comes_back(family, scaling, tmp_path):
    folder = scaled(tmp_path / "model", family, scaling)
    export_gguf(folder, tmp_path / "a.gguf", "f32")
    imported(tmp_path / "a.gguf", tmp_path / "back")
    wanted, found = load_decoder(folder).config, load_decoder(tmp_path / "back").config
    for one, other in zip(frequencies(found, 128), frequencies(wanted, 128), strict=True):
        assert torch.allclose(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-6)
    assert wanted.rope_scaling is not None
    if not {"mscale", "attention_factor"} & scaling.keys():
        assert found.rope_scaling == wanted.rope_scaling


LLAMA_3 = {"factor": 8.0, "original": 8192, "low": 1.0, "high": 4.0, "theta": 500000.0, "head": 128}


@pytest.mark.parametrize(
    "other",
    [{}, {"factor": 32.0, "head": 64}, {"original": 4096, "high": 3.0}, {"low": 2.5, "high": 8.0}, {"factor": 1.5}],
)
def test_llama3s_scaling_is_read_off_the_divisors(other, tmp_path):
    """Other converters list divisors without the settings that made them."""
    s = LLAMA_3 | other
    scaling = {"kind": "llama3", "factor": s["factor"], "original_max_position_embeddings": s["original"]}
    scaling |= {"low_freq_factor": s["low"], "high_freq_factor": s["high"]}
    tokenizer = Tokenizer.train(TEXTS, 300)
    config = ModelConfig(
        family="llama", vocab_size=300, hidden_size=2 * s["head"], num_layers=1, num_heads=2, intermediate_size=32,
        rope_theta=s["theta"], max_position_embeddings=131072, rope_scaling=scaling,
    )  # fmt: skip
    save_model(tmp_path / "model", Decoder(config), bos_id=0, end_id=2, pad_id=1)
    tokenizer.save(tmp_path / "model")
    export_gguf(tmp_path / "model", tmp_path / "a.gguf", "f32")
    foreign = rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf", keys={"tutelage.rope_scaling": None})
    imported(foreign, tmp_path / "back")
    found = load_decoder(tmp_path / "back").config
    assert torch.allclose(frequencies(found, 0)[0], frequencies(config, 0)[0], rtol=1e-5, atol=0)
    if s["low"] == 1:
        assert found == config


def wide(folder: Path) -> Path:
    """A model whose rows are whole blocks of 256, as K quantisation needs."""
    tokenizer = Tokenizer.train(TEXTS, 300)
    config = ModelConfig(vocab_size=300, hidden_size=256, num_layers=1, num_heads=2, intermediate_size=256)
    save_model(folder, Decoder(config), bos_id=tokenizer.bos_id, end_id=tokenizer.end_id, pad_id=tokenizer.pad_id)
    tokenizer.save(folder)
    export_gguf(folder, folder / "a.gguf", "f32")
    return folder / "a.gguf"


@pytest.mark.parametrize(
    "kind", ["F16", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "F64"]
)
def test_every_quantisation_that_the_package_reads(kind, tmp_path):
    """Against its own numbers: of quantised weights, or of blocks of random bytes where it cannot quantise."""
    file, rng = wide(tmp_path / "model"), np.random.default_rng(0)
    quantised = gguf.GGMLQuantizationType[kind]

    def change(name: str, data: np.ndarray):
        if data.ndim < 2:
            return data, None
        try:
            return (data.astype(np.float64) if kind == "F64" else gguf.quantize(data, quantised)), quantised
        except NotImplementedError:  # bytes below 64: scales in half precision are finite
            return rng.integers(0, 64, gguf.quant_shape_to_byte_shape(data.shape, quantised), dtype=np.uint8), quantised

    file = rewritten(file, tmp_path / "b.gguf", change=change)
    if kind == "F64":
        with pytest.raises(
            CheckpointError, match=r"b\.gguf: .*weight is of the type F64, which the gguf package cannot"
        ):
            imported(file, tmp_path / "back")
        return
    imported(file, tmp_path / "back")
    held = tensors(load_decoder(tmp_path / "back"))
    for name, values in numbers(file).items():
        assert np.array_equal(held[name].numpy(), values.reshape(held[name].shape)), name


def test_the_type_of_the_folder(tmp_path):
    """bf16 by itself only where nothing is lost: not from quantised weights, and not from finer norms."""
    folder = checkpoint(tmp_path / "model", "llama", True)
    for kind in ("bf16", "q8_0"):
        export_gguf(folder, tmp_path / f"{kind}.gguf", kind)
    imported(tmp_path / "q8_0.gguf", tmp_path / "small", dtype="bf16")
    assert load_decoder(tmp_path / "small").embed.weight.dtype == torch.bfloat16
    finer = lambda name, data: (data * (1.001 if "norm" in name else 1), None) if data.ndim < 2 else (data, None)  # noqa: E731
    imported(rewritten(tmp_path / "bf16.gguf", tmp_path / "finer.gguf", change=finer), tmp_path / "finer")
    assert load_decoder(tmp_path / "finer").embed.weight.dtype == torch.float32


def test_the_command_says_what_it_made(tmp_path, capsys):
    folder = checkpoint(tmp_path / "model", "qwen3", True)
    export_gguf(folder, tmp_path / "a.gguf", "q4_0")
    keys = {"general.license": "apache-2.0", "tokenizer.chat_template.tools": "{{ messages }}"}
    file = rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf", keys=keys)
    (tmp_path / "out").mkdir()  # an empty folder may be there
    assert cli.main(["import", str(file), "--out", str(tmp_path / "out")]) == 0
    said, note = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{tmp_path / 'out'}: ")
    count = sum(weight.numel() for weight in load_decoder(tmp_path / "out").parameters())
    assert f": {count:,} parameters, " in said
    assert said.endswith(" MiB, fp32 from q4_0 (qwen3), licence apache-2.0")
    assert note == "note: the file's template 'tokenizer.chat_template.tools' is left out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "b.gguf", "model", "out"]


def bytes_changed(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], Path]:
    def make(file: Path, out: Path) -> Path:
        out.write_bytes(change(file.read_bytes()))
        return out

    return make


def keyed(**keys: Any) -> Callable[[Path, Path], Path]:
    """With other keys; __ is a dot."""
    return lambda file, out: rewritten(file, out, keys={key.replace("__", "."): value for key, value in keys.items()})


def without(name: str) -> Callable[[Path, Path], Path]:
    return lambda file, out: rewritten(file, out, change=lambda n, data: None if n == name else (data, None))


def instead(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Path], Path]:
    return lambda file, out: rewritten(file, out, change=lambda n, data: (change(data) if n == name else data, None))


def with_divisors(file: Path, out: Path) -> Path:
    """With a list that no llama3 scaling makes."""
    return rewritten(file, out, more={"rope_freqs.weight": (1 + np.arange(8) % 2).astype(np.float32)})


REFUSED = [
    (bytes_changed(lambda data: b"PK\x03\x04" + data[4:]), " is not a GGUF file"),
    (bytes_changed(lambda data: b""), " is not a GGUF file"),
    (bytes_changed(lambda data: data[:-100]), " is cut off, damaged, or newer than the gguf package: "),
    (bytes_changed(lambda data: data[:300]), " is cut off, damaged, or newer than the gguf package: "),
    (bytes_changed(lambda data: data[:4] + b"\x01" + data[5:]), " is cut off, .*version 1 "),
    (keyed(general__architecture="gemma3"), ": the architecture 'gemma3' is not supported: it must be one of .*llama, gpt"),
    (keyed(split__count=3, split__no=1), ": is part 2 of 3: join the parts with llama.cpp's llama-gguf-split --merge"),
    (keyed(llama__embedding_length="wide"), ": not the keys of a model .TypeError: "),
    (keyed(llama__expert_count=8), ": llama.expert_count = 8 is not supported"),
    (keyed(llama__attention__scale=0.5), ": llama.attention.scale = 0.5 is not supported"),
    (keyed(llama__block_count=None), ": the key llama.block_count is missing"),
    (keyed(llama__block_count=0), ": llama.block_count should be greater than 0, found 0"),
    (keyed(llama__block_count=3), " lacks blk.2.attn_k.weight, .* and 5 more"),
    (keyed(llama__block_count=10**9), ": the file's keys make 1000000000 layers, and it has 20 tensors"),
    (keyed(llama__block_count=1), " has extra blk.1.attn_k.weight .*"),
    (keyed(llama__attention__head_count_kv=3), ": num_heads 4 is not a multiple of num_kv_heads 3"),
    (keyed(llama__attention__head_count_kv=4), ": blk.0.attn_k.weight is .32, 64., the file's keys make it .64, 64."),
    (keyed(llama__attention__value_length=8), ": llama.attention.value_length = 8 is not supported"),
    (keyed(llama__rope__dimension_count=8), ": llama.rope.dimension_count = 8 is not supported: only whole heads, 16, are"),
    (keyed(llama__rope__scaling__type="longrope"), ": rope.scaling.type = 'longrope' is not supported"),
    (keyed(llama__rope__scaling__type="yarn", llama__rope__scaling__factor=2.0), ": yarn scaling needs original_max_position"),
    (keyed(llama__rope__scaling__type="linear"), ": factor should be "),
    (keyed(llama__rope__scaling__attn_factor=2.0), ": rope.scaling.attn_factor = 2.0 is not supported without yarn"),
    (with_divisors, ": rope_freqs.weight holds other divisors of frequencies than llama3's"),
    (without("output_norm.weight"), " lacks output_norm.weight"),
    (without("token_embd.weight"), ": the tensor token_embd.weight is missing"),
    (instead("token_embd.weight", lambda data: data[:-1]), ": the file has 320 tokens, 320 token types and an embedding of 319"),
    (instead("output_norm.weight", lambda data: data * np.nan), ": output_norm.weight holds numbers that are not finite"),
    (keyed(tokenizer__ggml__model="llama"), ": the key tokenizer.ggml.scores is missing"),
    (keyed(tokenizer__ggml__model="t5"), ": the tokenizer is of the kind 't5', and only byte-level BPE"),
    (keyed(tokenizer__ggml__model=None), ": the tokenizer is of the kind None, and only byte-level BPE"),
    (keyed(tokenizer__ggml__pre="tekken"), ": the pre-tokenizer 'tekken' .tokenizer.ggml.pre. is not supported"),
    (keyed(tokenizer__ggml__merges=None), ": the key tokenizer.ggml.merges is missing"),
    (keyed(tokenizer__ggml__merges=["q zz"]), ": tokenizer.ggml.merges do not fit tokenizer.ggml.tokens"),
    (keyed(tokenizer__ggml__merges=["qz"]), ": tokenizer.ggml.merges has 'qz', which is not two pieces"),
    (keyed(tokenizer__chat_template="{% for %}"), ": chat_template.jinja: the chat template "),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=[words[:50] for _, words in REFUSED])
def test_refusals_leave_nothing_behind(change, words, good, tmp_path, capsys):
    file = change(good, tmp_path / "bad.gguf")
    said = refused(capsys, tmp_path, "import", str(file), "--out", str(tmp_path / "some" / "where"))
    assert said.startswith(str(file))
    assert re.match(words, said.removeprefix(str(file))), said


def test_a_folder_that_holds_something_is_kept(good, tmp_path, capsys):
    (tmp_path / "kept").write_text("a")
    for out in (tmp_path, tmp_path / "kept"):
        assert "exists and is not an empty folder" in refused(capsys, tmp_path, "import", str(good), "--out", str(out))
    assert "No such file" in refused(
        capsys, tmp_path, "import", str(tmp_path / "no.gguf"), "--out", str(tmp_path / "x")
    )


def test_without_the_package(good, tmp_path, monkeypatch):
    load = builtins.__import__

    def without_gguf(name: str, *rest: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_gguf)
    with pytest.raises(UsageError, match=r"pip install 'tutelage\[gguf\]'"):
        import_gguf(good, tmp_path / "out")


MODELS = Path(os.environ.get("GGUF_MODELS", "/tmp/models"))
REAL = ["SmolLM2-135M-Instruct.Q4_1.gguf", "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"]
QUESTIONS = [
    "What is the capital of France?", "Write a haiku about the sea.", "List three prime numbers.", "Who wrote Hamlet?",
    "法国的首都是哪里？", "用一句话介绍长城。", "把“猫”翻译成英文。", "Write a Python function that reverses a string.",
    "Explain `git rebase` in one sentence.", "What does `ls -la` do?",
]  # fmt: skip


@pytest.mark.proof
@pytest.mark.parametrize("name", REAL)
def test_real_files(name, tmp_path):
    """transformers' logits of the same file, and llama.cpp's greedy answers after a second export."""
    if not (MODELS / name).exists():
        pytest.skip(f"no {name} in {MODELS} (GGUF_MODELS)")
    transformers = pytest.importorskip("transformers")
    imported(MODELS / name, tmp_path / "model")
    model, tokenizer = load_decoder(tmp_path / "model"), Tokenizer.load(tmp_path / "model")
    rows = [torch.tensor([tokenizer.encode(text)]) for text in QUESTIONS]
    read = transformers.AutoModelForCausalLM.from_pretrained
    with torch.no_grad():
        theirs = read(MODELS, gguf_file=name, dtype=torch.float32)
        wanted = [theirs(ids).logits for ids in rows]
        del theirs
        again = read(tmp_path / "model", dtype=torch.float32)
        for ids, logits in zip(rows, wanted, strict=True):
            assert (again(ids).logits - logits).abs().max() < 1e-4
            # Our decoder adds in another order; logits are up to 40.
            assert (model.logits(model(ids)) - logits).abs().max() < 1e-5 * logits.abs().max()
    del again, model
    export_gguf(tmp_path / "model", tmp_path / "a.gguf", "f32")
    assistant, server = Assistant.load(tmp_path / "model", device="cpu", dtype="fp32"), llama_cpp(tmp_path / "a.gguf")
    prompts = [Prompt(messages=(Message(role="user", content=text),)) for text in QUESTIONS]
    for answer in assistant.answers(prompts, Sampling(temperature=0, max_tokens=24)):
        ids = render(tokenizer, answer.prompt.messages, add_generation_prompt=True).ids
        assert tokenizer.decode(greedy(server, ids, 24)).strip().rstrip("\ufffd") == answer.completions[0].text.rstrip(
            "\ufffd"
        )
    for text in texts():
        assert tokenizer.encode(text) == ask(server, "/tokenize", content=text, parse_special=False)["tokens"], text
