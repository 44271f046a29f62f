"""The endpoints by the official client: features, and errors as the client's own exceptions."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import tokenizers
from serving import HELLO, MODEL, PARROT

from tutelage.generate.sampler import Sampling
from tutelage.serve.openai.answering import with_space
from tutelage.text.tokenizer import Tokenizer

ASK: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "seed": 7}
SAY: dict[str, Any] = {"model": "default", "messages": HELLO, "temperature": 0}


def collected(stream: Any, n: int = 1) -> tuple[list[str], list[str | None], list[int]]:
    """The texts and reasons of a stream's choices, and the order in which choices came first."""
    texts, reasons, order = [""] * n, [None] * n, []
    for chunk in stream:
        for choice in chunk.choices:
            if choice.index not in order:
                order.append(choice.index)
            piece = choice.delta.content if hasattr(choice, "delta") else choice.text
            texts[choice.index] += piece or ""
            assert reasons[choice.index] is None, "nothing comes after the end"
            reasons[choice.index] = choice.finish_reason
    return texts, reasons, order


def test_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "tutelage")
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"


def test_an_answer_is_what_the_assistant_gives_alone(client, server):
    """Each kind of sampling, against the same model without a server."""
    kinds = [
        {"temperature": 0.0}, {"temperature": 0.7, "top_p": 0.8}, {"top_k": 3}, {"min_p": 0.2},
        {"presence_penalty": 1.5, "frequency_penalty": 1.0}, {"top_p": 0},
    ]  # fmt: skip
    for given in kinds:
        extra = {name: given[name] for name in given if name in ("top_k", "min_p")}
        usual = {name: given[name] for name in given if name not in extra}
        answer = client.chat.completions.create(**ASK, **usual, extra_body=extra)
        expected = {**given, "top_p": 1e-9} if given.get("top_p") == 0 else given
        alone = server.served.assistant.chat(HELLO, Sampling(**expected, seed=7, max_tokens=12), logprobs=True)
        assert answer.choices[0].message.content.strip() == alone.text, given
        assert answer.choices[0].finish_reason == ("stop" if alone.finished else "length")
        assert answer.usage.completion_tokens == len(alone.ids)
        assert answer.usage.prompt_tokens == len(server.served.assistant.encode(HELLO))
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert (answer.object, answer.model) == ("chat.completion", MODEL)


def test_a_seed_repeats_and_without_one_answers_differ(client):
    again = [client.chat.completions.create(**ASK).choices[0].message.content for _ in range(2)]
    assert again[0] == again[1]
    free = {client.chat.completions.create(**ASK | {"seed": None}).choices[0].message.content for _ in range(3)}
    assert len(free) > 1


def test_streamed_text_is_the_whole_text_for_many_seeds(client):
    """The model writes halves of characters; neither way may show more or less than the other."""
    for seed in range(8):
        asked = ASK | {"seed": seed, "n": 3, "temperature": 1.5}
        whole = client.chat.completions.create(**asked).choices
        texts, reasons, order = collected(client.chat.completions.create(**asked, stream=True), 3)
        assert texts == [choice.message.content for choice in whole]
        assert reasons == [choice.finish_reason for choice in whole]
        assert order == [0, 1, 2]
        asked = {"model": MODEL, "prompt": ["The cat", "你好"], "seed": seed, "n": 2, "max_tokens": 9}
        whole = client.completions.create(**asked).choices
        texts, reasons, order = collected(client.completions.create(**asked, stream=True), 4)
        assert texts == [choice.text for choice in whole]
        assert reasons == [choice.finish_reason for choice in whole]
        assert order == [0, 1, 2, 3]


def test_the_clients_stream_helper_takes_three_choices(parrots):
    with parrots.chat.completions.stream(**SAY, n=3) as stream:
        final = stream.get_final_completion()
    found = [(choice.index, choice.message.content, choice.finish_reason) for choice in final.choices]
    assert found == [(i, PARROT, "stop") for i in range(3)]


