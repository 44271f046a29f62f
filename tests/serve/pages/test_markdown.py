"""Rendered answers: safe whatever the text, and the same whether rendered whole or block by block."""

from __future__ import annotations

import subprocess
import sys
from itertools import accumulate, pairwise
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element

import html5lib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.serve.pages.formulas import formula_html
from tutelage.serve.pages.markdown import render, split_blocks

XHTML, MATHML = "{http://www.w3.org/1999/xhtml}", "{http://www.w3.org/1998/Math/MathML}"
HTML_TAGS = """
p br hr h1 h2 h3 h4 h5 h6 em strong s code pre blockquote ul ol li table thead tbody tr th td a img span div
"""
MATH_TAGS = """
math mrow mi mn mo mtext mspace ms mfrac msqrt mroot mstyle mphantom mpadded menclose merror msub msup msubsup munder
mover munderover mmultiscripts mprescripts mtable mtr mtd
"""
ATTRIBUTES = """
href target rel src alt start class tabindex data-language
"""
MATH_FORBIDDEN = {"href", "style", "src", "id", "actiontype", "xlink:href"}


def parsed(html: str) -> Element:
    return html5lib.parseFragment(html, container="div")


def unsafe(html: str) -> list[str]:
    """What a browser's parser finds in it that is outside the allow list."""
    found = []
    for node in parsed(html).iter():
        if node.tag == "DOCUMENT_FRAGMENT":
            continue
        if not isinstance(node.tag, str):
            found.append("comment")
            continue
        name = node.tag.removeprefix(XHTML).removeprefix(MATHML)
        math = node.tag.startswith(MATHML)
        if name not in (MATH_TAGS if math else HTML_TAGS).split():
            found.append(node.tag)
        for key, value in node.attrib.items():
            if key.startswith("on") or (key in MATH_FORBIDDEN if math else key not in ATTRIBUTES.split()):
                found.append(f"{name} {key}")
            if key == "href" and urlsplit(value).scheme not in ("http", "https", "mailto"):
                found.append(value)
            if key == "src" and not value.startswith("data:image/"):
                found.append(value)
    return found


def text_of(html: str) -> str:
    return "".join(parsed(html).itertext())


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><a xlink:href='javascript:alert(1)'>x</a></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<math href='javascript:alert(1)'>x</math>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](data:image/png;base64,AAAA)",
    "[x](file:///etc/passwd)",
    "[x](//evil.example/y)",
    "[x](logout)",
    "<javascript:alert(1)>",
    "![x](http://evil.example/pixel.png)",
    "![x](data:image/svg+xml;base64,AAAA)",
    "![x](logout)",
    '![x" onerror="alert(1)](data:image/png;base64,AAAA)',
    '![](http://evil.example/"onmouseover="alert(1))',
    '[x](http://a.example "t\\" onclick=alert(1) x=\\"")',
    "[![x](http://b.example/p.png)](http://a.example)",
    '```html" onclick="alert(1)\n<script>\n```',
    "```\n</code></pre><script>alert(1)</script>\n```",
    "````\n```\n<b>\n```\n````",
    "`<img src=x onerror=alert(1)>`",
    r"$\text{<img src=x onerror=alert(1)>}$",
    r"$\href{javascript:alert(1)}{x}$",
    r"$\color{red;background:url(http://evil.example)}{x}$",
    r'$$\text{x style="border-top:1px" onclick="alert(1)"}$$',
    r"\(</math><script>alert(1)</script>\)",
    r'$\label{"onload=x}\style{x}{y}\class{x}{y}\data{a=b}{c}$',
    "$\\unicode{x3c}script$",
    "| <script> | [x](javascript:alert(1)) |\n|-|-|\n| <b onclick=x> | y |",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#60;script&#62;",
    "<!-- x --><![CDATA[<script>]]><?php x?><!DOCTYPE html>",
    "[a]: javascript:alert(1)\n\n[a]",
    "\x00<script>\ufffe</script>",
    "<a href='http://x' style='position:fixed;inset:0'>x</a>",
    "<base href='http://evil.example'><form action='/logout'><input name=x></form>",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_inert(attack: str) -> None:
    for text in (attack, f"> - {attack}", f"**{attack}**", f"a | b\n-|-\n{attack} | x"):
        assert unsafe(render(text)) == []


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([*ATTACKS, *"<>\"'&`$[]()!\\*_|-\n ", "\n\n", "<a ", "http://x ", "data:"]), max_size=12)
)
def test_attacks_put_together_are_inert(pieces: list[str]) -> None:
    assert unsafe(render("".join(pieces))) == []


