"""Text to ids and back, where no text can become a control token: our own byte-level BPE, and imported tokenizers.

Our own pre-tokenisation is GPT-2's with every digit on its own, so that sums can be learnt digit by digit; llama.cpp knows it
as "smollm". With it every text has ids and every text comes back from its ids. An imported tokenizer may not have either.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tutelage.errors import CheckpointError, UsageError
from tutelage.files import write_atomic
from tutelage.text.imported.codec import Codec, checked
from tutelage.text.imported.folder import read_backend, read_folder, require_rows
from tutelage.text.imported.format import ChatFormat, chat_format
from tutelage.text.layout import CHAT_TEMPLATE, EARLIER_TEMPLATES, SPECIALS
from tutelage.text.stream import Rules, TextStream, token_bytes

__all__ = ["SPECIALS", "Tokenizer"]

_SMALLEST = 256 + len(SPECIALS)
_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": SPECIALS["bos"],
    "eos_token": SPECIALS["end"],
    "pad_token": SPECIALS["pad"],
    "clean_up_tokenization_spaces": False,
    "model_max_length": 10**9,  # the limit is the model's, not the tokenizer's
}


class Tokenizer:
    """Text to ids and back. Control ids never come out of ``encode``, whatever the text is.

    ``bos_id`` begins a document, ``end_id`` ends an answer (it is trained), ``end_ids`` are all that stop generation, ``pad_id``
    is never the end, ``special_ids`` are all control tokens. Our own tokenizers have six of them, ``own_ids`` in the order of
    SPECIALS, and one layout of conversations; imported ones keep theirs in ``chat``, which is None for our own.
    """

    own_ids: tuple[int, ...] = ()

    def __init__(self, backend: tokenizers.Tokenizer, chat: ChatFormat | None = None) -> None:
        """Wrap a backend: one of our own, or an imported one with its ChatFormat. CheckpointError for lost special tokens."""
        self._backend, self.chat = backend, chat
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        if chat is not None:
            self.bos_id, self.pad_id, self.end_id = chat.bos_id, chat.pad_id, chat.end_ids[0]
            self.end_ids = frozenset(chat.end_ids)
            self.codec = chat.codec
            # Some vocabularies have holes: what counts for an embedding is the largest id.
            self.vocab_size = max(self.vocab_size, max(backend.get_vocab(with_added_tokens=True).values()) + 1)
            return
        specials = {token.content: i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        if missing := [text for text in SPECIALS.values() if text not in specials]:
            raise CheckpointError(f"the tokenizer has no special token {', '.join(missing)}; was it made by tutelage?")
        self.own_ids = tuple(specials[text] for text in SPECIALS.values())
        self.bos_id, self.pad_id, self.end_id, self.system_id, self.user_id, self.assistant_id = self.own_ids
        self.end_ids = frozenset([self.end_id])
        self.codec = Codec(backend, frozenset(specials.values()), frozenset())

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn merges from ``texts`` (streamed). The same texts give the same tokenizer, byte for byte.

        ``vocab_size`` counts the 256 bytes and the 6 special tokens; little text may yield fewer. Raises UsageError
        below 262.
        """
        if vocab_size < _SMALLEST:
            raise UsageError(f"vocab_size {vocab_size} is too small: 256 bytes and 6 special tokens need {_SMALLEST}")
        backend = tokenizers.Tokenizer(models.BPE())
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=list(SPECIALS.values()),
            show_progress=False,
        )
        backend.train_from_iterator((checked(text) for text in texts), trainer)
        return cls(backend)

    @classmethod
    def load(cls, folder: Path, *, chat_template: str | None = None) -> Tokenizer:
        """Read what ``save`` wrote, or the tokenizer of any Hugging Face folder (see imported/folder.py for the kinds).

        ``chat_template`` replaces an imported one's template, or gives it one. Raises CheckpointError when there is no
        tokenizer, when it is damaged, and when its template does not work.
        """
        folder = Path(folder)
        template, path = folder / "chat_template.jinja", folder / "tokenizer.json"
        try:
            if chat_template is None and path.exists() and template.is_file() and _is_own(template.read_bytes()):
                backend = read_backend(path)
                require_rows(folder, backend)
                return cls(backend)
            source = read_folder(folder)
            require_rows(folder, source.backend)
            if chat_template is not None:
                source.template = chat_template
            elif source.template is None and set(SPECIALS.values()) <= source.backend.get_vocab().keys():
                return cls(source.backend)
            return cls(source.backend, chat_format(source))
        except CheckpointError as error:
            where = path if path.exists() else folder
            if str(error).startswith("the chat template"):
                where = template if template.exists() else folder / "tokenizer_config.json"
                where = where if chat_template is None else Path("chat_template")
            raise CheckpointError(str(error) if str(error).startswith(str(folder)) else f"{where}: {error}") from None

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja, as ``AutoTokenizer`` reads them.

        An imported tokenizer is written back with its own template and names.
        """
        own = {
            "tokenizer.json": self._backend.to_str(pretty=True).encode(),
            "tokenizer_config.json": (json.dumps(_CONFIG, indent=2) + "\n").encode(),
            "chat_template.jinja": CHAT_TEMPLATE.encode(),
        }
        for name, data in (own if self.chat is None else self.chat.files()).items():
            write_atomic(Path(folder) / name, data)

    @property
    def special_ids(self) -> frozenset[int]:
        return self.codec.control

    @cached_property
    def begins_texts(self) -> bool:
        """Whether ``bos_id`` precedes a plain text: always with our own; an imported one's post-processor says so."""
        return self.chat is None or self._backend.encode("a").ids[:1] == [self.bos_id]

    @property
    def appended(self) -> tuple[str, ...]:
        """Tokens that the import had to add after the end of the vocabulary: the model's embedding needs a row for each."""
        return () if self.chat is None else tuple(self.chat.source.appended)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json, and of an imported one's template: two with one fingerprint give the same ids."""
        text = self._backend.to_str(pretty=True)
        if self.chat is not None:
            template = self.chat.template.source if self.chat.template else ""
            # A padding token that the import chose is named only once it is saved; it changes no ids.
            names = sorted(item for item in self.chat.source.names.items() if item[0] != "pad_token")
            text = json.dumps([text, template, names, self.bos_id])
        return hashlib.sha256(text.encode()).hexdigest()

    def require_template(self) -> None:
        """UsageError where an imported tokenizer has no chat template."""
        if self.chat is not None:
            self.chat.require_template()

    def require_same(self, folder: Path) -> None:
        """CheckpointError where the folder's tokenizer gives other ids: two models that read the same ids must share one."""
        if Tokenizer.load(folder).fingerprint != self.fingerprint:
            raise CheckpointError(
                f"{folder} has another tokenizer than the model that it is used with: their ids differ"
            )

    def encode(self, text: str) -> list[int]:
        """Ids of a plain text: never a control id, even where it spells one. Raises UsageError for lone surrogates."""
        return self.codec.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text, on all cores."""
        return self.codec.encode_batch(texts)

    def decode(self, ids: Sequence[int], *, named: bool = False) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD. Control tokens are skipped, or ``named``."""
        return str(self._backend.decode(list(ids), skip_special_tokens=not named))

    def encode_named(self, text: str) -> list[int]:
        """Ids of a text in which the names of control tokens stand for them, such as one that a program made with the template.

        Not for what people type. Raises UsageError for lone surrogates.
        """
        return list(self._backend.encode(checked(text), add_special_tokens=False).ids)

    @property
    def template(self) -> str | None:
        """The chat template, in jinja; None where an imported tokenizer has none."""
        if self.chat is None:
            return CHAT_TEMPLATE
        return None if self.chat.template is None else self.chat.template.source

    @cached_property
    def token_bytes(self) -> Callable[[int], bytes]:
        """A function from an id to what it adds to a text: perhaps a part of a character, nothing for a control token."""
        return lru_cache(maxsize=65536)(partial(token_bytes, self._rules))

    def name_of(self, i: int) -> str:
        """How the vocabulary writes a token; empty for an id that it does not have."""
        return self._backend.id_to_token(i) or ""

    def stream(self) -> TextStream:
        """An incremental decoder: ``push(id)`` and finally ``finish()`` return the pieces of ``decode``'s text."""
        return TextStream(self._rules)

    @cached_property
    def _rules(self) -> Rules:
        return Rules(self._backend)


def _is_own(template: bytes) -> bool:
    """Is this chat template our own layout, as this version or an earlier one wrote it?"""
    template = template.strip()
    return template == CHAT_TEMPLATE.encode().strip() or hashlib.sha256(template).hexdigest() in EARLIER_TEMPLATES
