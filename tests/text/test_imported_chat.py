"""Chat templates of real models: ids against transformers, masks against a plain rendering, and texts that spell control tokens."""

from __future__ import annotations

import dataclasses
import json
import random
import re

import pytest
from chat_formats import FILES, FORMATS, Format, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import CheckpointError, UsageError
from tutelage.records import Message, TextPart, ToolCall
from tutelage.text import CHAT_TEMPLATE, PLAIN_TEMPLATE, SPECIALS, Tokenizer, render, render_answers, render_batch
from tutelage.text.chat import render_prompts
from tutelage.text.imported.template import Template
from tutelage.text.layout import message_fields

transformers = pytest.importorskip("transformers")

BITS = [
    *(
        "Hello",
        " there",
        "how are you?",
        "你好",
        "，今天",
        "怎么样",
        "é",
        "e\u0301",
        "😀",
        "ﬁ",
        "▁",
        "a",
        "I'm",
        " captain",
    ),
    *(
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "def f(x):\n    return x",
        "12 + 30 = 42",
        "\n- and so on",
        "<b>",
        "</p>",
        "[x]",
        "<",
        "|>",
    ),
]
# Its template leaves the system message out once there is an answer: see test_a_template_that_answers_otherwise_than_it_asks.
DROPS_SYSTEM = {"mistral-large-2407"}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Our tokenizer and transformers' of a format, loaded once."""
    loaded: dict[str, tuple[Tokenizer, transformers.PreTrainedTokenizerBase]] = {}

    def get(name):
        if name not in loaded:
            folder = write_folder(FORMATS[name], tmp_path_factory.mktemp(name))
            loaded[name] = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
        return loaded[name]

    return get


def random_text(rng: random.Random) -> str:
    return "".join(rng.choice(BITS) for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 8, 20])))


def random_dialogue(rng: random.Random, *, system: bool) -> list[Message]:
    """One to three turns, some with a system message, some that wait for an answer."""
    messages = [Message(role="system", content=random_text(rng))] if system and rng.random() < 0.5 else []
    for _ in range(rng.randrange(1, 4)):
        messages += [
            Message(role="user", content=random_text(rng)),
            Message(role="assistant", content=random_text(rng)),
        ]
    return messages + [Message(role="user", content=random_text(rng))] * (rng.random() < 0.4)


def dialogues(name: str, count: int, *, seed: int = 0) -> list[tuple[list[Message], bool]]:
    """Random conversations that the format's template takes; True where the prompt for an answer is asked for."""
    rng, found = random.Random(f"{name} {seed}"), []
    while len(found) < count:
        messages = random_dialogue(rng, system=FORMATS[name].system)
        ask = messages[-1].role == "user" and rng.random() < 0.7
        if name in DROPS_SYSTEM and messages[0].role == "system" and messages[-1].role == "assistant":
            continue
        found.append((messages, ask))
    return found


def their_text(hugging_face, messages, *, ask: bool) -> str:
    dicts = list(map(message_fields, messages))
    return hugging_face.apply_chat_template(dicts, add_generation_prompt=ask, tokenize=False)


def expected_mask(hugging_face, format: Format, messages: list[Message], text: str, ids: list[int]) -> list[bool]:
    """From the end of the prompt for each answer up to its end token, read off transformers' own renderings and offsets."""
    encoding = hugging_face(text, add_special_tokens=False, return_offsets_mapping=True)
    assert encoding.input_ids == ids
    mask = [False] * len(ids)
    for place, message in enumerate(messages):
        if message.role == "assistant":
            prompt = their_text(hugging_face, messages[:place], ask=True)
            assert text.startswith(prompt)
            start, stop = len(prompt), text.index(format.end, len(prompt)) + len(format.end)
            for i, (first, last) in enumerate(encoding.offset_mapping):
                said = text[first:last].strip() not in format.special or text[first:last].strip() == format.end
                mask[i] |= first < stop and last > start and said
    return mask


