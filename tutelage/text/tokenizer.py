"""Byte-level BPE: every text has ids, every text comes back from its ids, and no text can become a control token.

Pre-tokenisation is GPT-2's with every digit on its own, so that sums can be learnt digit by digit. llama.cpp knows the
same pair of rules as "smollm".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tutelage.errors import CheckpointError, UsageError
from tutelage.run_folder import write_atomic

# Their ids are 0 to 5 in this order. "end" closes a turn: it is trained, and it is never the padding.
SPECIALS = {
    "bos": "<|bos|>",
    "pad": "<|pad|>",
    "end": "<|end|>",
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
}
_SMALLEST = 256 + len(SPECIALS)


class Tokenizer:
    """Text to ids and back. The six control ids never come out of ``encode``, whatever the text is."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wrap a trained backend. Raises CheckpointError when a special token is missing."""
        specials = {t.content: i for i, t in backend.get_added_tokens_decoder().items() if t.special}
        missing = [text for text in SPECIALS.values() if text not in specials]
        if missing:
            raise CheckpointError(f"the tokenizer has no special token {', '.join(missing)}; was it made by tutelage?")
        # Never serialised, so set on every load: special tokens inside a text are then spelt out in plain tokens.
        backend.encode_special_tokens = True
        self._backend = backend
        self.bos_id = specials[SPECIALS["bos"]]
        self.pad_id = specials[SPECIALS["pad"]]
        self.end_id = specials[SPECIALS["end"]]
        self.system_id = specials[SPECIALS["system"]]
        self.user_id = specials[SPECIALS["user"]]
        self.assistant_id = specials[SPECIALS["assistant"]]
        self.special_ids = frozenset(specials.values())
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn merges from ``texts`` (streamed). The same texts give the same tokenizer, byte for byte.

        ``vocab_size`` counts the 256 bytes and the 6 special tokens; little text may yield fewer. Raises UsageError
        below 262.
        """
        if vocab_size < _SMALLEST:
            raise UsageError(
                f"vocab_size {vocab_size} is too small: 256 bytes and {len(SPECIALS)} special tokens need {_SMALLEST}"
            )
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=list(SPECIALS.values()),
            show_progress=False,
        )
        backend.train_from_iterator((_checked(text) for text in texts), trainer)
        return cls(backend)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read what ``save`` wrote. Raises CheckpointError when it is missing, damaged or not one of ours."""
        path = Path(folder) / "tokenizer.json"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise CheckpointError(f"{path}: there is no tokenizer here") from None
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from None
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception for every kind of damage
            raise CheckpointError(f"{path}: not a tokenizer ({error})") from None
        try:
            return cls(backend)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja, as ``AutoTokenizer`` reads them."""
        from tutelage.text.chat import CHAT_TEMPLATE  # the renderer imports this module

        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIALS["bos"],
            "eos_token": SPECIALS["end"],
            "pad_token": SPECIALS["pad"],
            "clean_up_tokenization_spaces": False,
            "model_max_length": 10**9,  # the limit is the model's, not the tokenizer's
        }
        folder = Path(folder)
        write_atomic(folder / "tokenizer.json", self._backend.to_str(pretty=True).encode())
        write_atomic(folder / "tokenizer_config.json", (json.dumps(config, indent=2) + "\n").encode())
        write_atomic(folder / "chat_template.jinja", CHAT_TEMPLATE.encode())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json: two tokenizers with one fingerprint give the same ids."""
        return hashlib.sha256(self._backend.to_str(pretty=True).encode()).hexdigest()

    def require_same(self, folder: Path) -> None:
        """CheckpointError where the folder's tokenizer gives other ids: two models that read the same ids must share one."""
        if Tokenizer.load(folder).fingerprint != self.fingerprint:
            raise CheckpointError(
                f"{folder} has another tokenizer than the model that it is used with: their ids differ"
            )

    def encode(self, text: str) -> list[int]:
        """Ids of a plain text: never a control id, even where it spells one. Raises UsageError for lone surrogates."""
        return list(self._backend.encode(_checked(text), add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text, on all cores."""
        encodings = self._backend.encode_batch_fast([_checked(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; control tokens are skipped, bytes that are no UTF-8 become U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))


def _checked(text: str) -> str:
    """Half of a surrogate pair is no character and has no bytes: say so here, the library's own error says nothing."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"a text has a lone surrogate {text[error.start]!r} at character {error.start}") from None
    return text
