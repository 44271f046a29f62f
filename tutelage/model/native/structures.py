"""The structures that decode.cpp reads, and its functions, as ctypes sees them."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from typing import Any


class Matrix(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("weights", "scales", "bias")),
        *((name, c_int32) for name in ("rows", "cols")),
    )


class Norm(ctypes.Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class Layer(ctypes.Structure):
    _fields_ = (
        *((name, Norm) for name in ("attention_norm", "mlp_norm")),
        *((name, c_void_p) for name in ("q_norm", "k_norm")),
        *((name, Matrix) for name in ("qkv", "out", "gate", "up", "down")),
        ("window", c_int32),
    )


class Model(ctypes.Structure):
    _fields_ = (
        *(
            (name, c_int32)
            for name in ("kind", "vocab", "hidden", "num_layers", "heads", "kv_heads", "head_dim", "rotary")
        ),
        *((name, c_int32) for name in ("inner", "layernorm", "activation", "gated", "parallel")),
        ("eps", c_float),
        *((name, c_void_p) for name in ("embed", "positions")),
        ("final_norm", Norm),
        ("unembed", Matrix),
        ("layers", c_void_p),
    )


class Job(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in ("rows", "steps", "threads", "capacity", "table", "cache_bf16", "stops_per_row")),
        *(
            (name, c_void_p)
            for name in ("tokens", "lengths", "strides", "owners", "cache", "cos", "sin", "scratch", "logits", "ids")
        ),
        *((name, c_void_p) for name in ("logprobs", "uniforms", "temperatures", "stops", "done", "stopped")),
    )


_P = c_void_p
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "best_level": (c_int, ()),
    "panel_size": (c_int, (c_int,)),
    "pack_matrix": (None, (c_int, c_int, _P, c_int, c_int, c_int, _P, _P)),
    "scratch_size": (c_size_t, (c_int, _P, _P)),
    "decode_steps": (c_int, (c_int, _P, _P)),
    "test_matmul": (None, (c_int, c_int, _P, _P, c_int, _P, c_int, c_int, _P)),
    "test_attend": (None, (c_int, _P, c_int, c_int, _P, _P, c_int, c_int, _P, _P)),
    "test_activate": (None, (c_int, c_int, _P, _P, c_int, _P)),
    "test_norm": (None, (c_int, _P, c_int, _P, _P, c_int, c_float, _P)),
    "test_rotate": (None, (c_int, _P, _P, _P, c_int)),
    "test_sample": (c_int64, (c_int, _P, c_int, c_float, c_double, _P, _P)),
}


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes the types of the library's functions; returns it."""
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
