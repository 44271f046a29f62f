"""The documentation against the code: commands, settings, formats, messages, files and functions that it names exist."""

from __future__ import annotations

import ast
import importlib.util
import json
import random
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from ruamel.yaml import YAML
from tutelage.recipes.pipeline import Plan, RunSettings

from tutelage import settings as recipe
from tutelage.assistant.assistant import Assistant
from tutelage.cli.app import VERBS
from tutelage.data import formats
from tutelage.errors import DataError
from tutelage.generate.sampler import Sampling
from tutelage.runs import commands as runs
from tutelage.train.pretrain import PretrainSettings
from tutelage.world import judge, labellers
from tutelage.world.facts import LANGUAGES, make_world
from tutelage.world.tasks import FAMILIES, make_task

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GUIDES = ("guide.md", "guide.zh.md")
METHODS = ("method.md", "method.zh.md")
WRITTEN = (*(DOCS / name for name in (*GUIDES, *METHODS, "settings.md", "log.md")), ROOT / "CONTRIBUTING.md")
READERS = {
    "documents": formats.read_documents,
    "conversations": formats.read_conversations,
    "prompts": formats.read_prompts,
    "rankings": formats.read_rankings,
    "answers": formats.read_answers,
}
KINDS = {"文档": "documents", "对话": "conversations", "提示": "prompts", "排序": "rankings", "回答": "answers"}
LATER = {"results.md", "plots"}
"""Written by `make proof`, so a checkout may lack them."""


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(name), re.DOTALL | re.MULTILINE)


@cache
def make_settings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_settings", DOCS / "make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- settings.md


def test_the_page_of_settings_is_what_the_code_says():
    assert text_of("settings.md") == make_settings().page(), "run `python docs/make_settings.py`"


def test_every_command_with_settings_is_on_that_page():
    """`demo` takes the settings of `run`; `data` and `tokenizer` have commands of their own."""
    assert {command.split()[0] for command in make_settings().COMMANDS} | {"demo"} == set(VERBS)


# ---- commands in the guides


