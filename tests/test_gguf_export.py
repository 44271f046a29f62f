"""GGUF files in llama.cpp itself (through xllamacpp): the same tokens, the same greedy texts, the same prompt from the template."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.assistant.assistant import Assistant
from tutelage.errors import CheckpointError
from tutelage.generate.sampler import Sampling
from tutelage.gguf_export import export_gguf, neighbouring_pairs, tensors
from tutelage.model.checkpoint import load_decoder, save_model
from tutelage.model.config import ModelConfig
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


def llama_cpp(path: Path):
    """A llama.cpp server on the file, one thread, no sampling."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.use_jinja = 128, 1, False, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def greedy(server, ids: list[int], length: int) -> str:
    request = {"prompt": ids, "temperature": 0, "n_predict": length, "cache_prompt": False}
    answer = server.handle_completions(request)
    return (json.loads(answer) if isinstance(answer, bytes | str) else answer)["choices"][0]["text"]


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_writes_what_we_write(family, tie, tmp_path):
    folder = checkpoint(tmp_path / "model", family, tie)
    assistant = Assistant.load(folder, device="cpu", dtype="fp32")
    prompts = [Prompt(messages=(Message(role="user", content=text),)) for text in TEXTS[:3]]
    export_gguf(folder, tmp_path / "model.gguf", "f32")
    server = llama_cpp(tmp_path / "model.gguf")
    for answer in assistant.answers(prompts, Sampling(temperature=0, max_tokens=16)):
        ids = render(assistant.tokenizer, answer.prompt.messages, add_generation_prompt=True).ids
        assert greedy(server, ids, 16).strip() == answer.completions[0].text


def test_llama_cpp_renders_the_template_and_cuts_text_as_we_do(tmp_path):
    folder = checkpoint(tmp_path / "model", "llama", True)
    export_gguf(folder, tmp_path / "model.gguf", "bf16")
    tokenizer = Tokenizer.load(folder)
    server = llama_cpp(tmp_path / "model.gguf")
    for text in (TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[4]):
        message = {"role": "user", "content": text}
        answer = server.handle_chat_completions({"messages": [message], "temperature": 0, "max_tokens": 1})
        answer = json.loads(answer) if isinstance(answer, bytes | str) else answer
        ours = render(tokenizer, [Message(role="user", content=text)], add_generation_prompt=True).ids
        assert answer["usage"]["prompt_tokens"] == len(ours), text


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


def test_neighbouring_pairs_by_hand():
    rows = torch.arange(8)[:, None]
    assert neighbouring_pairs(rows, 4)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


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
