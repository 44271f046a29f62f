"""GGUF files in llama.cpp itself (through xllamacpp): the same tokens, probabilities, greedy texts, prompts and ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_server import ask, export_gguf, greedy, llama_cpp, logprobs

from tutelage.assistant.assistant import Assistant
from tutelage.cli import app as cli
from tutelage.errors import CheckpointError
from tutelage.export.gguf import tensors
from tutelage.export.gguf_tensors import neighbouring_pairs
from tutelage.generate.sampler import Sampling
from tutelage.model.checkpoint import load_decoder, save_model
from tutelage.model.config import ModelConfig, RopeScaling
from tutelage.model.decoder import Decoder
from tutelage.records import Message, Prompt
from tutelage.text.chat import render
from tutelage.text.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf")
FAMILIES = ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"]
TEXTS = [
    "Mira lives in Arden.",
    "two  words\n\n12345 + 67",
    "她住在阿登。",
    "naïve <|end|> <|user|> café",
    "\tdef f(x):\n    return x",
]


def checkpoint(folder: Path, family: str, tie: bool) -> Path:
    """A random model whose answers are far from ties."""
    tokenizer = Tokenizer.train(TEXTS * 5, 320)
    torch.manual_seed(1)
    grouped = {"num_kv_heads": 2} if family not in ("gpt2", "gpt_neox") else {}
    config = ModelConfig(
        family=family, vocab_size=tokenizer.vocab_size, hidden_size=64, num_layers=2, num_heads=4, tie_embeddings=tie,
        max_position_embeddings=128, init_std=0.4, **grouped,
    )  # fmt: skip
    save_model(folder, Decoder(config), bos_id=tokenizer.bos_id, end_id=tokenizer.end_id, pad_id=tokenizer.pad_id)
    tokenizer.save(folder)
    return folder


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_writes_what_we_write(family, tie, tmp_path):
    folder = checkpoint(tmp_path / "model", family, tie)
    assistant = Assistant.load(folder, device="cpu", dtype="fp32")
    prompts = [Prompt(messages=(Message(role="user", content=text),)) for text in TEXTS[:3]]
    export_gguf(folder, tmp_path / "model.gguf", "f32")
    server = llama_cpp(tmp_path / "model.gguf")
    for answer in assistant.answers(prompts, Sampling(temperature=0, max_tokens=16)):
        tokenizer = assistant.tokenizer
        ids = render(tokenizer, answer.prompt.messages, add_generation_prompt=True).ids
        theirs = tokenizer.decode(greedy(server, ids, 16)).strip()
        # A character that the limit cuts in half is left out of our text.
        assert theirs.rstrip("\ufffd") == answer.completions[0].text.rstrip("\ufffd")


def test_llama_cpp_renders_the_template_and_cuts_text_as_we_do(tmp_path):
    folder = checkpoint(tmp_path / "model", "llama", True)
    export_gguf(folder, tmp_path / "model.gguf", "bf16")
    tokenizer = Tokenizer.load(folder)
    server = llama_cpp(tmp_path / "model.gguf")
    for text in (TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[4]):
        message = {"role": "user", "content": text}
        answer = ask(server, "/v1/chat/completions", messages=[message], temperature=0, max_tokens=1)
        ours = render(tokenizer, [Message(role="user", content=text)], add_generation_prompt=True).ids
        assert answer["usage"]["prompt_tokens"] == len(ours), text
    for text in TEXTS:
        found = ask(server, "/tokenize", content=text, add_special=True, parse_special=False)["tokens"]
        assert found == [tokenizer.bos_id, *tokenizer.encode(text)], text


FAR = {"factor": 4.0, "original_max_position_embeddings": 32}
BANDS = FAR | {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = [
    ("llama", {"kind": "linear", "factor": 4.0}),
    ("gpt_neox", {"kind": "linear", "factor": 2.5}),
    ("qwen3", {"kind": "yarn"} | FAR),
    ("mistral", {"kind": "yarn", "beta_fast": 8.0} | FAR | {"original_max_position_embeddings": 512}),
    ("gpt_neox", {"kind": "yarn", "attention_factor": 0.7} | FAR),
    ("qwen2", {"kind": "yarn", "mscale": 2.0, "mscale_all_dim": 0.5} | FAR),
    ("qwen2", {"kind": "yarn", "factor": 0.5, "original_max_position_embeddings": 32}),
    ("llama", {"kind": "yarn", "truncate": False} | FAR),
    ("llama", {"kind": "llama3"} | BANDS),
    ("mistral", {"kind": "llama3"} | BANDS),
]


def scaled(folder: Path, family: str, scaling: dict | None) -> Path:
    """A model that looks far back, with or without the scaling."""
    tokenizer = Tokenizer.train(TEXTS, 300)
    torch.manual_seed(2)
    grouped = {"num_kv_heads": 2} if family not in ("gpt2", "gpt_neox") else {}
    config = ModelConfig(
        family=family, vocab_size=tokenizer.vocab_size, hidden_size=64, num_layers=2, num_heads=4, init_std=0.2, rope_theta=100.0,
        max_position_embeddings=128, rope_scaling=None if scaling is None else RopeScaling(**scaling), **grouped,
    )  # fmt: skip
    save_model(folder, Decoder(config), bos_id=tokenizer.bos_id, end_id=tokenizer.end_id, pad_id=tokenizer.pad_id)
    tokenizer.save(folder)
    return folder


@pytest.mark.parametrize(("family", "scaling"), SCALINGS, ids=lambda value: str(value)[:60])
def test_rope_scaling_is_the_same_in_llama_cpp(family, scaling, tmp_path):
    """Three times as far as the original length; without its keys the file gives other probabilities and another text."""
    folder, plain = scaled(tmp_path / "scaled", family, scaling), scaled(tmp_path / "plain", family, None)
    model = load_decoder(folder)
    tokens = torch.randint(6, model.config.vocab_size, (100,), generator=torch.manual_seed(3)).tolist()
    for name in (folder, plain):
        export_gguf(name, name.with_suffix(".gguf"), "f32")
    server, without = llama_cpp(folder.with_suffix(".gguf")), llama_cpp(plain.with_suffix(".gguf"))
    wanted, tokenizer = next_logprobs(model, tokens), Tokenizer.load(folder)
    theirs, others = (logprobs(one, tokens, len(wanted), tokenizer.encode("a")[0]) for one in (server, without))
    # GPT-NeoX's GELU is another there: tanh's, from a table in half precision.
    assert (theirs - wanted).abs().max() < (5e-3 if family == "gpt_neox" else 1e-4)
    assert (others - wanted).abs().max() > 0.1
    theirs, others = (greedy(one, tokens, 16, ignore_eos=True) for one in (server, without))
    for _ in range(16):
        scores = next_logprobs(model, tokens)
        scores[tokenizer.end_id] = -torch.inf
        tokens = [*tokens, int(scores.argmax())]
    assert theirs == tokens[100:]
    assert theirs != others


def next_logprobs(model: Decoder, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(torch.tensor([tokens]))[0, -1]).log_softmax(-1)


@pytest.mark.parametrize(
    ("family", "scaling", "words"),
    [
        ("llama", {"kind": "dynamic", "factor": 2.0}, "no dynamic RoPE scaling"),
        ("qwen2", {"kind": "llama3"} | BANDS, "llama3's RoPE scaling in a llama or mistral model only, not in qwen2"),
        ("qwen2", {"kind": "yarn", "truncate": False} | FAR, "yarn with other beta_fast .* only, not in qwen2"),
        (
            "qwen3",
            {"kind": "yarn", "beta_slow": 0.1} | FAR,
            "yarn with other beta_fast .* only, not in qwen3",
        ),
    ],
)
def test_rope_scaling_that_llama_cpp_does_not_have_is_refused(family, scaling, words, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        export_gguf(scaled(tmp_path / "model", family, scaling), tmp_path / "x.gguf")
    assert not list(tmp_path.glob("*gguf*"))


@pytest.mark.parametrize(("kind", "bits", "error"), [("bf16", 16, 0.004), ("q8_0", 8.5, 0.01), ("q4_0", 4.5, 0.15)])
def test_quantised_matrices_come_back_within_their_precision(kind, bits, error, tmp_path):
    folder = checkpoint(tmp_path / "model", "qwen3", True)
    export_gguf(folder, tmp_path / "model.gguf", kind)
    stored = {t.name: t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    wanted = tensors(load_decoder(folder))
    assert stored.keys() == wanted.keys()
    for name, tensor in wanted.items():
        back = gguf.dequantize(stored[name].data, stored[name].tensor_type).reshape(tensor.shape)
        spread = tensor.abs().max().item() if tensor.dim() > 1 else 1.0
        assert np.abs(back - tensor.numpy()).max() <= error * spread, name
    one = stored["blk.0.ffn_down.weight"]
    # 2.7 * 64 = 170 columns are no multiple of 32: this matrix stays bf16.
    assert one.n_bytes * 8 == (bits if wanted[one.name].shape[1] % 32 == 0 else 16) * wanted[one.name].numel()


def test_a_window_ends_the_context(tmp_path):
    folder = checkpoint(tmp_path / "model", "mistral", True)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"sliding_window": 48}))
    notes = export_gguf(folder, tmp_path / "model.gguf")
    assert notes == ["the context ends at 48 tokens: llama.cpp has no window in a mistral model"]
    assert gguf.GGUFReader(tmp_path / "model.gguf").fields["llama.context_length"].contents() == 48


def test_neighbouring_pairs_by_hand():
    rows = torch.arange(8)[:, None]
    assert neighbouring_pairs(rows, 4).flatten(0, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path):
    folder = checkpoint(tmp_path / "model", "llama", True)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"hidden_act": "relu"}))
    with pytest.raises(CheckpointError, match=r"llama\.cpp computes silu in a llama model, not relu"):
        export_gguf(folder, tmp_path / "x.gguf")
    (folder / "config.json").write_text(json.dumps(settings))
    described = json.loads((folder / "tokenizer.json").read_text())
    described["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="no name for this pre-tokenizer"):
        export_gguf(folder, tmp_path / "x.gguf")
    assert not list(tmp_path.glob("*.gguf*"))
    assert not list(tmp_path.glob(".*.tmp"))


def test_weights_that_are_no_numbers_are_refused_and_nothing_is_left(tmp_path):
    folder = checkpoint(tmp_path / "model", "qwen3", True)
    model = load_decoder(folder)
    with torch.no_grad():
        model.layers[1].mlp.down.weight[3, 5] = torch.nan
    save_model(folder, model, bos_id=1, end_id=2, pad_id=0)
    with pytest.raises(CheckpointError, match=r"blk\.1\.ffn_down\.weight holds numbers that are not finite"):
        export_gguf(folder, tmp_path / "some" / "where" / "x.gguf")
    assert not (tmp_path / "some").exists()


def test_a_gguf_file_is_named_so(tmp_path, capsys):
    assert cli.main(["export", str(tmp_path), "--out", str(tmp_path / "merged")]) == 2
    assert "the name of a GGUF file ends in .gguf" in capsys.readouterr().err