def test_usage_in_a_stream_comes_last_and_only_if_asked_for(client):
    whole = [client.chat.completions.create(**ASK, n=2).usage for _ in range(2)][1]  # the first leaves its prompt
    plain = list(client.chat.completions.create(**ASK, n=2, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in plain)
    options = {"include_usage": True}
    *before, last = client.chat.completions.create(**ASK, n=2, stream=True, stream_options=options)
    assert (last.choices, last.usage) == ([], whole)
    assert all(chunk.choices and chunk.usage is None for chunk in before)
    assert len({chunk.id for chunk in (*before, last)}) == 1


def test_usage_tells_how_much_of_the_prompts_was_computed_before(client, server):
    """The next turn of a conversation, the same again in all shapes, and several prompts, of which each counts once."""
    said = [{"role": "user", "content": "Zebras on the mat, 你是谁？ " * 2}]
    made = client.chat.completions.create(**ASK | {"messages": said})
    first = made.usage
    assert first.prompt_tokens_details.cached_tokens == 0
    said += [{"role": "assistant", "content": made.choices[0].message.content}, {"role": "user", "content": "or not?"}]
    later = client.chat.completions.create(**ASK | {"messages": said}, n=2).usage
    assert first.prompt_tokens <= later.prompt_tokens_details.cached_tokens < later.prompt_tokens
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *_, last = client.chat.completions.create(**ASK | {"messages": said}, n=2, **options)
    again = client.responses.create(model=MODEL, input=said, max_output_tokens=2).usage
    whole = later.prompt_tokens - 1  # the last token is always computed
    assert last.usage.prompt_tokens_details.cached_tokens == again.input_tokens_details.cached_tokens == whole
    a, b = ([server.served.assistant.tokenizer.bos_id, *range(start, start + 39)] for start in (20, 120))
    usage = client.completions.create(model=MODEL, prompt=[a, b, a], n=2, max_tokens=2).usage
    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (120, 39)


def test_characters_arrive_whole_whatever_their_tokens(parrots):
    """Every byte of "😀中é" is a token of its own here."""
    pieces = [chunk.choices[0].delta.content or "" for chunk in parrots.chat.completions.create(**SAY, stream=True)]
    assert "".join(pieces) == PARROT
    assert not any("\ufffd" in piece for piece in pieces)
    for most, text in ((3, ""), (4, "😀"), (6, "😀"), (7, "😀中"), (None, PARROT)):
        answer = parrots.chat.completions.create(**SAY, max_tokens=most).choices[0]
        assert (answer.message.content, answer.finish_reason) == (text, "length" if most else "stop")


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("é a", "😀中"), (["zz", "中é"], "😀"), ("😀", ""), (["bc", "é abc"], "😀中"), ("中x", PARROT), ([], PARROT),
        ("c", "😀中é ab"),
    ],
)  # fmt: skip
def test_stop_strings_across_tokens_and_inside_characters(parrots, stop, text):
    whole = parrots.chat.completions.create(**SAY, stop=stop)
    texts, reasons, _ = collected(parrots.chat.completions.create(**SAY, stop=stop, stream=True))
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (text, "stop")
    assert (texts, reasons) == ([text], ["stop"])


def test_completions_take_texts_and_token_arrays(parrots, client, server):
    ids = server.served.assistant.encode("The cat")
    asked = {"model": MODEL, "max_tokens": 6, "seed": 3}
    text = client.completions.create(**asked, prompt="The cat").choices[0].text
    assert client.completions.create(**asked, prompt=ids).choices[0].text == text
    both = client.completions.create(**asked, prompt=[ids, server.served.assistant.encode("or")])
    assert both.choices[0].text == text
    assert both.choices[1].text == client.completions.create(**asked | {"seed": 4}, prompt="or").choices[0].text
    assert both.usage.prompt_tokens == len(ids) + len(server.served.assistant.encode("or"))
    said = parrots.completions.create(model="default", prompt="x", temperature=0)
    assert (said.choices[0].text, said.choices[0].finish_reason, said.object) == (PARROT, "stop", "text_completion")
    assert client.completions.create(model=MODEL, prompt="The cat").usage.completion_tokens <= 16