def command_lines(name: str) -> Iterator[list[str]]:
    for block in blocks(name, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("tutelage "):
                yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("name", GUIDES)
def test_every_command_is_in_the_guide(name):
    used = {words[0] for words in command_lines(name)}
    assert used == set(VERBS), "each command has an example, and no example an unknown command"


@pytest.mark.parametrize("name", GUIDES)
def test_every_command_in_the_guide_could_be_typed(name):
    """The settings exist and their values are of the right type; what a command needs is given."""
    for words in command_lines(name):
        command, arguments = settle(words)
        if "--help" in arguments:
            continue
        kind = make_settings().settings_of(command)
        source: dict[str, object] = {}
        if "--recipe" in arguments:
            place = arguments.index("--recipe")
            source = values_of(arguments[place + 1], name, kind)
            del arguments[place : place + 2]
        resolved = recipe.resolve(kind, source, [a for a in arguments if a != "--print-config"])
        if isinstance(resolved, RunSettings):
            Plan.of(resolved)  # the settings of the stages


def settle(words: list[str]) -> tuple[str, list[str]]:
    """The command (of two words for data and tokenizer) and its arguments, with what has no name given its name."""
    verb, rest = words[0], words[1:]
    if verb == "data" and rest[0] in ("inspect", "convert") and not rest[1].startswith("--"):
        rest.insert(1, "--path")
    if verb == "runs":
        kind, _, unnamed = runs.COMMANDS.get(rest[0], (None, None, "run"))
        given = rest[1:] if unnamed != "runs" else [json.dumps(rest[1:])]
        command = "runs show" if kind is None else f"runs {rest[0]}"  # resume takes a folder, and the stage's settings
        return command, [f"--{unnamed}={given[0]}", *given[1:]] if given else []
    if verb in ("data", "tokenizer"):
        return f"{verb} {rest[0]}", rest[1:]
    if verb == "demo":
        return "run", ["--recipe", "recipes/demo.yaml", *rest]
    positional = {
        "run": "recipe",
        "generate": "checkpoint",
        "chat": "checkpoint",
        "export": "checkpoint",
        "report": "folder",
    }.get(verb)
    if positional and rest and not rest[0].startswith("--"):
        return verb, [f"--{positional}", *rest]
    return verb, rest


def values_of(path: str, page: str, kind: type) -> dict[str, object]:
    """A recipe of the checkout, the one printed on the page, or for a recipe that a run leaves: whatever is required."""
    if (ROOT / path).exists():
        return recipe.read_yaml(ROOT / path)
    if path == "ours.yaml":
        (printed,) = blocks(page, "yaml")
        return YAML(typ="safe", pure=True).load(printed)
    assert re.fullmatch(r"runs/demo/\w+/recipe\.yaml", path), f"{path}: where does this recipe come from?"
    needed = {name: "x" for name, _, default, _ in recipe.describe(kind) if default == "(required)"}
    start = {"tokenizer": "x"} if kind is PretrainSettings else {}  # this or a checkpoint
    return needed | start | {name: {"x": {"path": "x"}} for name in needed if "sources" in name}


# ---- Python, files and messages in the guides


@pytest.mark.parametrize("name", GUIDES)
def test_python_in_the_guide_uses_what_there_is(name):
    for block in blocks(name, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in ("assistant", "judge"):
                    assert hasattr(Assistant, node.attr), node.attr
                elif node.value.id == "rejects":
                    assert node.attr in formats.Rejects.__dataclass_fields__
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("chat", "generate")
            ):
                assert {keyword.arg for keyword in node.keywords} <= set(Sampling.model_fields)
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("name", GUIDES)
def test_python_settings_named_in_the_text_exist(name):
    sentence = next(line for line in text_of(name).split("\n\n") if line.startswith("`chat`"))
    options = set(re.findall(r"`(\w+_penalty|max_tokens|min_p|top_k|top_p|temperature|seed)`", sentence))
    assert options == set(Sampling.model_fields) - {"n"}


def format_rows(name: str) -> dict[str, tuple[list[str], str]]:
    found = re.findall(r"^\| `(\w+)` \| ([^|`]+) \| `(.*)` \|$", text_of(name), re.MULTILINE)
    return {key: ([KINDS.get(k, k) for k in re.split("[, 、]+", kinds.strip())], row) for key, kinds, row in found}


@pytest.mark.parametrize("name", GUIDES)
def test_every_format_has_an_example_that_is_read_as_the_guide_says(name, tmp_path):
    examples = format_rows(name)
    known = {format.name for format in formats.FORMATS if format.recognise and format.read}
    assert set(examples) == known
    for key, (kinds, row) in examples.items():
        assert formats.recognise(json.loads(row)) == key
        path = tmp_path / f"{key}.jsonl"
        path.write_text(row + "\n", encoding="utf-8")
        readable = {kind for kind in READERS if can_read(kind, path)}
        assert readable == set(kinds), key


def can_read(kind: str, path: Path) -> bool:
    """False where the reader says that the file holds something else; anything else that it says is an error."""
    try:
        return len(list(READERS[kind](path))) > 0
    except DataError as error:
        if "holds another kind of data" in str(error):
            return False
        raise


@cache
def constants() -> tuple[str, ...]:
    """Every string in the package's code, the parts of f-strings among them."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tutelage").rglob("*.py"))
    return tuple(
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@pytest.mark.parametrize("name", GUIDES)
def test_every_message_in_the_guide_is_one_that_the_code_prints(name):
    table = text_of(name).split("\n| `unknown setting")[1]
    messages = re.findall(r"^(?:\| `)?(.+?)` \|", "unknown setting" + table.split("\n\n")[0], re.MULTILINE)
    assert len(messages) > 20
    for message in messages:
        for part in filter(None, (part.strip(" ,") for part in message.split("…"))):
            assert any(part in constant for constant in constants()), f"no code prints {part!r}"


@pytest.mark.parametrize("name", GUIDES)
def test_who_is_asked_about_lives_in_the_demo(name):
    settings = recipe.read_yaml(ROOT / "recipes" / "demo.yaml")
    world = {name: settings["world"][name] for name in ("people", "towns", "values") if name in settings["world"]}
    people = make_world(settings["seed"], **world).people
    asked = re.findall(r"Where does (\w+) live\?", text_of(name))
    assert asked
    assert all(person.lower() in people for person in asked)


# ---- method.md


REFERENCE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.py)(?::([\w.]+))?`")


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_file_and_function_that_is_named_exists(path):
    references = REFERENCE.findall(path.read_text(encoding="utf-8"))
    assert len(references) > 40 or path.name not in METHODS
    for file, name in references:
        found = next((p for p in (ROOT / file, ROOT / "tutelage" / file) if p.is_file()), None)
        assert found is not None, f"{path.name} names {file}"
        assert not name or name in names_in(found), f"{path.name} names {file}:{name}"


@cache
def names_in(path: Path) -> frozenset[str]:
    """Functions, classes, methods and constants of a module."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, ast.FunctionDef):
                names.add(f"{node.name}.{inner.name}")
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(names)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http") and target.split("/")[0] not in LATER:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("name", METHODS)
def test_the_formulas_of_judge_and_labellers_are_those_of_the_code(name):
    for module in (judge, labellers):
        (formula,) = re.findall(r"^ +((?:score|u) = .+)$", module.__doc__ or "", re.MULTILINE)
        assert formula in text_of(name)


@pytest.mark.parametrize("name", METHODS)
def test_every_task_family_stands_with_its_check(name):
    world, listed = make_world(0), dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", text_of(name), re.MULTILINE))
    drawn = {
        family: {
            make_task(world, family, language, random.Random(i), entities=None, templates="train").prompt.meta["check"][
                "kind"
            ]
            for language in LANGUAGES
            for i in range(3)
        }
        for family in FAMILIES
    }
    assert {family: {kind} for family, kind in listed.items()} == drawn


# ---- all pages


@pytest.mark.parametrize(("english", "chinese"), [GUIDES, METHODS])
def test_the_translation_is_whole(english, chinese):
    """The same headings, code (but for its comments), table rows and references, in the same order."""
    pages = [text_of(name) for name in (english, chinese)]
    shapes = []
    for page in pages:
        code = re.findall(r"^```(?:bash|yaml|python)\n.*?^```", page, re.DOTALL | re.MULTILINE)
        prose = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
        shapes.append(
            {
                "headings": [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)],
                "code": [re.sub(r"\s*#.*", "", block) for block in code],
                "rows": [row.count("|") for row in re.findall(r"^\|.*$", prose, re.MULTILINE)],
                "references": REFERENCE.findall(prose),
            }
        )
    for part in shapes[0]:
        assert shapes[0][part] == shapes[1][part], part
    assert len(re.findall(r"[\u4e00-\u9fff]", pages[1])) > 0.1 * len(pages[0])


@pytest.mark.parametrize("path", [*WRITTEN, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_no_page_names_a_place_on_somebodys_machine(path):
    assert not re.findall(r"(?<![\w.])/(?:work|tmp|home|root|Users|mnt)\b", path.read_text(encoding="utf-8"))
