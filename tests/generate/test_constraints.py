"""Answers that follow a schema: every one that ends is valid by an independent validator, and no schema holds anybody up."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import llguidance
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tutelage.assistant.assistant import Assistant
from tutelage.errors import UsageError
from tutelage.generate.constraints import _VETTER, Grammars, lark_grammar, schema_grammar
from tutelage.generate.request import Request
from tutelage.generate.sampler import Sampling
from tutelage.generate.service import Service
from tutelage.generate.vetting import CPU_SECONDS, Vetter

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
from serving import HELLO, tiny_assistant

names = st.sampled_from(["a", "b", "c", "name", "名字", "the cat", 'quo"te', "\\"])
leaves = st.one_of(
    st.fixed_dictionaries({"type": st.just("string"), "minLength": st.integers(0, 2), "maxLength": st.integers(2, 5)}),
    st.fixed_dictionaries({"type": st.just("integer"), "minimum": st.integers(-99, 5), "maximum": st.integers(5, 300)}),
    st.fixed_dictionaries({"type": st.just("number"), "minimum": st.integers(-5, 0), "maximum": st.integers(1, 9)}),
    st.fixed_dictionaries({"type": st.just("integer"), "multipleOf": st.integers(2, 12)}),
    st.just({"type": "string", "pattern": "^[ab]{1,4}$"}),
    st.just({"type": "string", "format": "date"}),
    st.just({"type": ["boolean", "null"]}),
    st.fixed_dictionaries({"enum": st.lists(st.one_of(names, st.integers(-9, 9), st.none()), min_size=1, unique=True)}),
    st.fixed_dictionaries({"const": st.one_of(names, st.integers(), st.just([1, {"a": None}]))}),
    st.just({"$ref": "#/$defs/leaf"}),
)


def larger(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas that have others in them."""

    def objects(properties: dict[str, Any], needed: int, more: bool) -> dict[str, Any]:
        required = list(properties)[:needed]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": more}

    arrays = {"type": st.just("array"), "items": inner, "minItems": st.integers(0, 1), "maxItems": st.integers(1, 3)}
    return st.one_of(
        st.builds(objects, st.dictionaries(names, inner, max_size=4), st.integers(0, 4), st.booleans()),
        st.fixed_dictionaries(arrays),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"type": st.just("array"), "prefixItems": st.lists(inner, min_size=1, max_size=2)}),
    )


schemas = st.recursive(leaves, larger, max_leaves=6).map(lambda s: {**s, "$defs": {"leaf": {"enum": ["leaf", 7]}}})


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    """Random weights that favour what closes something, so that answers end."""
    assistant = tiny_assistant()
    return assistant


def written(assistant: Assistant, service: Service, grammars: list[str], tokens: int = 80) -> list[list[Any]]:
    """Two samples by each grammar, all written together."""
    tokenizer = assistant.tokenizer
    closing = {tokenizer.encode(c)[0]: 3.0 for c in '"}]' if len(tokenizer.encode(c)) == 1}
    requests = [
        Request(
            assistant.encode(HELLO), Sampling(max_tokens=tokens, n=2, seed=i), stop_ids=tokenizer.end_ids,
            mask=assistant.grammars.compile(grammar), logit_bias=closing,
        )
        for i, grammar in enumerate(grammars)
    ]  # fmt: skip
    return service.map(requests)


def test_every_answer_that_ends_is_valid_for_two_hundred_schemas(assistant):
    ended = tried = 0
    with Service(assistant.decoder, assistant.tokenizer, max_batch=32, autocast="fp32", eager=False) as service:

        @seed(0)
        @settings(
            max_examples=10,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(schemas, min_size=20, max_size=20))
        def check(found: list[dict[str, Any]]) -> None:
            nonlocal ended, tried
            for schema, samples in zip(
                found, written(assistant, service, list(map(schema_grammar, found))), strict=True
            ):
                for sample in samples:
                    tried += 1
                    if sample.finish_reason == "stop":
                        ended += 1
                        jsonschema.validate(json.loads(sample.text), schema, jsonschema.Draft202012Validator)
                    assert not {*sample.ids[:-1]} & assistant.tokenizer.special_ids

        check()
    assert tried == 400
    assert ended > 300


def test_a_mask_allows_what_a_plain_look_at_each_token_allows(assistant):
    """Against a try of every token of the vocabulary on its own. Where the text is forced, the mask has the usual token alone."""
    tokenizer, whole, ids = assistant.tokenizer, '["mat", 12, "mats", 12 ]', []
    grammar = schema_grammar({"type": "array", "items": {"enum": ["cat", "mat", "mats", 12]}})
    mask, alone = assistant.grammars.compile(grammar), llguidance.LLMatcher(assistant.grammars._tokenizer, grammar)
    free = 0
    while (done := tokenizer.decode(ids)) != whole:
        allowed = {t for t in range(tokenizer.vocab_size) if alone.validate_tokens([t]) == 1}
        row = mask(ids)
        found = {*torch.nonzero(row == 0).flatten().tolist()}
        assert row.shape == (assistant.decoder.config.vocab_size,)
        if alone.compute_ff_bytes():
            assert found <= allowed
        else:
            assert found == allowed
            free += 1
        fitting = [t for t in found if whole.startswith(done + tokenizer.decode([t])) and tokenizer.decode([t])]
        ids.append(max(fitting, key=lambda t: len(tokenizer.decode([t]))))
        assert alone.consume_token(ids[-1])
    assert free > 5


