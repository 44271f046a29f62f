"""generation_config.json: begin, end and padding tokens, and the sampling settings that a model's makers recommend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from tutelage.errors import CheckpointError
from tutelage.model.weight_files import read_object

GENERATION, CONFIG = "generation_config.json", "config.json"
_Id = Annotated[int, Field(ge=0)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(strict=True))
class GenerationDefaults:
    """What a model folder says about generation; None (for end ids, an empty tuple) where it says nothing.

    ``do_sample`` False or None means greedy decoding in transformers, whatever the other settings. When sampling,
    transformers replaces None by a temperature of 1, a top_p of 1 and a top_k of 50.
    """

    bos_id: _Id | None = None
    end_ids: tuple[_Id, ...] = ()
    """Each of these ends an answer (eos_token_id); training uses the first."""
    pad_id: _Id | None = None
    do_sample: bool | None = None
    temperature: Annotated[_Finite, Field(ge=0)] | None = None
    top_p: Annotated[_Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    """0 keeps all tokens."""
    repetition_penalty: Annotated[_Finite, Field(gt=0)] | None = None
    max_new_tokens: Annotated[int, Field(gt=0)] | None = None


_NAMES = {name: name for name in GenerationDefaults.__dataclass_fields__}
_NAMES |= {"bos_id": "bos_token_id", "end_ids": "eos_token_id", "pad_id": "pad_token_id"}


def read_generation_config(folder: Path | str) -> GenerationDefaults:
    """The defaults in a model folder's generation_config.json, or else in its config.json, as in transformers.

    CheckpointError names the file and the setting if a value has the wrong type or is out of range.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist: give a model folder")
    path = folder / GENERATION if (folder / GENERATION).exists() else folder / CONFIG
    given = read_object(path) if path.exists() else {}
    values = {ours: given[theirs] for ours, theirs in _NAMES.items() if given.get(theirs) is not None}
    for name in ("bos_id", "pad_id"):
        if values.get(name) == -1:  # older Llama folders write -1 for none
            del values[name]
    ends = values.get("end_ids", [])
    values["end_ids"] = tuple(ends) if isinstance(ends, list) else (ends,)
    try:
        return GenerationDefaults(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = _NAMES[str(first["loc"][0])]
        raise CheckpointError(f"{path}: {name} is {given[name]!r}: {first['msg']}") from None


def generation_to_hf(defaults: GenerationDefaults) -> dict[str, Any]:
    """The content of generation_config.json; a single end id is written as a number, several as a list."""
    found = {theirs: getattr(defaults, ours) for ours, theirs in _NAMES.items()}
    ends = list(defaults.end_ids)
    found["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    return {name: value for name, value in found.items() if value is not None}
