"""Answers that follow a grammar: a schema or a context-free grammar is compiled once, and says before each token which may follow.

llguidance (Microsoft, MIT) keeps the state of each answer and fills a mask of bits over the vocabulary; nothing here looks at
single entries of the vocabulary in Python.
"""

from __future__ import annotations

import atexit
import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

import llguidance
import numpy as np
import torch
from torch import Tensor

from tutelage.errors import UsageError
from tutelage.generate.schemas import usable
from tutelage.generate.vetting import Vetter, begun

WHITE_SPACE = r" |\n[ \t]{0,16}"
"""Between two tokens of JSON: a space, or a new line and how far it is indented. A small model may go on writing spaces and empty
lines for as long as it is allowed to; SmolLM2-135M did so between most tokens of some schemas."""
KEPT = 64
"""Compiled grammars that are kept for the next request."""
_JSON = {
    "whitespace_pattern": WHITE_SPACE,
    "lenient": False,  # what a schema says and cannot be enforced is an error
    "coerce_one_of": False,
    "json_allow_general_unicode_escapes": False,
}
_VETTER = Vetter()  # no process before the first grammar
atexit.register(_VETTER.close)
# The eight entries of each byte of a mask, the lowest bit first: 0 where the bit is set, or else minus infinity. For GPT-2's 50,257
# tokens a mask takes 0.03 ms (p99 0.22) and its entries 0.08 ms.
_BIASES = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], 1, bitorder="little"), 0.0, -np.inf)
_BIASES = _BIASES.astype(np.float32)


def json_options(schema: Mapping[str, Any], *, lenient: bool = False) -> dict[str, Any]:
    """A schema that carries its own options, for ``%json`` in a grammar; options that it came with are dropped.

    ``lenient``: what cannot be enforced is left out. UsageError as ``usable`` raises it.
    """
    return {**usable(schema), "x-guidance": _JSON | {"lenient": lenient}}


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of all JSON texts that are valid by a JSON schema. UsageError for what is not a schema."""
    given = json.dumps(json_options(schema))
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(given)
    except ValueError as error:
        raise UsageError(f"not a JSON schema: {error}") from None


def lark_grammar(text: str) -> str:
    """A grammar in llguidance's variant of Lark."""
    return llguidance.LLMatcher.grammar_from_lark(text)


class Grammars:
    """Compiles grammars for a tokenizer.

    ``tokens``: the bytes that each id adds to a text, for all ids of the model [v]. ``control``: ids that a grammar allows only
    where it names them, as ``<[id]>``. ``end_ids``: the ids that end an answer, which are allowed where it is whole. ``encode``: a
    text's ids; where a grammar leaves no choice, the text goes on in the tokens that the model has learnt it in.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        control: Collection[int],
        end_ids: Collection[int],
        encode: Callable[[str], Sequence[int]],
    ) -> None:
        table = _Table(list(tokens), sorted(control), next(iter(end_ids)), encode)
        self._tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(table), eos_token=list(end_ids))
        self._size = len(tokens)
        self._kept: OrderedDict[str, llguidance.LLMatcher | str] = OrderedDict()
        self._lock = Lock()

    def compile(self, grammar: str, after: int | None = None) -> Mask:
        """The mask of a request. UsageError for a grammar that is wrong, or takes too long. May take a second: use a thread.

        ``after``: a token, if the grammar is that of what follows it in answers that have it (``Request.mask_after``).
        """
        with self._lock:
            found = self._kept.pop(grammar, None) or self._compiled(grammar)
            self._kept[grammar] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        if isinstance(found, str):
            raise UsageError(found)
        return Mask(found, self._size, after)

    def _compiled(self, grammar: str) -> llguidance.LLMatcher | str:
        if problem := _VETTER.problem(grammar):
            return problem
        matcher, problem = begun(self._tokenizer, grammar)
        return problem or matcher


class _Table(NamedTuple):
    """A vocabulary as llguidance asks for it."""

    tokens: list[bytes]
    special_token_ids: list[int]
    eos_token_id: int
    encode: Callable[[str], Sequence[int]]
    bos_token_id: int | None = None

    def __call__(self, text: str) -> list[int]:
        return list(self.encode(text))  # a TypeError for bytes tells llguidance to decode them


class Mask:
    """``Request.mask`` of one request: float32 [v], 0 for a token that may come next and minus infinity for one that may not."""

    def __init__(self, matcher: llguidance.LLMatcher, size: int, after: int | None = None) -> None:
        self._start, self._size, self.after = matcher, size, after
        # Of each sample, by the address of its list: the list, which keeps the address its own, and how much of it is consumed.
        self._states: dict[int, tuple[list[int], int, llguidance.LLMatcher]] = {}

    def __call__(self, ids: list[int]) -> Tensor:
        """UsageError where the grammar has become too complex to go on. Between two calls a list may grow, or become shorter."""
        _, done, matcher = self._states.get(id(ids), (ids, 0, None))
        if matcher is None or len(ids) < done:
            done, matcher = 0 if self.after is None else ids.index(self.after) + 1, self._start.deep_copy()
        matcher.consume_tokens(ids[done:])
        self._states[id(ids)] = ids, len(ids), matcher
        bits = matcher.compute_bitmask()
        if matcher.is_error():
            raise UsageError("the answer's grammar is too complex here: make the schema simpler")
        return torch.from_numpy(_BIASES[np.frombuffer(bits, np.uint8)].reshape(-1)[: self._size])
