"""The first code of a run, in the process that is to be walled in: ``python -c <this file> READY JOB [PROGRAM]``.

The arguments are descriptors. A job is a marshalled dict. This process sets its limits, raises what is left to raise of its wall,
writes a byte to READY, and becomes the program. With a third descriptor that is the program, which a fork of this process becomes,
while this one becomes the tests that call it; each reads its own job only.

It imports nothing of the package, which is not visible here, and little else: starting Python is most of the time of a short run.
"""

from __future__ import annotations

import builtins
import marshal
import os
import resource
import sys

TYPE_CHECKING = False  # importing typing would double the time of a start
if TYPE_CHECKING:
    from typing import Any, BinaryIO

_AST_ONLY = 0x400
"""ast.PyCF_ONLY_AST; the module ast is slow to import too."""
_LANDLOCK = 444


def main(ready: int, job: int, program: int = -1) -> None:
    if program < 0:
        work = _take(job)
        _confine(work, ready)
        _say(ready)
        sys.argv = ["program.py", *work["arguments"]]
        sys.path.insert(0, os.getcwd())
        _execute(work["source"], _module("__main__"))
        return
    questions, ask = os.pipe()
    answers, answer = os.pipe()
    begin, go = os.pipe()
    if os.fork() == 0:
        os.dup2(2, 1)  # stdout belongs to the tests
        work = _take(program)
        _confine(work, questions, answer, begin)
        os.read(begin, 1)  # until the tests stand, for a program may kill them, and that is its own failure
        os.close(begin)
        _serve(work, os.fdopen(questions, "rb"), os.fdopen(answer, "wb"))
    else:
        work = _take(job)
        _confine(work, ready, ask, answers, go)
        _say(ready)
        _say(go)
        _test(work, os.fdopen(ask, "wb"), os.fdopen(answers, "rb"))


def _take(job: int) -> dict[str, Any]:
    with os.fdopen(job, "rb") as file:
        file.seek(0)
        return marshal.load(file)


def _say(ready: int) -> None:
    os.write(ready, b"1")
    os.close(ready)


def _module(name: str) -> dict[str, Any]:
    """The names of a new module, which takes the place of ``name``."""
    module = sys.modules[name] = type(sys)(name)
    return vars(module)


def _execute(source: str, names: dict[str, Any]) -> None:
    """Run a source; what it raises is printed as Python does, without the frames of this file, and ends the process."""
    try:
        exec(compile(source, "program.py", "exec"), names)
    except SystemExit:
        raise
    except BaseException as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)


# Limits and walls


