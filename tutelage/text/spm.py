"""sentencepiece's ``tokenizer.model`` as a backend of the ``tokenizers`` library.

The file is a protobuf message (sentencepiece_model.proto in google/sentencepiece); the few fields that matter are read here,
so neither sentencepiece nor protobuf need be installed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from tutelage.errors import CheckpointError

_UNIGRAM, _BPE = 1, 2  # TrainerSpec.model_type
_CONTROL, _USER_DEFINED = 3, 4  # SentencePiece.Type
_SPACE = "▁"


@dataclass
class Pieces:
    """What of the file matters. ``pieces`` are (text, score, type) in the order of their ids."""

    pieces: list[tuple[str, float, int]]
    trainer: dict[int, Any] = field(default_factory=dict)
    normalizer: dict[int, Any] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """The tokens for unknown, begin and end that the file names: TrainerSpec 40-43 are their ids, negative for none."""
        names = {}
        for name, key, default in (
            ("unk_token", 40, 0),
            ("bos_token", 41, 1),
            ("eos_token", 42, 2),
            ("pad_token", 43, -1),
        ):
            i = _signed(self.trainer.get(key, default))
            if 0 <= i < len(self.pieces):
                names[name] = self.pieces[i][0]
        return names


def read_pieces(data: bytes) -> Pieces:
    """Parse the file. Raises CheckpointError where it is something else, such as a tiktoken vocabulary."""
    try:
        pieces, trainer, normalizer = [], {}, {}
        for number, value in _fields(data):
            if number == 1:
                piece = dict(_fields(value))
                score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
                pieces.append((piece[1].decode(), score, piece.get(3, 1)))
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                normalizer = dict(_fields(value))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(f"not a sentencepiece model ({type(error).__name__}: {error})") from None
    if not pieces or not trainer:
        raise CheckpointError("not a sentencepiece model: it has no pieces")
    return Pieces(pieces, trainer, normalizer)


def backend_from_pieces(model: Pieces, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """A backend that gives sentencepiece's ids. ``config`` is tokenizer_config.json.

    ``add_prefix_space`` overrides what the file says of the space before a text. With ``legacy`` every stretch after a control
    token has that space too, not the text's beginning alone, as transformers has it. Raises CheckpointError for what
    neither transformers nor we convert.
    """
    kind = model.trainer.get(3, _UNIGRAM)
    if kind not in (_UNIGRAM, _BPE):
        raise CheckpointError(f"a sentencepiece model of type {kind}: only unigram (1) and BPE (2) can be read")
    if model.trainer.get(24):
        raise CheckpointError("a sentencepiece model with treat_whitespace_as_suffix cannot be read")
    bytes_for_unknown = bool(model.trainer.get(35, 0))
    unknown = _signed(model.trainer.get(40, 0))
    if kind == _UNIGRAM:
        scores = [(text, score) for text, score, _ in model.pieces]
        backend = tokenizers.Tokenizer(models.Unigram(scores, unk_id=unknown, byte_fallback=bytes_for_unknown))
    else:
        ids = {text: i for i, (text, _, _) in enumerate(model.pieces)}
        backend = tokenizers.Tokenizer(
            models.BPE(
                ids,
                _merges(model, ids),
                unk_token=model.pieces[unknown][0],
                fuse_unk=True,
                byte_fallback=bytes_for_unknown,
            )
        )
    space_before = config.get("add_prefix_space")
    if space_before is None:
        space_before = bool(model.normalizer.get(3, 1))
    steps: list[Any] = []
    if model.normalizer.get(2):
        steps.append(normalizers.Precompiled(model.normalizer[2]))
    if model.normalizer.get(4, 1):  # remove_extra_whitespaces
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    scheme = "never" if not space_before else "always" if config.get("legacy") else "first"
    spaced = any(_SPACE in text for text, _, type in model.pieces if type == _USER_DEFINED)
    if (
        spaced
    ):  # Gemma's runs of spaces: they are looked for in the normalised text, so that has to have the mark already
        if space_before:
            raise CheckpointError(
                "a sentencepiece model with user-defined pieces of spaces and a space before texts cannot be read"
            )
        steps.append(normalizers.Replace(" ", _SPACE))
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme, split=False)
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    decoding: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if space_before:
        decoding.append(decoders.Strip(content=" ", left=1))
    backend.decoder = decoders.Sequence(decoding)
    backend.add_tokens(
        [
            AddedToken(text, normalized=spaced and type == _USER_DEFINED, special=type == _CONTROL)
            for text, _, type in model.pieces
            if type in (_CONTROL, _USER_DEFINED)
        ]
    )
    return backend


def _merges(model: Pieces, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """sentencepiece's BPE joins the two neighbours that make the piece of the best score; the library wants pairs in order.

    Pieces of one score keep the order of their ids. Control pieces have no merges: no text makes them.
    """
    merges = []
    for rank, (text, score, kind) in enumerate(model.pieces):
        if kind == 1:
            for cut in range(1, len(text)):
                left, right = text[:cut], text[cut:]
                if left in ids and right in ids and model.pieces[ids[left]][2] == model.pieces[ids[right]][2] == 1:
                    merges.append(((-score, rank, ids[left], ids[right]), (left, right)))
    return [pair for _, pair in sorted(merges)]


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: (number, int or bytes). Raises ValueError where it is none."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"wire type {kind}")
        size = varint() if kind == 2 else 8 if kind == 1 else 4
        if place + size > len(data):
            raise ValueError("cut off")
        yield key >> 3, data[place : place + size]
        place += size


def _signed(value: int) -> int:
    """A protobuf int32: negative numbers are written as 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value
