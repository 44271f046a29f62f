"""What the differences of several seeds say of a claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from tutelage.statistics import mean_interval

Word = Literal["reproduced", "opposite", "undecided"]


class Verdict(NamedTuple):
    """The mean difference over seeds with its 95% interval (Student's t), and what it says."""

    word: Word
    mean: float
    low: float
    high: float

    @property
    def could_see(self) -> float:
        """The smallest mean difference whose interval, with differences that spread as these do, would not have held 0."""
        return (self.high - self.low) / 2


def verdict(differences: Sequence[float]) -> Verdict:
    """``reproduced`` if the interval is above 0 and so is every seed, ``opposite`` if both are below, else ``undecided``.

    ``differences`` [seeds] are paired: each is of two figures of one seed. One seed decides nothing.
    """
    found = mean_interval(differences)
    word: Word = "undecided"
    if found.low > 0 and min(differences) > 0:
        word = "reproduced"
    elif found.high < 0 and max(differences) < 0:
        word = "opposite"
    return Verdict(word, *found)