@pytest.mark.parametrize("name", FORMATS)
def test_ids_are_transformers_and_the_mask_is_the_assistants(load, name):
    ours, theirs = load(name)
    format, masked = FORMATS[name], 0
    for messages, ask in dialogues(name, 200):
        got = render(ours, messages, add_generation_prompt=ask)
        text = their_text(theirs, messages, ask=ask)
        assert got.ids == list(
            theirs.apply_chat_template(
                list(map(message_fields, messages)), add_generation_prompt=ask, return_dict=False
            )
        )
        if format.kind != "llama3" and not (name in DROPS_SYSTEM and messages[0].role == "system"):
            assert got.loss_mask == expected_mask(theirs, format, messages, text, got.ids), messages
            masked += 1
    assert masked > 100 or format.kind == "llama3"


def test_spans_cut_by_a_post_processor_do_not_cut_the_mask(load, tmp_path):
    """Llama 3's tokenizer leaves spaces out of its offsets: the same with whole offsets is the oracle."""
    folder = write_folder(FORMATS["llama-3"], tmp_path)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert data["post_processor"]["trim_offsets"]
    data["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    ours, whole = load("llama-3")[0], transformers.AutoTokenizer.from_pretrained(folder)
    for messages, ask in dialogues("llama-3", 200, seed=1):
        got, text = render(ours, messages, add_generation_prompt=ask), their_text(whole, messages, ask=ask)
        assert got.loss_mask == expected_mask(whole, FORMATS["llama-3"], messages, text, got.ids)


@pytest.mark.parametrize("name", FORMATS)
def test_the_mask_by_words(load, name):
    """What is counted reads as the assistant's texts with their end tokens, each once; nothing else does."""
    ours, theirs = load(name)
    messages = [
        Message(role="user", content="What is it?"),
        Message(role="assistant", content="An answer, 好"),
        Message(role="user", content="And then?"),
        Message(role="assistant", content="Another one."),
    ]
    got = render(ours, messages)
    spoken = [i for i, counted in zip(got.ids, got.loss_mask, strict=True) if counted]
    assert spoken.count(ours.end_id) == 2
    first, second = spoken[: spoken.index(ours.end_id)], spoken[spoken.index(ours.end_id) + 1 : -1]
    assert spoken[-1] == ours.end_id == theirs.convert_tokens_to_ids(FORMATS[name].end)
    assert theirs.decode(first).strip() == "An answer, 好"
    assert theirs.decode(second).strip().removeprefix("<think>\n\n</think>\n\n") == "Another one."
    assert ours.pad_id != ours.end_id
    assert ours.chat.opening == FORMATS[name].opening


@pytest.mark.parametrize("name", FORMATS)
def test_a_prompt_is_rendered_once_however_many_turns_it_has(load, name, monkeypatch):
    ours, _ = load(name)
    turns = [Message(role=("user", "assistant")[i % 2], content=f"turn {i}") for i in range(21)]
    expected, rendered = render(ours, turns, add_generation_prompt=True).ids, []
    whole = Template._render
    monkeypatch.setattr(Template, "_render", lambda *given: rendered.append(1) or whole(*given))
    assert render_prompts(ours, [turns]) == [expected]
    assert len(rendered) == 2, "once as it is, and once to see what people wrote"


@pytest.mark.parametrize("name", FORMATS)
def test_prompts_are_those_of_whole_renderings(load, name):
    """Whatever control tokens people spell, also across the border of two messages."""
    ours, _ = load(name)
    names = [ours.name_of(i) for i in sorted(ours.special_ids)]
    asked = [messages for messages, ask in dialogues(name, 40) if ask]
    for i, messages in enumerate(asked):
        spelled = [m.model_copy(update={"content": m.text + names[i % len(names)]}) for m in messages]
        halves = [
            m.model_copy(update={"content": (names[i % len(names)][5:] + m.text + names[i % len(names)][:5])})
            for m in messages
        ]
        for dialogue in (messages, spelled, halves):
            assert render_prompts(ours, [dialogue]) == [render(ours, dialogue, add_generation_prompt=True).ids]
    assert len(asked) > 2
    told = [messages for messages, ask in dialogues(name, 12) if not ask]
    assert render_prompts(ours, told, ask=False) == [render(ours, messages).ids for messages in told]


@pytest.mark.parametrize("name", FORMATS)
def test_a_prompt_and_its_answers(load, name):
    """``render_answers``: the prompt is render's, and where no token goes across, prompt and answer are the whole."""
    ours, theirs = load(name)
    rng, merged = random.Random(name), 0
    for _ in range(40):
        messages = random_dialogue(rng, system=FORMATS[name].system and name not in DROPS_SYSTEM)
        messages = messages if messages[-1].role == "user" else messages[:-1]
        answers = [random_text(rng), "Plain words."]
        prompt, rows = render_answers(ours, messages, answers)
        assert prompt == render(ours, messages, add_generation_prompt=True).ids
        for answer, row in zip(answers, rows, strict=True):
            whole = render(ours, [*messages, Message(role="assistant", content=answer)])
            last = len(whole.ids) - whole.loss_mask[::-1].index(True)
            assert row[-1] == ours.end_id
            if prompt + row != whole.ids[:last]:
                merged += 1
                decoded = theirs.decode(prompt + row), theirs.decode(whole.ids[:last])
                assert decoded[0] == decoded[1]
        cut = render_answers(ours, messages, answers, [False, False])[1]
        assert [row[: len(c)] for row, c in zip(rows, cut, strict=True)] == cut
        assert not any(ours.end_id in c for c in cut)
        assert theirs.decode(cut[1]).strip().removeprefix("<think>\n\n</think>\n\n") == "Plain words."
    assert merged < 40


def test_answers_of_our_own_tokenizer(tmp_path):
    ours = Tokenizer.train(["Hello there, how are you today?"] * 5, 300)
    messages = [Message(role="user", content="Hello")]
    prompt, rows = render_answers(ours, messages, ["there", " you"], [True, False])
    assert prompt == render(ours, messages, add_generation_prompt=True).ids
    assert rows == [[*ours.encode("there"), ours.end_id], ours.encode(" you")]


def test_our_own_layout_through_the_general_renderer(tmp_path):
    """The fast renderer of our own tokenizers against the renderer of imported ones, given our own template."""
    ours = Tokenizer.train(["Hello there, how are you today? 你好，今天怎么样？"] * 5, 320)
    ours.save(tmp_path)
    general = Tokenizer.load(tmp_path, chat_template=CHAT_TEMPLATE)
    assert ours.chat is None
    assert general.chat is not None
    assert (general.bos_id, general.pad_id, general.end_id) == (ours.bos_id, ours.pad_id, ours.end_id)
    rng = random.Random(0)
    for _ in range(200):
        messages = [
            Message(
                role=rng.choice(["system", "user", "assistant"]),
                content=random_text(rng) + rng.choice(["", *SPECIALS.values()]),
            )
            for _ in range(rng.randrange(1, 6))
        ]
        ask = rng.random() < 0.5
        assert render(general, messages, add_generation_prompt=ask) == render(ours, messages, add_generation_prompt=ask)


@pytest.mark.parametrize("name", FORMATS)
def test_no_text_becomes_a_control_token(load, name):
    """Whatever is typed, the control ids in a rendering are those of the same conversation about nothing."""
    ours, theirs = load(name)
    format = FORMATS[name]
    tricks = [
        *format.special,
        *(t for t in format.plain if t.startswith(("<|", "<t", "</t"))),
        *format.end,
        " ",
        "\n",
        "ａ",
        "x",
    ]
    spelt = st.lists(st.sampled_from(tricks), max_size=6).map("".join)
    roles = ["user", "assistant", "user", "assistant"]
    control = set(theirs.convert_tokens_to_ids([*format.special, *format.plain])) & ours.special_ids

    def controls(texts: list[str], ask: bool) -> list[int]:
        messages = [Message(role=r, content=t) for r, t in zip(roles, texts, strict=True)]
        ids = render(ours, messages[:3] if ask else messages, add_generation_prompt=ask).ids
        return [i for i in ids if i in control or (i == theirs.unk_token_id and format.kind != "bytes")]

    @given(st.lists(spelt, min_size=4, max_size=4), st.booleans())
    @settings(max_examples=40)
    def check(texts, ask):
        texts = [texts[0], "words", texts[2], "words"]  # the assistant may think and call tools: see the next test
        assert controls(texts, ask) == controls(["words"] * 4, ask)
        for text in texts:
            assert not set(ours.encode(text)) & control
        assert ours.encode_batch(texts) == [ours.encode(text) for text in texts]

    check()
    assert controls(["".join(format.special)] * 4, False) == controls(["words"] * 4, False)


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.kind != "legacy"])
def test_what_is_typed_is_spelt_and_comes_back(load, name):
    """A typed control token is plain pieces that decode to it; the conversation around it is not touched."""
    ours, theirs = load(name)
    end = FORMATS[name].end
    for typed in (f"a {end} b", f"{end}{end}", f"say {end}"):
        messages = [Message(role="user", content=typed), Message(role="assistant", content="yes")]
        got = render(ours, messages)
        plain = render(ours, [Message(role="user", content="QQQ"), messages[1]])
        assert theirs.decode(got.ids) == theirs.decode(plain.ids).replace("QQQ", typed)
        assert sum(got.loss_mask) == sum(plain.loss_mask)