def _confine(work: dict[str, Any], *kept: int) -> None:
    """Keep the three standard descriptors and ``kept``, and give up all else that the work does not need."""
    end = 3
    for descriptor in sorted(kept):
        os.closerange(end, descriptor)
        end = descriptor + 1
    os.closerange(end, max(end, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
    if work["user"]:  # a user that owns nothing; the capabilities go with the user
        os.setgroups([])
        os.setresgid(*[work["user"]] * 3)
        os.setresuid(*[work["user"]] * 3)
    for name, content in work["files"].items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "wb") as file:
            file.write(content)
    for name, value in work["limits"].items():
        which = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        later = value + (name == "CPU")  # SIGXCPU first, which says what the matter is, then SIGKILL
        resource.setrlimit(which, (value, later if hard == resource.RLIM_INFINITY else min(later, hard)))
    if work["filter"]:
        _seal(work["filter"], work["readable"])
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # what the module site would add


def _seal(code: bytes, readable: list[str]) -> None:
    """The wall without namespaces: no capabilities, Landlock (only ``readable`` can be read, nothing written), the filter."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def call(function: Any, *arguments: Any) -> int:
        result: int = function(*[ctypes.c_ulong(x) if isinstance(x, int) else x for x in arguments])
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    call(libc.prctl, 1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL: no run outlives its caller
    call(libc.prctl, 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    version = call(libc.syscall, _LANDLOCK, None, 0, 1)
    rights = 0x1FFF | (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15  # all that the kernel knows
    ruleset = call(libc.syscall, _LANDLOCK, ctypes.byref(ctypes.c_uint64(rights)), 8, 0)
    for path in readable:
        try:
            opened = os.open(path, os.O_PATH)
        except FileNotFoundError:
            continue
        allowed = (
            0b1100 if os.path.isdir(path) else 0b0110 if path == os.devnull else 0b0100
        )  # folders, files read; written
        beneath = ctypes.create_string_buffer(
            allowed.to_bytes(8, sys.byteorder) + opened.to_bytes(4, sys.byteorder), 12
        )
        call(libc.syscall, _LANDLOCK + 1, ruleset, 1, beneath, 0)
        os.close(opened)
    call(libc.syscall, _LANDLOCK + 2, ruleset, 0)
    os.close(ruleset)
    header = ctypes.create_string_buffer((0x20080522).to_bytes(4, sys.byteorder), 8)
    call(libc.capset, header, ctypes.create_string_buffer(24))  # no capability in any set

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]

    call(libc.prctl, 22, 2, ctypes.byref(Filter(len(code) // 8, code)), 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


# A check: the tests ask, the program answers, one line each


def _serve(work: dict[str, Any], questions: BinaryIO, answers: BinaryIO) -> None:
    names = _module("program")
    _execute(work["source"], names)
    while line := questions.readline():
        name, arguments, keywords = _read(line)
        try:
            answer = _written(("value", names[name](*arguments, **keywords)))
        except Exception as error:
            answer = _written(("error", type(error).__name__, str(error)))
        answers.write(answer.encode() + b"\n")
        answers.flush()


def _test(work: dict[str, Any], questions: BinaryIO, answers: BinaryIO) -> None:
    def function(name: str) -> Any:
        def ask(*arguments: Any, **keywords: Any) -> Any:
            question = _written((name, arguments, keywords)).encode() + b"\n"
            try:
                questions.write(question)
                questions.flush()
                line = answers.readline()
            except BrokenPipeError:
                line = b""
            if not line.endswith(b"\n"):
                _leave(name)
            kind, *said = _read(line)
            if kind == "value":
                return said[0]
            raise _error(*said)

        return ask

    names = _module("__main__")
    _execute(work["setup"], names)
    names |= {name: function(name) for name in work["names"]}
    _execute(work["tests"], names)


def _leave(name: str) -> None:
    """End the tests as the program ended that should have answered. No exception: tests could catch it and go on."""
    code = os.waitstatus_to_exitcode(os.wait()[1])
    if code != 1:  # else its own last words say it
        sys.stderr.write(f"the program ended before {name} gave a value\n")
    sys.stderr.flush()
    os._exit(128 - code if code < 0 else code or 1)


def _error(name: str, message: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError):
        return kind(message)
    return RuntimeError(f"{name}: {message}")


def _written(value: Any) -> str:
    """A value as an ASCII line that `_read` reads; of a subclass what it is to its base class. TypeError for what is not plain."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int):
        return f"{int(value):#x}"  # decimal digits have a limit
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, complex):
        return f"complex({value.real!r}, {value.imag!r})"
    if isinstance(value, str):
        return ascii(str(value))
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(key)}: {_written(item)}" for key, item in value.items()) + "}"
    for kind, form in ((list, "[{}]"), (tuple, "({})"), (set, "set([{}])"), (frozenset, "frozenset([{}])")):
        if isinstance(value, kind):
            return form.format("".join(f"{_written(item)}, " for item in value))
    raise TypeError(f"a value of type {type(value).__name__} cannot be handed from the program to its tests or back")


_CALLS = {"set": set, "frozenset": frozenset, "complex": complex}
_NAMES = {"inf": float("inf"), "nan": float("nan")}


def _read(line: bytes) -> Any:
    """The value of a line, whoever wrote it: parsed as an expression, of which nothing is evaluated but what `_written` writes."""
    return _value(compile(line, "value", "eval", _AST_ONLY).body)


def _value(node: Any) -> Any:
    kind = type(node).__name__
    if kind == "Constant":
        return node.value
    if kind == "UnaryOp":
        return -_value(node.operand)
    if kind == "Name":
        return _NAMES[node.id]
    if kind == "Dict":
        return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True)}
    if kind == "List":
        return [_value(item) for item in node.elts]
    if kind == "Tuple":
        return tuple(_value(item) for item in node.elts)
    if kind == "Call":
        return _CALLS[node.func.id](*[_value(item) for item in node.args])
    raise ValueError(f"not a value: {kind}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