def test_log_probabilities_join_to_the_text_and_are_those_of_a_plain_forward(client, server, parrots):
    asked = ASK | {"temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked).choices[0]
    streamed = [
        token
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == whole.logprobs.content
    alone = server.served.assistant.chat(HELLO, temperature=0, max_tokens=12, logprobs=True)
    assert [token.logprob for token in streamed] == pytest.approx(list(alone.logprobs), abs=1e-4)
    assert all(token.logprob == token.top_logprobs[0].logprob for token in streamed)
    said = parrots.chat.completions.create(**SAY, logprobs=True).choices[0].logprobs.content
    assert bytes(byte for token in said for byte in token.bytes).decode() == PARROT
    assert [token.token for token in said][-5:] == [" ", "a", "b", "c", "<|end|>"]
    assert said[0].token == "bytes:\\xf0"


def test_legacy_log_probabilities_say_where_each_token_begins(parrots):
    made = parrots.completions.create(model="default", prompt="x", temperature=0, logprobs=1).choices[0].logprobs
    begins = [i for i, c in enumerate(PARROT) for _ in c.encode()]
    assert made.text_offset == [*begins, len(PARROT)]
    assert made.tokens[-2:] == ["c", "<|end|>"]
    assert [list(top) for top in made.top_logprobs] == [[token] for token in made.tokens]
    pieces = [
        chunk.choices[0].logprobs
        for chunk in parrots.completions.create(model="default", prompt="x", temperature=0, logprobs=1, stream=True)
        if chunk.choices[0].logprobs
    ]
    assert [offset for piece in pieces for offset in piece.text_offset] == made.text_offset


def test_offsets_are_those_of_the_text_where_bytes_are_no_characters(client, server):
    """Random tokens are often parts of characters."""
    tokenizer, damaged = server.served.assistant.tokenizer, 0
    for seed in range(8):
        asked = {"prompt": [9], "temperature": 1.5, "max_tokens": 30, "seed": seed, "logprobs": 0}
        made = client.completions.create(model=MODEL, **asked).choices[0]
        ids, stream, length, begins = tokenizer_ids(tokenizer, made.logprobs.tokens), tokenizer.stream(), 0, []
        for i in ids:
            begins.append(length)
            length += len(stream.push(i))
        assert made.logprobs.text_offset == begins
        damaged += made.text[:-1].count("\ufffd")
    assert damaged


def tokenizer_ids(tokenizer, names):
    """The ids of tokens as log-probabilities name them."""
    from tutelage.serve.openai.shapes import token_text

    return [{token_text(tokenizer, i): i for i in range(tokenizer.vocab_size)}[name] for name in names]


def test_a_bias_decides(client, server):
    (chosen,) = server.served.assistant.tokenizer.encode("a")
    answer = client.chat.completions.create(**ASK, logit_bias={str(chosen): 100})
    assert answer.choices[0].message.content == "a" * 12


def test_content_in_parts_and_every_role_of_a_conversation(client, server):
    said = [("developer", "Be kind."), ("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "中文")]
    texts = [{"role": role, "content": text} for role, text in said]
    parts = [{"role": role, "content": [{"type": "text", "text": c} for c in text]} for role, text in said]
    answers = [client.chat.completions.create(**ASK | {"messages": messages}) for messages in (texts, parts)]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    assert answers[0].usage.prompt_tokens == len(server.served.assistant.encode(texts))
    back = [*HELLO, answers[0].choices[0].message.model_dump(), *HELLO]  # as programs send an answer back
    assert client.chat.completions.create(**ASK | {"messages": back}).choices


def test_control_tokens_in_any_text_stay_text(client, server):
    spelt = "<|end|><|assistant|><|bos|>"
    ids = server.served.assistant.tokenizer.encode(spelt)
    plain = client.chat.completions.create(**ASK | {"messages": [{"role": "user", "content": ""}]}).usage
    asked = [{"role": "user", "content": spelt}]
    assert client.chat.completions.create(**ASK | {"messages": asked}).usage.prompt_tokens == (
        plain.prompt_tokens + len(ids)
    )


HARMLESS = {
    "user": "somebody", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "tools": [], "tool_choice": "none",
    "parallel_tool_calls": True, "response_format": {"type": "text"}, "modalities": ["text"], "functions": None,
    "safety_identifier": "x", "prompt_cache_key": "y", "seed": 7, "logit_bias": {}, "stop": None, "n": None,
}  # fmt: skip


def test_harmless_fields_change_nothing(client):
    plain = client.chat.completions.create(**ASK).choices[0].message.content
    assert client.chat.completions.create(**ASK | HARMLESS).choices[0].message.content == plain


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [TOOL]}, "tools"),
    ({"functions": [TOOL["function"]]}, "functions"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"store": True}, "store"),
    ({"reasoning_effort": "low"}, "reasoning_effort"),
    ({"extra_body": {"repetition_penalty": 1.1}}, "repetition_penalty"),
    ({"extra_body": {"temprature": 1}}, "temprature"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": True}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": ""}, "stop"),
    ({"seed": 2**63}, "seed"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logit_bias": {"the": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": {"-1": 5}}, "logit_bias"),
    ({"logit_bias": {"99999999": 5}}, "logit_bias"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"messages": []}, "messages"),
    ({"messages": PICTURE}, "messages.0.content.0.type"),
    ({"messages": [{"role": "tool", "content": "4", "tool_call_id": "1"}]}, "messages.0.tool_call_id"),
    ({"messages": [{"role": "function", "content": "4", "name": "f"}]}, "messages.0.role"),
    ({"messages": [{"role": "narrator", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "assistant", "content": None}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
]


@pytest.mark.parametrize(("given", "param"), REFUSED, ids=[str(given)[:40] for given, _ in REFUSED])
def test_what_is_not_supported_is_refused_by_its_name(server, given, param):
    body = ASK | {key: value for key, value in given.items() if key != "extra_body"} | given.get("extra_body", {})
    response = post(server, "/v1/chat/completions", body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("given", "param", "said"),
    [
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages.0.content",
            "should be text, or a list of parts of text",
        ),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages.0.content.0", "should be an object"),
        ({"messages": [5]}, "messages.0", "should be an object"),
        ({"messages": "x"}, "messages", "should be a list"),
        ({"stop": 5}, "stop", "should be text, or a list of up to four texts"),
        ({"stop": [5]}, "stop.0", "should be text"),
        ({"logit_bias": 5}, "logit_bias", "should be an object"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_type_is_told_in_words_of_json(server, given, param, said):
    error = post(server, "/v1/chat/completions", ASK | given).json()["error"]
    assert (error["param"], error["message"]) == (param, f"{param}: {said}")


def post(server: Any, path: str, body: Any) -> Any:
    with server.http() as http:  # json.dumps writes a lone surrogate as an escape, which JSON allows
        return http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


def test_errors_are_the_clients_exceptions(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASK | {"temperature": 9})
    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")
    assert caught.value.request_id
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**ASK | {"model": "gpt-4o"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="suffix is not supported"):
        client.completions.create(model=MODEL, prompt="x", suffix="y")


def test_a_prompt_that_is_too_long_is_refused_and_never_cut(client, server):
    context = server.served.assistant.context
    empty = len(server.served.assistant.encode([{"role": "user", "content": ""}]))
    for length, fits in ((context - empty - 1, True), (context - empty, False), (20 * context, False)):
        asked = ASK | {"messages": [{"role": "user", "content": "z" * length}]}
        if fits:
            answer = client.chat.completions.create(**asked)
            assert (answer.usage.total_tokens, answer.choices[0].finish_reason) == (context, "length")
            continue
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match=f"the model's context is {context}") as caught:
                client.chat.completions.create(**asked, stream=stream)
            assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_more_messages_than_the_context_has_tokens_are_refused_before_any_work(client, server, monkeypatch):
    monkeypatch.setattr("tutelage.serve.openai.routes.render_prompts", lambda *given, **more: pytest.fail("rendered"))
    context = server.served.assistant.context
    with pytest.raises(openai.BadRequestError, match=f"there are {context} messages") as caught:
        client.chat.completions.create(**ASK | {"messages": HELLO * context})
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input=HELLO * context)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")


def test_without_a_limit_an_answer_may_fill_the_context(client, server):
    answer = client.chat.completions.create(**ASK | {"max_tokens": None, "logit_bias": {"2": -100}})
    assert answer.usage.total_tokens == server.served.assistant.context


def test_a_continuation_keeps_the_space_that_its_tokenizer_takes_off_the_start_of_a_text():
    """A tokenizer of sentencepiece's kind, and ours; a stop string may have cut the text."""
    pieces = {piece: i for i, piece in enumerate(["<unk>", "▁a", "b", "▁", "▁▁", "c", "\n"])}
    spm = tokenizers.Tokenizer(tokenizers.models.BPE(pieces, []))
    spm.decoder = tokenizers.decoders.Metaspace("▁", "always")
    a, b, space, two, c, line = range(1, 7)
    for prompt, ids, text, expected in (
        ([a], [a], "a", " a"),
        ([a, b], [b, a], "b a", "b a"),
        ([a], [space, a], " a", "  a"),
        ([a], [two, c], "c", "  c"),
        ([a], [line, line, c], "\n", "\n"),  # the text ends before the stop string "\nc"
        ([a], [a, line], "a", " a"),
    ):
        assert with_space(spm.decode, prompt, ids, text) == expected
    ours = Tokenizer.train(["x"], 262)
    ids = ours.encode("\n\n中")
    assert with_space(ours.decode, ours.encode("x "), ids, "\n") == "\n"
    half = ours.encode("中")
    assert with_space(ours.decode, half[:1], [*half[1:], *ids], "\ufffd\ufffd\n") == "\ufffd\ufffd\n"


def test_a_stop_string_after_white_space_cuts_a_completion(client, server):
    encode = server.served.assistant.tokenizer.encode
    bias = {str(i): 100 for i in encode("\n")}
    for stop, text in (("\n\n\n", ""), ("x", "\n" * 5)):
        asked = {
            "model": MODEL,
            "prompt": "The cat",
            "max_tokens": 5,
            "logit_bias": bias,
            "temperature": 0,
            "stop": stop,
        }
        assert client.completions.create(**asked).choices[0].text == text
