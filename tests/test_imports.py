"""The arrows of the architecture, read off the syntax trees: who may import whom, and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tutelage"
EVERYBODY = {"errors", "records", "settings", "files", "seeds", "statistics"}
ALLOWED = {
    "errors": set(),
    "records": {"errors"},
    "settings": {"errors"},
    "files": {"errors"},
    "seeds": set(),
    "statistics": set(),
    "screen": set(),
    "machine": set(),
    "runs": {"errors", "settings", "files", "seeds", "screen", "__version__"},
    "world": EVERYBODY,
    "text": EVERYBODY,
    "data": EVERYBODY | {"text", "runs"},
    "model": EVERYBODY,
    "objectives": set(),
    "generate": EVERYBODY | {"model"},
    "train": EVERYBODY | {"data", "text", "model", "objectives", "runs"},
    "reproduce": EVERYBODY | {"data", "evaluate", "recipes", "runs", "world"},
    "assistant": EVERYBODY | {"generate", "text", "model", "sandbox", "screen"},
    "evaluate": EVERYBODY | {"assistant", "generate", "data", "objectives", "model", "text", "runs", "sandbox"},
    "export": EVERYBODY | {"text", "model"},
    "sandbox": EVERYBODY,
    "store": EVERYBODY,
    "serve": EVERYBODY | {"assistant", "generate", "runs", "store", "text", "__version__"},
    "loop": EVERYBODY | {"assistant", "cli", "data", "model", "recipes", "runs", "serve", "store", "text", "world"},
}
"""What each part may import of the package, itself aside; those that tie the parts together (TIES) may import all."""
NO_TORCH = {
    "errors",
    "records",
    "settings",
    "files",
    "seeds",
    "statistics",
    "screen",
    "machine",
    "runs",
    "world",
    "text",
    "store",
    "sandbox",
}
TIES = {"recipes", "cli", "__init__", "__main__"}


def parts() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        yield (relative.parts[0] if len(relative.parts) > 1 else relative.stem), path


def statements(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import statement, wherever it is (`if TYPE_CHECKING:` aside)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    yield from (
        node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in skipped
    )


def imports(path: Path) -> Iterator[str]:
    """Every module named by an import statement."""
    for node in statements(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            if node.module == "tutelage":
                yield from (f"tutelage.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


@pytest.mark.parametrize(
    ("part", "path"), list(parts()), ids=lambda value: value.name if isinstance(value, Path) else value
)
def test_arrows(part: str, path: Path) -> None:
    if part in TIES:
        return
    assert part in ALLOWED, f"{path}: a part that the architecture does not know; say in ALLOWED what it may import"
    for module in imports(path):
        if module.split(".")[0] != "tutelage":
            continue
        target = module.split(".")[1]
        if path.name == "rollouts.py" and target == "generate":
            continue
        assert target == part or target in ALLOWED[part], f"{path}: {part} may not import {module}"


def modules() -> dict[str, Path]:
    """Every module of the package and its file."""
    names = {
        path: ".".join(("tutelage", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in PACKAGE.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


@cache
def imported_modules(name: str) -> frozenset[str]:
    """The modules of the package that a module's import statements load, those inside functions too."""
    known, found = modules(), set()
    for node in statements(known[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:  # from a.b import c: c is a module, or else a name in a.b
            base = node.module or ""
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
    return frozenset(found & known.keys() - {name})


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_module_imports_itself_by_way_of_others(name: str) -> None:
    reached, waiting = set(), list(imported_modules(name))
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += imported_modules(module)
    circle = sorted(module for module in reached if name in imported_modules(module))
    assert name not in reached, f"{name} imports modules that lead back to it, through {circle}"


def test_only_rollouts_see_the_engine() -> None:
    for path in (PACKAGE / "train").glob("*.py"):
        if path.name != "rollouts.py":
            assert not any(m.startswith("tutelage.generate") for m in imports(path)), path


def test_objectives_import_torch_alone() -> None:
    allowed = {"torch", "tutelage", "__future__", *sys.stdlib_module_names}
    for path in (PACKAGE / "objectives").glob("*.py"):
        for module in imports(path):
            assert module.split(".")[0] in allowed, f"{path} imports {module}"


def test_torch_stays_out() -> None:
    """In a fresh interpreter: importing these parts, and all that they pull in, never loads torch."""
    names = [
        name
        for name, path in sorted(modules().items())
        if name.split(".")[1:2] and name.split(".")[1] in NO_TORCH and path.name != "env.py"  # alembic runs that one
    ]
    assert {name.split(".")[1] for name in names} == NO_TORCH
    code = "import sys\nfor name in sys.argv[1:]:\n    __import__(name)\n    assert 'torch' not in sys.modules, name"
    run = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_compiler_stays_out_until_something_is_compiled() -> None:
    """70 MB and a second: `torch.compiler.disable` as a decorator had loaded it with every command."""
    names = ["tutelage.serve.command", "tutelage.train.sft", "tutelage.train.ppo", "tutelage.evaluate.tasks.run"]
    code = "import sys\nfor name in sys.argv[1:]:\n    __import__(name)\n    assert 'torch._dynamo' not in sys.modules, name"
    run = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def seconds(*command: str) -> float:
    """The least user time of a few runs of a command: the machine's other work does not count against it."""
    code = (
        "import resource, subprocess, sys\n"
        "before = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "after = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, text=True).stdout
        for _ in range(5)
    ]
    return min(float(run) for run in runs)


@pytest.mark.proof
def test_importing_the_package_is_quick() -> None:
    bare = seconds(sys.executable, "-c", "pass")
    assert seconds(sys.executable, "-c", "import tutelage") - bare < 0.1


@pytest.mark.proof
def test_help_is_quick() -> None:
    assert seconds(sys.executable, "-m", "tutelage", "--help") < 0.5