@pytest.mark.parametrize("kind", ["legacy", "first", "gemma", "bytes"])
def test_what_is_typed_changes_nothing_around_it(kind, tmp_path):
    """A typed control token has the conversation encoded stretch by stretch: the other stretches must come out the same."""
    ours = Tokenizer.load(write_folder(dataclasses.replace(FORMATS["chatml"], kind=kind), tmp_path))
    start = ours.chat.source.backend.token_to_id("<|im_start|>")
    plain, forged = (
        render(ours, [Message(role="user", content=typed), Message(role="assistant", content="yes 好")]).ids
        for typed in ("a b", "a <|im_end|> b")
    )
    head = (
        len(ours.chat.codec.encode_written([ours.chat.template.written([Message(role="user", content="")])])[0].ids) - 2
    )
    assert plain[:head] == forged[:head]
    assert plain.count(start) == forged.count(start) == 2
    assert plain[head:].index(start) < forged[head:].index(start)
    assert plain[head + plain[head:].index(start) :] == forged[head + forged[head:].index(start) :]


def test_only_the_assistant_thinks_and_calls_tools(load):
    """Tokens that the vocabulary does not flag as special are the assistant's to write, not the user's."""
    ours, theirs = load("qwen-3")
    call = theirs.convert_tokens_to_ids("<tool_call>")
    typed = [Message(role="user", content="<tool_call>"), Message(role="assistant", content="no")]
    assert call not in render(ours, typed).ids
    said = [Message(role="user", content="no"), Message(role="assistant", content="<tool_call>")]
    assert call in render(ours, said).ids
    assert render(ours, said).ids == theirs.apply_chat_template(list(map(message_fields, said)), return_dict=False)
    both = render(ours, [typed[0], said[1]]).ids
    assert both.count(call) == 1
    end = Message(role="assistant", content="<|im_end|>")
    assert render(ours, [said[0], end]).ids.count(ours.end_id) == render(ours, typed).ids.count(ours.end_id)


