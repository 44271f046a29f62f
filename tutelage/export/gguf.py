"""A checkpoint as one GGUF file, which llama.cpp and what is built on it read: weights, tokenizer, chat template.

    tutelage export runs/demo/ppo_ptx/checkpoint --out assistant.gguf --type q8_0

The way back is gguf_import; names, layouts and keys are in gguf_tensors and gguf_settings, for both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import CheckpointError, UsageError
from tutelage.export.gguf_settings import add_settings, divisors, refuse
from tutelage.export.gguf_tensors import ARCHITECTURES, EMBEDDING, FREQUENCIES, OUTPUT, Quantisation, entries
from tutelage.export.gguf_tokenizer import write_tokenizer
from tutelage.files import atomic_path
from tutelage.model.checkpoint import load_decoder
from tutelage.model.decoder import Decoder

_FILE_TYPES = {"f32": "ALL_F32", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}


def export(checkpoint: Path, out: Path, type: Quantisation = "bf16") -> str:
    """Write a language model's folder as a GGUF file, atomically; returns the closing line, and notes on what llama.cpp changes.

    ``type`` is the format of matrices. Norms and biases are f32; with q4_0 the embeddings are q8_0, as in llama.cpp; a matrix
    whose rows are not a multiple of 32 stays bf16. CheckpointError for what llama.cpp would compute in another way, and for
    weights that are not finite.
    """
    try:
        import gguf
    except ImportError:
        raise UsageError("GGUF export needs the gguf package: pip install 'tutelage[gguf]'") from None
    model = load_decoder(checkpoint)
    config = model.config
    refuse(config)
    with atomic_path(out) as temporary:
        writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[ARCHITECTURES[config.family]]])
        notes = add_settings(writer, config)
        writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[type]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        notes += write_tokenizer(writer, checkpoint, config.vocab_size)
        for name, tensor in tensors(model).items():
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{checkpoint}: {name} holds numbers that are not finite; no file written")
            values = np.ascontiguousarray(tensor.detach().to(torch.float32).cpu().numpy())
            kind = gguf.GGMLQuantizationType[_kind(name, values.shape, type).upper()]
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    line = f"{out}: {out.stat().st_size / 2**20:.1f} MiB, {type}"
    return "\n".join([line, *(f"note: {note}" for note in notes)])


def _kind(name: str, shape: tuple[int, ...], kind: Quantisation) -> Quantisation:
    """The format of one tensor in a file of the given kind."""
    if len(shape) < 2 or name == "position_embd.weight":  # llama.cpp adds positions in f32 only
        return "f32"
    if kind in ("q8_0", "q4_0") and shape[-1] % 32:
        return "bf16"
    return "q8_0" if kind == "q4_0" and name in (EMBEDDING, OUTPUT) else kind


def tensors(model: Decoder) -> dict[str, Tensor]:
    """All weights under ggml's names and in its layouts, [out, in]."""
    config, state = model.config, model.state_dict()
    found = {
        name: view.flatten(0, 2) if name in entry.theirs[:2] and entry.paired else view
        for entry in entries(config, state)
        for name, view in entry.views(state[entry.ours]).items()
    }
    if config.family == "gpt_neox" and config.tie_embeddings:  # llama.cpp ties the others by itself
        found[OUTPUT] = found[EMBEDDING]
    listed = divisors(config)
    return found if listed is None else found | {FREQUENCIES: listed}