def test_the_oracle_sees_what_is_unsafe() -> None:
    for html in (
        "<script>",
        "<a href=javascript:x>",
        "<p onclick=x>",
        "<img src=http://x>",
        "<svg>",
        "<p style=x>",
        "<!--x-->",
    ):
        assert unsafe(html), html


def test_html_entities_and_tags_are_shown_as_text() -> None:
    assert text_of(render("<script>alert('&lt;')</script>")).strip() == "<script>alert('<')</script>"


def test_a_remote_picture_is_a_link_and_an_embedded_one_is_shown() -> None:
    html = render("![a cat](http://cats.example/1.png) ![dot](data:image/png;base64,AAAA)")
    links = list(parsed(html).iter(f"{XHTML}a"))
    assert [(a.text, a.get("href")) for a in links] == [("a cat", "http://cats.example/1.png")]
    assert [i.get("alt") for i in parsed(html).iter(f"{XHTML}img")] == ["dot"]


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5, not $8.",
        "between $5 and $8",
        "$5-$8 or US$5 and US$8",
        "echo $HOME and $PATH",
        "$HOME/$USER",
        "A$ and B$",
        r"\$x\$",
        "`$x$`",
        "a $ b $ c",
        "```\n$x$\n```",
        "$$",
        "$$$$",
        "$x",
        "$x\n\ny$",
        "    $$\n    x\n    $$",
    ],
)
def test_not_a_formula(text: str) -> None:
    assert "<math" not in render(text)
    assert "formula" not in render(text)


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("$x$", False),
        ("so $x^2$, then", False),
        ("设$x$为数", False),
        (r"\(x\)", False),
        ("$$x$$", True),
        ("say $$x$$ here", True),
        (r"\[x\]", True),
        ("$$\nx\n- y\n> z\n$$", True),
        ("so:\n\\[\nx\n\\]\nthen", True),
        ("- a\n\n  $$\n  x\n  $$", True),
        (r"\[\begin{matrix}1\\[2pt]2\end{matrix}\]", True),
        ("$a*b*c_1 d_2$", False),
        (r"$\{x\}$", False),
    ],
)
def test_a_formula(text: str, display: bool) -> None:
    (math,) = parsed(render(text)).iter(f"{MATHML}math")
    assert (math.get("display") == "block") is display


def test_wrong_tex_is_shown_as_it_was_written() -> None:
    assert text_of(render(r"$\nosuchcommand{<b>}$")).strip() == r"\nosuchcommand{<b>}"
    assert "<math" not in render(r"$\def\a{\a\a}\a$")


WORST = [
    r'"{" * n + "}" * n',
    r'"\\sqrt{" * n + "}" * n',
    r'"x_{" * n + "}" * n',
    r'"\\left(" * n + "\\right)" * n',
    r'"\\begin{matrix}" * n + "\\end{matrix}" * n',
    r'"\\frac1" * n + "x"',
    r'"{a\\over" * n + "}" * n',
    r'"\\sqrt[" * n + "]" * n + "x" * n',
]


