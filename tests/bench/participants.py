"""Participants of a benchmark, good and bad; each runs in a process of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from threading import Thread


def counting(start: int = 0, speed: int = 1):
    """Answers 1, 2, 3 ... times ``speed``."""
    print("what a library prints")
    turns = iter(range(start + 1, 100))
    return lambda: (float(speed * next(turns)), {"delay": 0.5 / speed})


def unstartable():
    raise ValueError("no such model")


def dying(turns: int):
    """Leaves without a word after so many turns, as a process does that the kernel kills for its memory."""
    left = iter(range(turns))
    return lambda: 1.0 if next(left, None) is not None else os._exit(3)


def hanging():
    return lambda: time.sleep(60)


def beside(folder: str, name: str):
    """Writes down when it works; the first turn leaves a thread behind that works on."""
    file = Path(folder) / name

    def note() -> None:
        while True:
            with file.open("a") as opened:
                opened.write(f"{time.monotonic()}\n")
            time.sleep(0.005)

    Thread(target=note, daemon=True).start()
    return lambda: time.sleep(0.1) or 1.0
