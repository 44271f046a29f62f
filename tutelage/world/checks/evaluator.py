"""Evaluates the small Python functions that models write, within limits and apart from the machine.

The syntax tree of a source is rewritten before Python runs it. Only the nodes below stay; any other raises when it is reached.
Every value, operation, method and turn of a loop goes through a `_Machine`, which counts steps and limits sizes. There are no
imports, no attributes except a few methods of str and list, no assignment except to variables, and no names except arguments,
variables and a few functions. So nothing that a model writes can reach the machine or keep it busy.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any

MAX_SOURCE = 2000
"""Characters of a source."""
MAX_STEPS = 2000
"""Expressions and turns of loops."""
MAX_DEPTH = 30
"""Nested calls."""
MAX_SIZE = 1000
"""Characters of a string, items of a list and of the lists within it, bits of a number."""


class EvaluationError(Exception):
    """The source is not a program that the evaluator knows, or it failed, or it exceeded a limit."""


_FAILURES = (
    SyntaxError, NameError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError, MemoryError,
)  # fmt: skip
"""What compilation and evaluation can raise: a break outside of a loop is a SyntaxError."""
_KEPT = (
    ast.Return, ast.Expr, ast.Assign, ast.If, ast.For, ast.While, ast.Break, ast.Continue, ast.Pass, ast.Constant, ast.Name,
    ast.Compare, ast.BoolOp, ast.IfExp, ast.Subscript, ast.Slice, ast.List, ast.ListComp, ast.comprehension, ast.expr_context,
    ast.boolop, ast.cmpop,
)  # fmt: skip
"""Nodes that stay as they are, but for what is within them."""
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "Add": operator.add, "Sub": operator.sub, "Mult": operator.mul, "Div": operator.truediv, "FloorDiv": operator.floordiv,
    "Mod": operator.mod, "Pow": operator.pow, "USub": operator.neg, "UAdd": operator.pos, "Not": operator.not_,
}  # fmt: skip
_METHODS: dict[type, tuple[str, ...]] = {
    str: ("upper", "lower", "title", "capitalize", "swapcase", "strip", "split", "join", "replace", "count", "find",
          "startswith", "endswith", "isupper", "islower", "isdigit"),
    list: ("append", "insert", "extend", "pop", "reverse", "sort", "copy", "count", "index"),
}  # fmt: skip


def _range(*arguments: int) -> list[int]:
    numbers = range(*arguments)
    if len(numbers) > MAX_SIZE:
        raise EvaluationError("range is too long")
    return list(numbers)


_BUILTINS: dict[str, Callable[..., Any]] = {
    "len": len, "sum": sum, "max": max, "min": min, "abs": abs, "str": str, "int": int, "float": float, "bool": bool, "list": list,
    "sorted": sorted, "round": round, "range": _range, "reversed": lambda items: list(items)[::-1],
    "enumerate": lambda items: [list(pair) for pair in enumerate(items)],
}  # fmt: skip


def functions_in(source: str) -> list[ast.FunctionDef]:
    """The functions that a source defines at its top level; EvaluationError where it does not parse."""
    if len(source) > MAX_SOURCE:
        raise EvaluationError("source is too long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise EvaluationError(f"not Python: {error}") from error
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]


def call(functions: list[ast.FunctionDef], name: str, arguments: Iterable[Any]) -> Any:
    """The value of a call; the functions may call each other. Raises EvaluationError whatever goes wrong."""
    machine = _Machine()
    names: dict[str, Any] = {"__builtins__": {}, **_BUILTINS} | {
        _hidden(part): getattr(machine, part) for part in _Machine.PARTS
    }
    try:
        guarded: list[ast.stmt] = [_guarded(function) for function in functions]
        tree = ast.fix_missing_locations(ast.Module(guarded, type_ignores=[]))
        exec(compile(tree, "answer", "exec"), names)
        names |= {function.name: machine.nested(names[function.name]) for function in functions}
        if name not in {function.name for function in functions}:
            raise EvaluationError(f"no function {name}")
        return names[name](*arguments)
    except _FAILURES as error:
        raise EvaluationError(f"{type(error).__name__}: {error}") from error


def _guarded(function: ast.FunctionDef) -> ast.FunctionDef:
    """A copy of a function that a `_Machine` watches; type hints are dropped."""
    spec = function.args
    if spec.vararg or spec.kwarg or spec.kwonlyargs or spec.defaults or function.decorator_list:
        raise EvaluationError("only plain arguments are known")
    function = deepcopy(function)
    function.returns = None
    for argument in (*function.args.posonlyargs, *function.args.args):
        argument.annotation = None
    function.body = [_Guard().visit(statement) for statement in function.body]
    return function


def _hidden(part: str) -> str:
    """The name of a part of the `_Machine` in a rewritten tree: one that no source can contain."""
    return f"<{part}>"


def _watched(part: str, *arguments: Any) -> ast.Call:
    """A call of a part of the `_Machine`, with expressions, or texts, as arguments."""
    nodes = [argument if isinstance(argument, ast.expr) else ast.Constant(argument) for argument in arguments]
    return ast.Call(ast.Name(_hidden(part), ast.Load()), nodes, [])


class _Guard(ast.NodeTransformer):
    """Rewrites the body of a function."""

    def visit(self, node: ast.AST) -> Any:
        match node:
            case ast.Name(ctx=ast.Store()) | ast.Tuple(ctx=ast.Store()) | ast.List(ctx=ast.Store()):
                return node
            case ast.Slice() | ast.expr_context() | ast.boolop() | ast.cmpop():
                return self.generic_visit(node)
            case ast.expr():
                return _watched("value", self.expression(node))
            case ast.AugAssign(target=ast.Name(id=name)):
                node = ast.Assign([node.target], ast.BinOp(ast.Name(name, ast.Load()), node.op, node.value))
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        if not isinstance(node, _KEPT) or not all(map(_is_variable, targets)):
            return ast.Expr(_watched("unknown", type(node).__name__))
        node = self.generic_visit(node)
        if isinstance(node, ast.For | ast.comprehension):
            node.iter = _watched("turns", node.iter)
        return node

    def expression(self, node: ast.expr) -> Any:
        match node:
            case ast.BinOp(left, op, right):
                return _watched("operation", type(op).__name__, self.visit(left), self.visit(right))
            case ast.UnaryOp(op, operand):
                return _watched("operation", type(op).__name__, self.visit(operand))
            case ast.Call(ast.Attribute(target, name), arguments, []):
                return _watched("method", self.visit(target), name, *map(self.visit, arguments))
            case ast.Call(ast.Name(name), arguments, keywords) if not keywords or (
                name == "sorted" and [keyword.arg for keyword in keywords] == ["reverse"]
            ):
                named = [ast.keyword(keyword.arg, self.visit(keyword.value)) for keyword in keywords]
                return ast.Call(node.func, [*map(self.visit, arguments)], named)
            case ast.Tuple(items):
                return ast.List([*map(self.visit, items)], ast.Load())
            case ast.GeneratorExp(element, generators) | ast.ListComp(element, generators):
                return ast.ListComp(self.visit(element), [*map(self.visit, generators)])
            case ast.JoinedStr(parts):
                return _watched("joined", *map(self.visit, parts))
            case ast.FormattedValue(value, -1, None):
                return self.expression(value)
        return self.generic_visit(node) if isinstance(node, _KEPT) else _watched("unknown", type(node).__name__)


def _is_variable(target: ast.expr | None) -> bool:
    """Whether a target of an assignment is a variable, or several in a tuple or list; so is no target at all."""
    return (
        all(map(_is_variable, target.elts))
        if isinstance(target, ast.Tuple | ast.List)
        else isinstance(target, ast.Name | None)
    )


class _Machine:
    """Counts the steps of one evaluation, and limits the sizes of its values."""

    PARTS = ("value", "operation", "method", "joined", "turns", "unknown")

    def __init__(self) -> None:
        self.steps = self.calls = 0

    def tick(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise EvaluationError("too many steps")

    def value(self, value: Any) -> Any:
        self.tick()
        return _sized(value)

    def operation(self, name: str, *values: Any) -> Any:
        if name not in _OPERATIONS:
            self.unknown(name)
        first, last = values[0], values[-1]
        if name == "Mod" and isinstance(first, str):
            raise EvaluationError("% of a string is not known")
        if name == "Pow" and not (isinstance(last, int | float) and abs(last) <= 64):
            raise EvaluationError("exponent is too large")
        if name == "Mult":
            for text, times in ((first, last), (last, first)):
                if isinstance(text, str | list) and isinstance(times, int) and len(text) * times > MAX_SIZE:
                    raise EvaluationError("value is too large")
        return _OPERATIONS[name](*values)

    def method(self, target: Any, name: str, *arguments: Any) -> Any:
        if name not in _METHODS.get(type(target), ()):
            raise EvaluationError(f"no method {name}")
        return getattr(target, name)(*arguments)

    def joined(self, *parts: Any) -> str:
        return "".join(map(str, parts))

    def turns(self, items: Any) -> Iterator[Any]:
        if not isinstance(items, str | list):
            raise EvaluationError("only strings and lists can be iterated over")
        for item in items:
            self.tick()
            yield item

    def unknown(self, name: str) -> None:
        raise EvaluationError(f"{name} is not known")

    def nested(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which may call itself and others so deep and no deeper."""

        def limited(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls > MAX_DEPTH:
                raise EvaluationError("calls are nested too deeply")
            try:
                return function(*arguments)
            finally:
                self.calls -= 1

        return limited


def _sized(value: Any) -> Any:
    """The value itself, unless it is too large or of an unknown type."""
    match value:
        case str():
            size = len(value)
        case list():
            size = _total(value)
        case int():
            size = value.bit_length()
        case float() | None:
            size = 0
        case _:
            raise EvaluationError(f"{type(value).__name__} is not known")
    if size > MAX_SIZE:
        raise EvaluationError("value is too large")
    return value


def _total(value: list[Any]) -> int:
    """Items and lists within a list, as often as they occur (x = [x, x] doubles them), counted no further than past MAX_SIZE."""
    waiting, seen = [value], 0
    while waiting and seen <= MAX_SIZE:
        items = waiting.pop()
        seen += 1 + len(items)
        waiting += [item for item in items if isinstance(item, list)]
    return seen
