"""What is kept of the choice between native decoding and torch: who is faster, and not whether they are equal."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from model_helpers import FAMILIES, build, small

from tutelage.model.native import choice, settle
from tutelage.model.native.build import library
from tutelage.model.native.decoder import NativeDecoder

pytestmark = pytest.mark.skipif(library()[0] is None, reason=library()[1] or "there is a compiler")


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What was timed; verdicts are kept in a folder of this test."""
    found: list[bool] = []
    monkeypatch.delenv("TUTELAGE_DECODE", raising=False)
    loaded = library()[0]
    assert isinstance(loaded, ctypes.CDLL)
    monkeypatch.setattr(settle, "library", lambda: (SimpleNamespace(_name=str(tmp_path / "x.so")), ""))
    slow = choice._found_slow
    monkeypatch.setattr(choice, "_found_slow", lambda *given: found.append(True) or slow(*given))
    return found


def kept(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in (folder / "choices").iterdir()]


def test_another_model_of_the_shape_is_compared_and_not_timed(timed: list[bool], tmp_path: Path) -> None:
    model = build(small("llama"))
    assert isinstance(settle.settled(model, torch.float32, 3), NativeDecoder)
    (found,) = kept(tmp_path)
    assert (timed, found in (b"native\n", b"native steps\n")) == ([True], True)
    assert isinstance(settle.settled(model, torch.float32, 4), NativeDecoder)  # 3 and 4 rows have one power of two
    model.final_norm.weight.data[0] = torch.nan
    assert settle.settled(model, torch.float32, 4) is None
    assert (timed, kept(tmp_path)) == ([True], [found])


@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.usefixtures("timed")
def test_whose_prompts_are_faster_is_kept_too(faster: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, timed = build(small("llama")), list[int]()

    def held_up(self: NativeDecoder, pieces: list[list[int]], cache: object) -> None:
        timed.append(len(pieces[0]))
        time.sleep(0.001 if faster else 0.1)

    def late(*given: object, **more: object) -> object:
        time.sleep(0.05)
        return forward(*given, **more)

    monkeypatch.setattr(choice, "_found_wrong", lambda *given: None)
    monkeypatch.setattr(choice, "_found_slow", lambda *given: None)
    monkeypatch.setattr(NativeDecoder, "prefill", held_up)
    forward = model.forward
    monkeypatch.setattr(model, "forward", late)
    for _ in range(2):
        found = settle.settled(model, torch.float32, 3)
        assert isinstance(found, NativeDecoder)
        assert found.prefills == faster
    assert timed == [min(128, model.config.max_position_embeddings - 1)] * 5
    assert kept(tmp_path) == [b"native\n" if faster else b"native steps\n"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_bf16_weights(family: str, timed: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and the second of its shape; torch multiplies its weights under bf16 autocast alone, and is timed in one copy."""
    copies, copy = list[bool](), choice.inference_copy
    monkeypatch.setattr(choice, "inference_copy", lambda *given: copies.append(True) or copy(*given))
    model = build(small(family).model_copy(update={"init_std": 0.1})).bfloat16()
    for _ in range(2):
        found = settle.settled(model, torch.bfloat16, 2)
        assert isinstance(found, NativeDecoder)
        assert found.dtype == "bf16"
    assert (timed, copies) == ([True], [True])


def test_what_was_slower_stays_with_torch(timed: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_found_slow", lambda *given: timed.append(True) or "it is slower")
    model = build(small("llama"))
    assert settle.settled(model, torch.float32, 4) is None
    assert settle.settled(model, torch.float32, 4) is None
    assert (timed, kept(tmp_path)) == ([True], [b"torch\n"])
    settle.settled(model, torch.bfloat16, 4)
    settle.settled(model, torch.float32, 5)
    assert len(timed) == 3
