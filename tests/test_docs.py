"""The documentation against the code: commands, recipes, knobs, formats, messages, files and functions that it names exist."""

from __future__ import annotations

import ast
import importlib.util
import json
import random
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from functools import cache
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tutelage.assistant.assistant import Assistant
from tutelage.cli import app as cli
from tutelage.cli.options import Typed
from tutelage.data import formats
from tutelage.errors import DataError
from tutelage.generate.sampler import Sampling
from tutelage.recipes.steps import KINDS, plan, read_recipe
from tutelage.runs.folder import recipe_of
from tutelage.settings import Inputs, Settings, read_yaml, write_yaml
from tutelage.world import judge, labellers
from tutelage.world.facts import LANGUAGES, make_world
from tutelage.world.tasks import FAMILIES, make_task

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
READMES = ("README.md", "README.zh.md")
GUIDES = ("docs/guide.md", "docs/guide.zh.md")
METHODS = ("docs/method.md", "docs/method.zh.md")
SERVING = ("docs/serving.md", "docs/serving.zh.md")
LOOP = ("docs/loop.md", "docs/loop.zh.md")
TRANSLATED = (READMES, GUIDES, METHODS, SERVING, LOOP)
OTHERS = ("docs/glossary.md", "docs/settings.md", "docs/log.md", "CONTRIBUTING.md")
WRITTEN = (*READMES, *GUIDES, *METHODS, *SERVING, *LOOP, *OTHERS)
READERS = {
    "documents": formats.read_documents,
    "conversations": formats.read_conversations,
    "prompts": formats.read_prompts,
    "rankings": formats.read_rankings,
    "answers": formats.read_answers,
}
CHINESE = {"文档": "documents", "对话": "conversations", "提示": "prompts", "排序": "rankings", "回答": "answers"}
LATER = ("docs/results.md", "docs/plots", "results.md", "plots")
"""Written by `make proof`, so a checkout may lack them."""
ON_SHELL = {"constraint", "editable", "nproc_per_node", "help", "version", "install-completion"}
"""Options of pip and torchrun, and those that every command has."""
EXAMPLES = {"NAME": "x", "KNOB": "seed", "ROLE": "checkpoint"}
"""What stands for something in the pages -> a name that exists."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(name), re.DOTALL | re.MULTILINE)


def prose(name: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", text_of(name), flags=re.DOTALL | re.MULTILINE)


# ---- settings.md


def make_settings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_settings", DOCS / "make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_settings_is_what_the_code_says():
    assert text_of("docs/settings.md") == make_settings().page(), "run `python docs/make_settings.py`"


# ---- commands


def command_lines(name: str) -> Iterator[list[str]]:
    """The words after `tutelage` of every command on a page, also where torchrun starts it."""
    for block in blocks(name, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] in (["tutelage"], ["torchrun"]):
                yield words[words.index("tutelage") + 1 :]


def name_of(words: list[str]) -> str:
    return " ".join(words[:2]) if " ".join(words[:2]) in cli.commands() else words[0]


@pytest.mark.parametrize("name", GUIDES)
def test_every_command_has_an_example(name):
    assert {name_of(words) for words in command_lines(name)} == set(cli.commands())


@pytest.fixture
def somebodys_folder(tmp_path, monkeypatch):
    """A folder with the recipes, the rule of the guide, and a stopped run."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    monkeypatch.chdir(folder)
    for recipe in Path("recipes").glob("*.yaml"):
        if not recipe.stem.endswith("loop"):  # which have settings and no steps
            with_its_files(recipe)
    (rule,) = (block for block in blocks("docs/guide.md", "python") if block.startswith("def brevity"))
    Path("rules.py").write_text(rule, encoding="utf-8")
    run = Path("runs/demo/ppo")
    run.mkdir(parents=True, exist_ok=True)
    knobs, inputs = KINDS["ppo"].classes()
    given = inputs(checkpoint="sft", reward_model="reward", prompts="prompts.jsonl")  # type: ignore[call-arg]
    (run / "recipe.yaml").write_text(write_yaml(recipe_of("ppo", knobs(), given)), encoding="utf-8")
    (run / "lineage.json").write_text(json.dumps({"kind": "ppo", "inputs": {}}), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("rules", None)


@pytest.fixture
def perform(monkeypatch):
    """Parse and validate a command line as `tutelage` does, without calling the command; returns what it would be called with."""
    called: list[dict[str, Any]] = []
    call = Typed.call

    def without_the_function(typed: Typed, given: Mapping[str, Any]) -> None:
        def instead(**values: Any) -> None:
            called.append(values)

        instead.__signature__ = signature(typed.function)  # type: ignore[attr-defined]
        call(replace(typed, function=instead), given)

    monkeypatch.setattr(Typed, "call", without_the_function)

    def perform(words: list[str]) -> dict[str, Any]:
        called.clear()
        cli.run_command(words)
        return called[0] if called else {}

    return perform


def with_its_files(recipe: Path) -> Path:
    """Make an empty file for every input of a recipe that is not a step's."""
    steps = read_yaml(recipe)["steps"]

    def make(value: Any) -> None:
        if isinstance(value, Mapping):
            for inner in value.values():
                make(inner)
        elif value.split("/")[0] not in steps:
            Path(value).parent.mkdir(parents=True, exist_ok=True)
            Path(value).touch()

    for step in steps.values():
        make(step.get("inputs", {}))
    return recipe


TYPED: set[tuple[str, ...]] = set()
"""The command lines that were tried: the page in the other language has most of them again."""


@pytest.mark.usefixtures("somebodys_folder")
@pytest.mark.parametrize("name", [*READMES, *GUIDES, *SERVING, *LOOP])
def test_every_command_could_be_typed(name, perform, capsys):
    """Options exist, values have the right type, nothing that is required is missing, and recipes are valid."""
    for printed in blocks(name, "yaml"):
        if "kind: prepare" in printed or "Qwen" in printed:
            Path("ours.yaml").write_text(printed, encoding="utf-8")
            with_its_files(Path("ours.yaml"))
    for words in command_lines(name):
        if "ours.yaml" not in words:
            if tuple(words) in TYPED:
                continue
            TYPED.add(tuple(words))
        given = perform(words)
        if "--help" in words:
            assert name_of(words) in capsys.readouterr().out
        elif "knobs" in given:
            given["knobs"].check(given["inputs"])
        elif given.get("recipe") and words[0] != "loop":
            plan(read_recipe(given["recipe"], given["overrides"]))


# ---- recipes


@pytest.mark.usefixtures("somebodys_folder")
@pytest.mark.parametrize("name", [*READMES, *GUIDES])
def test_every_recipe_that_is_printed_is_valid(name):
    printed = blocks(name, "yaml")
    assert printed
    for block in printed:
        Path("printed.yaml").write_text(block, encoding="utf-8")
        assert plan(read_recipe(with_its_files(Path("printed.yaml"))))


@pytest.mark.parametrize("name", GUIDES)
def test_the_table_of_the_demos_steps_is_its_recipe(name):
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| [^`]", text_of(name), re.MULTILINE)
    steps = read_yaml(ROOT / "recipes" / "demo.yaml")["steps"]
    assert listed == [(step, values["kind"]) for step, values in steps.items()]


@pytest.mark.parametrize(("readme", "guide"), zip(READMES, GUIDES, strict=True))
def test_every_recipe_that_ships_is_mentioned(readme, guide):
    pages = text_of(readme) + text_of(guide)
    assert all(f"recipes/{path.name}" in pages for path in (ROOT / "recipes").glob("*.yaml"))


# ---- knobs and settings in the text


@cache
def known_options() -> frozenset[str]:
    """Every option of every command by dotted name, with * for a name of the user's choice."""
    found = {option.name.replace("NAME", "*") for command in cli.commands().values() for option in command.load([])[1]}
    return frozenset(found)


def is_an_option(name: str) -> bool:
    """Whether a dotted name is an option, or a group of options."""
    return any(fnmatch(name, known) or known.startswith(f"{name}.") for known in known_options())


@pytest.mark.parametrize("name", [*READMES, *GUIDES, *METHODS, *SERVING, *LOOP])
def test_options_and_knobs_that_are_named_exist(name):
    inline = re.findall(r"`([^`\n]+)`", prose(name))
    for option in {option for words in inline for option in re.findall(r"(?<![\w-])--([\w.-]+)", words)} - ON_SHELL:
        example = re.sub("NAME|KNOB|ROLE", lambda found: EXAMPLES[found[0]], option.replace("-", "_"))
        assert is_an_option(example), f"--{option}"
    groups = {known.split(".")[0] for known in known_options() if "." in known} - {"steps", "text"}
    for words in inline:
        dotted = re.fullmatch(r"(\w+(?:\.\w+)+)(?:: .*)?", words)
        if dotted and dotted[1].split(".")[0] in groups and not words.endswith((".jsonl", ".json", ".yaml")):
            assert is_an_option(dotted[1]), words


# ---- Python, files and messages in the guides


@pytest.mark.parametrize("name", [*READMES, *GUIDES])
def test_python_uses_what_there_is(name):
    for block in blocks(name, "python"):
        imported: dict[str, Any] = {}
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                imported |= {alias.name: getattr(module, alias.name) for alias in node.names}
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in ("assistant", "judge", "reward_model"):
                    assert hasattr(Assistant, node.attr), node.attr
                elif node.value.id == "rejects":
                    assert node.attr in formats.Rejects.__dataclass_fields__
            if not isinstance(node, ast.Call):
                continue
            named = {keyword.arg for keyword in node.keywords}
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("chat", "stream", "generate"):
                assert named <= {*Sampling.model_fields, "stop", "logprobs", "top_logprobs"}
            made = imported.get(node.func.id) if isinstance(node.func, ast.Name) else None
            if isinstance(made, type) and issubclass(made, Settings | Inputs):
                assert named <= set(made.model_fields)


@pytest.mark.parametrize("name", GUIDES)
def test_python_settings_named_in_the_text_exist(name):
    listed = text_of(name).split("\n\n`chat`", 1)[1].split("\n\n")[1]
    options = set(re.findall(r"`(\w+_penalty|max_tokens|min_p|top_k|top_p|temperature|seed|n)`", listed))
    assert options == set(Sampling.model_fields)


def format_rows(name: str) -> dict[str, tuple[list[str], str]]:
    found = re.findall(r"^\| `(\w+)` \| ([^|`]+) \| `(.*)` \|$", text_of(name), re.MULTILINE)
    return {key: ([CHINESE.get(k, k) for k in re.split("[, 、]+", kinds.strip())], row) for key, kinds, row in found}


REST_OF_FILE = {
    "oasst_flat": (
        '{"message_id": "m1", "role": "prompter", "text": "Name a fish.", "message_tree_id": "m1"}',
        '{"message_id": "m3", "parent_id": "m1", "role": "assistant", "text": "A whale.", "rank": 1, "message_tree_id": "m1"}',
    )
}
"""Rows that the example's format needs beside it."""


@pytest.mark.parametrize("name", GUIDES)
def test_every_format_has_an_example_that_is_read_as_the_guide_says(name, tmp_path):
    examples = format_rows(name)
    assert set(examples) == {format.name for format in formats.FORMATS if format.recognise and format.read}
    for key, (kinds, row) in examples.items():
        assert formats.recognise(json.loads(row)) == key
        path = tmp_path / f"{key}.jsonl"
        path.write_text("\n".join([row, *REST_OF_FILE.get(key, ())]) + "\n", encoding="utf-8")
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


@pytest.mark.parametrize("name", [*READMES, *GUIDES])
def test_who_is_asked_about_lives_in_the_demo(name):
    recipe = read_yaml(ROOT / "recipes" / "demo.yaml")
    world = {name: recipe["steps"]["world"][name] for name in ("people", "towns", "values")}
    people = make_world(recipe["seed"], **world).people
    asked = re.findall(r"Where does (\w+) live\?", text_of(name))
    assert asked
    assert all(person.lower() in people for person in asked)


# ---- references and links


REFERENCE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.py)(?::([\w.]+))?`")


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "docs/log.md"])  # which names what there was
def test_every_file_and_function_that_is_named_exists(name):
    references = REFERENCE.findall(text_of(name))
    assert len(references) > 40 or name not in METHODS
    for file, function in references:
        if file == "rules.py":  # the guide's own
            continue
        found = next((p for p in (ROOT / file, ROOT / "tutelage" / file) if p.is_file()), None)
        assert found is not None, f"{name} names {file}"
        assert not function or function in names_in(found), f"{name} names {file}:{function}"


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


@pytest.mark.parametrize("name", WRITTEN)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text_of(name)):
        if not target.startswith(("http", *LATER)):
            assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}"


# ---- method.md


@pytest.mark.parametrize("name", METHODS)
def test_the_formulas_of_judge_and_labellers_are_those_of_the_code(name):
    for module in (judge, labellers):
        (formula,) = re.findall(r"^ +((?:score|u) = .+)$", module.__doc__ or "", re.MULTILINE)
        assert formula in text_of(name)


@pytest.mark.parametrize("name", METHODS)
def test_every_task_family_is_listed_with_its_check(name):
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


@pytest.mark.parametrize(("english", "chinese"), TRANSLATED)
def test_the_translation_is_whole(english, chinese):
    """The same headings, code (but for its comments and docstrings), table rows and references, in the same order."""
    shapes = []
    for name in (english, chinese):
        code = re.findall(r"^```(?:bash|yaml|python|jinja)\n.*?^```", text_of(name), re.DOTALL | re.MULTILINE)
        shapes.append(
            {
                "headings": [len(marks) for marks in re.findall(r"^(#+) ", prose(name), re.MULTILINE)],
                "code": [re.sub(r'\s*#.*|""".*"""', "", block) for block in code],
                "rows": [row.count("|") for row in re.findall(r"^\|.*$", prose(name), re.MULTILINE)],
                "references": REFERENCE.findall(prose(name)),
            }
        )
    for part in shapes[0]:
        assert shapes[0][part] == shapes[1][part], part
    assert len(re.findall(r"[\u4e00-\u9fff]", text_of(chinese))) > 0.1 * len(text_of(english))


@pytest.mark.parametrize("name", [*WRITTEN, "CHANGELOG.md"])
def test_no_page_names_a_place_on_somebodys_machine(name):
    assert not re.findall(r"(?<![\w.])/(?:work|tmp|home|root|Users|mnt)\b", text_of(name))