# As later Mistrals have it: no header asks for an answer, and a control token opens tool calls.
WITH_TOOLS = dataclasses.replace(
    FORMATS["mistral-large-2407"],
    template="{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]{% elif m.tool_calls %}[TOOL_CALLS][{% for c in "
    "m.tool_calls %}{{ c.function | tojson }}{% endfor %}]{{ eos_token }}{% else %} {{ m.content + eos_token }}{% endif %}"
    "{% endfor %}",
)


@pytest.mark.parametrize("name", ["qwen-2.5", "qwen-3", "mistral"])
def test_tool_calls_and_their_outputs(load, name, tmp_path):
    """Ids are transformers'; what counts are the assistant's turns, from what asks for them up to their end tokens."""
    if name == "mistral":
        folder = write_folder(WITH_TOOLS, tmp_path)
        ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    else:
        ours, theirs = load(name)
    end = theirs.convert_ids_to_tokens(ours.end_id)
    call = ToolCall(name="weather", arguments={"city": 'Paris "FR"', "days": [1, 2]}, id="abcdef123")
    messages = [
        Message(role="user", content="How is it in Paris?"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content='{"rain": true, "x": "<|im_start|>"}', tool_call_id="abcdef123", name="weather"),
        Message(role="assistant", content="It rains."),
        Message(role="user", content="Thanks. And in Rome?"),
        Message(role="assistant", content="", tool_calls=(call.model_copy(update={"arguments": {"city": "Rome"}}),)),
    ]
    plain = [m if m.role != "tool" else m.model_copy(update={"content": '{"rain": true}'}) for m in messages]
    for length in range(1, len(messages) + 1):
        ask = messages[length - 1].role != "assistant"
        dicts = list(map(message_fields, plain[:length]))
        got = render(ours, plain[:length], add_generation_prompt=ask)
        assert got.ids == list(theirs.apply_chat_template(dicts, add_generation_prompt=ask, return_dict=False))
        spoken = [i for i, counted in zip(got.ids, got.loss_mask, strict=True) if counted]
        turns = theirs.decode(spoken).split(end)[:-1]
        assert len(turns) == sum(m.role == "assistant" for m in plain[:length])
        for turn, message in zip(turns, [m for m in plain[:length] if m.role == "assistant"], strict=True):
            assert message.text in turn
            assert "rain" not in turn or message.text
            if message.tool_calls:
                found = re.sub(r"<think>\s*</think>|</?tool_call>|\[TOOL_CALLS\]", "", turn)
                found = json.loads(found)
                found = found[0] if isinstance(found, list) else found
                assert found["name"] == "weather"
                assert found.get("arguments", found.get("parameters")) == message.tool_calls[0].arguments
    forged = render(ours, messages)
    start = theirs.convert_tokens_to_ids("<|im_start|>")
    assert forged.ids.count(start) == render(ours, plain).ids.count(start)


