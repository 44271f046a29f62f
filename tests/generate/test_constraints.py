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
from tutelage.generate.constraints import _VETTER, Grammars, json_options, lark_grammar, schema_grammar
from tutelage.generate.request import Request
from tutelage.generate.sampler import Sampling
from tutelage.generate.schemas import usable
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
    """One mask, asked about several lists in turns, about lists that leave their address to others, and about one that shrinks."""
    encode = assistant.tokenizer.encode
    mask = assistant.grammars.compile(schema_grammar({"enum": ["aa", "bb", "ab"]}))
    first, second = encode('"a'), encode('"b')
    one, other = encode("a")[0], encode("b")[0]
    for _ in range(2):
        assert (mask(first)[one], mask(first)[other]) == (0, 0)
        assert mask(second)[one] < 0
    for _ in range(20):
        assert mask(encode('"a'))[one] == 0
        assert mask(encode('"b'))[one] < 0
    first.pop()
    assert mask(first)[other] == 0
    first.append(other)
    assert (mask(first)[other], mask(first)[one] < 0) == (0, True)
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


INEXACT = 2**53 + 1


@pytest.mark.parametrize(
    "schema",
    [
        *({keyword: INEXACT} for keyword in ("const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
        {"enum": [1, -INEXACT]},
        {"const": [{"a": 10**400}]},
        {"maximum": 1e30},
        {"exclusiveMaximum": 2**60},
        {"properties": {"a": {"anyOf": [{"type": "null"}, {"items": {"minimum": -(2**63)}}]}}},
        {"$defs": {"const": {"const": INEXACT}}},
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_number_that_would_be_rounded_is_refused(schema):
    with pytest.raises(UsageError, match="is too large to be kept exactly") as caught:
        schema_grammar(schema)
    assert len(str(caught.value)) < 150


def test_whole_numbers_up_to_the_largest_are_kept_exactly(assistant):
    """Against an independent validator. A number that restricts nothing may have any size, and a property any name."""
    big = 2**53 - 1
    for schema in (
        {"const": big, "default": INEXACT, "examples": [INEXACT]},
        {"enum": [-big]},
        {"type": "integer", "minimum": -big, "maximum": big},
        {"type": "integer", "exclusiveMaximum": big},
        {"type": "number", "exclusiveMinimum": -big},
    ):
        grammar = schema_grammar(schema)
        assert not _VETTER.problem(grammar)
        for number in (*range(-big - 3, -big + 3), *range(big - 3, big + 3)):
            matcher = llguidance.LLMatcher(assistant.grammars._tokenizer, grammar)
            ids = assistant.tokenizer.encode(str(number))
            taken = matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()
            assert taken == jsonschema.Draft202012Validator(schema).is_valid(number), (schema, number)
    assert schema_grammar({"properties": {"minimum": {"type": "integer"}, "const": {}}})


@pytest.mark.parametrize(
    ("idle", "asking"),
    [
        ({"uniqueItems": False}, {"uniqueItems": True}),
        ({"not": False}, {"not": {}}),
        ({"propertyNames": {"type": "string"}}, {"propertyNames": {"maxLength": 3}}),
        ({"unevaluatedProperties": True, "unevaluatedItems": {}}, {"unevaluatedProperties": False}),
        ({"dependentRequired": {}, "dependencies": {}}, {"dependentRequired": {"a": ["b"]}}),
        ({"dependentSchemas": {}}, {"dependentSchemas": {"a": {}}}),
        ({"if": {"const": 1}, "then": True, "else": {}}, {"if": {"const": 1}, "else": False}),
        ({"then": False}, {"if": {}, "then": False}),
        ({"minContains": 2, "maxContains": 1}, {"contains": {}}),
        ({"contains": {}, "minContains": 0}, {"contains": {}, "minContains": 0, "maxContains": 1}),
        ({"format": "password"}, {"format": "ipv7"}),
    ],
    ids=str,
)
def test_a_keyword_that_asks_for_nothing_is_dropped_and_one_that_asks_is_refused(idle, asking):
    """At the top and inside; as the name of a property it is no keyword."""
    plain = {"type": ["string", "object", "array"], "minLength": 2}
    for place in (lambda schema: schema, lambda schema: {"properties": {"a": {"items": schema}}}):
        assert schema_grammar(place(plain | idle)) == schema_grammar(place(plain))
        assert _VETTER.problem(schema_grammar(place(plain | asking)))
    named = {"properties": idle}
    assert usable(named) == named


def test_what_writes_schemas_may_write_what_it_likes_beside_them():
    more = {
        "title": "t",
        "description": "d",
        "default": 1,
        "examples": [1],
        "deprecated": True,
        "readOnly": True,
        "nullable": False,
    }
    more |= {
        "$comment": "c",
        "contentMediaType": "text/plain",
        "discriminator": {"propertyName": "a"},
        "x-order": 1,
        "minLength": 0,
    }
    assert not _VETTER.problem(schema_grammar({"type": "string", **more}))


def test_what_is_wrong_is_said_without_the_grammar_around_it():
    schema = json.dumps(json_options({"properties": {"a": {"not": {}, "contains": {}}}}))
    inside = _VETTER.problem(lark_grammar(f'start: "x" one\none: %json {schema}\n'))
    assert inside == '"contains", "not" are not supported'
    assert _VETTER.problem(schema_grammar({"pattern": "(a"})) == "in a pattern: unclosed group"


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
