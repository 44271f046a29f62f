"""The sandbox of chat templates: what it renders as transformers does, whose characters are whose, and what it refuses."""

from __future__ import annotations

from datetime import datetime

import pytest

from tutelage.errors import CheckpointError, UsageError
from tutelage.records import Message, TextPart, ToolCall
from tutelage.runs.folder import open_run
from tutelage.seeds import stopped_at
from tutelage.settings import Inputs, Settings
from tutelage.text.imported.template import Template
from tutelage.text.layout import message_fields

MESSAGES = [
    Message(role="system", content=" Be <kind> & brief. "),
    Message(role="user", content='He said: "你好"\n\n  {{ 1 + 1 }} '),
    Message(role="assistant", content="<think>\nhm\n</think>\n\nYes 😀"),
]
EACH = "{% for m in messages %}%s{% endfor %}"
# Every construct that chat templates are made of, as small as possible.
CONSTRUCTS = {
    "add": EACH.replace("%s", "{{ '<|' + m['role'] + '|>' + m.content + '<|end|>' }}"),
    "tilde": EACH.replace("%s", "{{ '<|' ~ m.role ~ '|>' ~ m.content ~ 7 }}"),
    "filters": EACH.replace(
        "%s", "{{ m.content | trim }}{{ m.content | replace('e', '!') | upper }}{{ m.content | length }}"
    ),
    "methods": EACH.replace(
        "%s", "{{ m.content.strip().lstrip('<').rstrip('😀').split('</think>')[-1] }}{{ m.role.title() }}"
    ),
    "set block": "{% set x %}[{{ messages[0].content }}]{% endset %}{{ x }}",
    "macro": "{% macro f(m, n=1) %}\n  ({{ m.content }}){{ n }}\n{% endmacro %}" + EACH.replace("%s", "{{ f(m) }}"),
    "namespace": "{% set ns = namespace(x='', i=0) %}"
    + EACH.replace("%s", "{% set ns.x = ns.x + m.content %}")
    + "{{ ns.x }}",
    "loops": "{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }}{{ m.content }}"
    "{% if loop.last %}.{% endif %}{% else %}none{% endfor %}",
    "loop controls": EACH.replace("%s", "{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.content }}{% break %}"),
    "map and join": "{{ messages | map(attribute='content') | join(' + ') }}{{ messages | map(attribute='role') | list }}",
    "selectattr": "{% set u = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{{ u[-1].content }}{{ u[-1] == messages[1] }}",
    "slices": "{{ messages[::-1][0].content }}{{ messages[1:] | length }}"
    "{{ messages[0]['content'][2:6] }}{{ messages[2].content[-1] }}",
    "tojson": EACH.replace("%s", "{{ m | tojson }}{{ m.content | tojson(indent=2) }}{{ {'a': m.content} | tojson }}"),
    "format": "{{ '%s is %s' % (messages[0].content, messages[1].content) }}{{ '{}!'.format(messages[2].content) }}",
    "characters": "{% for c in messages[0].content %}{{ c }}.{% endfor %}",
    "tests": EACH.replace(
        "%s", "{{ m.content is string }}{{ m.x is defined }}{{ '<think>' in m.content }}{{ m.content is none }}"
    ),
    "items": "{% for k, v in messages[1].items() %}{{ k }}={{ v }};{% endfor %}",
    "undefined": "[{{ nothing }}{{ messages[0].nothing }}{{ tools is none }}{{ documents is none }}]",
    "generation": EACH.replace("%s", "{% generation %}{{ m.content }}{% set z = 1 %}{% endgeneration %}{{ z }}"),
    "dict": "{% set d = dict(a=messages[0].content) %}{{ d.a }}{{ d }}{{ [messages[0].content, 1] }}",
    "whitespace": "{% if true %}\n  {{ bos_token }}\n    {%- if add_generation_prompt %}\n  A\n  {% endif %}\n{% endif %}\n\n",
    "inline if": EACH.replace("%s", "{{ (m.content if m.role == 'user' else '') + ('' if loop.last else '|') }}"),
    "default": "{{ nothing | default('x') }}{{ messages[0].content | default('x') | first }}{{ messages[0].content | last }}",
}


