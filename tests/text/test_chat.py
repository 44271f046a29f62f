import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.records import Conversation, Message
from tutelage.text import CHAT_TEMPLATE, SPECIALS, TRANSCRIPT_STOPS, Tokenizer, render, render_batch, transcript

CORPUS = ["Hello there, how are you today? I am well.", "你好，今天怎么样？我很好。", "3 + 4 = 7"] * 10

text = st.lists(
    st.one_of(st.sampled_from([*SPECIALS.values(), "<|"]), st.text(st.characters(exclude_categories=["Cs"])))
).map("".join)
message = st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=text)
dialogue = st.lists(message, min_size=1, max_size=5)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CORPUS, 350)


def test_layout_by_hand(tokenizer):
    t = tokenizer
    messages = [
        Message(role="system", content="Be kind."),
        Message(role="user", content="Hello"),
        Message(role="assistant", content="你好"),
        Message(role="user", content=""),
    ]
    kind, hello, ni_hao = (t.encode(m.content) for m in messages[:3])
    got = render(t, messages)
    assert got.ids == [
        *(t.bos_id, t.system_id, *kind, t.end_id, t.user_id, *hello, t.end_id),
        *(t.assistant_id, *ni_hao, t.end_id, t.user_id, t.end_id),
    ]
    counted = [i for i, m in enumerate(got.loss_mask) if m]
    first = 1 + (len(kind) + 2) + (len(hello) + 2) + 1
    assert counted == list(range(first, first + len(ni_hao) + 1))
    asked = render(t, messages, add_generation_prompt=True)
    assert asked.ids == [*got.ids, t.assistant_id]
    assert asked.loss_mask == [*got.loss_mask, False]


@given(dialogue)
@settings(max_examples=200, deadline=None)
def test_mask_covers_exactly_the_assistant_and_controls_are_ours(tokenizer, messages):
    """Parse the ids back by their control tokens alone: what was typed can neither open nor close a turn."""
    t = tokenizer
    got = render(t, messages)
    assert len(got.ids) == len(got.loss_mask)
    roles = {t.system_id: "system", t.user_id: "user", t.assistant_id: "assistant"}
    turns, expected_mask, role, body = [], [False], "", []
    for token in got.ids[1:]:
        if token in roles:
            role, body = roles[token], []
            expected_mask.append(False)
        else:
            expected_mask.append(role == "assistant")
            if token == t.end_id:
                turns.append(Message(role=role, content=t.decode(body)))
            else:
                body.append(token)
    assert got.ids[0] == t.bos_id
    assert turns == messages
    assert got.loss_mask == expected_mask
    assert sum(i in t.special_ids for i in got.ids) == 1 + 2 * len(messages)


@given(dialogue, text)
@settings(max_examples=100, deadline=None)
def test_a_rendered_prompt_is_a_prefix_of_the_whole(tokenizer, messages, answer):
    prompt = render(tokenizer, messages, add_generation_prompt=True).ids
    whole = render(tokenizer, [*messages, Message(role="assistant", content=answer)]).ids
    assert whole == prompt + tokenizer.encode(answer) + [tokenizer.end_id]


@given(st.lists(dialogue, max_size=4))
@settings(max_examples=50, deadline=None)
def test_batch_equals_one_by_one(tokenizer, dialogues):
    assert render_batch(tokenizer, dialogues) == [render(tokenizer, messages) for messages in dialogues]


@pytest.fixture(scope="module")
def hugging_face(tokenizer, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


# Without "<|" no control token can be spelt; with it a template cannot tell text from control: only `render` is safe.
plain = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda s: "<|" not in s)
plain_dialogue = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=plain), min_size=1
)


@given(plain_dialogue, st.booleans())
@settings(max_examples=200, deadline=None)
def test_transformers_template_equals_render(tokenizer, hugging_face, messages, prompt):
    theirs = hugging_face.apply_chat_template(
        [m.model_dump() for m in messages], add_generation_prompt=prompt, tokenize=True, return_dict=False
    )
    assert list(theirs) == render(tokenizer, messages, add_generation_prompt=prompt).ids


def test_transformers_reads_what_we_save(tokenizer, hugging_face):
    assert hugging_face.chat_template.rstrip() == CHAT_TEMPLATE.rstrip()
    assert (hugging_face.bos_token_id, hugging_face.eos_token_id, hugging_face.pad_token_id) == (0, 2, 1)
    assert len(hugging_face) == tokenizer.vocab_size
    assert hugging_face("Hello 12", add_special_tokens=True).input_ids == tokenizer.encode("Hello 12")
    assert hugging_face.decode(tokenizer.encode("Hello , you 's")) == "Hello , you 's"
    with pytest.raises(Exception, match="unknown role"):
        hugging_face.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_transcript():
    q1, a1 = Message(role="user", content="1 + 1?"), Message(role="assistant", content="2")
    q2 = Message(role="user", content="And 2 + 2?")
    assert transcript([q1]) == "1 + 1?\n"
    assert transcript([q1, a1, q2]) == "1 + 1?\n2\nAnd 2 + 2?\n"
    shot = Conversation(messages=(q1, a1))
    system = Message(role="system", content="Be brief.")
    with_shots = transcript([system, q2], shots=[shot, shot])
    one = "Q: 1 + 1?\nA: 2\n\n"
    assert with_shots == one + one + "Note: Be brief.\nQ: And 2 + 2?\nA:"
    assert [with_shots.count(stop) for stop in TRANSCRIPT_STOPS] == [2, 1]
    with pytest.raises(ValueError):
        transcript([q1, a1])