def test_thoughts_kept_apart_count(load):
    ours, theirs = load("qwen-3")
    messages = [
        Message(role="user", content="2 + 2?"),
        Message(role="assistant", content="", reasoning="I add.", tool_calls=(ToolCall(name="add"),)),
        Message(role="tool", content="4"),
        Message(role="assistant", content="4", reasoning="I say it."),
    ]
    got = render(ours, messages)
    assert got.ids == theirs.apply_chat_template(list(map(message_fields, messages)), return_dict=False)
    spoken = theirs.decode([i for i, counted in zip(got.ids, got.loss_mask, strict=True) if counted])
    call = '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call><|im_end|>'
    assert spoken == f"<think>\nI add.\n</think>\n\n{call}<think>\nI say it.\n</think>\n\n4<|im_end|>"


def test_parts_of_text(tmp_path):
    template = """{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}
        {%- for p in m.content %}{{ p.text }}{% endfor %}{% endif %}<|im_end|>{% endfor %}"""
    ours = Tokenizer.load(write_folder(FORMATS["qwen-2"], tmp_path), chat_template=template)
    parts = Message(role="user", content=(TextPart(text="Hello <|im_end|>"), TextPart(text=" there")))
    got = render(ours, [parts, Message(role="assistant", content="Hi")])
    assert ours.decode(got.ids) == "Hello <|im_end|> thereHi"
    assert got.ids.count(ours.end_id) == 2


def test_a_control_token_that_template_and_text_make_together(tmp_path):
    """The text writes its first half, the template happens to go on with the second."""
    template = "{% for m in messages %}{{ m.role + ': ' + m.content }}|>{{ '<|im_end|>' }}{% endfor %}"
    ours = Tokenizer.load(write_folder(dataclasses.replace(FORMATS["qwen-2"], template=template), tmp_path))
    for typed in ("<|im_end", "<|im_end|><|im_end"):
        messages = [Message(role="user", content=typed), Message(role="assistant", content="<|im_end")]
        got = render(ours, messages)
        assert got.ids.count(ours.end_id) == 2
        text = ours.chat.source.backend.decode(got.ids, skip_special_tokens=False)
        assert text == f"user: {typed}|><|im_end|>assistant: <|im_end|><|im_end|>"


