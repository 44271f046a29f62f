"""Evaluates the small Python functions that models write, without handing them to Python.

The source is parsed, and a walk over its syntax tree computes the value. Only the nodes below are known. There are no imports,
no attributes except a few methods of str and list, and no names except arguments, variables and a few functions. Steps, depth
and the size of every value are limited. So nothing that a model writes can reach the machine or keep it busy.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MAX_SOURCE = 2000
"""Characters of a source."""
MAX_STEPS = 2000
"""Statements, expressions and turns of loops."""
MAX_DEPTH = 30
"""Nested calls."""
MAX_NESTING = 100
"""Nested expressions."""
MAX_SIZE = 1000
"""Characters of a string, items of a list and of the lists within it, bits of a number."""

Scope = dict[str, Any]


class EvaluationError(Exception):
    """The source is not a program that the evaluator knows, or it failed, or it exceeded a limit."""


class _Jump(Exception):
    """Leaves statements as return, break or continue do."""

    def __init__(self, kind: type[ast.stmt], value: Any = None) -> None:
        self.kind, self.value = kind, value


_FAILURES = (_Jump, ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError, MemoryError)
"""What evaluation can raise: a jump is break or continue outside of a loop."""
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not, ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
_UNARY: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
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
    try:
        return _Machine({function.name: function for function in functions}).call(name, list(arguments))
    except _FAILURES as error:
        raise EvaluationError(f"{type(error).__name__}: {error}") from error


class _Machine:
    def __init__(self, functions: dict[str, ast.FunctionDef]) -> None:
        self.functions = functions
        self.steps = self.calls = self.nesting = 0

    def call(self, name: str, arguments: list[Any]) -> Any:
        function = self.functions.get(name)
        if function is None:
            raise EvaluationError(f"no function {name}")
        spec = function.args
        if spec.vararg or spec.kwarg or spec.kwonlyargs or spec.defaults or function.decorator_list:
            raise EvaluationError("only plain arguments are known")
        names = [argument.arg for argument in [*spec.posonlyargs, *spec.args]]
        if len(names) != len(arguments):
            raise EvaluationError(f"{name} takes {len(names)} arguments")
        self.calls += 1
        if self.calls > MAX_DEPTH:
            raise EvaluationError("calls are nested too deeply")
        try:
            self.run(function.body, dict(zip(names, arguments, strict=True)))
        except _Jump as jump:
            if jump.kind is not ast.Return:
                raise
            return jump.value
        finally:
            self.calls -= 1
        return None

    def tick(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise EvaluationError("too many steps")

    def run(self, body: list[ast.stmt], scope: Scope) -> None:
        for statement in body:
            self.statement(statement, scope)

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        self.tick()
        match node:
            case ast.Return():
                raise _Jump(ast.Return, None if node.value is None else self.value(node.value, scope))
            case ast.Expr():
                self.value(node.value, scope)
            case ast.Assign():
                value = self.value(node.value, scope)
                for target in node.targets:
                    self.assign(target, value, scope)
            case ast.AugAssign():
                left = self.value(node.target, scope)
                self.assign(node.target, self.binary(node.op, left, self.value(node.value, scope)), scope)
            case ast.If():
                self.run(node.body if self.value(node.test, scope) else node.orelse, scope)
            case ast.For() | ast.While():
                self.loop(node, scope)
            case ast.Break() | ast.Continue():
                raise _Jump(type(node))
            case ast.Pass():
                pass
            case _:
                raise _unknown(node)

    def loop(self, node: ast.For | ast.While, scope: Scope) -> None:
        for _ in self.turns(node, scope):
            try:
                self.run(node.body, scope)
            except _Jump as jump:
                if jump.kind is ast.Break:
                    return
                if jump.kind is ast.Return:
                    raise
        self.run(node.orelse, scope)

    def turns(self, node: ast.For | ast.While, scope: Scope) -> Iterator[None]:
        """Yield once per turn of the loop, when its variable is set."""
        if isinstance(node, ast.For):
            for item in _items(self.value(node.iter, scope)):
                self.tick()
                self.assign(node.target, item, scope)
                yield
            self.tick()
        else:
            self.tick()
            while self.value(node.test, scope):
                yield
                self.tick()

    def assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            scope[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            values = _items(value)
            if len(values) != len(target.elts):
                raise EvaluationError("wrong number of values to unpack")
            for part, item in zip(target.elts, values, strict=True):
                self.assign(part, item, scope)
        else:
            raise EvaluationError(f"{type(target).__name__} cannot be assigned to")

    def value(self, node: ast.expr, scope: Scope) -> Any:
        """The value of an expression, within the limits."""
        self.tick()
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise EvaluationError("nested too deeply")
        try:
            return _sized(self.expression(node, scope))
        finally:
            self.nesting -= 1

    def expression(self, node: ast.expr, scope: Scope) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                if node.id not in scope:
                    raise EvaluationError(f"{node.id} is not defined")
                return scope[node.id]
            case ast.BinOp():
                return self.binary(node.op, self.value(node.left, scope), self.value(node.right, scope))
            case ast.UnaryOp() if type(node.op) in _UNARY:
                return _UNARY[type(node.op)](self.value(node.operand, scope))
            case ast.Compare():
                return self.compare(node, scope)
            case ast.BoolOp():
                return self.boolean(node, scope)
            case ast.IfExp():
                return self.value(node.body if self.value(node.test, scope) else node.orelse, scope)
            case ast.Call():
                return self.calling(node, scope)
            case ast.Subscript():
                return self.value(node.value, scope)[self.index(node.slice, scope)]
            case ast.List() | ast.Tuple():
                return [self.value(item, scope) for item in node.elts]
            case ast.ListComp() | ast.GeneratorExp():
                return self.comprehension(node.elt, node.generators, dict(scope))
            case ast.JoinedStr():
                return "".join(self.piece(part, scope) for part in node.values)
        raise _unknown(node)

    def binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        if type(op) not in _BINARY:
            raise _unknown(op)
        if isinstance(op, ast.Mod) and isinstance(left, str):
            raise EvaluationError("% of a string is not known")
        if isinstance(op, ast.Pow) and not (isinstance(right, int | float) and abs(right) <= 64):
            raise EvaluationError("exponent is too large")
        if isinstance(op, ast.Mult):
            for text, times in ((left, right), (right, left)):
                if isinstance(text, str | list) and isinstance(times, int) and len(text) * times > MAX_SIZE:
                    raise EvaluationError("value is too large")
        return _BINARY[type(op)](left, right)

    def compare(self, node: ast.Compare, scope: Scope) -> bool:
        left = self.value(node.left, scope)
        rights = (self.value(part, scope) for part in node.comparators)
        for op, right in zip(node.ops, rights, strict=True):
            if not _COMPARE[type(op)](left, right):
                return False
            left = right
        return True

    def boolean(self, node: ast.BoolOp, scope: Scope) -> Any:
        for part in node.values:
            value = self.value(part, scope)
            if bool(value) == isinstance(node.op, ast.Or):
                break
        return value

    def calling(self, node: ast.Call, scope: Scope) -> Any:
        keywords = {keyword.arg: self.value(keyword.value, scope) for keyword in node.keywords}
        arguments = [self.value(argument, scope) for argument in node.args]
        if isinstance(node.func, ast.Attribute):
            target = self.value(node.func.value, scope)
            if keywords or node.func.attr not in _METHODS.get(type(target), ()):
                raise EvaluationError(f"no method {node.func.attr}")
            return getattr(target, node.func.attr)(*arguments)
        if not isinstance(node.func, ast.Name):
            raise EvaluationError("only names can be called")
        name = node.func.id
        if name in self.functions and not keywords:
            return self.call(name, arguments)
        if name not in _BUILTINS or (keywords and not (name == "sorted" and set(keywords) == {"reverse"})):
            raise EvaluationError(f"no function {name}")
        return _BUILTINS[name](*arguments, **{str(key): value for key, value in keywords.items()})

    def index(self, node: ast.expr, scope: Scope) -> Any:
        if isinstance(node, ast.Slice):
            parts = (node.lower, node.upper, node.step)
            return slice(*(None if part is None else self.value(part, scope) for part in parts))
        return self.value(node, scope)

    def comprehension(self, element: ast.expr, generators: list[ast.comprehension], scope: Scope) -> list[Any]:
        if not generators:
            return [self.value(element, scope)]
        first, *rest = generators
        found: list[Any] = []
        for item in _items(self.value(first.iter, scope)):
            self.assign(first.target, item, scope)
            if all(self.value(test, scope) for test in first.ifs):
                found += self.comprehension(element, rest, scope)
        return found

    def piece(self, node: ast.expr, scope: Scope) -> str:
        """A part of an f-string."""
        match node:
            case ast.Constant():
                return str(node.value)
            case ast.FormattedValue(format_spec=None, conversion=-1):
                return str(self.value(node.value, scope))
        raise EvaluationError("formats are not known")


def _unknown(node: ast.AST) -> EvaluationError:
    return EvaluationError(f"{type(node).__name__} is not known")


def _items(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise EvaluationError("only strings and lists can be iterated over")
    return value


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
