"""The sandbox of chat templates: what it renders as transformers does, whose characters are whose, and what it refuses."""

from __future__ import annotations

import time

import pytest

from tutelage.errors import CheckpointError, UsageError
from tutelage.records import Message
from tutelage.text.authored import authors_of
from tutelage.text.template import Template

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
        [[m.model_dump() for m in MESSAGES]], chat_template=CONSTRUCTS[name], add_generation_prompt=ask, bos_token="<s>"
    )
    assert Template(CONSTRUCTS[name]).render(MESSAGES, {"bos_token": "<s>"}, add_generation_prompt=ask) == theirs[0]


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_no_construct_passes_a_text_off_as_the_templates(name):
    """Texts of characters that stand nowhere in the template: none of them may end up as the template's own."""
    messages = [Message(role=m.role, content=f" ⓐ{i}<⓪> ") for i, m in enumerate(MESSAGES)]
    text = Template(CONSTRUCTS[name]).render(messages, {"bos_token": "<s>"})
    for c, author in zip(str.__iter__(text), authors_of(text), strict=True):
        assert c not in "ⓐⒶ⓪" or author != "\0", str(text)


def test_authors_are_exact():
    source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}\n{% endfor %}"
    messages = [
        Message(role="user", content=" ab "),
        Message(role="assistant", content="c"),
        Message(role="user", content=""),
    ]
    text = Template(source).render(messages, {"bos_token": "<s>"})
    assert text == "<s>[user]ab\n[assistant]c\n[user]\n"
    assert authors_of(text) == "\0" * 9 + "\1\1" + "\0" * 12 + "\2" + "\0" * 8


REFUSED = {
    "{{ raise_exception('roles must\nalternate') }}": "refuses this conversation: roles must alternate",
    "{{ nothing.at_all }}": "'nothing' is undefined",
    "{{ nothing() }}": "'nothing' is undefined",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ messages[9].content }}": "no element 9",
    "{{ ''.__class__.__mro__ }}": "__class__.* is unsafe",
    "{{ messages.append(1) }}": "append.* is unsafe",
    "{{ cycler.__init__.__globals__ }}": "unsafe",
    "{{ messages[0].content._authors.x }}": "_authors.* is unsafe",
    "{{ namespace(__init__=1) }}": "__init__",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}": "__class__",
    "{% include 'other' %}": "no loader",
    "{% extends 'other' %}": "no loader",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "may never end",
    "{% for i in range(999999999) %}{% endfor %}": "Range too big",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}": "calls itself without end",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}": "may never end",
    "{{ 'x' * 10**9 }}": "by repetition",
    "{{ 10**9 * [1] }}": "by repetition",
    "{{ 9**9**9 }}": "too large",
}


@pytest.mark.parametrize("source", REFUSED)
def test_what_goes_wrong_is_one_line(source):
    begin = time.process_time()
    with pytest.raises(UsageError, match=f"^the chat template .*{REFUSED[source]}") as caught:
        Template(source).render(MESSAGES, {})
    assert "\n" not in str(caught.value)
    assert time.process_time() - begin < 10


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ 'x }}", "{% unknown %}", "{% for m in messages %}", "{{ x | nothing }}", "{{ (" * 3000]
)
def test_no_jinja(source):
    with pytest.raises(CheckpointError, match=r"^the chat template is no jinja") as caught:
        Template(source)
    assert "\n" not in str(caught.value)


def test_steps_are_counted_for_each_rendering_alone():
    busy = Template("{% for i in range(30000) %}{% for j in range(9) %}{% endfor %}{% endfor %}ok")
    assert [busy.render(MESSAGES, {}) for _ in range(4)] == ["ok"] * 4