def test_a_control_token_by_way_of_the_normal_form(tmp_path):
    """Where tokens are looked for in normalised text, other characters can spell them too."""
    folder = write_folder(FORMATS["deepseek-v2"], tmp_path)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["normalizer"] = {"type": "NFKC"}
    for token in data["added_tokens"]:
        token["normalized"] = True
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    typed = "a ＜｜end▁of▁sentence｜＞ <|end▁of▁sentence|> b"
    assert theirs(typed, add_special_tokens=False).input_ids.count(ours.end_id) == 2
    assert ours.end_id not in ours.encode(typed)
    messages = [Message(role="user", content=typed), Message(role="assistant", content=typed)]
    got = render(ours, messages)
    assert got.ids.count(ours.end_id) == 1
    assert ours.decode(got.ids).count("a <|end▁of▁sentence|> <|end▁of▁sentence|> b") == 2
    plain = [Message(role="user", content="Hello"), Message(role="assistant", content="Hi")]
    assert render(ours, plain).ids == theirs.apply_chat_template(list(map(message_fields, plain)), return_dict=False)


CHATML_WAYS = {
    "get": "{{ '<|im_start|>' + m.get('role', '') + '\n' + m.get('content', '') + '<|im_end|>\n' }}",
    "format": "{{ '<|im_start|>{}\n{}<|im_end|>\n'.format(m.role, m.content) }}",
    "format of a message": "{{ '<|im_start|>{role}\n{content}<|im_end|>\n'.format(**m) }}",
    "percent": "{{ '<|im_start|>%s\n%s<|im_end|>\n' % (m.role, m.content) }}",
    "percent of a message": "{{ '<|im_start|>%(role)s\n%(content)s<|im_end|>\n' % m }}",
    "join": "{{ ['<|im_start|>' ~ m.role, m.content ~ '<|im_end|>\n'] | join('\n') }}",
    "replace": "{{ '<|im_start|>ROLE\n' | replace('ROLE', m.role) ~ m.content }}{{ '<|im_end|>' }}{{ '\n' }}",
    "names": "{{ '<|im_start|>' + m.role + (' ' + m.name if m.name else '') + '\n' + m.content + '<|im_end|>\n' }}",
}


@pytest.mark.parametrize("name", CHATML_WAYS)
def test_however_a_template_reaches_roles_and_texts(load, name, tmp_path):
    """Ids are transformers', and what counts is the answers and their end tokens, also where they read as the template does."""
    source = "{% for m in messages %}%s{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    format = dataclasses.replace(FORMATS["qwen-2"], template=source.replace("%s", CHATML_WAYS[name], 1))
    folder = write_folder(format, tmp_path)
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for said in ("e", "user", "assistant", "%s {} {role}", "é\n"):
        messages = [
            Message(role="user", content=said, name="Bob"),
            Message(role="assistant", content=said + " is", name="Eve"),
            Message(role="user", content="and " + said),
            Message(role="assistant", content="model " + said),
        ]
        got = render(ours, messages)
        assert got.ids == theirs.apply_chat_template(list(map(message_fields, messages)), return_dict=False)
        counted = [i for i, counts in zip(got.ids, got.loss_mask, strict=True) if counts]
        assert theirs.decode(counted) == f"{said} is<|im_end|>model {said}<|im_end|>"
        prompt, [answer] = render_answers(ours, messages[:-1], [messages[-1].text])
        assert prompt + answer == got.until_end().ids


