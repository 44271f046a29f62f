"""torch.compile for training steps of one fixed shape."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from tutelage.model.decoder import Decoder

F = TypeVar("F", bound=Callable[..., Any])


def compile_layers(model: Decoder) -> None:
    """Run the layers compiled in train mode, and as they are in eval mode, where lengths vary: each length would be compiled anew.

    One layer's code serves all. The whole model in one graph is no faster and takes twice as long to compile, and with the
    embeddings in it, whose gradient is then added up on the CPU in the order in which threads come by, the same run twice would end
    with other weights.
    """
    for layer in model.layers:
        layer.forward = _in_train_mode(layer, compiled(layer.forward), layer.forward)


def _in_train_mode(module: nn.Module, fast: F, plain: F) -> F:
    @functools.wraps(plain)
    def forward(*args: Any) -> Any:
        return (fast if module.training else plain)(*args)

    return forward  # type: ignore[return-value]


def compiled(function: F) -> F:
    """``torch.compile`` of a function of fixed shapes; the function itself, with a word, where there is no C++ compiler."""
    compiler = _compiler()
    if compiler is None:
        print("compile: no C++ compiler found (c++, g++ or clang++); going on without")
        return function
    # torch compiles a few trial programs to see which vector instructions the compiler knows: half a minute, once a machine.
    options: dict[str, Any] = {"cpp.vec_isa_ok": True} if _version(compiler) >= _KNOWS_AVX512 else {}
    return torch.compile(function, dynamic=False, options=options)  # type: ignore[return-value]


_KNOWS_AVX512 = 12
"""GCC and clang of this version know the instructions that torch looks for in the processor; AMX is tried out all the same."""


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def _version(compiler: str) -> int:
    """The major version; 0 where it cannot be read."""
    said = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"\d+", said)
    return int(found[0]) if found else 0
