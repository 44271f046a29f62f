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
_KNOWS_AVX512 = 12
"""From this version on GCC and clang know the instructions that torch looks for; AMX is tested in any case."""


def compile_layers(model: Decoder) -> None:
    """Compile the layers for train mode. Eval mode runs them as they are: its lengths vary, and each would be compiled.

    All layers share one compilation. Compiling the whole model is not faster and takes twice as long, and it would make
    the CPU add up the embedding's gradient in the order in which threads arrive, so that equal runs would differ.
    """
    for layer in model.layers:
        layer.forward = _in_train_mode(layer, compiled(layer.forward), layer.forward)


def _in_train_mode(module: nn.Module, fast: F, plain: F) -> F:
    @functools.wraps(plain)
    def forward(*args: Any) -> Any:
        return (fast if module.training else plain)(*args)

    return forward  # type: ignore[return-value]


def compiled(function: F) -> F:
    """``torch.compile`` of a function with fixed shapes; without a C++ compiler, the function itself and a message."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        print("compile: no C++ compiler found (c++, g++ or clang++); continuing without")
        return function
    # torch compiles trial programs to find the vector instructions that the compiler knows: half a minute per machine.
    options: dict[str, Any] = {"cpp.vec_isa_ok": True} if _version(compiler) >= _KNOWS_AVX512 else {}
    return torch.compile(function, dynamic=False, options=options)  # type: ignore[return-value]


def _version(compiler: str) -> int:
    """The major version; 0 if it cannot be read."""
    output = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"\d+", output)
    return int(found[0]) if found else 0
