"""Generation: greedy answers of a fixed length to a batch of prompts, prefill included.

transformers' ``generate`` and llama.cpp's server do the same work: the same prompts, as many tokens in every answer, no end token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.pairs import Case, Side
from bench.rows import random_rows
from bench.worker import Turn

if TYPE_CHECKING:
    from bench.prepare import Prepared

TITLE = "Generation"
PROMPT, TOKENS = 32, 128
BATCHES = {"S": (1, 16, 64), "M": (1,), "smollm2": (1, 16), "demo": (1, 64)}


def cases(prepared: Prepared) -> Iterator[Case]:
    for shape, batches in BATCHES.items():
        for batch in batches:
            name = f"{shape}, batch {batch}"
            if shape == "smollm2" and prepared.smollm2 is None:
                yield Case(name, "tokens/s", (), left_out="give its folder, --smollm2")
                continue
            work = {"vocab_size": prepared.vocab_size(shape), "batch": batch, "prompt": PROMPT}
            yield Case(name, "tokens/s", sides(prepared, shape), work | {"tokens": 16 if prepared.quick else TOKENS})


def sides(prepared: Prepared, shape: str) -> list[Side]:
    whole = {"model": prepared.model(shape)}
    half, kept = whole | {"dtype": "bf16"}, {"mallopt": True}
    gguf = {kind: {"gguf": prepared.gguf(shape, kind)} for kind in ("bf16", "f32", "q8_0")}
    return [
        Side("tutelage", "as shipped", tutelage, whole),
        Side("tutelage", "bf16", tutelage, whole | {"weights": "bf16"}),
        Side("tutelage quantised", "int8", tutelage, whole | {"weights": "int8"}),
        Side("transformers", "as shipped", transformers, whole),
        Side("transformers", "mallopt", transformers, whole | kept),
        Side("transformers", "bf16m", transformers, half | kept),
        Side("llama.cpp", "BF16", llama_cpp, gguf["bf16"]),
        Side("llama.cpp", "F32", llama_cpp, gguf["f32"]),
        Side("llama.cpp quantised", "Q8_0", llama_cpp, gguf["q8_0"]),
    ]


def tutelage(
    model: str, vocab_size: int, batch: int, prompt: int, tokens: int, weights: Any = "auto", device: str = "cpu"
) -> Turn:
    from tutelage.machine import prepare_machine

    prepare_machine()
    from tutelage.generate.engine import Engine
    from tutelage.generate.request import Request
    from tutelage.generate.sampler import Sampling
    from tutelage.model.checkpoint import load_decoder

    decoder = load_decoder(Path(model), device)
    engine = Engine(decoder, max_batch=batch, weights=weights, fixed=True)
    sampling = Sampling(temperature=0, max_tokens=tokens)
    requests = [Request(row, sampling) for row in random_rows(batch, prompt, vocab_size)]

    def turn() -> float:
        return checked(batch * tokens, sum(len(one.tokens) for samples in engine.generate(requests) for one in samples))

    return turn


def transformers(
    model: str, vocab_size: int, batch: int, prompt: int, tokens: int, dtype: str = "fp32", mallopt: bool = False
) -> Turn:
    import torch
    from transformers import AutoModelForCausalLM

    from bench.tunings import keep_big_tensors_on_heap

    if mallopt:
        keep_big_tensors_on_heap()
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    decoder = AutoModelForCausalLM.from_pretrained(model, dtype=kind).eval()
    decoder.generation_config.eos_token_id = None
    decoder.generation_config.pad_token_id = 0
    ids = torch.tensor(random_rows(batch, prompt, vocab_size))

    def turn() -> float:
        found = decoder.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, use_cache=True
        )
        return checked(batch * tokens, found[:, prompt:].numel())

    return turn


def llama_cpp(gguf: str, vocab_size: int, batch: int, prompt: int, tokens: int) -> Turn:
    """One request with all prompts, each in a slot of its own."""
    from bench.llama_server import complete, start

    server = start(gguf, slots=batch, context=prompt + tokens)
    settings: dict[str, Any] = {"temperature": 0, "n_predict": tokens, "ignore_eos": True, "cache_prompt": False}
    rows = random_rows(batch, prompt, vocab_size)

    def turn() -> float:
        answers = complete(server, prompt=rows if batch > 1 else rows[0], **settings)
        return checked(batch * tokens, sum(answer["tokens_predicted"] for answer in answers))

    return turn


def checked(wanted: int, written: int) -> float:
    """The number of tokens; RuntimeError if they are not those that everybody writes."""
    if written != wanted:
        raise RuntimeError(f"{written} tokens were written instead of {wanted}")
    return float(written)
