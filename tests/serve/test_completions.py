"""Text completions as evaluation programs use them: the prompt's log-probabilities, batches of ids, the best of several."""

from __future__ import annotations

import json
from typing import Any

import jinja2
import openai
import pytest
from serving import MODEL, PARROT

PROMPTS = ["the cat sat", "你好 😀", "or", "x"]


def alone(server: Any, ids: list[int]) -> Any:
    """float32 [s, v]: the log-probabilities of a plain forward."""
    return server.served.assistant.logits(ids).log_softmax(-1)


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_echoed_ids_have_the_log_probabilities_of_a_plain_forward(client, server, max_tokens):
    """As lm-eval asks: rows of ids, echo, logprobs 1."""
    rows = [server.served.assistant.encode(text) for text in PROMPTS]
    asked = {"model": MODEL, "temperature": 0, "max_tokens": max_tokens, "logprobs": 1, "echo": True, "seed": 1234}
    made = client.completions.create(prompt=rows, **asked)
    assert made.usage.completion_tokens == len(rows) * max_tokens
    assert made.usage.prompt_tokens == sum(map(len, rows))
    for ids, choice in zip(rows, made.choices, strict=True):
        found, expected = choice.logprobs, alone(server, ids)
        assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(ids) + max_tokens
        assert (found.token_logprobs[0], found.top_logprobs[0]) == (None, None)
        values = [expected[i, token].item() for i, token in enumerate(ids[1:])]
        assert found.token_logprobs[1 : len(ids)] == pytest.approx(values, abs=1e-4)
        for i, (logprob, top) in enumerate(zip(found.token_logprobs[1:], found.top_logprobs[1:], strict=True)):
            greedy = i >= len(ids) - 1 or int(expected[i].argmax()) == ids[i + 1]
            assert (logprob == max(top.values())) is greedy, "bit for bit"
        assert choice.finish_reason == ("length" if max_tokens == 0 else choice.finish_reason)
        assert client.completions.create(prompt=ids, **asked).choices[0].logprobs.tokens == found.tokens


def test_an_echoed_text_is_what_was_sent_and_its_first_token_follows_the_begin_token(client, server, parrots):
    for text in PROMPTS:
        asked = {"model": MODEL, "prompt": text, "max_tokens": 4, "seed": 5, "logprobs": 0}
        made = client.completions.create(**asked, echo=True).choices[0]
        plain = client.completions.create(**asked).choices[0]
        assert made.text == text + plain.text
        ids = server.served.assistant.encode(text)
        expected = [alone(server, ids)[i, token].item() for i, token in enumerate(ids[1:])]
        assert made.logprobs.token_logprobs[: len(expected)] == pytest.approx(expected, abs=1e-4)
        rest = made.logprobs.token_logprobs[len(expected) :]
        assert rest == pytest.approx(plain.logprobs.token_logprobs, abs=1e-5)  # other kernels tell of prompts
        assert made.logprobs.text_offset[0] == 0
        assert plain.logprobs.top_logprobs is made.logprobs.top_logprobs is None
    said = parrots.completions.create(model="default", prompt="x", temperature=0, echo=True, logprobs=1, max_tokens=20)
    assert said.choices[0].text == f"x{PARROT}"
    begins = [i for i, c in enumerate(f"x{PARROT}") for _ in c.encode()]
    assert said.choices[0].logprobs.text_offset == [*begins, len(PARROT) + 1]


def test_ids_that_end_inside_a_character_show_the_whole_characters_alone(client, server):
    half = server.served.assistant.encode("a中")[:-1]
    made = client.completions.create(model=MODEL, prompt=half, echo=True, max_tokens=0).choices[0]
    assert made.text in ("a", "")
    assert made.logprobs is None


def test_a_streamed_echo_is_the_whole_one(client):
    asked = {"model": MODEL, "prompt": PROMPTS, "max_tokens": 5, "seed": 2, "echo": True, "n": 2}
    for more in ({}, {"logprobs": 2}, {"max_tokens": 0, "logprobs": 1}):
        whole = client.completions.create(**asked | more).choices
        texts, tokens, values = ([""] * 8, [[] for _ in range(8)], [[] for _ in range(8)])
        for chunk in client.completions.create(**asked | more, stream=True):
            (choice,) = chunk.choices
            texts[choice.index] += choice.text
            if choice.logprobs:
                tokens[choice.index] += choice.logprobs.tokens
                values[choice.index] += choice.logprobs.token_logprobs
        assert texts == [choice.text for choice in whole]
        if "logprobs" in more:
            assert tokens == [choice.logprobs.tokens for choice in whole]
            assert values == [choice.logprobs.token_logprobs for choice in whole]