@pytest.mark.parametrize("ask", [False, True])
@pytest.mark.parametrize("name", CONSTRUCTS)
def test_constructs_render_as_in_transformers(name, ask):
    chat_template_utils = pytest.importorskip("transformers.utils.chat_template_utils")
    theirs, _ = chat_template_utils.render_jinja_template(
        [list(map(message_fields, MESSAGES))],
        chat_template=CONSTRUCTS[name],
        add_generation_prompt=ask,
        bos_token="<s>",
    )
    assert Template(CONSTRUCTS[name], {"bos_token": "<s>"}).text(MESSAGES, ask=ask) == theirs[0]


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_no_construct_passes_a_text_off_as_the_templates(name):
    """Texts of characters that stand nowhere in the template: none of them may end up as the template's own."""
    messages = [Message(role=m.role, content=f" ⓐ{i}<⓪> ") for i, m in enumerate(MESSAGES)]
    template = Template(CONSTRUCTS[name], {"bos_token": "<s>"})
    written = template.written(messages)
    assert written.text == template.text(messages)
    for c, author in zip(written.text, written.authors, strict=True):
        assert c not in "ⓐⒶ⓪" or author != "\0", written.text


def test_authors_are_exact():
    source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}\n{% endfor %}"
    messages = [
        Message(role="user", content=" ab "),
        Message(role="assistant", content="c"),
        Message(role="user", content=""),
    ]
    written = Template(source, {"bos_token": "<s>"}).written(messages)
    assert written.text == "<s>[user]ab\n[assistant]c\n[user]\n"
    assert written.authors == "\0" * 9 + "\1\1" + "\0" * 12 + "\2" + "\0" * 8
    assert written.assistants == "\2"


def test_authors_of_many_messages():
    """More than marks can name at once, with and without characters beyond the basic plane."""
    messages = [Message(role="user", content=f" {'a😀𠀀é'[i % 4]}{i} ") for i in range(70)]
    written = Template("{% for m in messages %}<😀>{{ m.content.strip() }}{% endfor %}").written(messages)
    assert written.text == "".join(f"<😀>{m.text.strip()}" for m in messages)
    assert written.authors == "".join("\0" * 3 + chr(i + 1) * len(m.text.strip()) for i, m in enumerate(messages))


def test_where_authors_are_hidden():
    with pytest.raises(UsageError, match="hides which part of the prompt is whose"):
        Template("{{ (messages[0].content + messages[1].content) | wordwrap(3) }}").written(MESSAGES)
    followed = "{{ (messages[0].content + messages[1].content) | upper }}{{ messages[0].content[0].upper() }}"
    assert Template(followed).written(MESSAGES).text


REFUSED = {
    "{{ raise_exception('roles must\nalternate') }}": "refuses this conversation: roles must alternate",
    "{{ nothing.at_all }}": "'nothing' is undefined",
    "{{ nothing() }}": "'nothing' is undefined",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ messages[9].content }}": "no element 9",
    "{{ ''.__class__.__mro__ }}": "__class__.* is unsafe",
    "{{ messages.append(1) }}": "append.* is unsafe",
    "{{ cycler.__init__.__globals__ }}": "unsafe",
    "{% include 'other' %}": "no loader",
    "{% extends 'other' %}": "no loader",
    "{% for i in range(999999999) %}{% endfor %}": "Range too big",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}": "RecursionError",
}


@pytest.mark.parametrize("source", REFUSED)
def test_what_goes_wrong_is_one_line(source):
    with pytest.raises(UsageError, match=f"^the chat template .*{REFUSED[source]}") as caught:
        Template(source).text(MESSAGES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ 'x }}", "{% unknown %}", "{% for m in messages %}", "{{ x | nothing }}", "{{ (" * 3000]
)
def test_not_jinja(source):
    with pytest.raises(CheckpointError, match=r"^the chat template is not jinja") as caught:
        Template(source)
    assert "\n" not in str(caught.value)


