"""Lists, sums, short texts and functions made by hand to fool the judge, or to be a little worse than the last."""

import random

from judging import WORLD, alternatives, falls, find, score

from tutelage.world.tasks import Task, make_task


def test_a_sum() -> None:
    task = find("sum", a=14, length=3.6)  # a good answer is the whole sum, not the total alone
    a, b = 14, task.prompt.meta["check"]["b"]
    right, total = f"{a} + {b} = {a + b}.", a + b
    falls(
        task,
        right,
        f"{total} or {total + 1}",
        f"{a} + {b} = {total + 10}.",
        "I do not know.",
        f"{a} + {b} = {total + 27}.",
    )
    for fine in (str(total), f"It is {total}.", f"{a} plus {b} is {total}."):
        assert score(task, fine) > 0.95
    tens, ones = 10 + b // 10 * 10, 4 + b % 10
    steps = f"{a} + {b}: 4 + {b % 10} = {ones}, 10 + {b // 10 * 10} = {tens}, {tens} + {ones} = {total}"
    assert score(task, steps) > 0.85
    assert score(task, steps.replace(f"= {total}", f"= {total + 1}")) < 0.1
    assert score(task, " ".join(str(i) for i in range(2, 199))) < 0.05
    assert score(task, f"{right} And 2 + 2 = 5.") < 0.55


def test_lists() -> None:
    task = find("copy_list")
    items = task.prompt.meta["check"]["items"]
    swapped = [items[1], items[0], *items[2:]]
    falls(task, ", ".join(items), ", ".join(swapped) + ".", ", ".join(items[::-1]) + ".", "I do not know.")
    for fine in ("\n".join(items), "\n".join(f"- {i}" for i in items), "\n".join(f"{n}. {i}" for n, i in enumerate(items, 1)),
                 " ".join(items), f"Here it is: {', '.join(items)}.", ", ".join(items[:-1]) + " and " + items[-1]):  # fmt: skip
        assert score(task, fine) > 0.9, fine
    assert score(task, f"{', '.join(items)}. {', '.join(swapped)}. {', '.join(items[::-1])}.") < 0.25


def test_brainstorming_counts() -> None:
    task = find("brainstorm", relation="pet", n=3)
    falls(
        task, "Fox, horse, cat.", "Fox, cat, dog, duck, eagle.", "Fox, cat, chair.", "Fox.", "Fox, fox, fox, fox.",
        "Chair, table, cup.",
    )  # fmt: skip
    assert score(task, "1. a fox\n2. a cow\n3. an elephant") > 0.9
    assert score(task, "You could think of a fox, a cat and an otter.") > 0.9


def test_a_summary_keeps_to_its_limit_and_to_the_text() -> None:
    task = find("summary", event="buy")
    who, thing, town = (WORLD.name(task.prompt.meta["check"][key], "en") for key in ("who", "thing", "town"))
    falls(
        task,
        f"{who} bought a {thing} in {town}.",
        f"{who} bought a {thing}.",
        f"{who} went to {town}, it was a fine day, and there {who} bought a {thing} and was happy.",
        f"{who} went to {town}.",
        "It was a fine day.",
    )
    assert score(task, f"Anna bought a {thing} in {town}.") < 0.3


def test_formats_are_exact() -> None:
    task = find("rewrite", form="json")
    items = task.prompt.meta["check"]["items"]
    falls(
        task, task.good, "{" + f'"{items[0]}": "{items[1]}", "{items[2]}": "{items[3]}"' + "}", ", ".join(items), "{}"
    )
    assert score(task, task.good.replace('"', "'")) < 0.3
    assert score(task, "```json\n" + task.good + "\n```") > 0.9
    task = find("rewrite", form="bullets")
    items = task.prompt.meta["check"]["items"]
    falls(task, task.good, task.good.rsplit("\n", 1)[0], ", ".join(items))
    task = find("rewrite", form="upper")
    falls(task, task.good, task.good.title(), "HELLO")


def test_labels() -> None:
    task = find("sentiment", label="sad", length=3.2)  # a good answer is a sentence
    who = task.good.split()[0]
    falls(
        task,
        f"{who} is sad.",
        f"{who} is sad or angry.",
        "Happy, sad, angry, afraid, tired, surprised.",
        "Angry.",
        "Cold.",
    )
    assert score(task, f"{who} is not sad.") < 0.1
    assert score(task, f"{who} feels very unhappy.") > 0.9


def test_translations() -> None:
    task = find("translation", cue="person.town")
    check = task.prompt.meta["check"]
    (who, there), other = (
        (WORLD.name(k, "zh") for k in check["keys"]),
        alternatives("town", check["keys"][1])[0],
    )
    falls(
        task,
        f"{who}住在{there}。",
        f"{who}和{there}。",
        f"{who}住在{WORLD.name(other, 'zh')}。",
        "我不知道。",
        task.wrong[0],
    )
    assert score(task, f"{who}的家在{there}。") > 0.95
    assert score(task, f"In Chinese this is: {who}住在{there}。") > 0.9


def story_task() -> Task:
    for i in range(2000):
        task = make_task(WORLD, "story", "en", random.Random(i), entities=None, templates="train")
        if set(task.prompt.meta["check"]["words"]) == {"fox", "drum"}:
            return task
    raise AssertionError


def test_stories() -> None:
    task = story_task()
    scores = falls(
        task,
        "A fox found a drum. It took the drum home and was happy.",
        "A fox found a drum.",
        "A fox found a box. It took the box home and was happy.",
        "Fox and drum.",
        "An otter found a box. It took the box home and was happy.",
    )
    assert scores[3] < 0.3
    for soup in (
        "fox, drum, lake, lantern, otter, cup",
        "the fox the drum the of the was of",
        "fox drum " * 10,
        "A fox. A drum. A fox. A drum.",
    ):
        assert score(task, soup) < 0.35, soup


def test_greetings() -> None:
    task = find("greeting", act="thanks")
    who = WORLD.name(task.prompt.meta["check"]["name"], "en")
    falls(task, f"You are welcome, {who}!", f"Good morning, {who}!", "You are welcome!", "Hello!", "Good night, Sybil!")
    assert score(task, f"It was a pleasure, {who}. Ask me again any time!") > 0.9


def test_python() -> None:
    task = find("python", function=0)
    name = task.prompt.meta["check"]["name"]
    falls(
        task,
        f"def {name}(a, b):\n    return a + b",
        f"def {name}(a, b):\n    return a + b\ndef other(a, b):\n    return a - b",
        f"def {name}(a, b):\n    return b",
        f"def {name}(a, b):\n    return 'x'",
        f"{name}(a, b) = a + b",
    )
    for fine in (
        f"```python\ndef {name}(a, b):\n    return a + b\n```",
        f"def {name}(x, y):\n    total = x + y\n    return total",
        f"Here it is:\ndef {name}(a, b):\n    return sum([a, b])",
    ):
        assert score(task, fine) > 0.9, fine
    assert score(task, f"import os\ndef {name}(a, b):\n    return os.getcwd()") < 0.2
    assert score(task, f"def {name}(a, b):\n    while True:\n        a = b") < 0.2
    assert score(task, "def f(a, b):\n    return a + b") < 0.4
