"""The evaluator of small functions, against Python itself on sources that we wrote, and against hostile ones."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.world.checks.evaluator import EvaluationError, call, functions_in

SOURCES = {
    "arithmetic": ("def f(a, b):\n    return (a + b) * 2 - a // 3 + b % 4 - -a ** 2", (7, 5)),
    "floats": ("def f(a, b):\n    return round(a / b, 2) + float(a)", (7, 5)),
    "compare": ("def f(a, b):\n    return 1 < a <= 7 and not (b == 5 or b != 6) or a is None", (7, 5)),
    "inline": ("def f(a, b):\n    return a if a > b else b", (7, 9)),
    "comprehension": ("def f(x):\n    return [a + b for a in x for b in range(2) if a != 1]", ([3, 1, 4],)),
    "generator": ("def f(x):\n    return sum(a for a in x if a % 2 == 0) + max(x) + len(x)", ([3, 1, 4, 8],)),
    "strings": ("def f(t):\n    return t.upper()[::-1] + '-'.join(t.split()) + t[0] + str(len(t))", ("two words",)),
    "fstring": ("def f(t):\n    return f'Hello, {t}!'", ("Mira",)),
    "unpack": ("def f(a, b):\n    a, b = b, a\n    return [a, b]", (1, 2)),
    "recursion": ("def f(n):\n    return 1 if n < 2 else n * f(n - 1)", (6,)),
    "nothing": ("def f(n):\n    n + 1", (6,)),
    "docstring": ('def f(n: int) -> int:\n    """Adds one."""\n    # a comment\n    return n + 1', (6,)),
    "membership": ("def f(t):\n    return 'r' in t and 'z' not in t", ("river",)),
    "choice": (
        """
def f(a, b):
    if a > b:
        return 'more'
    elif a == b:
        return 'same'
    return 'less'
""",
        (7, 7),
    ),
    "loop": (
        """
def f(items):
    total = 0
    for i, x in enumerate(items):
        if x < 0:
            continue
        total += i * x
    return total
""",
        ([3, -1, 4],),
    ),
    "while": (
        """
def f(n):
    steps = 0
    while True:
        n -= 3
        steps += 1
        if n < 0:
            break
    return steps
""",
        (20,),
    ),
    "for else": (
        """
def f(n):
    for i in range(n):
        if i == 99:
            break
    else:
        return 'none'
""",
        (5,),
    ),
    "lists": (
        """
def f(items):
    out = []
    for x in items:
        out.append(x * x)
    return sorted(out, reverse=True)[:2]
""",
        ([3, 1, 4],),
    ),
}

HOSTILE = {
    "import": "import os\ndef f(n):\n    return os.getcwd()",
    "inner import": "def f(n):\n    import os\n    return 1",
    "dunder": "def f(n):\n    return n.__class__.__bases__",
    "format": "def f(n):\n    return '{0.__class__}'.format(n)",
    "fstring width": "def f(n):\n    return f'{n:>1000000000}'",
    "percent": "def f(n):\n    return '%1000000000d' % n",
    "eval": "def f(n):\n    return eval('1')",
    "open": "def f(n):\n    return open('/etc/passwd').read()",
    "lambda": "def f(n):\n    return (lambda: 1)()",
    "forever": "def f(n):\n    while True:\n        n = n",
    "power": "def f(n):\n    return 9 ** 9 ** 9 ** 9",
    "power of power": "def f(n):\n    n = 2\n    while True:\n        n = n ** 60",
    "shift": "def f(n):\n    return 1 << 1000000000",
    "big text": "def f(n):\n    return 'a' * 1000000000",
    "big list": "def f(n):\n    return [0] * 1000000000",
    "negative times": "def f(n):\n    return ('ab' * 900) * 900",
    "big range": "def f(n):\n    return sum(range(1000000000))",
    "growing list": "def f(n):\n    x = [1]\n    for i in x:\n        x.append(i)\n    return x",
    "nested lists": "def f(n):\n    x = [1] * 900\n    return [[x] * 900] * 900 == [[x] * 900] * 900",
    "doubled lists": "def f(n):\n    x = [1]\n    for i in range(60):\n        x = [x, x]\n    return str(x)",
    "list in itself": "def f(n):\n    x = [1]\n    x.append(x)\n    return x == [x]",
    "replace": "def f(n):\n    return ('a' * 1000).replace('a', 'b' * 1000)",
    "recursion": "def f(n):\n    return f(n + 1)",
    "deep": "def f(n):\n    return " + "-" * 1500 + "1",
    "parentheses": "def f(n):\n    return " + "(" * 900 + "1" + ")" * 900,
    "globals": "def f(n):\n    global x\n    return 1",
    "class": "def f(n):\n    class A: pass\n    return 1",
    "default": "def f(n, m=[]):\n    return 1",
    "decorator": "@print\ndef f(n):\n    return 1",
    "bytes": "def f(n):\n    return b'x'",
    "exception": "def f(n):\n    raise SystemExit",
    "break outside": "def f(n):\n    return 1 / 0",
    "set attribute": "def f(n):\n    n.x = 1",
    "set item": "def f(n):\n    x = [1]\n    x[0] = 2\n    return x",
    "keyword": "def f(n):\n    return sorted([3], key=print)",
    "infinite": "def f(n):\n    return int(float('1e309'))",
    "names of Python": "def f(n):\n    return __builtins__",
    "a function as a value": "def f(n):\n    return len",
    "another builtins": "def __builtins__():\n    return 1\ndef f(n):\n    return __import__('os')",
    "unpacked keywords": "def f(n):\n    return sorted([3], **{'reverse': True})",
    "an attribute": "def f(n):\n    return 'x'.upper",
    "a loop over an attribute": "def f(n):\n    for n.x in [1]:\n        return 1",
    "loops without a body": "def f(n):\n    for i in range(999):\n        for j in range(999):\n            pass",
    "a class within": "def f(n):\n    def g(): return 1\n    return g()",
    "no parse": "def f(n) return 1",
    "null": "def f(n):\n    return 1\0",
}


@pytest.mark.parametrize("name", SOURCES)
def test_agrees_with_python(name: str) -> None:
    source, arguments = SOURCES[name]
    scope: dict = {}
    exec(source, scope)
    expected = scope["f"](*arguments)
    found = call(functions_in(source), "f", arguments)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses(name: str) -> None:
    """Also what would run for ever or fill the memory: then this test would not end."""
    with pytest.raises(EvaluationError):
        call(functions_in(HOSTILE[name]), "f", (3,))


@given(st.text(max_size=80))
def test_any_source_is_a_value_or_an_error(body: str) -> None:
    with suppress(EvaluationError):
        call(functions_in(f"def f(n):\n    return {body}"), "f", (3,))


def test_arguments_must_fit() -> None:
    with pytest.raises(EvaluationError, match="takes 1 positional argument"):
        call(functions_in("def f(n):\n    return n"), "f", (1, 2))
    with pytest.raises(EvaluationError, match="no function g"):
        call(functions_in("def f(n):\n    return n"), "g", (1,))
