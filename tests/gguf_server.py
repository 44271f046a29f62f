"""llama.cpp itself, through xllamacpp: a server on a GGUF file and what the tests ask it for."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
import torch

from tutelage.export.gguf import export

PATIENCE = 200  # seconds; half a billion weights in float32 on a busy core take a minute for an answer


def export_gguf(checkpoint: Path, out: Path, kind: str = "bf16") -> list[str]:
    """Export a folder; returns the notes."""
    closing, *notes = export(checkpoint, out, kind).splitlines()
    assert closing.startswith(f"{out}: ")
    assert closing.endswith(f" MiB, {kind}")
    return [note.removeprefix("note: ") for note in notes]


def llama_cpp(path: Path):
    """A llama.cpp server on the file: one thread, attention in full precision."""
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.use_jinja = 128, 1, False, True
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    # Answered by its main loop. A server dropped before its main loop runs misses the call to end, and is waited for without end.
    with urllib.request.urlopen(server.listening_address + "/slots", timeout=PATIENCE) as answer:
        json.load(answer)
    return server


def ask(server, path: str, **body: object) -> dict:
    request = urllib.request.Request(
        server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def logprobs(server, ids: list[int], vocab_size: int, written: int) -> torch.Tensor:
    """llama.cpp's log-probabilities of all tokens after ``ids``, where it is made to write ``written``, whole characters."""
    settings = {"n_predict": 1, "n_probs": vocab_size, "temperature": 0, "cache_prompt": False}
    answer = ask(server, "/completion", prompt=ids, logit_bias=[[written, 1000]], **settings)
    found = {one["id"]: one["logprob"] for one in answer["completion_probabilities"][0]["top_logprobs"]}
    return torch.tensor([found[i] for i in range(vocab_size)])


def greedy(server, ids: list[int], length: int, **settings: object) -> list[int]:
    """The tokens that llama.cpp writes after ``ids``, with the one that ends them."""
    settings |= {"temperature": 0, "n_predict": length, "cache_prompt": False, "return_tokens": True}
    return ask(server, "/completion", prompt=ids, **settings)["tokens"]