def test_deep_formulas_do_not_overflow_the_stack() -> None:
    """In a process of its own, which an overflow would kill, and from a thread as small as macOS makes them."""
    code = f"""
import threading
from tutelage.serve.pages.formulas import LONGEST, formula_html
from tutelage.serve.pages.markdown import render
def work():
    for make in {WORST}:
        n = 1
        while len(eval(make, {{"n": n + 1}})) <= LONGEST:
            n += 1
        formula_html(eval(make, {{"n": n}}), True)
        render("$" + eval(make, {{"n": 100_000}}) + "$")
    print("done")
threading.stack_size(512 * 1024)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_three_thousand_braces() -> None:
    assert unsafe(render("$" + "{" * 3000 + "x" + "}" * 3000 + "$")) == []
    deep = formula_html(r"\sqrt{" * 300 + "}" * 300, False)
    assert deep.startswith("<code")


def calls(text: str) -> int:
    """How many Python and C functions rendering calls: its steps, on any machine."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        render(text)
        split_blocks(text)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "piece",
    [
        "> ",
        "- ",
        "*a ",
        "**a_",
        "[",
        "![",
        "[a](",
        "`",
        "``` \n",
        "$a ",
        "$$a ",
        "\\(",
        "\\[\n",
        "| a ",
        "1. ",
        "<a ",
        "&#",
        "~~a",
    ],
)
def test_many_of_one_kind_take_steps_in_proportion(piece: str) -> None:
    render(piece)  # fills caches
    small, large = calls(piece * 300), calls(piece * 1200)
    assert large < 8 * small + 2000, (small, large)  # linear is 4, quadratic 16


# Blocks ---------------------------------------------------------------------------------------------------------------

words = st.text(st.sampled_from("ab 好*_`$#-+|>1.)\\([]!~=:\t"), min_size=1, max_size=12)
indents = st.sampled_from(["", "", "", " ", "  ", "   ", "    ", "\t"])
marks = st.sampled_from(
    ["- ", "* ", "+ ", "1. ", "2. ", "1) ", "> ", "# ", "## ", "```", "```py", "~~~", "$$", "\\[", "\\]", "---", "===", "***",
     "|-|-|", "| a | b |", "a|b", "-|-", "-", "1.", "#", ""]
)  # fmt: skip
lines = st.builds(lambda indent, mark, rest: indent + mark + rest, indents, marks, st.one_of(st.just(""), words))
documents = st.builds(
    lambda parts: "".join(line + end for line, end in parts),
    st.lists(
        st.tuples(lines, st.sampled_from(["\n", "\n", "\n", "\n\n", "\n\n\n", "\r\n", "\r", "\n \n"])), max_size=12
    ),
)


def rendered_in_pieces(text: str) -> str:
    closed, rest = split_blocks(text)
    return "".join(map(render, closed)) + render(rest)


@given(documents)
def test_pieces_joined_are_the_whole(text: str) -> None:
    closed, rest = split_blocks(text)
    assert "".join(closed) + rest == text.replace("\r\n", "\n").replace("\r", "\n")
    assert rendered_in_pieces(text) == render(text)


@given(documents, st.data())
def test_closed_blocks_stay_whatever_comes(text: str, data: st.DataObject) -> None:
    """Fed in pieces, keeping only the rest: the blocks are those of the whole text."""
    text = text.replace("\r", "\n")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    blocks: list[str] = []
    rest, at = "", 0
    for cut in [*cuts, len(text)]:
        closed, rest = split_blocks(rest + text[at:cut])
        blocks += closed
        assert split_blocks(text[:cut]) == (blocks, rest)
        at = cut


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("a\n\nb", 0),
        ("a\n\nb\n", 1),
        ("- a\n\n- b\n\n  c\n", 0),
        ("- a\n\nb\n", 1),
        ("```\na\n\nb\n", 0),
        ("```\na\n\nb\n```\n\n\n", 0),
        ("```\na\n```\nb\n", 1),
        ("# a\n# b\n# c\n", 2),
        ("a\n#", 0),
        ("    a\n\n    b\n\n", 0),
        ("$$\n- 1\n# x\n", 0),
    ],
)
def test_what_is_closed(text: str, blocks: int) -> None:
    assert len(split_blocks(text)[0]) == blocks


def test_an_answer_grows_only_at_its_end() -> None:
    text = "# Title\n\nOne *two*\n\n- a\n- b\n\n```py\nx = 1\n```\n\n$$\nx^2\n$$\n\nlast"
    shown = [tuple(map(render, split_blocks(part)[0])) for part in accumulate(text)]
    for before, after in pairwise(shown):
        assert after[: len(before)] == before
    assert len(shown[-1]) == 4  # the rest of the last line could make it part of the formula's block