@pytest.mark.parametrize("name", ["gemma", "llama-3", "llama-3.2"])
def test_parts_of_text_in_templates_that_print_lists(load, name):
    """Gemma's and Llama 3's templates print a list of parts as Python does; what is typed in one is still text."""
    ours, theirs = load(name)
    for texts in (["Hello"], ["It's", ' "so"\n', "😀 é"], ["a " + FORMATS[name].end]):
        parts = tuple(TextPart(text=text) for text in texts)
        messages = [Message(role="user", content=parts), Message(role="assistant", content=parts)]
        got, text = render(ours, messages), their_text(theirs, messages, ask=False)
        assert theirs.decode(got.ids) == text
        if len(texts[0]) < 6:
            assert got.ids == theirs.apply_chat_template(list(map(message_fields, messages)), return_dict=False)
        plain = render(ours, [message.model_copy(update={"content": "a"}) for message in messages])
        assert got.ids.count(ours.end_id) == plain.ids.count(ours.end_id)
        said = theirs.decode([i for i, counts in zip(got.ids, got.loss_mask, strict=True) if counts])
        assert said.endswith(FORMATS[name].end)
        assert text.rstrip("\n").endswith(f"\n{said}")
        asked = render(ours, messages[:1], add_generation_prompt=True).ids
        assert got.ids[: len(asked)] == asked


def test_an_answer_that_is_context_is_not_learnt(load):
    ours, theirs = load("qwen-2.5")
    hello, hi = Message(role="user", content="Hello"), Message(role="assistant", content="Hi")
    wrong = hi.model_copy(update={"content": "Bye", "learn": False})
    got = render(ours, [hello, wrong, hello, hi])
    assert got.ids == render(ours, [hello, wrong.model_copy(update={"learn": True}), hello, hi]).ids
    assert theirs.decode([i for i, counts in zip(got.ids, got.loss_mask, strict=True) if counts]) == "Hi<|im_end|>"
    assert not any(render(ours, [hello, wrong]).loss_mask)


def test_thoughts_are_followed(load):
    """Qwen 3 takes thoughts out of an answer and writes them anew: they are still the assistant's."""
    ours, theirs = load("qwen-3")
    messages = [
        Message(role="user", content="2 + 2?"),
        Message(role="assistant", content="<think>\nfour\n</think>\n\nIt is 4."),
    ]
    got = render(ours, messages)
    assert got.ids == theirs.apply_chat_template(list(map(message_fields, messages)), return_dict=False)
    spoken = [i for i, counted in zip(got.ids, got.loss_mask, strict=True) if counted]
    assert theirs.decode(spoken) == "<think>\nfour\n</think>\n\nIt is 4.<|im_end|>"
    earlier = [*messages, Message(role="user", content="And 3 + 3?"), Message(role="assistant", content="6")]
    got = render(ours, earlier)
    spoken = [i for i, counted in zip(got.ids, got.loss_mask, strict=True) if counted]
    assert theirs.decode(spoken) == "It is 4.<|im_end|><think>\n\n</think>\n\n6<|im_end|>"


def test_a_template_that_answers_otherwise_than_it_asks(load, tmp_path):
    """DeepSeek-R1 asks for thoughts and leaves them out of what was answered; Mistral Large drops the system message."""
    source = (FILES / "deepseek-r1-distill.jinja").read_text(encoding="utf-8")
    r1 = dataclasses.replace(FORMATS["deepseek-v2"], template=source)
    ours = Tokenizer.load(write_folder(r1, tmp_path))
    hello, hi = Message(role="user", content="Hello"), Message(role="assistant", content="<think>\nhm</think>Hi")
    assert render(ours, [hello, hi, hello], add_generation_prompt=True).ids  # to ask is no trouble
    with pytest.raises(UsageError, match=r"prompt for the last answer .*<think>.*became 'Hi.*edit chat_template.jinja"):
        render(ours, [hello, hi])
    mistral, _ = load("mistral-large-2407")
    with pytest.raises(UsageError, match=r"'Be kind.*became 'Hello"):
        render(mistral, [Message(role="system", content="Be kind."), hello, hi])
    assert render(mistral, [Message(role="system", content="Be kind."), hello], add_generation_prompt=True).ids


