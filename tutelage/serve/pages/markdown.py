"""Answers as HTML: markdown, code in colours and formulas, and nothing that runs, loads or leads out of http, https and mailto.

A streaming answer is rendered block by block: ``split_blocks`` says which blocks can no longer change. No block depends on another
(there are no link definitions), so the pieces, rendered one by one and joined, are the whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from html import escape
from itertools import pairwise
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

from tutelage.serve.pages.formulas import CLASSES, formula_html, formula_rules

COLOURED = 20_000
"""Characters of code that is shown in colours; some of pygments' lexers take long over more."""

_PICTURE = re.compile(r"data:image/(png|gif|jpeg|webp);base64,[A-Za-z0-9+/=]+")
_MATHML = """
math mrow mi mn mo mtext mspace ms mfrac msqrt mroot mstyle mphantom mpadded menclose merror msub msup msubsup munder
mover munderover mmultiscripts mprescripts mtable mtr mtd
"""
_HTML = """
p br hr h1 h2 h3 h4 h5 h6 em strong s code pre blockquote ul ol li table thead tbody tr th td a img span div
"""
_MATH_ATTRIBUTES = """
display displaystyle scriptlevel mathvariant stretchy symmetric largeop movablelimits fence separator form minsize
maxsize lspace rspace linethickness accent accentunder width height depth voffset notation columnalign rowspan
columnspan
"""


def render(text: str) -> str:
    """Safe HTML of a markdown text. It may be put anywhere where flow content is allowed."""
    return _cleaner().clean(_parser().render(_normal(text)))


def split_blocks(text: str) -> tuple[list[str], str]:
    """The blocks of a text that is still growing which no later text can change, and the rest.

    All parts joined are the text, with ``\\n`` for every line end. To go on, split the rest with what was added to it.
    """
    text = _normal(text)
    whole_lines = text[: text.rfind("\n") + 1]  # the rest of a line can make it another kind of block
    parser = _parser()
    tokens: list[Token] = []
    parser.block.parse(whole_lines, parser, {}, tokens)
    starts = [token.map[0] for token in tokens if token.level == 0 and token.nesting >= 0 and token.map]
    lines = whole_lines.split("\n")
    closed = ["".join(f"{line}\n" for line in lines[a:b]) for a, b in pairwise([0, *starts[1:]])]
    return closed, text[sum(map(len, closed)) :]


def _normal(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    md = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    md.disable(["html_block", "html_inline", "reference"])
    formula_rules(md)
    for rule in (fence, code_block, image, formula, formula_block, th_open, td_open):
        md.add_render_rule(rule.__name__, rule)
    return md


# Render rules, in markdown-it's form: the HTML of tokens[i].


def fence(self: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any) -> str:
    words = tokens[i].info.split()
    return _code(tokens[i].content, words[0] if words else "")


def code_block(self: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any) -> str:
    return _code(tokens[i].content, "")


def image(self: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any) -> str:
    """A picture that the text itself holds; any other is a link, since loading it would tell its server who reads what."""
    source = str(tokens[i].attrs["src"])
    words = escape(self.renderInlineAsText(tokens[i].children or [], options, env))
    if _PICTURE.fullmatch(source):
        return f'<img src="{source}" alt="{words}">'
    return f'<a href="{escape(source)}">{words or escape(source)}</a>'


def formula(self: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any) -> str:
    return formula_html(tokens[i].content, tokens[i].markup in ("$$", "\\["))


def formula_block(self: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any) -> str:
    return f'<div class="formula">{formula_html(tokens[i].content, True)}</div>\n'


def th_open(self: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any) -> str:
    """A cell with its alignment as a class, since the Content-Security-Policy blocks inline styles."""
    side = str(tokens[i].attrs.get("style", "")).rpartition(":")[2]
    return f'<{tokens[i].tag} class="to-{side}">' if side else f"<{tokens[i].tag}>"


def td_open(self: RendererHTML, tokens: Sequence[Token], i: int, options: OptionsDict, env: Any) -> str:
    return th_open(self, tokens, i, options, env)


def _code(text: str, language: str) -> str:
    label = f' data-language="{escape(language)}"' if language else ""
    return f'<pre tabindex="0"{label}><code>{_coloured(text, language)}</code></pre>\n'


@lru_cache(maxsize=256)
def _coloured(text: str, language: str) -> str:
    if language and len(text) <= COLOURED:
        with suppress(ClassNotFound):
            lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
            return highlight(text, lexer, HtmlFormatter(nowrap=True))
    return escape(text)


@lru_cache(maxsize=1)
def _cleaner() -> nh3.Cleaner:
    mathml, attributes = _MATHML.split(), set(_MATH_ATTRIBUTES.split())
    aligned = {"to-left", "to-center", "to-right", *CLASSES}
    return nh3.Cleaner(
        tags={*_HTML.split(), *mathml},
        clean_content_tags={"script", "style"},
        attributes={
            "*": set(),
            "a": {"href"},
            "img": {"src", "alt"},
            "ol": {"start"},
            "pre": {"data-language"},
            **dict.fromkeys(mathml, attributes),
        },
        tag_attribute_values={"pre": {"tabindex": {"0"}}},
        set_tag_attribute_values={"a": {"target": "_blank"}},
        allowed_classes={
            "span": set(STANDARD_TYPES.values()),
            "code": {"formula"},
            "div": {"formula"},
            **dict.fromkeys(("td", "th", "mtd", "mtable", "mrow"), aligned),
        },
        attribute_filter=_filter,
        url_schemes={"http", "https", "mailto", "data"},
        url_relative="deny",
        link_rel="noopener noreferrer nofollow",
    )


def _filter(tag: str, name: str, value: str) -> str | None:
    if name == "src":
        return value if _PICTURE.fullmatch(value) else None
    if name == "href" and value.strip().lower().startswith("data:"):
        return None
    return value
