"""One look for every figure: colour-blind safe, readable in light and dark, drawn as inline SVG.

Axes and text are drawn in a sentinel ink that becomes ``currentColor``, so a figure takes the text colour of whatever
page it stands in. The four line colours are those of the Okabe-Ito palette that keep a contrast of at least 3:1 on
white and on the dark page; because colour alone is never enough, the cycle changes marker and dash with it.
"""

import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PINK = COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
AMBER, SKY = FILLS = ("#E69F00", "#56B4E9")  # fills only: 2.3:1 on white
MAP = "cividis"  # for two-dimensional maps
Number = float | int
INK = "#010203"  # becomes currentColor in the page

RC: Mapping[str, object] = {
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.prop_cycle": cycler(color=COLOURS, linestyle=["-", "--", "-.", ":"]),
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "lines.linewidth": 1.9,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "image.cmap": MAP,
    "svg.fonttype": "none",
    "svg.hashsalt": "nslab",
}

_HEAD = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(
    r"\n? *<metadata>.*?</metadata>| *<!--.*?-->\n?|<defs>\s*<style.*?</style>\s*</defs>\n?", re.DOTALL
)
_ROOT = re.compile(r"<svg [^>]*?viewBox=\"([^\"]+)\"[^>]*>", re.DOTALL)
_GROUP_ID = re.compile(r"<g id=\"[^\"]*\"")
_ID = re.compile(r"(\bid=\"|url\(#|href=\"#)")
_FONT = re.compile(r"font-family: [^;\"]*")
_UPRIGHT = re.compile(r" transform=\"rotate\(-0 [^\"]*\"")


def figure(
    size: tuple[Number, Number] = (5.4, 3.2),
    *,
    rows: int = 1,
    columns: int = 1,
    margins: Mapping[str, Number] | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure with fixed margins and its axes in reading order.

    Margins are fixed in inches (``left``, ``right``, ``top``, ``bottom``, ``wspace``, ``hspace``), never fitted to the
    text: the axes of all frames of an explorer then sit at the same place, and drawing needs no second pass.
    Must be called, and drawn on, inside ``matplotlib.rc_context(RC)``; ``drawing`` does both.
    """
    width, height = size
    inches = {
        "left": 0.75,
        "right": 0.15,
        "top": 0.4,
        "bottom": 0.55,
        "wspace": 0.65,
        "hspace": 0.75,
        **(margins or {}),
    }
    if unknown := set(inches) - {"left", "right", "top", "bottom", "wspace", "hspace"}:
        raise ValueError(
            f"margins has the unknown key {sorted(unknown)[0]!r}; use left, right, top, bottom, wspace, hspace"
        )
    fig = Figure(figsize=size)
    FigureCanvasSVG(fig)
    cell_width = (width - inches["left"] - inches["right"] - inches["wspace"] * (columns - 1)) / columns
    cell_height = (height - inches["top"] - inches["bottom"] - inches["hspace"] * (rows - 1)) / rows
    axes = []
    for row in range(rows):
        bottom = inches["bottom"] + (rows - 1 - row) * (cell_height + inches["hspace"])
        for column in range(columns):
            left = inches["left"] + column * (cell_width + inches["wspace"])
            axes.append(fig.add_axes((left / width, bottom / height, cell_width / width, cell_height / height)))
    return fig, axes


def drawing() -> AbstractContextManager[None]:
    """The context in which figures are drawn: ``with style.drawing(): fig, axes = style.figure()``."""
    return mpl.rc_context(dict(RC))


def svg(fig: Figure, prefix: str) -> str:
    """The figure as inline SVG: ink as ``currentColor``, ids made unique by ``prefix``, nothing that reaches the page.

    The same drawing gives the same text, so two frames differ only in the lines that moved.
    """
    buffer = io.StringIO()
    fig.canvas.print_svg(buffer, metadata={"Date": None})
    text = _METADATA.sub("", _HEAD.sub("", buffer.getvalue(), count=1))
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    text = _ROOT.sub(rf'<svg {spaces} viewBox="\1" class="ns-svg">', text, count=1)
    text = _ID.sub(rf"\g<1>{prefix}-", _GROUP_ID.sub("<g", text))
    text = _UPRIGHT.sub("", _FONT.sub("font-family: var(--ns-font, sans-serif)", text))
    return text.replace(INK, "currentColor").strip()


@dataclass(frozen=True)
class Picture:
    """A still figure with its spoken description; notebooks and the book show it inline."""

    markup: str
    alt: str

    def _repr_html_(self) -> str:
        return f'<div class="ns-fig" role="img" aria-label="{escape(self.alt, quote=True)}">{self.markup}</div>'


def picture(fig: Figure, *, alt: str, name: str = "fig") -> Picture:
    """The figure as a `Picture`; refused without ``alt``, the sentence that says what the figure shows."""
    if not alt or not alt.strip():
        raise ValueError(f"alt is {alt!r}: a figure needs one sentence that says what it shows")
    return Picture(svg(fig, name), alt)