def test_forced_text_is_written_in_the_tokens_that_encode_gives(assistant):
    encode, text = assistant.tokenizer.encode, '"the cat sat on the mat"'
    mask, ids = assistant.grammars.compile(lark_grammar(f"start: {json.dumps(text)}")), []
    while assistant.tokenizer.decode(ids) != text:
        ids.append(int(mask(ids).argmax()))
    assert ids == encode(text)
    assert len(ids) < len(text)


def test_samples_of_one_request_do_not_disturb_each_other(assistant):
    """One mask, asked about several lists in turns, and about a list that was changed behind its back."""
    encode = assistant.tokenizer.encode
    mask = assistant.grammars.compile(schema_grammar({"enum": ["aa", "bb", "ab"]}))
    first, second = encode('"a'), encode('"b')
    one, other = encode("a")[0], encode("b")[0]
    for _ in range(2):
        assert (mask(first)[one], mask(first)[other]) == (0, 0)
        assert mask(second)[one] < 0
    first[-1] = other
    assert mask(first)[one] < 0
    assert mask([])[encode('"')[0]] == 0


HOSTILE: dict[str, dict[str, Any]] = {
    "never ends": {"allOf": [{"type": "integer", "multipleOf": p} for p in (9973, 9967, 9949, 9941)]},
    "many values": {"enum": [f"x{i}" for i in range(100_000)]},
    "many properties": {"properties": {f"p{i}": {"type": "string"} for i in range(5000)}},
    "deep": json.loads('{"items":' * 400 + "{}" + "}" * 400),
    "products": {
        "allOf": [{"anyOf": [{"properties": {f"k{i}{j}": {"minLength": 1}}} for j in range(4)]} for i in range(10)]
    },
    "only itself": {"$ref": "#"},
    "elsewhere": {"$ref": "https://example.org/schema"},
    "of no type": {"type": "strange"},
    "empty": {"type": "integer", "minimum": 5, "maximum": 4},
    "cannot be kept": {"type": "array", "uniqueItems": True},
    "cannot be kept, and says that it need not be": {"uniqueItems": True, "x-guidance": {"lenient": True}},
    "looks ahead": {"pattern": "^(?=a)b"},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_refused_while_others_are_answered(assistant, name):
    before, others = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(UsageError) as caught:
        assistant.grammars.compile(schema_grammar(HOSTILE[name]))
    assert time.process_time() - before < 1, "the time is spent in another process"
    _VETTER.close()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    starting = 3.0  # of Python and llguidance, once or twice
    assert spent.ru_utime + spent.ru_stime - others.ru_utime - others.ru_stime < 2 * CPU_SECONDS + starting
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert assistant.grammars.compile(schema_grammar({"type": "object"}))


def test_what_cannot_be_a_schema_is_refused(assistant):
    for given_as in ({"type": "number", "minimum": float("nan")}, {"properties": [1]}, {"$ref": 5}):
        with pytest.raises(UsageError):
            assistant.grammars.compile(schema_grammar(given_as))


def test_a_vetter_that_was_killed_is_started_again():
    vetter = Vetter()
    grammar = schema_grammar({"type": "integer"})
    assert vetter.problem(grammar) == ""
    vetter._process.kill()
    assert vetter.problem(grammar) == ""
    assert vetter.problem(lark_grammar("start: nothing")) != ""
    vetter.close()


def test_a_grammar_names_the_control_tokens_it_wants_and_no_text_spells_them():
    """Ids 0 to 255 are bytes, 256 is a control token whose name is written in bytes too, 257 ends an answer, 258 is nothing."""
    grammars = Grammars(
        [bytes([i]) for i in range(256)] + [b"<tool>", b"<end>", b""],
        {256, 257, 258},
        {257},
        lambda text: [*text.encode()],
    )
    named = grammars.compile(lark_grammar('start: <[256]> "x"'))
    assert torch.nonzero(named([]) == 0).flatten().tolist() == [256]
    assert torch.nonzero(named([256]) == 0).flatten().tolist() == [ord("x")]
    assert torch.nonzero(named([256, ord("x")]) == 0).flatten().tolist() == [257]
    spelt = grammars.compile(lark_grammar("start: /[<>a-z]+/"))
    assert 256 not in torch.nonzero(spelt([]) == 0)
    assert torch.nonzero(spelt(list(b"<tool>")) == 0).flatten().tolist()[-1] == 257