# Ways to use roles and texts that are no concatenation, each as ``<|role|>text<|end|>``: bug reports of other projects.
TANGLED = {
    "get": "<|{{ m.get('role') }}|>{{ m.get('content', '') }}<|end|>",
    "get and add": "{{ '<|' + m.get('role', '') + '|>' + m.get('content', '') + '<|end|>' }}",
    "format": "{{ '<|{}|>{}<|end|>'.format(m.role, m.content) }}",
    "format by name": "{{ '<|{role}|>{content}<|end|>'.format(**m) }}",
    "format by index": "{{ '<|{0[role]}|>{0[content]!s}<|end|>'.format(m) }}",
    "format_map": "{{ '<|{role}|>{content}<|end|>'.format_map(m) }}",
    "percent": "{{ '<|%s|>%s<|end|>' % (m.role, m.content) }}",
    "percent by name": "{{ '<|%(role)s|>%(content)s<|end|>' % m }}",
    "percent of one": "{{ '<|%s' % m.role }}{{ '|>%s<|end|>' % m.content }}",
    "filter format": "{{ '<|%s|>%s<|end|>' | format(m.role, m.content) }}",
    "join": "{{ ['<|', m.role, '|>', m.content, '<|end|>'] | join }}",
    "join method": "{{ ''.join(['<|' ~ m.role ~ '|>', m.content, '<|end|>']) }}",
    "join with": "{{ ['<|' + m.role, m.content + '<|end|>'] | join('|>') }}",
    "tilde": "{{ '<|' ~ m.role ~ '|>' ~ m.content ~ '<|end|>' }}",
    "replace": "{{ '<|ROLE|>' | replace('ROLE', m.role) }}{{ 'TEXT<|end|>'.replace('TEXT', m.content) }}",
    "set": "{% set text %}<|{{ m.role }}|>{{ m.content }}{% endset %}{{ text + '<|end|>' }}",
    "items": "{% for k, v in m.items() %}{{ '<|' ~ v ~ '|>' if k == 'role' else v }}{% endfor %}<|end|>",
    "attr": "<|{{ m['role'] | string }}|>{{ m | attr('content') or m['content'] | string }}<|end|>",
}


@pytest.mark.parametrize("said", ["e", "%s", "{}", "|>", "user", "{role}", "<|end|>", 'it\'s "é"\n', "\\n😀"])
@pytest.mark.parametrize("name", TANGLED)
def test_authors_are_exact_where_text_and_template_are_alike(name, said):
    source = EACH.replace("%s", TANGLED[name], 1)
    messages = [Message(role="user", content=said), Message(role="assistant", content=said + "!")]
    written = Template(source).written(messages)
    assert written.text == f"<|user|>{said}<|end|><|assistant|>{said}!<|end|>"
    count = len(said)
    assert written.authors == "\0" * 8 + "\1" * count + "\0" * 20 + "\2" * (count + 1) + "\0" * 7


PRINTED = {
    "print": "{{ m.content }}",
    "trim": "{{ '<|' + m.role + '|>' + m.content | trim + '<|end|>' }}",
    "string": "{{ '<|' + m.role + '|>' + m.content | string + '<|end|>' }}",
    "tilde": "{{ '<|' ~ m.role ~ '|>' ~ m.content ~ '<|end|>' }}",
    "percent": "{{ '<|%s|>%s<|end|>' % (m.role, m.content) }}",
    "percent r": "{{ '<|%s|>%20r%%' % (m.role, m.content) }}",
    "format": "{{ '<|{}|>{}<|end|>{!r}'.format(m.role, m.content, m.content) }}",
    "join": "{{ ['<|', m.role, '|>', m.content] | join }}",
    "each": "{% for part in m.content %}{{ part }}{{ part.text }}{{ part.get('text') }}{% endfor %}",
    "json": "{{ m.content | tojson }}{{ m | tojson(indent=2) }}",
    "all": "{{ messages }}{{ messages | tojson(sort_keys=true) }}",
}


@pytest.mark.parametrize("name", PRINTED)
def test_lists_of_parts_are_printed_as_in_transformers(name):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    source = EACH.replace("%s", PRINTED[name], 1)
    parts = [TextPart(text=text) for text in ("ⓐ's", 'ⓑ "é"\n', "ⓒ😀<|end|>")]
    messages = [Message(role="user", content=tuple(parts)), Message(role="assistant", content=(parts[0],))]
    theirs, _ = utils.render_jinja_template([list(map(message_fields, messages))], chat_template=source)
    written = Template(source).written(messages)
    assert written.text == theirs[0]
    assert all(author != "\0" for c, author in zip(written.text, written.authors, strict=True) if c in "ⓐⓑⓒ")
    assert set(written.authors) >= {"\1", "\2"}


