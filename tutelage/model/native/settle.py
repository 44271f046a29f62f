"""The choice of a decoder, made once on a machine."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch

from tutelage.errors import UsageError
from tutelage.files import write_atomic
from tutelage.model.decoder import Decoder
from tutelage.model.device import cpu_has_bf16
from tutelage.model.native.build import library
from tutelage.model.native.choice import SETTINGS, Setting, choose
from tutelage.model.native.decoder import Dtype, NativeDecoder, supported

Weights = Literal["auto", "bf16", "int8"]
"""What a decoder rounds its weights to: auto, the type that generation computes in."""


_TORCH, _STEPS, _NATIVE = b"torch\n", b"native steps\n", b"native\n"
"""What is kept: who decodes, and whether native prompts are faster too."""


def decode_setting() -> Setting:
    """TUTELAGE_DECODE in the environment, empty or unset: auto; UsageError for what it cannot be."""
    setting = os.environ.get("TUTELAGE_DECODE") or "auto"
    for known in SETTINGS:
        if setting == known:
            return known
    raise UsageError(f"TUTELAGE_DECODE={setting} is unknown: give {', '.join(SETTINGS)}")


def settled(model: Decoder, dtype: torch.dtype, rows: int, weights: Weights = "auto") -> NativeDecoder | None:
    """``choose`` for generation in ``dtype`` (float32 or bfloat16), as TUTELAGE_DECODE in the environment says.

    UsageError where ``weights`` are to be rounded, or the environment insists on it, and there is no native decoding, and where the
    environment forbids it to weights that are to be rounded.

    Which of the two auto finds faster, for steps and for prompts, is kept on this machine, by the model's shape and the power of
    two of ``rows``: a run that is resumed decodes as it began, to the last bit, and nothing is timed twice. Whether the logits are
    equal is seen each time.
    """
    # Nothing is timed where it is insisted on: torch's products of bf16 are the faster ones for prompts where there are any.
    prefills = dtype == torch.float32 or not cpu_has_bf16()
    setting = decode_setting()
    if weights != "auto":
        if setting == "torch":
            raise UsageError(
                f"weights in {weights} are for native decoding alone, which TUTELAGE_DECODE=torch does without"
            )
        return _insisted(model, weights, rows, prefills, f"weights in {weights} are for native decoding alone")
    kind: Dtype = "bf16" if torch.bfloat16 in (dtype, model.embed.weight.dtype) else "fp32"
    if setting == "native":
        return _insisted(model, kind, rows, prefills, "set TUTELAGE_DECODE to auto or torch")
    if setting != "auto":
        return choose(model, kind, rows, setting)
    if supported(model):  # nothing is compiled for a model that is not on the CPU
        return None
    loaded, _ = library()
    if loaded is None:
        return choose(model, kind, rows)
    compiled, rows = Path(loaded._name), 1 << (rows - 1).bit_length()
    facts = (compiled.stem, model.config.model_dump_json(), kind, rows, torch.get_num_threads(), torch.__version__)
    path = compiled.parent / "choices" / hashlib.sha256(repr(facts).encode()).hexdigest()[:20]
    if not path.exists():
        native = choose(model, kind, rows)
        with suppress(OSError):  # a folder that others share may be read-only
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, _TORCH if native is None else _NATIVE if native.prefills else _STEPS)
        return native
    if (found := path.read_bytes()) == _TORCH:
        return None
    native = choose(model, kind, rows, faster=True)
    if native is not None:
        native.prefills = found == _NATIVE
    return native


def _insisted(model: Decoder, kind: Dtype, rows: int, prefills: bool, advice: str) -> NativeDecoder:
    try:
        native = choose(model, kind, rows, "native")
    except UsageError as error:
        raise UsageError(f"{error}; {advice}") from None
    assert native is not None
    native.prefills = prefills
    return native
