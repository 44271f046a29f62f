"""Documents -> one stream of token ids on disk, memory-mapped when read: ``OUT.npy`` and the sidecar ``OUT.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from tutelage.errors import DataError
from tutelage.files import atomic_file, link, write_atomic
from tutelage.records import Document
from tutelage.text.tokenizer import Tokenizer

_CHUNK = 256  # documents encoded together; with 16 kB pieces 4 MB of text at a time


@dataclass(frozen=True)
class Shard:
    """A stream of tokens: documents one after another, each begins with <|bos|>."""

    path: Path
    """The .npy file."""
    tokens: int
    bytes: int
    """UTF-8 length of the documents, for bits per byte."""
    documents: int
    dtype: str
    tokenizer: str
    """Fingerprint of the tokenizer."""
    key: str
    """What identifies the documents, by the caller; empty if nothing does."""
    sha256: str
    """Of the tokens."""

    @property
    def ids(self) -> np.ndarray:
        """[tokens] uint16 or uint32, mapped from the file."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    @classmethod
    def load(cls, out: Path) -> Shard:
        """Open what ``tokenise`` wrote. Raises DataError if it is missing, cut off or not a shard."""
        stream, sidecar = _paths(Path(out))
        try:
            shard = cls(path=stream, **json.loads(sidecar.read_text(encoding="utf-8")))
            ids = shard.ids
        except FileNotFoundError:
            raise DataError("there are no tokens here", path=out) from None
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise DataError(f"damaged token file ({error}); delete it and it is made again", path=stream) from None
        if ids.shape != (shard.tokens,) or ids.dtype.name != shard.dtype:
            problem = "token file and sidecar differ; delete them and they are made again"
            raise DataError(problem, path=stream, expected=f"{shard.tokens} {shard.dtype}", found=str(ids.shape))
        return shard


def encode_documents(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[tuple[list[int], int]]:
    """(ids with <|bos|> in front, UTF-8 bytes) of each document, in order. Holds a few hundred documents."""
    iterator = iter(documents)
    while chunk := list(islice(iterator, _CHUNK)):
        for document, ids in zip(chunk, tokenizer.encode_batch([d.text for d in chunk]), strict=True):
            yield [tokenizer.bos_id, *ids], len(document.text.encode())


def tokenise(
    documents: Iterable[Document], tokenizer: Tokenizer, out: Path, *, key: str = "", known: Iterable[Path] = ()
) -> Shard:
    """Write the documents' tokens to ``out`` with .npy and .json added; streaming, atomic.

    ``key`` identifies the documents, such as a hash of their files. If a sound shard of the same key and tokenizer exists at
    ``out``, or at one of the ``known`` places (it is then linked to ``out``), it is returned and ``documents`` is not read.
    Raises DataError if there is no document.
    """
    out = Path(out)
    (stream, sidecar), fingerprint = _paths(out), tokenizer.fingerprint
    for place in (out, *known) if key else ():
        with suppress(DataError):
            present = Shard.load(place)
            if (present.key, present.tokenizer) == (key, fingerprint):
                return present if place == out else _linked(present, stream, sidecar)
    dtype = np.dtype("uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32")
    tokens, size, count, digest = 0, 0, 0, hashlib.sha256()
    # Remove the sidecar first and write it last: one that exists describes the stream beside it.
    sidecar.unlink(missing_ok=True)
    with atomic_file(stream) as file:
        _header(file, dtype, 0)
        for ids, length in encode_documents(documents, tokenizer):
            block = np.asarray(ids, dtype=dtype).tobytes()
            file.write(block)
            digest.update(block)
            tokens, size, count = tokens + len(ids), size + length, count + 1
        if not count:
            raise DataError("there are no documents to tokenise", path=out)
        _header(file, dtype, tokens)
    shard = Shard(stream, tokens, size, count, dtype.name, fingerprint, key, digest.hexdigest())
    _write_sidecar(shard, sidecar)
    return shard


def _linked(shard: Shard, stream: Path, sidecar: Path) -> Shard:
    """The same shard at another place."""
    sidecar.unlink(missing_ok=True)
    stream.unlink(missing_ok=True)
    link(shard.path, stream)
    here = replace(shard, path=stream)
    _write_sidecar(here, sidecar)
    return here


def _write_sidecar(shard: Shard, sidecar: Path) -> None:
    facts = {name: value for name, value in asdict(shard).items() if name != "path"}
    write_atomic(sidecar, (json.dumps(facts, indent=2) + "\n").encode())


def _paths(out: Path) -> tuple[Path, Path]:
    return out.with_name(out.name + ".npy"), out.with_name(out.name + ".json")


def _header(file: IO[bytes], dtype: np.dtype, count: int) -> None:
    """Write the .npy header at the start. NumPy pads it, so that it has the same length for a larger count."""
    file.seek(0)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)
