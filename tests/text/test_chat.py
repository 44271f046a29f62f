import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import UsageError
from tutelage.records import Conversation, ImagePart, Message, TextPart, ToolCall
from tutelage.text import CHAT_TEMPLATE, SPECIALS, TRANSCRIPT_STOPS, Tokenizer, render, render_batch, transcript
from tutelage.text.layout import message_fields

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
@settings(max_examples=200)
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
@settings(max_examples=100)
def test_a_rendered_prompt_is_a_prefix_of_the_whole(tokenizer, messages, answer):
    prompt = render(tokenizer, messages, add_generation_prompt=True).ids
    whole = render(tokenizer, [*messages, Message(role="assistant", content=answer)]).ids
    assert whole == prompt + tokenizer.encode(answer) + [tokenizer.end_id]


@given(st.lists(dialogue, max_size=4))
@settings(max_examples=50)
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
content = st.one_of(plain, st.lists(st.builds(TextPart, text=plain)).map(tuple))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), plain), lambda v: st.lists(v) | st.dictionaries(plain, v)
)
calls = st.builds(ToolCall, name=plain.filter(bool), arguments=st.dictionaries(plain, values), id=plain)
turn = st.one_of(
    st.builds(Message, role=st.sampled_from(["system", "developer", "user", "assistant"]), content=content),
    st.builds(Message, role=st.just("tool"), content=content, tool_call_id=plain, name=plain),
    st.builds(
        Message,
        role=st.just("assistant"),
        content=content,
        reasoning=plain,
        tool_calls=st.lists(calls, max_size=2).map(tuple),
    ),
)


@given(st.lists(turn, min_size=1, max_size=4), st.booleans())
@settings(max_examples=300)
def test_transformers_template_equals_render(tokenizer, hugging_face, messages, prompt):
    theirs = hugging_face.apply_chat_template(
        list(map(message_fields, messages)), add_generation_prompt=prompt, tokenize=True, return_dict=False
    )
    got = render(tokenizer, messages, add_generation_prompt=prompt)
    assert list(theirs) == got.ids
    # What counts: from behind <|assistant|> up to <|end|>.
    expected, speaks = [], False
    for i in got.ids:
        expected.append(speaks)
        speaks = i == tokenizer.assistant_id or (speaks and i != tokenizer.end_id)
    assert got.loss_mask == expected


def test_tools_by_hand(tokenizer):
    weather = ToolCall(name="weather", arguments={"city": "上海", "days": 2}, id="call_1")
    messages = [
        Message(role="developer", content="Be brief."),
        Message(role="user", content="How is it?"),
        Message(
            role="assistant", content="I look.", reasoning="It is asked.", tool_calls=(weather, ToolCall(name="now"))
        ),
        Message(role="tool", content="<|end|>rain", tool_call_id="call_1", name="weather"),
        Message(role="assistant", content="Rain."),
    ]
    got = render(tokenizer, messages)
    assert tokenizer._backend.decode(got.ids, skip_special_tokens=False) == (
        "<|bos|><|system|>Be brief.<|end|><|user|>How is it?<|end|>"
        "<|assistant|><think>\nIt is asked.\n</think>\n\nI look.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "上海", "days": 2}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|end|>'
        "<|system|><|user|><|end|>rain<|end|><|assistant|>Rain.<|end|>"
    )
    assert got.ids.count(tokenizer.end_id) == 5  # the tool's is text
    picture = Message(role="user", content=(TextPart(text="What is it?"), ImagePart(image="a.png")))
    with pytest.raises(UsageError, match="reads text alone"):
        render(tokenizer, [picture])


def test_transformers_reads_what_we_save(tokenizer, hugging_face):
    assert hugging_face.chat_template.rstrip() == CHAT_TEMPLATE.rstrip()
    assert (hugging_face.bos_token_id, hugging_face.eos_token_id, hugging_face.pad_token_id) == (0, 2, 1)
    assert len(hugging_face) == tokenizer.vocab_size
    assert hugging_face("Hello 12", add_special_tokens=True).input_ids == tokenizer.encode("Hello 12")
    assert hugging_face.decode(tokenizer.encode("Hello , you 's")) == "Hello , you 's"
    with pytest.raises(Exception, match="unknown role"):
        hugging_face.apply_chat_template([{"role": "robot", "content": "x"}], tokenize=False)


def test_transcript():
    q1, a1 = Message(role="user", content="1 + 1?"), Message(role="assistant", content="2")
    q2 = Message(role="user", content="And 2 + 2?")
    assert transcript([q1]) == "1 + 1?\n"
    assert transcript([q1, a1, q2]) == "1 + 1?\n2\nAnd 2 + 2?\n"
    assert transcript([q1, a1, q2], labelled=True) == "Q: 1 + 1?\nA: 2\nQ: And 2 + 2?\nA:"
    shot = Conversation(messages=(q1, a1))
    system = Message(role="system", content="Be brief.")
    with_shots = transcript([system, q2], shots=[shot, shot])
    one = "Q: 1 + 1?\nA: 2\n\n"
    assert with_shots == one + one + "Note: Be brief.\nQ: And 2 + 2?\nA:"
    assert [with_shots.count(stop) for stop in TRANSCRIPT_STOPS] == [2, 1]
    tool = Message(role="tool", content="4")
    assert transcript([q2, a1, tool], shots=[shot]).endswith("Q: And 2 + 2?\nA: 2\nNote: 4\nA:")
    with pytest.raises(ValueError):
        transcript([q1, a1])


def test_folders_of_earlier_versions_are_still_our_own(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    earlier = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception("unknown role: " + message['role']) }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""
    (tmp_path / "chat_template.jinja").write_text(earlier, encoding="utf-8")
    again = Tokenizer.load(tmp_path)
    assert (again.chat, again.fingerprint) == (None, tokenizer.fingerprint)
    (tmp_path / "chat_template.jinja").write_text(earlier + "!", encoding="utf-8")
    assert Tokenizer.load(tmp_path).chat is not None
