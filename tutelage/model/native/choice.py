"""Whether to decode natively: measured on the model and the machine at hand."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from tutelage.errors import UsageError
from tutelage.model.cache import KVCache
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast, cpu_has_bf16
from tutelage.model.inference import inference_copy
from tutelage.model.native.build import library
from tutelage.model.native.decoder import Dtype, NativeDecoder, supported

Setting = Literal["auto", "native", "torch"]
SETTINGS: tuple[Setting, ...] = ("auto", "native", "torch")
TOLERANCE: dict[Dtype, float] = {"fp32": 1e-4, "bf16": 0.06, "int8": 0.1}
"""Largest distance from torch's fp32 logits, as ``distance`` measures it. Of small random models of all families, with weights of
ten times the usual size, the largest found are 2e-6, 0.02 and 0.05."""
_PROMPT, _HELD, _LONG = 8, 32, 128
"""Tokens of the prompts that are compared, tokens in the cache while steps are timed, and tokens of the prompt that is timed."""


def choose(
    model: Decoder, dtype: Dtype, rows: int, setting: Setting = "auto", *, faster: bool | None = None
) -> NativeDecoder | None:
    """The native decoder to generate ``rows`` rows at a time with, or None: generate with torch.

    auto    native if it can be had, its logits are those of torch in fp32 (of bf16 weights, in bf16) within TOLERANCE, and it is
            faster here and now, or was, where ``faster`` says so; its ``prefills`` is what was found of prompts, if timed
    native  native, or a UsageError that says why it cannot be had
    torch   None
    """
    if setting not in SETTINGS:
        raise UsageError(f"decoding {setting!r} is unknown: give {', '.join(SETTINGS)}")
    if setting == "torch":
        return None
    reason = supported(model)
    if not reason and (reason := library()[1]) and setting == "auto":
        _say_once(f"native decoding: {reason}; continuing with torch")
    native = None if reason else NativeDecoder(model, dtype)
    if native is not None:
        training = model.training
        model.eval()
        with torch.inference_mode(), autocast("cpu", _own_precision(model)):
            reason = _found_wrong(model, native)
            if not reason and setting == "auto" and not faster:
                theirs, precision = _torchs(model, native)
                reason = _found_slow(theirs, precision, native, rows)
                native.prefills = not reason and _prefills_faster(theirs, precision, native)
        model.train(training)
    if reason and setting == "native":
        raise UsageError(f"native decoding: {reason}")
    return None if reason else native


def _own_precision(model: Decoder) -> str:
    """What a forward computes in: bf16 weights cannot be multiplied in fp32."""
    return "bf16" if model.embed.weight.dtype == torch.bfloat16 else "fp32"


def distance(logits: Tensor, reference: Tensor) -> float:
    """|logits - reference| / |reference - its mean|, over the vocabulary (the last axis); of several rows, the largest."""
    spread = (reference - reference.mean(-1, keepdim=True)).norm(dim=-1)
    return float(((logits - reference).norm(dim=-1) / spread.clamp_min(1e-30)).max())


def _found_wrong(model: Decoder, native: NativeDecoder) -> str | None:
    """Compare two steps after prompts of different lengths, prefilled each in its way; the second sees the first one's keys."""
    generator = torch.Generator().manual_seed(0)
    context = model.config.max_position_embeddings
    held = max(1, min(_PROMPT, context - 2))
    ids = torch.randint(model.config.vocab_size, (2, held + 2), generator=generator)
    cache = model.new_cache(2, held + 2)
    model(ids[:, :held], cache=cache)
    cache.lengths = torch.tensor([held, max(1, held // 2)])
    twin = cache.select(range(2))
    if native.prefills:
        twin.lengths = torch.zeros_like(cache.lengths)
        native.prefill([row[:length] for row, length in zip(ids.tolist(), cache.lengths.tolist(), strict=True)], twin)
    for i in range(min(2, context - held)):
        token = ids[:, held + i]
        reference = model.logits(model(token[:, None], cache=cache)[:, 0]).float()
        error = distance(native.step(token, twin), reference)
        if not error <= TOLERANCE[native.dtype]:  # NaN too
            return f"its logits differ from torch's by {error:.1g}, more than {TOLERANCE[native.dtype]:g} in {native.dtype}"
    return None


def _found_slow(theirs: Decoder, precision: str, native: NativeDecoder, rows: int) -> str | None:
    """Time steps of both, in turns; the values in the cache do not matter."""
    held = max(1, min(_HELD, theirs.config.max_position_embeddings - 1))
    with autocast("cpu", precision):
        cache = theirs.new_cache(rows, held + 1)
    tokens = torch.zeros(rows, dtype=torch.int64)

    def torch_step() -> None:
        with autocast("cpu", precision):
            theirs.logits(theirs(tokens[:, None], cache=cache)[:, 0])

    def native_step() -> None:
        native.step(tokens, cache)

    times: dict[str, list[float]] = {"native": [], "torch": []}
    for _ in range(4):  # the native decoder tries both of its thread counts in the first two
        times["native"].append(_seconds(native_step, cache, held))
        times["torch"].append(_seconds(torch_step, cache, held))
    ours, other = (statistics.median(spent[1:]) for spent in times.values())
    return None if ours < other else f"it takes {ours * 1e3:.2g} ms per step of {rows} rows and torch {other * 1e3:.2g}"


def _prefills_faster(theirs: Decoder, precision: str, native: NativeDecoder) -> bool:
    """Whether it takes less time than torch for a prompt, whatever its tokens are."""
    length = max(1, min(_LONG, theirs.config.max_position_embeddings - 1))
    with autocast("cpu", precision):
        cache = theirs.new_cache(1, length)
    prompt = [0] * length

    def torch_prefill() -> None:
        with autocast("cpu", precision):
            theirs(torch.tensor([prompt]), cache=cache)

    times = [
        (_seconds(lambda: native.prefill([prompt], cache), cache, 0), _seconds(torch_prefill, cache, 0))
        for _ in range(5)  # the native decoder tries both of its thread counts in the first two
    ]
    ours, other = (statistics.median(spent[2:]) for spent in zip(*times, strict=True))
    return ours < other


def _torchs(model: Decoder, native: NativeDecoder) -> tuple[Decoder, str]:
    """The model as torch would generate with it, and the precision."""
    precision = "bf16" if native.dtype != "fp32" and cpu_has_bf16() else _own_precision(model)
    return inference_copy(model, torch.bfloat16) if precision == "bf16" else model, precision


def _seconds(step: Callable[[], None], cache: KVCache, held: int) -> float:
    cache.lengths = torch.full((cache.batch,), held)
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


_said: set[str] = set()


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        print(message, file=sys.stderr, flush=True)
