"""An imported tokenizer's side of a conversation: its template, its control tokens, and which of them ends an answer.

Our own tokenizers have no ChatFormat: their layout is fixed (see layout.py). An imported model keeps its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tutelage.errors import CheckpointError, UsageError
from tutelage.records import Message
from tutelage.text.imported.codec import Codec, control_tokens
from tutelage.text.imported.folder import Imported
from tutelage.text.imported.template import Template

_PAD = "<|pad|>"
_ASK, _ANSWER = Message(role="user", content="Ask"), Message(role="assistant", content="Answer")
_PROBES = ((_ASK, _ANSWER), (Message(role="system", content="Be"), _ASK, _ANSWER))
# Keys of tokenizer_config.json that repeat what the written files say, or that would make a reader change the backend.
_DROPPED = {
    "added_tokens_decoder", "auto_map", "chat_template", "add_prefix_space", "legacy",
    "from_slow", "name_or_path", "sp_model_kwargs", "tokenizer_file", "use_default_system_prompt", "vocab_file", "backend",
}  # fmt: skip


@dataclass(frozen=True)
class ChatFormat:
    """What a tokenizer needs beyond its backend to render conversations and to be written back."""

    source: Imported
    template: Template | None
    codec: Codec
    bos_id: int
    pad_id: int
    end_ids: tuple[int, ...]
    """The ids that end an answer: first the one that the template writes, then what else the model stops at."""
    header: str
    """What the template adds to a conversation to ask for an answer."""
    opening: str
    """What the template puts before an answer that the prompt for it does not have, such as a space: the model must write it."""

    def require_template(self) -> Template:
        """The template. Raises UsageError where there is none."""
        if self.template is None:
            raise UsageError(
                "the model has no chat template: put a chat_template.jinja into its folder, or give tutelage sft one with "
                "--chat_template FILE; the guide shows one that needs no new tokens"
            )
        return self.template

    def files(self) -> dict[str, bytes]:
        """The files that ``AutoTokenizer`` reads as the same tokenizer, by their names in a folder.

        tokenizer_class is PreTrainedTokenizerFast: readers that know the class by another name rebuild parts of the backend.
        """
        source = self.source
        names = source.names | {"pad_token": source.backend.id_to_token(self.pad_id)}
        config = {key: value for key, value in source.config.items() if key not in _DROPPED} | names
        config = {"model_max_length": 10**9} | config | {"tokenizer_class": "PreTrainedTokenizerFast"}
        files = {
            "tokenizer.json": source.backend.to_str(pretty=True).encode(),
            "tokenizer_config.json": (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
        }
        if self.template is not None:
            files["chat_template.jinja"] = self.template.source.encode()
        return files | source.files


def chat_format(source: Imported) -> ChatFormat:
    """Work out what the files leave unsaid. May add a padding token to the backend (see ``_choose_pad``).

    Documents begin with bos_token; where there is none with <|endoftext|>, as GPT-2's and Qwen's did, or else with the end
    token. Raises CheckpointError for a template that is not jinja or cannot render a question and its answer, and where
    nothing says which token ends an answer.
    """
    backend, names = source.backend, source.names
    template = None if source.template is None else Template(source.template, names)
    literals = template.literals if template else frozenset[str]()
    codec = Codec(backend, *control_tokens(backend, names.values(), literals))
    end, header, opening = (None, "", "") if template is None else _ending(template, codec)
    eos = backend.token_to_id(names["eos_token"]) if "eos_token" in names else None
    ends = [i for i in (end, eos, *source.stop_ids) if i is not None and backend.id_to_token(i) is not None]
    if not ends:
        raise CheckpointError(
            "nothing says which token ends an answer: name it as eos_token in tokenizer_config.json, or write it in the template"
        )
    pad = _choose_pad(source, ends[0], "\0".join(literals))
    if _PAD in source.appended:  # the codec's copies of the backend do not know it
        codec = Codec(backend, *control_tokens(backend, names.values(), literals))
    begins = [backend.token_to_id(text) for text in (names.get("bos_token"), "<|endoftext|>") if text]
    begin = next(i for i in (*begins, eos, ends[0]) if i is not None)
    return ChatFormat(source, template, codec, begin, pad, tuple(dict.fromkeys(ends)), header, opening)


def _ending(template: Template, codec: Codec) -> tuple[int | None, str, str]:
    """The token that the template writes after an answer, if any, and a ChatFormat's ``header`` and ``opening``.

    Found by rendering a question and its answer. Raises CheckpointError where the template cannot do even that.
    """
    failure: UsageError | None = None
    for messages in _PROBES:
        try:
            written = template.written(messages)
            asked, prompt = (template.text(messages[:-1], ask=ask) for ask in (False, True))
        except UsageError as error:
            failure = failure or error
            continue
        start, stop = written.place(len(messages) - 1)
        if start < 0:
            raise CheckpointError("the chat template leaves out what the assistant says")
        tokens = codec.encode_written([written])[0]
        spans = zip(tokens.ids, tokens.spans, strict=True)
        after = [i for i, (_, behind) in spans if behind > stop and i in codec.control]
        opening = written.text[len(prompt) : start] if written.text.startswith(prompt) else ""
        return after[0] if after else None, prompt.removeprefix(asked), opening
    raise CheckpointError(str(failure))


def _choose_pad(source: Imported, end: int, written: str) -> int:
    """The id of the padding, which is never the token that ends an answer.

    The first of: what the configuration names; a special token called some kind of "pad"; one called reserved or unused that
    the template's texts, ``written``, do not have; the unknown token; a new token, which ``source.appended`` then lists.
    """
    backend, names = source.backend, source.names
    special = [t.content for _, t in sorted(backend.get_added_tokens_decoder().items()) if t.special]
    called_pad = [text for text in special if "pad" in text.lower()]
    spare = [text for text in special if any(w in text.lower() for w in ("reserved", "unused")) and text not in written]
    for text in (names.get("pad_token"), *called_pad, *spare, names.get("unk_token")):
        i = backend.token_to_id(text or "")
        if i is not None and i != end:
            return int(i)
    backend.add_special_tokens([_PAD])
    source.appended.append(_PAD)
    return backend.get_vocab()[_PAD]