def test_the_best_of_several_are_those_with_the_highest_mean_log_probability(client, server):
    asked = {"model": MODEL, "prompt": ["the cat", "你好"], "max_tokens": 6, "seed": 9, "logprobs": 0}
    all_of_them = client.completions.create(**asked, n=5).choices
    best = client.completions.create(**asked, n=2, best_of=5)
    for place in range(2):
        group = all_of_them[5 * place : 5 * place + 5]
        means = {c.text: sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in group}
        expected = sorted(means, key=lambda text: -means[text])[:2]
        assert [choice.text for choice in best.choices[2 * place : 2 * place + 2]] == expected
    assert [choice.index for choice in best.choices] == [0, 1, 2, 3]
    assert best.usage.completion_tokens > sum(len(choice.logprobs.tokens) for choice in best.choices)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"suffix": "the end"}, "suffix"),
        ({"logprobs": 6}, "logprobs"),
    ],
)
def test_what_a_completion_cannot_be_asked_for_is_refused_by_its_name(client, given, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="x", **given)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("prompt", "param", "said"),
    [
        ([1, 10**6], "prompt", "1000000 is not one of the token ids from 0 to "),
        ([[1], [2, -1]], "prompt", "-1 is not one of the token ids from 0 to "),
        ([[1], []], "prompt", "a row of token ids is empty"),
        ([], "prompt", "should have 1 or more items"),
        ({"a": 1}, "prompt", "should be text, a list of texts, token ids, or rows of token ids"),
        ([1, "a"], "prompt.1", "should be a whole number"),
        (["x"] * 257, "prompt", "these are 257: ask for fewer at once"),
        ([1, *(["a"] * 50_000)], "prompt.1", "should be a whole number"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_prompt_that_cannot_be_read_is_refused_with_what_is_wrong_with_it(client, prompt, param, said):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=prompt)
    assert caught.value.param == param
    assert said in caught.value.message


def test_more_answers_than_may_wait_are_refused_before_anything_is_made_for_them(client, server, monkeypatch):
    service = server.served.service
    for name in ("_checked", "submit_all"):
        monkeypatch.setattr(service, name, lambda *given, **more: pytest.fail("made"))
    monkeypatch.setattr("tutelage.serve.openai.routes.encode", lambda *given: pytest.fail("read"))
    for given, param in (({"prompt": ["x"] * 3000}, "prompt"), ({"prompt": [[1]] * 3, "n": 128}, "prompt")):
        with pytest.raises(openai.BadRequestError, match="samples of a client may wait") as caught:
            client.completions.create(model=MODEL, **given)
        assert caught.value.param == param


def test_a_prompt_that_is_too_long_is_refused_before_its_echo_is_made(client, monkeypatch):
    monkeypatch.setattr("tutelage.serve.openai.routes._echoed", lambda *given: pytest.fail("echoed"))
    with pytest.raises(openai.BadRequestError, match="context") as caught:
        client.completions.create(model=MODEL, prompt=[9] * 10_000, echo=True, max_tokens=0)
    assert caught.value.code == "context_length_exceeded"


def test_the_tokenizer_can_be_asked(server):
    """Control tokens by name, as lm-eval sends what it has made with the template; a completion reads the same ids."""
    tokenizer = server.served.assistant.tokenizer
    with server.http() as http:

        def ask(path: str, **body: Any) -> dict[str, Any]:
            said = http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
            assert said.status_code == 200, said.text
            return said.json()

        for text in (*PROMPTS, "", "<|bos|><|user|>Hi 中<|end|>"):
            made = ask("/tokenize", prompt=text, add_special_tokens=False, return_token_strs=True)
            assert ask("/detokenize", tokens=made["tokens"]) == {"prompt": text}
            assert made["count"] == len(made["tokens"]) == len(made["token_strs"])
            assert made["max_model_len"] == server.served.assistant.context
        assert ask("/tokenize", prompt="the cat")["tokens"] == server.served.assistant.encode("the cat")
        asked = [{"role": "user", "content": "Hi"}]
        info = http.get("/tokenizer_info").json()
        text = jinja2.Template(info["chat_template"], trim_blocks=True, lstrip_blocks=True).render(
            messages=asked, add_generation_prompt=True, bos_token=info["bos_token"]
        )
        ids = ask("/tokenize", prompt=text, add_special_tokens=False)["tokens"]
        assert ids == server.served.assistant.encode(asked)
        for mark, i in (
            ("bos_token", tokenizer.bos_id),
            ("eos_token", tokenizer.end_id),
            ("pad_token", tokenizer.pad_id),
        ):
            assert ask("/tokenize", prompt=info[mark], add_special_tokens=False)["tokens"] == [i]
        typed = [{"role": "user", "content": "<|end|> as people type it"}, *asked]
        assert ask("/tokenize", messages=typed)["tokens"] == server.served.assistant.encode(typed)
        whole = ask("/tokenize", messages=typed, add_generation_prompt=False)["tokens"]
        assert whole == server.served.assistant.encode(typed)[: len(whole)]
        assert len(whole) == ask("/tokenize", messages=typed)["count"] - 1
        many = {"messages": asked * server.served.assistant.context}
        wrong = ({"prompt": "\ud800"}, {}, {"prompt": "", "messages": asked}, {"messages": []}, many)
        for path, body in (*(("/tokenize", one) for one in wrong), ("/detokenize", {"tokens": [10**6]})):
            said = http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
            assert (said.status_code, said.json()["error"]["type"]) == (400, "invalid_request_error")
