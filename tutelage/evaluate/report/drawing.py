"""How models and runs look in every table and plot, and matplotlib figures as SVG that follows the page's colour scheme."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Colour = Literal["blue", "vermilion", "green", "purple", "ochre", "sky", "pink", "grey", "slate"]
# The light colours. report.css defines variables of these names, and their dark values. The hues follow Okabe and Ito: people
# with any kind of colour vision can tell them apart.
HUES = {
    "blue": "#0072b2", "vermilion": "#d55e00", "green": "#009e73", "purple": "#7d4fc4", "ochre": "#a87900",
    "sky": "#2a93c4", "pink": "#b5588f",
}  # fmt: skip
GREYS = {"grey": "#8b949e", "slate": "#4b5563"}
INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#d9dee3", "#fffffe"
PALETTE = HUES | GREYS | {"ink": INK, "muted": MUTED, "grid": GRID, "paper": PAPER}
ACRONYMS = {"sft", "ppo", "dpo", "grpo", "rlhf", "gpt", "lm", "rm", "kl"}
Names = Mapping[str, str]


@dataclass(frozen=True)
class Look:
    """How a model or a run is shown. Markers differ too, so colour never carries meaning alone."""

    label: str
    colour: str
    """A name in PALETTE."""
    marker: str

    @property
    def light(self) -> str:
        return PALETTE[self.colour]


def looks_of(
    names: Iterable[str], labels: Names | None = None, colours: Names | None = None, grey: Collection[str] = ()
) -> dict[str, Look]:
    """A look for every name, in order. ``labels`` and ``colours`` override; names in ``grey`` get greys instead of hues."""
    hues, greys, markers = cycle(HUES), cycle(GREYS), cycle("v^osDPX*p")
    looks = {}
    for name in dict.fromkeys(names):
        colour = (colours or {}).get(name) or next(greys if name in grey else hues)
        looks[name] = Look((labels or {}).get(name) or readable(name), colour, next(markers))
    return looks


def readable(name: str) -> str:
    """few_shot -> Few shot, ppo_ptx -> PPO ptx, own -> OWN: acronyms and names of at most three letters are in capitals."""
    if len(name) <= 3:
        return name.upper()
    words = " ".join(word.upper() if word in ACRONYMS else word for word in name.split("_"))
    return words[:1].upper() + words[1:]


@dataclass(frozen=True)
class Plot:
    """A drawn figure: file name without suffix, title, and one ``<svg>`` element in the light colours."""

    name: str
    title: str
    svg: str
    """With its description as aria-label."""

    @property
    def themed(self) -> str:
        """The SVG with the variables of report.css instead of colours."""
        text = self.svg
        for name, light in PALETTE.items():
            text = text.replace(light, f"var(--{name})")
        return text


@contextmanager
def drawing() -> Iterator[None]:
    """The style of all figures inside a ``with`` block; matplotlib's own settings are restored after it."""
    import matplotlib

    with matplotlib.rc_context(fname=Path(__file__).parent / "templates/figures.mplstyle"), warnings.catch_warnings():
        # Text remains text in the SVG, so a character that the measuring font lacks is still shown by the viewer.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(width: float, height: float, rows: Sequence[float] = (1,)) -> tuple[Figure, list[Axes]]:
    """A figure [inches] with one column of axes of these relative heights, which share the x axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, sharex=True, height_ratios=list(rows))
    return figure, list(axes[:, 0])


def finish(figure: Figure, name: str, title: str, description: str) -> Plot:
    """The plot of a figure. Call it inside ``drawing``. Equal figures give equal bytes, and ids begin with the name.

    ``description`` is what people hear who do not see the figure.
    """
    buffer, name = io.StringIO(), re.sub(r"\W+", "-", name)
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text[text.index("<svg") :])
    # This style element would apply to the whole page.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    return Plot(name, title, text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1))
