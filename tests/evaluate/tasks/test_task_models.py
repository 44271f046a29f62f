"""Likelihoods and answers of a tiny random model against transformers, plain loops and lm-eval's definitions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_start import logprobs_of, random_decoder, save

from tutelage.assistant.assistant import Assistant
from tutelage.errors import CheckpointError, UsageError
from tutelage.evaluate.harness import Adapter
from tutelage.evaluate.likelihoods import likelihoods
from tutelage.evaluate.tasks.models import Local
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.records import Message
from tutelage.text.chat import render, render_texts
from tutelage.text.tokenizer import Tokenizer

TEXT = "Which of the two is a colour: red, or a cup? 天下皆知美之为美"
CHAT = (Message(role="user", content="Which is a colour?"),)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train([TEXT, "the cup is red, a colour"] * 9, 300)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    save(path / "model", random_decoder(tokenizer, 0), tokenizer)
    save(path / "scalar", ScalarModel.from_decoder(random_decoder(tokenizer, 1)), tokenizer)
    return path


@pytest.fixture(scope="module")
def assistant(folder) -> Assistant:
    return Assistant.load(folder / "model", device="cpu", dtype="fp32")


def plain(assistant, before, after):
    """One unpadded row."""
    with torch.no_grad():
        return sum(p.item() for p in logprobs_of(assistant.decoder, before, after))


def test_likelihoods_are_those_of_transformers(assistant, folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    encode = transformers.AutoTokenizer.from_pretrained(folder / "model").encode
    pairs = [
        ("the cup is", " red"),
        ("the cup is", " a colour"),
        ("天下皆知", "美之为美"),
        ("", "red"),
        ("Which of", " it"),
    ]
    for (context, text), found in zip(pairs, Local(assistant).weigh(pairs), strict=True):
        bos = [assistant.tokenizer.bos_id]
        ids, alone = (bos + encode(said, add_special_tokens=False) for said in (context + text, context))
        start = next(
            (i for i, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b), len(alone)
        )  # 知美 has a token of both
        with torch.no_grad():
            logprobs = theirs(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(logprobs[i - 1, ids[i]].item() for i in range(start, len(ids)))
        assert found.logprob == pytest.approx(expected, abs=1e-4)
        assert (found.before, found.tokens) == (start, len(ids) - start)


ROWS = st.lists(
    st.tuples(st.lists(st.integers(6, 60), min_size=1, max_size=9), st.lists(st.integers(6, 60), min_size=1, max_size=5)),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(max_examples=25)
@given(ROWS, st.randoms())
def test_neither_order_nor_company_nor_a_shared_context_changes_a_likelihood(rows, rng):
    torch.manual_seed(0)
    config = ModelConfig(
        family="mistral", vocab_size=64, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
        sliding_window=5, max_position_embeddings=64, init_std=0.3,
    )  # fmt: skip
    model = Decoder(config).eval()
    rows = rows + [(rows[0][0], after) for _, after in rows]  # several share a context
    found = likelihoods(model, rows, pad_id=0, dtype="fp32")
    for (before, after), one in zip(rows, found, strict=True):
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([[*before, *after]])))[0, len(before) - 1 : -1].log_softmax(-1)
        own = logits[range(len(after)), after]
        assert one.logprob == pytest.approx(own.sum().item(), abs=1e-4)
        best = logits.topk(2).values
        if (best[:, 0] - best[:, 1]).min() > 1e-4:
            assert one.greedy == bool((logits.argmax(1) == torch.tensor(after)).all())
        assert one.tokens == len(after)
    shuffled = rng.sample(range(len(rows)), len(rows))
    again = likelihoods(model, [rows[i] for i in shuffled], pad_id=3, dtype="fp32")
    assert [again[shuffled.index(i)].logprob for i in range(len(rows))] == pytest.approx(
        [f.logprob for f in found], abs=1e-4
    )


def test_a_text_is_cut_where_the_continuation_begins(tokenizer):
    bos = tokenizer.bos_id
    cases = [("the cup ", "is red"), ("the cup", " is red"), ("", "red"), ("re", "d"), ("red", "")]
    for (context, text), (before, after) in zip(cases, render_texts(tokenizer, cases), strict=True):
        assert before[0] == bos
        assert [*before, *after] == [bos, *tokenizer.encode(context + text)]
        assert after
        assert tokenizer.decode(before).strip() == tokenizer.decode(before)
    assert render_texts(tokenizer, cases[:1]) == render_texts(
        tokenizer, cases[1:2]
    )  # the space belongs to what follows


def test_an_imported_tokenizer_says_whether_bos_precedes_a_text(tmp_path, tokenizer):
    transformers = pytest.importorskip("transformers")
    from tokenizers.processors import TemplateProcessing

    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    for single, expected in (("$A", False), ("<|bos|> $A", True)):
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        backend = theirs.backend_tokenizer
        backend.post_processor = TemplateProcessing(single=single, special_tokens=[("<|bos|>", tokenizer.bos_id)])
        backend.save(str(tmp_path / "tokenizer.json"))
        turns = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        template = turns + "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        imported = Tokenizer.load(tmp_path, chat_template=template)
        assert imported.begins_texts == expected
        (before, after), (bare, _) = render_texts(imported, [("the cup", " is"), ("", "red")])
        assert [*before, *after] == transformers.AutoTokenizer.from_pretrained(tmp_path).encode("the cup is")
        assert bare == [imported.bos_id]


def test_conversations_are_weighed_and_answered_in_the_chat_format(assistant, tokenizer):
    local, texts = Local(assistant), ["red", "a cup"]
    prompt = render(tokenizer, CHAT, add_generation_prompt=True).ids
    for text, found in zip(texts, local.weigh([(CHAT, text) for text in texts]), strict=True):
        assert found.logprob == pytest.approx(plain(assistant, prompt, tokenizer.encode(text)), abs=1e-4)
        assert found.before == len(prompt)
    (wrote,) = local.write([CHAT], 6, ())
    assert wrote.answer.text == assistant.chat(CHAT, temperature=0, max_tokens=6)
    assert (wrote.read, wrote.written <= 6) == (len(prompt), True)


def test_texts_are_continued_up_to_a_stop_string(assistant, tokenizer):
    local = Local(assistant)
    contexts = ["the cup", "a", "red", "Which", "two of"]
    alone = [local.write([text], 12, ())[0].answer for text in contexts]
    assert [wrote.answer for wrote in local.write(contexts, 12, ())] == alone
    i = max(range(len(contexts)), key=lambda i: len(alone[i].text.strip()))
    stop = alone[i].text.strip()[2]
    (cut,) = local.write([contexts[i]], 12, (stop,))
    assert cut.answer.text.strip() == alone[i].text.split(stop)[0].strip()
    assert cut.answer.finished


def test_the_longest_pair_is_exact_near_the_context_and_else_a_bound(assistant):
    local = Local(assistant)
    pairs = [("the cup is" * 6, " red"), ("the cup is" * 6, " a colour")]
    exact = max(len(before) + len(after) for before, after in render_texts(assistant.tokenizer, pairs))
    assert local.longest(pairs, 0) == exact
    assert len("ab") < local.longest([("a", "b")], 0) <= assistant.context


def test_who_cannot_be_asked(folder, assistant):
    with pytest.raises(CheckpointError, match="reward model"):
        Local(Assistant.load(folder / "scalar", device="cpu"))
    with pytest.raises(UsageError, match="nothing of ''"):
        Local(assistant).weigh([("", "")])


def test_lm_evals_questions(assistant, tokenizer):
    adapter, bos = Adapter(assistant), tokenizer.bos_id
    pairs = [("the cup", " is red"), ("", "red")]
    for (context, text), (logprob, greedy) in zip(pairs, adapter.loglikelihood(pairs), strict=True):
        before, after = [bos, *tokenizer.encode(context)], tokenizer.encode(text)
        assert logprob == pytest.approx(plain(assistant, before, after), abs=1e-4)
        best = assistant.logits([*before, *after])[len(before) - 1 : -1].argmax(-1).tolist()
        assert greedy == (best == after)
    written = adapter.generate_until(
        [("the cup", {"max_gen_toks": 4}), ("the cup", {"until": "\n", "max_gen_toks": 4})]
    )
    assert written[0] == assistant.generate("the cup", temperature=0, max_tokens=4)
    prompt = "the cup is red"  # lm-eval's default length of an answer may be the whole context
    (whole,) = adapter.generate_until([(prompt, {"max_gen_toks": assistant.context})])
    assert whole == assistant.generate(prompt, temperature=0, max_tokens=assistant.context // 2)
    asked = adapter.conversation([{"role": "user", "content": CHAT[0].text}])
    assert adapter.generate_until([(asked, {"max_gen_toks": 4})]) == [assistant.chat(CHAT, temperature=0, max_tokens=4)]
    with pytest.raises(UsageError, match="without the chat template"):
        adapter.generate_until([(asked + " more", {})])


@pytest.mark.parametrize("words", [1, 20, 60, 61])
def test_a_rolling_likelihood_predicts_each_token_once_with_the_most_context(assistant, tokenizer, words):
    """Windows of the context's 64 tokens; the last begins so that it is full."""
    text = "the cup is a red colour " * words
    stream, size, total = [tokenizer.bos_id, *tokenizer.encode(text)], assistant.context, 0.0
    for place in range(1, len(stream)):
        window = (place - 1) // size * size
        last = min(window + size, len(stream) - 1)
        start = max(0, last - size) if window else 0
        total += plain(assistant, stream[start:place], [stream[place]])
    assert Adapter(assistant).rolling(text) == pytest.approx(total, rel=1e-4)


def test_a_context_that_is_too_long_loses_its_beginning(assistant, tokenizer):
    (found,) = Adapter(assistant).loglikelihood([("the cup is red " * 60, " colour")])
    ((before, after),) = render_texts(tokenizer, [("the cup is red " * 60, " colour")])
    kept = before[-(assistant.context + 1 - len(after)) :]
    assert found[0] == pytest.approx(plain(assistant, kept, after), abs=1e-4)