def test_arguments_of_tool_calls_are_found_by_their_names():
    """Their keys are the assistant's as well, and a template looks them up in plain."""
    call = ToolCall(name="weather", arguments={"city": "Riga", "days": [1, None]})
    source = (
        "{% for c in messages[0].tool_calls %}{% set a = c.function.arguments %}{{ c.function.name }} {{ a.city }} {{ a['days'] }}"
        " {{ a.get('city') }} {{ 'city' in a }} {% for k, v in a | items %}{{ k ~ '=' ~ v }};{% endfor %}"
        "{{ a | tojson }}{% endfor %}"
    )
    written = Template(source).written([Message(role="assistant", content="", tool_calls=(call,))])
    expected = 'weather Riga [1, None] Riga True city=Riga;days=[1, None];{"city": "Riga", "days": [1, null]}'
    assert written.text == expected
    assert {written.authors[written.text.index(word)] for word in ("weather", "Riga", "days")} == {"\1"}


def test_a_speakers_name_is_not_what_the_speaker_says():
    messages = [Message(role="user", content="a", name="Bob"), Message(role="assistant", content="b", name="Eve")]
    written = Template("{% for m in messages %}<{{ m.name }}>{{ m.content }}{% endfor %}").written(messages)
    assert written.text == "<Bob>a<Eve>b"
    assert written.authors == "\0\3\3\3\0\1\0\3\3\3\0\2"
    assert written.assistants == "\2"


def test_the_clock_stands_still():
    """A conversation must begin as the prompt for its answer did, at whatever time; in a run at the run's."""
    template = Template("{{ strftime_now('%Y %f') }}")
    assert len({template.text(MESSAGES) for _ in range(50)}) == 1
    with stopped_at(datetime(2024, 2, 29, 23, 59)):
        texts = {Template("{{ strftime_now('%d %b %Y %H:%M:%S %f%Z') }}").text(MESSAGES) for _ in range(9)}
    assert texts == {"29 Feb 2024 23:59:00 000000"}
    assert "2024" not in Template("{{ strftime_now('%Y') }}").text(MESSAGES)


def test_a_run_has_one_time_which_is_recorded(tmp_path):
    texts = set()
    for _ in range(2):  # the second opening resumes the first
        with open_run(tmp_path / "run", "prepare", Settings(), Inputs()) as run:
            texts.add(Template("{{ strftime_now('%Y-%m-%dT%H:%M:%S') }}").text(MESSAGES))
        lineage = tmp_path / "run" / "lineage.json"
        texts.add(run.lineage()["time"][:19])
        lineage.write_text(lineage.read_text().replace(run.lineage()["time"], "2024-02-29T23:59:00+05:00"))
    assert len(texts) == 2
    assert "2024-02-29T23:59:00" in texts


@pytest.mark.parametrize("marks", ["\ufeff", "\ufeff\ufeff"])
def test_a_byte_order_mark_is_left_out(marks):
    assert Template(marks + "{{ messages[0].content }}").text(MESSAGES) == MESSAGES[0].content


def test_a_developer_is_the_system_to_templates_without_the_role():
    messages = [Message(role="developer", content="Be brief.")]
    roles = "{% for m in messages %}{{ m.role }}{% endfor %}"
    assert Template(roles).text(messages) == "system"
    assert Template(roles + "{% if messages[0].role == 'developer' %}!{% endif %}").text(messages) == "developer!"


@pytest.mark.parametrize("field", [{"tool_calls": (ToolCall(name="f"),)}, {"reasoning": "hm"}])
def test_what_a_template_has_no_place_for_is_refused(field):
    with pytest.raises(UsageError, match="the chat template leaves out"):
        Template("{% for m in messages %}{{ m.content }}{% endfor %}").written(
            [Message(role="assistant", content="", **field)]
        )
