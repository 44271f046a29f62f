r"""Formulas: TeX to MathML, and the markdown rules that find them: ``$x$``, ``\(x\)``, ``$$x$$``, ``\[x\]``.

``$5 and $8`` is not a formula: the opening ``$`` touches what follows it, the closing one what precedes it, and neither touches
a letter or digit on its outer side.
"""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from html import escape

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from math_core import LatexError, LatexToMathML

LONGEST = 4000
"""Characters of a formula that is converted; a longer one is shown as it was written."""
DEEPEST = 100
"""Levels of MathML in a formula that is shown, again else as it was written: browsers cut deeper trees."""
STACK = 16 * 2**20
"""Bytes. math-core recurses, and overflowing the stack would kill the server. Of all that nests, braces are worst: 1.6 KiB per
pair, so 2,000 pairs take 3.2 MiB, more than some platforms give a thread."""

# None of these reads past the next opening mark of its kind, so many that stay open take linear time.
_DOLLARS = re.compile(r"(?<![A-Za-z0-9$\\])\$(?![\s$])((?:[^$\\]|\\.)+?)(?<!\s)\$(?![A-Za-z0-9$])", re.DOTALL)
_INLINE = {
    "$$": re.compile(r"\$\$((?:[^$\\]|\\.)+?)\$\$", re.DOTALL),
    "\\(": re.compile(r"\\\(((?:[^\\]|\\[^()])+?)\\\)", re.DOTALL),
    "\\[": re.compile(r"\\\[((?:[^\\]|\\[^\[\]])+?)\\\]", re.DOTALL),
}
_STYLE = re.compile(r' style="([^"]*)"')
_TAG = re.compile(r"<(/?)[a-z]+[^>]*?(/?)>")
_STYLE_CLASSES = {
    "text-align: right": "to-right",
    "text-align: left": "to-left",
    "border-top": "line-above",
    "border-right": "line-right",
    "width: 100%": "wide",
    "width: 50%": "half",
}
"""math-core says these with inline styles, which the Content-Security-Policy blocks."""
CLASSES = set(_STYLE_CLASSES.values())


@lru_cache(maxsize=4096)
def formula_html(tex: str, display: bool) -> str:
    """A formula as MathML, or as its escaped source where it is no valid TeX, too long or too deep."""
    source = f'<code class="formula">{escape(tex)}</code>'
    if len(tex) > LONGEST:
        return source
    try:
        mathml = _deep_thread().submit(_converter().convert_with_local_state, tex, displaystyle=display).result()
    except LatexError:
        return source
    return source if _depth(mathml) > DEEPEST else _STYLE.sub(_classes_of_style, mathml)


@lru_cache(maxsize=1)
def _converter() -> LatexToMathML:
    return LatexToMathML(max_expansions=0)  # definitions of commands would make a short formula long


@lru_cache(maxsize=1)
def _deep_thread() -> ThreadPoolExecutor:
    """The one thread with a deep stack."""
    before = threading.stack_size(STACK)
    try:
        executor = ThreadPoolExecutor(1, "tutelage-formulas")
        executor.submit(int).result()  # starts the thread while the size holds
    finally:
        threading.stack_size(before)
    return executor


def _depth(markup: str) -> int:
    depth = deepest = 0
    for tag in _TAG.finditer(markup):
        depth += -1 if tag[1] else 0 if tag[2] else 1
        deepest = max(deepest, depth)
    return deepest


def _classes_of_style(style: re.Match[str]) -> str:
    names = [name for text, name in _STYLE_CLASSES.items() if text in style[1]]
    return f' class="{" ".join(names)}"' if names else ""


def formula_rules(md: MarkdownIt) -> None:
    """Add the rules to a parser; their tokens are ``formula`` and ``formula_block``."""
    md.inline.ruler.before("escape", "formula", _inline)
    md.block.ruler.before("fence", "formula_block", _block, {"alt": ["paragraph", "blockquote", "list"]})


def _inline(state: StateInline, silent: bool) -> bool:
    mark = state.src[state.pos : state.pos + 2]
    pattern = _INLINE.get(mark, _DOLLARS if mark[:1] == "$" else None)
    found = pattern and pattern.match(state.src, state.pos, state.posMax)
    if not found:
        return False
    if not silent:
        token = state.push("formula", "math", 0)
        token.content, token.markup = found[1].strip(), mark if mark in _INLINE else "$"
    state.pos = found.end()
    return True


def _block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    r"""A block that starts with ``$$`` or ``\[`` and ends where a line ends with its closing mark, or before a blank line.

    Without a closing mark it is a paragraph. It is a block of its own all the same: what a line of a streaming answer belongs
    to may not depend on lines that are still to come.
    """
    begin = state.bMarks[first] + state.tShift[first]
    line = state.src[begin : state.eMarks[first]].rstrip()
    close = {"$$": "$$", "\\[": "\\]"}.get(line[:2])
    if close is None or state.is_code_block(first) or (close in line[2:] and line.find(close, 2) != len(line) - 2):
        return False
    if silent:
        return True
    after = first + 1
    closed = line.endswith(close) and len(line) > 4
    while not closed and after < last and not state.isEmpty(after) and state.sCount[after] >= state.blkIndent:
        closed = state.src[state.bMarks[after] : state.eMarks[after]].rstrip().endswith(close)
        after += 1
    text = state.getLines(first, after, state.blkIndent, False).strip()
    state.line = after
    if closed:
        token = state.push("formula_block", "math", 0)
        token.content, token.block, token.markup = text[2:-2].strip(), True, close
        token.map = [first, after]
        return True
    state.push("paragraph_open", "p", 1).map = [first, after]
    inline = state.push("inline", "", 0)
    inline.content, inline.map, inline.children = text, [first, after], []
    state.push("paragraph_close", "p", -1)
    return True
