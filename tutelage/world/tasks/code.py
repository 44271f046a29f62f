"""Python functions of one line, each told from the others by its name, its arguments and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tutelage.world.facts import Language
from tutelage.world.tasks.common import Draft, Family, Scene, Wordings, wordings


@dataclass(frozen=True)
class Function:
    """What the body returns, what that is in words, and the calls it is tried with (never all alike)."""

    arguments: str
    returns: str
    words: dict[Language, str]
    calls: tuple[tuple[Any, ...], ...]


PAIRS = ((3, 5), (9, 2), (-4, 7), (0, 6))
INTEGERS = ((3,), (8,), (-5,), (12,))
LISTS = (([4, 1, 7],), ([9, 2],), ([3, 8, 5, 6],), ([-1, 0, 2],))
TEXTS = (("river",), ("Ab",), ("two words",), ("kite",))


def _function(arguments: str, returns: str, en: str, zh: str, calls: tuple[tuple[Any, ...], ...]) -> Function:
    return Function(arguments, returns, {"en": en, "zh": zh}, calls)


NAMES = (
    "answer", "apply", "change", "compute", "convert", "do_it", "find", "func", "get_it", "give", "handle", "helper", "make_it",
    "process", "result", "run", "show", "solve", "step", "task", "tool", "turn", "use", "value", "work",
)  # fmt: skip
"""Names that say nothing of what a function does, so that its description has to be read."""


FUNCTIONS: tuple[Function, ...] = (
    _function("a, b", "a + b", "the sum of a and b", "a与b的和", PAIRS),
    _function("a, b", "a - b", "a minus b", "a减b的差", PAIRS),
    _function("a, b", "a * b", "a times b", "a乘b的积", PAIRS),
    _function("a, b", "max(a, b)", "the larger of a and b", "a与b中较大的", PAIRS),
    _function("a, b", "min(a, b)", "the smaller of a and b", "a与b中较小的", PAIRS),
    _function("n", "n * 2", "twice n", "n的两倍", INTEGERS),
    _function("n", "n * n", "the square of n", "n的平方", INTEGERS),
    _function("n", "n + 1", "n plus one", "n加一", INTEGERS),
    _function("n", "-n", "minus n", "n的相反数", INTEGERS),
    _function("n", "abs(n)", "n without its sign", "n的绝对值", INTEGERS),
    _function("n", "n % 2 == 0", "True if n is even", "n是偶数时为True", INTEGERS),
    _function("n", "n > 0", "True if n is above zero", "n大于零时为True", INTEGERS),
    _function("items", "len(items)", "how many items there are", "items的个数", LISTS),
    _function("items", "sum(items)", "the sum of the items", "items的总和", LISTS),
    _function("items", "items[0]", "the first item", "items的第一个", LISTS),
    _function("items", "items[-1]", "the last item", "items的最后一个", LISTS),
    _function("items", "max(items)", "the largest item", "items中最大的", LISTS),
    _function("items", "sorted(items)", "the items in order", "从小到大的items", LISTS),
    _function("text", "text.upper()", "the text in capital letters", "大写的text", TEXTS),
    _function("text", "text[::-1]", "the text backwards", "倒过来的text", TEXTS),
    _function("text", "len(text)", "how long the text is", "text的长度", TEXTS),
    _function("text", "text[0]", "the first letter", "text的第一个字母", TEXTS),
    _function("text", "text + text", "the text twice", "重复两遍的text", TEXTS),
    _function("text", "text.split()", "the words of the text", "text里的单词", TEXTS),
)  # fmt: skip


def python(scene: Scene, template: str) -> Draft:
    rng = scene.rng
    index = rng.randrange(len(FUNCTIONS))
    task = FUNCTIONS[index]
    name = rng.choice(NAMES)
    head = f"def {name}({task.arguments}):"
    alike = [f for f in FUNCTIONS if f.arguments == task.arguments and f is not task]
    near = rng.choice(alike)
    filled = template.replace("{f}", f"{name}({task.arguments})").replace("{r}", task.words[scene.language])
    return Draft(
        user=filled,
        good=f"{head}\n    return {task.returns}",
        wrong=(
            f"{head}\n    return {near.returns}",
            f"{head}\n    return {task.arguments.split(', ')[0]}",
            f"def f({task.arguments}):\n    return {near.returns}",
        ),
        check={"kind": "python", "function": index, "name": name},
    )


WORDINGS: dict[Language, Wordings] = {
    "en": wordings(
        "[Write|Define|Code] [a|the] Python function {f} that [returns|gives] {r}.",
        "Please [write|define|code] [a|the] Python function {f} that [returns|gives] {r}.",
        "Python: [write|define|code] {f}. It [returns|gives] {r}.",
        "[Write|Define|Code] {f} in Python. It [returns|gives] {r}.",
        "I [need|want|would like] a Python function {f} that [returns|gives] {r}.",
        "[Can|Could] you [write|define|code] a Python function {f} that [returns|gives] {r}?",
        "[Help me|Please help me] [write|define|code] {f} in Python. It [returns|gives] {r}.",
        "[Give me|Please give me] a Python function {f} that [returns|gives] {r}.",
        "I need {f} in Python. It [returns|gives] {r}.",
    ),
    "zh": wordings(
        "[写|定义|编写]一个Python函数{f}，[返回|给出]{r}。",
        "请[写|定义|编写]一个Python函数{f}，[返回|给出]{r}。",
        "用Python[写|定义|编写]{f}，[返回|给出]{r}。",
        "请用Python[写|定义|编写]{f}，[返回|给出]{r}。",
        "[帮我|请帮我]用Python[写|定义|编写]{f}，[返回|给出]{r}。",
        "[写|定义|编写]Python函数{f}。[返回|给出]{r}。",
        "我[需要|想要][一个|]Python函数{f}，[返回|给出]{r}。",
        "[能不能|你能不能]用Python[写|定义|编写]{f}，[返回|给出]{r}？",
        "[能不能|你能不能][写|定义|编写]一个Python函数{f}，[返回|给出]{r}？",
    ),
}

FAMILIES = {"python": Family(python, WORDINGS)}
