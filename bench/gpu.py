"""tutelage alone on one device, mostly a GPU, held against what the device can do: `python -m bench.gpu`.

Training: tokens per second, and the share of the device's products that the model's own take (MFU; Chowdhery et al. 2022, PaLM,
appendix B). Generation: tokens per second, and the share of its memory bandwidth that reading weights and cache once per step
takes. What the device can do is measured: a large product, and a large copy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import generate, pretrain
from bench.figures import spread
from bench.prepare import Prepared, config_of
from tutelage.files import write_atomic
from tutelage.model.config import ModelConfig
from tutelage.model.device import autocast_dtype, pick_device

RESULTS = Path(__file__).resolve().parent / "results"
PROMPT, TOKENS = 32, 128
BATCHES = (1, 16, 64, 256)


class Peaks(NamedTuple):
    """What the device was seen to do."""

    flops: float
    """Of products in the type that training computes in, per second."""
    bytes: float
    """Read and written, per second."""


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="less of everything, to see that all runs")
    parser.add_argument("--out", type=Path, help="result file; none: bench/results/NAME OF THE DEVICE.json")
    options = parser.parse_args(words)
    device = pick_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    peaks = measured(device, 512 if options.quick else 8192)
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "device": name, "torch": torch.__version__}
    found |= {"products_per_s": peaks.flops, "bytes_per_s": peaks.bytes, "lines": []}
    print(f"{name}: products of {peaks.flops / 1e12:.3g} TFLOP/s, a copy of {peaks.bytes / 1e9:.3g} GB/s", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        prepared = Prepared(Path(folder), quick=options.quick)
        for line in chain(training(prepared, device, peaks), generation(prepared, device, peaks)):
            found["lines"].append(line)
            shares = ", ".join(f"{key} {value:.1%}" for key, value in line.items() if key in ("mfu", "bandwidth"))
            print(f"{line['work']}: {line['tokens_per_s']:,.0f} tokens/s, {shares}", flush=True)
    out = options.out or RESULTS / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"
    write_atomic(out, (json.dumps(found, indent=1) + "\n").encode())
    print(out)


def measured(device: torch.device, size: int) -> Peaks:
    """Of products [size, size] x [size, size], and copies of as many bytes as 16 of their factors."""
    dtype = autocast_dtype(device)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(16 * size, size, device=device, dtype=dtype)
    target = torch.empty_like(source)
    products = timed(lambda: torch.mm(left, right), device, 5, 10)
    copies = timed(lambda: target.copy_(source), device, 5, 10)
    return Peaks(2 * size**3 / products, 2 * source.numel() * source.element_size() / copies)


def training(prepared: Prepared, device: torch.device, peaks: Peaks) -> Iterator[dict[str, Any]]:
    """Pretraining of S and M, with and without --compile."""
    batch, sequence = (2, 64) if prepared.quick else (64, 256)
    for shape in ("S",) if prepared.quick else ("S", "M"):
        work: dict[str, Any] = {"model": prepared.model(shape), "vocab_size": prepared.vocab_size(shape)}
        for compile in (False,) if prepared.quick else (False, True):
            turn = pretrain.tutelage(**work, batch=batch, sequence=sequence, compile=compile, device=str(device))
            rate = batch * sequence / timed(turn, device, 5, 3)
            share = rate * training_flops(config_of(shape), sequence) / peaks.flops
            title = f"pretrain {shape}, {batch} x {sequence}" + ", compiled" * compile
            yield {"work": title, "tokens_per_s": rate, "mfu": share}


def generation(prepared: Prepared, device: torch.device, peaks: Peaks) -> Iterator[dict[str, Any]]:
    """Greedy answers of S and M; on a GPU with recorded steps and without."""
    tokens = 8 if prepared.quick else TOKENS
    for shape in ("S",) if prepared.quick else ("S", "M"):
        work: dict[str, Any] = {"model": prepared.model(shape), "vocab_size": prepared.vocab_size(shape)}
        for batch in BATCHES[:2] if prepared.quick else BATCHES:
            for decode in ("auto", "torch"):
                with decoding(decode):
                    turn = generate.tutelage(**work, batch=batch, prompt=PROMPT, tokens=tokens, device=str(device))
                    rate = batch * tokens / timed(turn, device, 5, 1)
                read = step_bytes(config_of(shape), device, batch, PROMPT + tokens // 2)
                title = f"generate {shape}, batch {batch}" + ", torch" * (decode == "torch")
                yield {"work": title, "tokens_per_s": rate, "bandwidth": rate / batch * read / peaks.bytes}


@contextmanager
def decoding(kind: str) -> Iterator[None]:
    """TUTELAGE_DECODE for what happens within."""
    before = os.environ.get("TUTELAGE_DECODE")
    os.environ["TUTELAGE_DECODE"] = kind
    try:
        yield
    finally:
        del os.environ["TUTELAGE_DECODE"]
        if before is not None:
            os.environ["TUTELAGE_DECODE"] = before


def timed(turn: Callable[[], object], device: torch.device, rounds: int, calls: int) -> float:
    """Seconds of a call: the median of ``rounds`` of ``calls`` each, after one call that does not count."""
    turn()
    seconds = []
    for _ in range(rounds):
        wait(device)
        began = time.perf_counter()
        for _ in range(calls):
            turn()
        wait(device)
        seconds.append((time.perf_counter() - began) / calls)
    return spread(seconds).median


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_weights(config: ModelConfig) -> int:
    """Weights that a token is multiplied with: the layers' matrices, and the output's, but not those it looks up."""
    width = config.num_heads * config.head_dim
    attention = config.hidden_size * (2 * width + 2 * config.num_kv_heads * config.head_dim)
    mlp = (3 if config.gated_mlp else 2) * config.hidden_size * config.intermediate_size
    return config.num_layers * (attention + mlp) + config.hidden_size * config.vocab_size


def training_flops(config: ModelConfig, sequence: int) -> float:
    """Of a token, forward and backward: 6 per weight and 12 L h e s for attention to a whole window, as PaLM counts."""
    attended = 12 * config.num_layers * config.num_heads * config.head_dim * sequence
    return 6 * matrix_weights(config) + attended


def step_bytes(config: ModelConfig, device: torch.device, batch: int, held: int) -> float:
    """What a step has to read: every matrix once, and the keys and values of ``held`` tokens in each row."""
    size = torch.finfo(autocast_dtype(device)).bits // 8
    cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim * held * batch
    return size * (matrix_weights(config) + cache)


if __name__ == "__main__":
    main()