@pytest.mark.parametrize(
    ("name", "roles", "words"),
    [
        ("llama-2", ["user", "user"], "Conversation roles must alternate"),
        ("gemma", ["system", "user"], "System role not supported"),
        ("mistral-v0.2", ["user", "assistant", "assistant"], "roles must alternate"),
    ],
)
def test_a_template_refuses_in_its_own_words(load, name, roles, words):
    words = f"^the chat template refuses this conversation: .*{words}.* .the conversation begins 'x'.$"
    with pytest.raises(UsageError, match=words):
        render(load(name)[0], [Message(role=role, content="x") for role in roles])


def test_an_answer_without_an_end(tmp_path):
    """A template that never ends an answer can be asked, not learnt from."""
    endless = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    ours = Tokenizer.load(write_folder(dataclasses.replace(FORMATS["llama-2"], template=endless), tmp_path))
    assert ours.end_id == ours.chat.source.backend.token_to_id("</s>")
    messages = [Message(role="user", content="Hello"), Message(role="assistant", content="Hi")]
    assert render(ours, messages[:1], add_generation_prompt=True).ids
    with pytest.raises(UsageError, match="no end token after the assistant's last answer"):
        render(ours, messages)


def test_a_base_model_has_no_template_until_it_is_given_one(tmp_path):
    folder = write_folder(FORMATS["llama-2"], tmp_path)
    (folder / "chat_template.jinja").unlink()
    messages = [Message(role="user", content="Hello"), Message(role="assistant", content="Hi")]
    base = Tokenizer.load(folder)
    assert base.encode("Hello")
    with pytest.raises(UsageError, match=r"no chat template.*--chat_template FILE; the guide shows one"):
        render(base, messages)
    chat = Tokenizer.load(folder, chat_template=PLAIN_TEMPLATE)
    got = render(chat, messages)
    text = chat.chat.template.text(messages)
    assert text == "<s>User: Hello\n\nAssistant: Hi</s>\n\n"
    spoken = [i for i, counted in zip(got.ids, got.loss_mask, strict=True) if counted]
    assert (chat.decode(spoken), spoken[-1]) == ("Hi", chat.end_id)
    chat.save(tmp_path / "saved")
    assert render(Tokenizer.load(tmp_path / "saved"), messages) == got


def test_what_follows_the_end_token_can_be_cut_off(load):
    messages = [Message(role="user", content="Hello"), Message(role="assistant", content="Hi")]
    for name in ("qwen-2", "llama-3-first", "phi-3-small", "llama-2"):
        ours, _ = load(name)
        whole = render(ours, messages)
        cut = whole.until_end()
        prompt, [answer] = render_answers(ours, messages[:1], ["Hi"])
        assert cut.ids == prompt + answer
        assert (len(cut.ids) < len(whole.ids)) == (name != "llama-2")
        assert cut.loss_mask == whole.loss_mask[: len(cut.ids)]
        asked = render(ours, messages[:1], add_generation_prompt=True)
        assert asked.until_end() == asked


@pytest.mark.parametrize("name", ["llama-2", "phi-3-mini", "qwen-2.5"])
def test_batch_equals_one_by_one(load, name):
    ours, _ = load(name)
    many = [messages for messages, _ in dialogues(name, 30, seed=2)]
    assert render_batch(ours, many) == [render(ours, messages) for messages in many]
    assert render_batch(ours, []) == []


def test_lone_surrogates_are_named(load):
    for name in ("llama-2", "qwen-2"):
        with pytest.raises(UsageError, match="lone surrogate"):
            render(
                load(name)[0], [Message.model_construct(role="user", content="ab\ud800")], add_generation_prompt=True
            )
        with pytest.raises(UsageError, match="lone surrogate"):
            load(name)[0].encode("ab\ud800")


def test_damaged_templates(tmp_path):
    folder = write_folder(FORMATS["llama-2"], tmp_path)
    for template, words in [
        ("{% for m in messages %}", "the chat template is not jinja: line 1"),
        ("{{ raise_exception('no') }}", "refuses this conversation: no"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out what the assistant says"),
    ]:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        with pytest.raises(CheckpointError, match=words):
            Tokenizer.load(folder)
