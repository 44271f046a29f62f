"""Python functions of one line, each told from the others by its name, its arguments and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tutelage.world.facts import Language
from tutelage.world.tasks.common import Draft, Family, Scene


@dataclass(frozen=True)
class Function:
    """What the body returns, what that is in words, names that fit, and the calls it is tried with (never all alike)."""

    arguments: str
    returns: str
    words: dict[Language, str]
    names: tuple[str, ...]
    calls: tuple[tuple[Any, ...], ...]


PAIRS = ((3, 5), (9, 2), (-4, 7), (0, 6))
INTEGERS = ((3,), (8,), (-5,), (12,))
LISTS = (([4, 1, 7],), ([9, 2],), ([3, 8, 5, 6],), ([-1, 0, 2],))
TEXTS = (("river",), ("Ab",), ("two words",), ("kite",))


def _function(
    arguments: str, returns: str, en: str, zh: str, names: str, calls: tuple[tuple[Any, ...], ...]
) -> Function:
    return Function(arguments, returns, {"en": en, "zh": zh}, tuple(names.split()), calls)


FUNCTIONS: tuple[Function, ...] = (
    _function("a, b", "a + b", "the sum of a and b", "a与b的和", "add plus sum_of", PAIRS),
    _function("a, b", "a - b", "a minus b", "a减b的差", "subtract minus take_away", PAIRS),
    _function("a, b", "a * b", "a times b", "a乘b的积", "multiply times product", PAIRS),
    _function("a, b", "max(a, b)", "the larger of a and b", "a与b中较大的", "larger bigger most", PAIRS),
    _function("a, b", "min(a, b)", "the smaller of a and b", "a与b中较小的", "smaller lesser least", PAIRS),
    _function("n", "n * 2", "twice n", "n的两倍", "double twice two_times", INTEGERS),
    _function("n", "n * n", "the square of n", "n的平方", "square squared power_two", INTEGERS),
    _function("n", "n + 1", "n plus one", "n加一", "next_number add_one plus_one", INTEGERS),
    _function("n", "-n", "minus n", "n的相反数", "negate opposite minus_n", INTEGERS),
    _function("n", "abs(n)", "n without its sign", "n的绝对值", "absolute size distance", INTEGERS),
    _function("n", "n % 2 == 0", "True if n is even", "n是偶数时为True", "is_even even check_even", INTEGERS),
    _function("n", "n > 0", "True if n is above zero", "n大于零时为True", "is_positive positive above_zero", INTEGERS),
    _function("items", "len(items)", "how many items there are", "items的个数", "count_items length how_many", LISTS),
    _function("items", "sum(items)", "the sum of the items", "items的总和", "total sum_items add_all", LISTS),
    _function("items", "items[0]", "the first item", "items的第一个", "first get_first head", LISTS),
    _function("items", "items[-1]", "the last item", "items的最后一个", "last get_last tail_item", LISTS),
    _function("items", "max(items)", "the largest item", "items中最大的", "largest biggest top", LISTS),
    _function("items", "sorted(items)", "the items in order", "从小到大的items", "in_order sort_items ordered", LISTS),
    _function("text", "text.upper()", "the text in capital letters", "大写的text", "upper capitals shout", TEXTS),
    _function("text", "text[::-1]", "the text backwards", "倒过来的text", "reverse backwards flip", TEXTS),
    _function("text", "len(text)", "how long the text is", "text的长度", "text_length size_of letters", TEXTS),
    _function("text", "text[0]", "the first letter", "text的第一个字母", "first_letter initial start_of", TEXTS),
    _function("text", "text + text", "the text twice", "重复两遍的text", "repeat echo say_twice", TEXTS),
    _function("text", "text.split()", "the words of the text", "text里的单词", "words split_words get_words", TEXTS),
)  # fmt: skip


def python(scene: Scene, template: str) -> Draft:
    rng = scene.rng
    index = rng.randrange(len(FUNCTIONS))
    task = FUNCTIONS[index]
    name = rng.choice(task.names)
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


WORDINGS: dict[Language, tuple[str, ...]] = {
    "en": (
        "Write a Python function {f} that returns {r}.", "Python: write {f}. It returns {r}.",
        "Define {f} in Python. Return {r}.",
        "I need a Python function {f} for {r}.", "Write {f} in Python so that it gives {r}.",
        "In Python, make {f} return {r}.",
        "Please code {f} in Python: it returns {r}.", "Can you write the Python function {f}? Result: {r}.",
        "Python code for {f}, giving {r}.",
    ),
    "zh": (
        "写一个Python函数{f}，返回{r}。", "用Python写{f}，返回{r}。", "用Python定义{f}。返回{r}。",
        "我需要Python函数{f}，结果是{r}。",
        "写Python函数{f}，给出{r}。", "在Python中让{f}返回{r}。",
        "请用Python编写{f}：返回{r}。", "能写Python函数{f}吗？结果：{r}。", "{f}的Python代码，返回{r}。",
    ),
}  # fmt: skip

FAMILIES = {"python": Family(python, WORDINGS)}
