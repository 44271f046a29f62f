"""The sandbox of chat templates: what it renders as transformers does, whose characters are whose, and what it refuses."""

from __future__ import annotations

import pytest

from tutelage.errors import CheckpointError, UsageError
from tutelage.records import Message, ToolCall
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
        Template("{{ (messages[0].content + messages[1].content) | upper }}").written(MESSAGES)
    hidden = "{% for m in messages %}{{ m.content[0].upper() ~ m.content | upper }}{% endfor %}"
    assert Template(hidden).written(MESSAGES).text


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


# Texts that also stand in the template, and ways to use them that are no concatenation: bug reports of other projects.
TANGLED = {
    "get": ("{% for m in messages %}<|{{ m.get('role') }}|>{{ m.get('content') }}<|end|>{% endfor %}", "e"),
    "format": ("{% for m in messages %}{{ '<|{}|>{}<|end|>'.format(m.role, m.content) }}{% endfor %}", "e"),
    "percent": ("{% for m in messages %}{{ '<|%s|>%s<|end|>' % (m.role, m.content) }}{% endfor %}", "%s"),
    "join": ("{% for m in messages %}{{ ['<|', m.role, '|>', m.content, '<|end|>'] | join }}{% endfor %}", "user"),
    "filter": ("{% for m in messages %}{{ '<|%s|>%s<|end|>' | format(m.role, m.content) }}{% endfor %}", "|>"),
}


@pytest.mark.parametrize("name", TANGLED)
def test_authors_are_exact_where_text_and_template_are_alike(name):
    source, said = TANGLED[name]
    written = Template(source).written([Message(role="user", content=said)])
    assert written.text == f"<|user|>{said}<|end|>"
    assert written.authors == "\0" * 8 + "\1" * len(said) + "\0" * 7


def test_the_clock_stands_still(monkeypatch):
    """A conversation must begin as the prompt for its answer did, at whatever time."""
    template = Template("{{ strftime_now('%Y %f') }}")
    assert len({template.text(MESSAGES) for _ in range(50)}) == 1


def test_a_byte_order_mark_is_left_out():
    assert Template("\ufeff{{ messages[0].content }}").text(MESSAGES) == MESSAGES[0].content


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
