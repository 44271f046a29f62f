"""matplotlib figures as small, accessible, byte-identical SVG; and the colours of the stages, in light and in dark.

A figure is drawn in the light colours below. On a page (``themed=True``) each of them becomes a CSS variable, so that the same
drawing follows the reader's colour scheme; ``palette_css`` defines the variables. A file on its own keeps the light colours on a
white ground, which every viewer shows alike.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#d9dee3", "#fffffe"

_COLOURS = {
    # name: (light, dark). Greys for what no person has taught; then Okabe and Ito's colour-blind-safe blue, vermilion and
    # green, lightened on dark paper. Every stage has a marker of its own as well, so colour never carries meaning alone.
    "ink": (INK, "#e6edf3"),
    "muted": (MUTED, "#9aa5b1"),
    "grid": (GRID, "#30363d"),
    "paper": (PAPER, "#0f1318"),
    "base": ("#8b949e", "#7d8590"),
    "base_few_shot": ("#4b5563", "#c3cad2"),
    "sft": ("#0072b2", "#58a9e6"),
    "ppo": ("#d55e00", "#ff8a4c"),
    "ppo_ptx": ("#009e73", "#2fc79b"),
    "reward": ("#7d4fc4", "#b795f5"),
    "other_1": ("#b5588f", "#e08ebc"),
    "other_2": ("#a87900", "#e0b13f"),
    "other_3": ("#2a93c4", "#7cc9ee"),
}
_MARKERS = {"base": "s", "base_few_shot": "D", "sft": "v", "ppo": "^", "ppo_ptx": "o", "reward": "o"}
_OTHERS = ("other_1", "other_2", "other_3")

_RC: Any = {
    "figure.dpi": 72,
    "svg.fonttype": "none",
    "svg.hashsalt": "tutelage",
    "text.parse_math": False,  # a family named "$x$" is a name
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "axes.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.labelsize": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
}


@dataclass(frozen=True)
class Plot:
    """A figure with its file name (no suffix), its title and the same content in words for those who cannot see it."""

    name: str
    title: str
    description: str
    figure: Figure

    def svg(self, *, themed: bool = False) -> str:
        """One ``<svg>`` element; ``themed`` for a page that has ``palette_css``, otherwise a file of its own."""
        return to_svg(self.figure, name=self.name, title=self.title, description=self.description, themed=themed)


def colour(stage: str) -> str:
    """The light colour of a stage. Stages beyond the known ones share three more, by the letters of their names."""
    return _COLOURS[stage_variable(stage)][0]


def stage_variable(stage: str) -> str:
    """The name of the stage's colour in ``palette_css``, without the leading dashes."""
    if stage == "pretrain":
        return "base"
    return stage if stage in _MARKERS else _OTHERS[sum(stage.encode()) % len(_OTHERS)]


def marker(stage: str) -> str:
    """The matplotlib marker of a stage."""
    return _MARKERS.get(stage, "P")


def palette_css() -> tuple[str, str]:
    """The variables as CSS declarations, light and dark."""
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in _COLOURS.items()) for i in (0, 1))
    return light, dark


@contextmanager
def drawing() -> Iterator[None]:
    """The style of all figures, for the time of a ``with`` block; matplotlib's own settings are left as they were."""
    import matplotlib

    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        # A character that the measuring font lacks is still right in the SVG: text stays text, and the viewer has fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def to_svg(figure: Figure, *, name: str, title: str, description: str, themed: bool) -> str:
    """Draw ``figure``: text kept as text, no date, ids prefixed by ``name``, the same bytes every time."""
    buffer = io.StringIO()
    with drawing():
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # matplotlib's <style> would restyle the whole page around an inlined SVG; the root's attributes below say the same.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r' xmlns:xlink="[^"]*"', "", text).replace("xlink:href", "href")
    text = _smaller(_prefix_ids(text, name))
    if themed:
        for variable, (light, _) in _COLOURS.items():
            text = text.replace(light, f"var(--{variable})")
    size = re.search(r'viewBox="0 0 (\S+) (\S+)"', text)
    width, height = (size.group(1), size.group(2)) if size else ("100%", "100%")
    root = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-labelledby="{name}-title {name}-desc" stroke-linejoin="round" '
        "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\">"
        f'<title id="{name}-title">{html.escape(title)}</title><desc id="{name}-desc">{html.escape(description)}</desc>'
    )
    return root + text[text.index(">") + 1 :].strip() + "\n"


def _prefix_ids(text: str, name: str) -> str:
    """Keep only ids that something refers to, and make them unique on a page with several figures."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)


def _smaller(text: str) -> str:
    """Shorten without a visible difference: two decimals, no line breaks in paths, no repeated font names."""
    text = re.sub(
        r' (d|x|y|width|height|transform)="([^"]*)"',
        lambda m: f' {m[1]}="{re.sub(r"-?[0-9]+[.][0-9]+", _two_decimals, " ".join(m[2].split()))}"',
        text,
    )
    text = re.sub(r' transform="rotate\(-?0 [^"]*"', "", text)
    text = re.sub(r"font: (?:[^;\"]*? )?([0-9.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)
    text = re.sub(r"(style=\"[^\"]*?);? *\"", r'\1"', text)
    return re.sub(r">\s+<", "><", text)


def _two_decimals(match: re.Match[str]) -> str:
    rounded = f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if rounded == "-0" else rounded
