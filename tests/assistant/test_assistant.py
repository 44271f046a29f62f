"""A checkpoint from Python and in the terminal: what users call, on trained models."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from typing import ClassVar

import pytest
import torch
from pydantic import ValidationError
from toy_task import right

import tutelage
from tutelage.assistant import assistant as assistant_module
from tutelage.assistant.assistant import Assistant
from tutelage.cli import app as cli
from tutelage.data.formats import read_conversations, read_prompts, read_rankings
from tutelage.errors import CheckpointError, RecipeError, UsageError
from tutelage.evaluate.measure import written_length
from tutelage.evaluate.reward_model import reward_model_figures
from tutelage.generate.request import Event, Generated, Token
from tutelage.generate.sampler import Sampling
from tutelage.generate.service import Job, Service, Ticket
from tutelage.generate.text import TextWriter
from tutelage.records import Completion, Conversation, Message, Prompt
from tutelage.text.tokenizer import Tokenizer

QUESTION = "The hat is blue. What colour is the hat?"


@pytest.fixture(scope="module")
def assistant(tuned):
    return tutelage.load(tuned, device="cpu")


def test_chat_answers(assistant):
    answer = assistant.chat([{"role": "user", "content": QUESTION}], temperature=0)
    assert answer.strip(". ") in ("red", "blue", "green", "black")


ASKED = [{"role": "user", "content": QUESTION}]


@pytest.mark.parametrize("dtype", ["auto", "bf16"])
def test_streamed_text_is_the_text_of_chat_for_any_seed_and_cut(assistant, dtype):
    """Both compute in one precision, and neither shows half a character where the length limit cuts one."""
    model = Assistant(assistant.model, assistant.tokenizer, dtype=dtype)
    cut = 0
    for seed in range(12):
        options = {"seed": seed, "max_tokens": 6, "temperature": 4.0}  # so hot that it writes arbitrary bytes
        whole = model.chat(ASKED, **options)
        assert whole == "".join(model.stream(ASKED, **options)).strip()
        assert whole == "".join(model.stream([Message(**ASKED[0])], Sampling(**options))).strip()
        assert whole == model.chat(ASKED, Sampling(**options), n=2)[0]
        (sample,) = model.chat(ASKED, **options, logprobs=True, n=2)[:1]
        assert sample.text == whole
        decoded = model.tokenizer.decode(sample.ids).strip()
        cut += decoded != whole
        assert decoded.rstrip("\ufffd") == whole.rstrip("\ufffd")
    assert cut >= 2


def test_n_gives_a_list_and_a_stream_refuses_it(assistant):
    texts = assistant.chat(ASKED, n=3, temperature=2.0, max_tokens=8)
    assert len(set(texts)) > 1
    assert [type(text) for text in texts] == [str] * 3
    assert len(assistant.generate("The hat", n=2, max_tokens=3)) == 2
    with pytest.raises(UsageError, match="stream writes one answer"):
        assistant.stream(ASKED, n=3)


def test_a_stop_string_ends_every_kind_of_answer(assistant):
    plain = assistant.generate("The hat", temperature=0, max_tokens=12)
    stop = plain[4:6]
    kept = plain[: plain.index(stop)].rstrip()
    for given in (stop, [stop], ("\n\n\n", stop)):
        assert assistant.generate("The hat", temperature=0, max_tokens=12, stop=given) == kept
    answer = assistant.chat(ASKED, temperature=0)
    stop = answer[1:3]
    assert assistant.chat(ASKED, temperature=0, stop=stop) == answer[:1]
    assert "".join(assistant.stream(ASKED, temperature=0, stop=stop)).strip() == answer[:1]
    (made,) = assistant.answers([ASKED], temperature=0, stop=stop)[0].completions
    assert (made.text, made.finished, made.ids) == (answer[:1], True, None)


def test_logprobs_are_those_of_a_plain_forward(assistant):
    exact = Assistant(assistant.model, assistant.tokenizer, dtype="fp32")
    made = exact.chat(ASKED, temperature=0, max_tokens=5, logprobs=True, top_logprobs=2)
    (same,) = exact.answers([ASKED], temperature=0, max_tokens=5, logprobs=True, top_logprobs=2)[0].completions
    assert made.text == exact.chat(ASKED, temperature=0, max_tokens=5)
    prompt = exact.encode(ASKED)
    rows = exact.logits([*prompt, *made.ids]).log_softmax(1)[len(prompt) - 1 : -1]
    expected = [row[i].item() for row, i in zip(rows, made.ids, strict=True)]
    assert made.logprobs == pytest.approx(expected, abs=1e-4)
    assert same.logprobs == pytest.approx(expected, abs=1e-4)
    for row, top, chosen in zip(rows, made.top_logprobs, made.ids, strict=True):
        assert [i for i, _ in top] == row.topk(2).indices.tolist()
        assert top[0][0] == chosen
    deltas = list(exact.stream(ASKED, temperature=0, max_tokens=5, logprobs=True, top_logprobs=2))
    assert "".join(delta.text for delta in deltas).strip() == made.text
    assert [token.id for delta in deltas for token in delta.tokens] == list(made.ids)
    assert [token.top for delta in deltas for token in delta.tokens] == list(made.top_logprobs)
    assert exact.answers([ASKED], max_tokens=5)[0].completions[0].logprobs is None
    with pytest.raises(UsageError, match="top_logprobs needs logprobs"):
        exact.chat(ASKED, top_logprobs=2)


def test_logits_take_ids_texts_and_conversations_alone_and_in_batches(assistant):
    exact = Assistant(assistant.model, assistant.tokenizer, dtype="fp32")
    vocabulary = exact.tokenizer.vocab_size
    answered = [*ASKED, {"role": "assistant", "content": "blue."}]
    items = [[1, 2, 3], "The hat is blue.", ASKED, answered, Prompt(messages=(Message(**ASKED[0]),))]
    rows = [exact.encode(item) for item in items]
    assert rows[0] == [1, 2, 3]
    assert rows[1] == [exact.tokenizer.bos_id, *exact.tokenizer.encode("The hat is blue.")]
    assert rows[4] == rows[2] == rows[3][: len(rows[2])]  # what opens an answer follows the question
    together = exact.logits(items)
    assert together.shape == (5, max(map(len, rows)), vocabulary)
    for item, row, found in zip(items, rows, together, strict=True):
        alone = exact.logits(item)
        assert alone.shape == (len(row), vocabulary)
        torch.testing.assert_close(found[: len(row)], alone, atol=1e-4, rtol=1e-4)
        assert found[len(row) :].isnan().all()
    for ids in (torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3]).numpy(), (1, 2, 3)):
        assert torch.equal(exact.logits(ids), exact.logits([1, 2, 3]))
    assert exact.logits(torch.tensor([[1, 2], [3, 4]])).shape == (2, 2, vocabulary)


def test_a_folder_without_a_tokenizer_gives_logits_of_ids(tuned, tmp_path, assistant):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tuned / name, tmp_path)
    bare = tutelage.load(tmp_path, device="cpu")
    assert torch.equal(bare.logits([[1, 2, 3]]), assistant.logits([[1, 2, 3]]))
    for call in (lambda: bare.chat(ASKED), lambda: bare.generate("a"), lambda: bare.logits("a")):
        with pytest.raises(CheckpointError, match="there is no tokenizer here"):
            call()


def test_a_stream_that_is_left_early_is_cancelled_on_any_engine(assistant):
    class Canned:
        """Another engine behind the same protocol: it says two words, and has not finished."""

        cancelled: ClassVar[list] = []

        def submit(self, request, *, client=""):
            job = Job(request, client, threading.Condition(), assistant.tokenizer)
            for i in assistant.tokenizer.encode("so far"):
                job.writers[0].push(i)
                job.add(Event(0, 0, Token(i, -1.0), None))
            return Ticket(job, self.cancelled.append)

    other = Assistant(assistant.model, assistant.tokenizer, generator=Canned())
    pieces = other.stream([Message(role="user", content=QUESTION)], Sampling())
    assert next(pieces) == "so far"
    pieces.close()
    assert len(Canned.cancelled) >= 1


def test_one_service_may_serve_all_calls(assistant, toy):
    prompts = list(read_prompts(toy.folder / "prompts.jsonl"))[:6]
    with Service(assistant.model, assistant.tokenizer, max_batch=4, max_waiting=10) as service:
        shared = Assistant(assistant.model, assistant.tokenizer, dtype="fp32", generator=service)
        exact = Assistant(assistant.model, assistant.tokenizer, dtype="fp32")
        prompts *= 4  # more than may wait at a time: the service's queue is shorter
        for sampling in (Sampling(n=2, seed=3), Sampling(temperature=0)):
            ours, theirs = shared.answers(prompts, sampling), exact.answers(prompts, sampling)
            assert [[c.ids for c in a.completions] for a in ours] == [[c.ids for c in a.completions] for a in theirs]


def test_a_seed_gives_the_same_answer_whatever_else_is_asked(assistant, toy):
    prompts = list(read_prompts(toy.folder / "prompts.jsonl"))[:6]
    together = assistant.answers(prompts, Sampling(seed=5))
    alone = assistant.answers(prompts[:1], Sampling(seed=5))
    assert together[0] == alone[0]
    assert together[0].completions[0].seed == 5


def test_n_answers_a_prompt_say_what_made_them(assistant, toy):
    prompts = list(read_prompts(toy.folder / "prompts.jsonl"))[:2]
    for answers in assistant.answers(prompts, Sampling(n=3, temperature=0.9)):
        assert len(answers.completions) == 3
        assert answers.completions[0].sampling == {"temperature": 0.9, "n": 3}


def test_a_base_model_answers_in_plain_text_after_shots(toy, base):
    shots = list(read_conversations(toy.folder / "demonstrations.jsonl"))[:2]
    prompts = list(read_prompts(toy.folder / "prompts.jsonl"))[:4]
    answers = tutelage.load(base, device="cpu").answers(prompts, Sampling(max_tokens=12), shots=lambda prompt: shots)
    assert all("\nQ:" not in a.completions[0].text for a in answers)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("blue.\nQ: and now?", "blue."),
        ("blue.\nQuite fine", "blue.\nQuite fine"),
        ("Q: I ask", ""),
        ("blue.", "blue."),
    ],
)
def test_what_a_base_model_invents_after_its_answer_is_cut(assistant, text, kept):
    class Recites:
        def map(self, requests, *, client=""):
            writer = TextWriter(assistant.tokenizer.stream(), requests[0].stop)
            reached = any(writer.push(i) for i in assistant.tokenizer.encode(text))
            return [
                [Generated(finish_reason="stop" if writer.finish() or reached else "length", pieces=[writer.take()])]
            ]

    model = Assistant(assistant.model, assistant.tokenizer, generator=Recites())
    shots = [Conversation(messages=(Message(**ASKED[0]), Message(role="assistant", content="blue")))]
    for given, labelled in ((shots, False), ([], True)):
        (made,) = model.answers([ASKED], shots=lambda prompt, given=given: given, labelled=labelled)[0].completions
        assert made.text == kept


def test_a_reward_model_prefers_right_answers(scorer, toy):
    model = tutelage.load(scorer, device="cpu")
    prompts = list(read_prompts(toy.folder / "prompts.jsonl"))
    better = 0
    for prompt in prompts:
        scores = {
            colour: model.score([*prompt.messages, {"role": "assistant", "content": f"{colour}."}])
            for colour in ("red", "blue", "green", "black")
        }
        better += right(prompt, max(scores, key=lambda colour: scores[colour]))
    assert better > 0.7 * len(prompts)


def test_scores_do_not_depend_on_what_they_are_batched_with(scorer, toy):
    model = tutelage.load(scorer, device="cpu")
    dialogues = [c.messages for c in list(read_conversations(toy.folder / "demonstrations.jsonl"))[:9]]
    alone = [model.scores([d])[0] for d in dialogues]
    torch.testing.assert_close(torch.tensor(model.scores(dialogues)), torch.tensor(alone), atol=2e-2, rtol=0)


def test_few_tokens_are_scored_at_a_time(scorer, toy, monkeypatch):
    model, shapes = tutelage.load(scorer, device="cpu", dtype="fp32"), []
    dialogues = [c.messages for c in list(read_conversations(toy.folder / "demonstrations.jsonl"))[:9]]
    whole = model.scores(dialogues)
    hook = model.model.decoder.register_forward_pre_hook(lambda module, given: shapes.append(given[0].shape))
    monkeypatch.setattr(assistant_module, "READ_TOKENS", 70)
    torch.testing.assert_close(torch.tensor(model.scores(dialogues)), torch.tensor(whole), atol=1e-5, rtol=0)
    hook.remove()
    assert sum(rows for rows, _ in shapes) == len(dialogues)
    assert all(rows * tokens <= 70 or rows == 1 for rows, tokens in shapes)
    assert max(rows for rows, _ in shapes) > 1


def test_a_prompt_without_room_for_an_answer_is_named(assistant):
    long = Prompt(messages=(Message(role="user", content="red " * 500),), id="p-7")
    with pytest.raises(UsageError, match=r"prompt 1 \(p-7\) has \d+ tokens; the model's context is 128"):
        assistant.answers([long], Sampling(max_tokens=4))


def test_the_wrong_kind_of_model_is_named(assistant, scorer):
    with pytest.raises(CheckpointError, match="language model"):
        assistant.score([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    with pytest.raises(CheckpointError, match="reward model"):
        tutelage.load(scorer, device="cpu").chat([{"role": "user", "content": "a"}])


def test_bad_messages_and_settings_are_named(assistant):
    with pytest.raises(UsageError, match="not a message"):
        assistant.chat([{"role": "robot", "content": "a"}])
    for messages, said in (([], "is missing"), ([{"role": "assistant", "content": "a"}], "is by the assistant")):
        for ask in (assistant.chat, assistant.stream, lambda given: assistant.answers([given])):
            with pytest.raises(UsageError, match=f"ends with a message by the user .* {said}"):
                ask(messages)
    with pytest.raises(RecipeError, match="temperature"):
        assistant.chat([{"role": "user", "content": "a"}], temperature=-1)


@pytest.mark.parametrize("ids", [[], [-1], [99_999], [[[1, 2]]], [0.5], [[]], [[1], [-1]], [["a"]]])
def test_ids_that_the_model_cannot_read_are_refused(assistant, ids):
    with pytest.raises(UsageError, match=r"token ids from 0 to \d+, at least one"):
        assistant.logits(ids)


def test_messages_may_be_plain_wherever_they_are_taken(assistant, scorer):
    plain = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "It is blue."}]
    records = [Message(**message) for message in plain]
    judge = tutelage.load(scorer, device="cpu", dtype="fp32")
    assert judge.score(plain) == judge.score(records)
    assert judge.scores([plain, records]) == pytest.approx([judge.score(plain)] * 2, abs=1e-5)
    greedy = Sampling(temperature=0, max_tokens=8)
    one, other = assistant.answers([plain[:1], Prompt(messages=tuple(records[:1]))], greedy)
    assert one.prompt == other.prompt
    assert one.completions[0].text == other.completions[0].text
    with pytest.raises(UsageError, match="not a prompt: 'red'"):
        assistant.answers(["red"], greedy)


@pytest.mark.parametrize(
    ("dialogue", "said"), [([{"role": "user", "content": "red"}], "is by the user"), ([], "is missing")]
)
def test_what_does_not_end_with_an_answer_has_no_score(scorer, dialogue, said):
    with pytest.raises(UsageError, match=f"dialogue 0: .* {said}"):
        tutelage.load(scorer, device="cpu").score(dialogue)


def test_an_answer_is_as_long_as_the_model_wrote_it():
    """Half a character decodes to a replacement character, which is three bytes when it is read again."""
    tokenizer = Tokenizer.train(["a text of few words"] * 4, 270)
    ids = tokenizer.encode("é")[:1]
    text = tokenizer.decode(ids)
    assert text == "\ufffd"
    assert len(tokenizer.encode(text)) == 3
    assert written_length(tokenizer, Completion(text=text)) == 3, "where only the text is known"
    assert written_length(tokenizer, Completion(text=text).with_ids([*ids, tokenizer.end_id])) == 1
    assert "ids" not in Completion(text=text).with_ids(ids).model_dump_json()
    with pytest.raises(ValidationError, match="ids"):
        Completion.model_validate({"text": text, "ids": ids})


def test_the_terminal_chat_keeps_the_conversation(tuned):
    said = f"{QUESTION}\n/new\n{QUESTION}\n/quit\n"
    command = [sys.executable, "-m", "tutelage", "chat", str(tuned), "--temperature", "0", "--device", "cpu"]
    result = subprocess.run(command, input=said, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    answers = [line.rsplit("model ", 1)[1].strip() for line in result.stdout.splitlines() if "model " in line]
    assert len(answers) == 2
    assert answers[0] == answers[1], "after /new the same question is the same conversation"


@pytest.mark.parametrize("message", ["", "  "])
def test_an_empty_message_is_refused_and_opens_no_conversation(tuned, capsys, message):
    assert cli.main(["chat", str(tuned), "--message", message, "--device", "cpu"]) == 2
    assert "the message is empty" in capsys.readouterr().err


def test_one_message_one_answer(tuned):
    command = [sys.executable, "-m", "tutelage", "chat", str(tuned), "--message", QUESTION, "--temperature", "0"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_a_dialogue_that_is_too_long_to_score_is_named(scorer):
    model = tutelage.load(scorer, device="cpu")
    short, long = (
        [Message(role="user", content="red"), Message(role="assistant", content="red " * n)] for n in (1, 500)
    )
    with pytest.raises(UsageError, match=r"dialogue 1 is \d+ tokens long, the model's context is 128"):
        model.scores([short, long])


def test_rankings_that_are_too_long_are_left_out_of_a_reward_models_figures_and_counted(scorer, toy):
    model = tutelage.load(scorer, device="cpu")
    rankings = list(read_rankings(toy.folder / "rankings.jsonl"))[:20]
    long = Completion(text="red " * 500)
    grown = [r.model_copy(update={"completions": (long, *r.completions[1:])}) for r in rankings[:3]]
    plain, with_long = (reward_model_figures(model, rows) for rows in (rankings[3:], [*grown, *rankings[3:]]))
    assert with_long == plain | {"too_long": 3}
    with pytest.raises(UsageError, match="none of 3 rankings fits"):
        reward_model_figures(model, grown)
