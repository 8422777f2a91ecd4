"""One frame of an explorer: its SVG, its spoken sentence, its data, and how many frames are stored together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from nslab import style


@dataclass(frozen=True)
class Frame:
    """What one setting of the controls shows.

    ``data`` maps the label of every labelled artist to its numbers: lines and scatters to ``(points, 2)``, bars to
    their heights ``(bars,)``. Tests read discoveries from it.
    """

    svg: str
    alt: str
    data: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Canvas:
    """The paper a frame is drawn on: size in inches, grid of axes, fixed margins in inches."""

    size: tuple[style.Number, style.Number] = (5.4, 3.2)
    rows: int = 1
    columns: int = 1
    margins: Mapping[str, style.Number] | None = None


def draw_frame(draw: Callable, values: Mapping[str, object], canvas: Canvas, name: str) -> Frame:
    """Draw one frame on fresh axes. ``draw`` gets one `Axes`, or a list of them if the canvas has several."""
    with style.drawing():
        fig, axes = style.figure(canvas.size, rows=canvas.rows, columns=canvas.columns, margins=canvas.margins)
        alt = draw(axes[0] if len(axes) == 1 else axes, **values)
        if not isinstance(alt, str) or not alt.strip():
            setting = ", ".join(f"{key}={value!r}" for key, value in values.items())
            raise ValueError(
                f"the drawing function {name!r} returned {alt!r} for {setting}; "
                "it must return the frame's alt text, a sentence that says what the frame shows"
            )
        return Frame(style.svg(fig, name), alt.strip(), _data(axes))


def _data(axes: Sequence[Axes]) -> dict[str, np.ndarray]:
    data = {}
    for ax in axes:
        for line in ax.lines:
            data[str(line.get_label())] = np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float)
        for bars in ax.containers:
            data[str(bars.get_label())] = np.array([patch.get_height() for patch in getattr(bars, "patches", [])])
        for collection in ax.collections:
            if len(offsets := collection.get_offsets()):
                data[str(collection.get_label())] = np.asarray(offsets, dtype=float)
    return {label: numbers for label, numbers in data.items() if not label.startswith("_")}


def pack(frames: Sequence[Frame]) -> dict:
    """Frames as line-wise differences to the first one.

    Returns ``base`` (the first frame's lines) and, for each frame, its ``alt`` and either ``lines`` (flat list: index,
    text, index, text, ...) or, where the number of lines differs, ``whole`` (the SVG). `unpack` is its inverse.
    """
    base = frames[0].svg.split("\n")
    packed = []
    for frame in frames:
        lines = frame.svg.split("\n")
        if len(lines) == len(base):
            moved = [item for index, line in enumerate(lines) if line != base[index] for item in (index, line)]
            packed.append({"alt": frame.alt, "lines": moved})
        else:
            packed.append({"alt": frame.alt, "whole": frame.svg})
    return {"base": base, "frames": packed}


def unpack(packed: Mapping, frame_index: int) -> str:
    """The SVG of frame ``frame_index``: what the page's script does, in Python."""
    frame = packed["frames"][frame_index]
    if "whole" in frame:
        return frame["whole"]
    lines = list(packed["base"])
    for index, line in zip(frame["lines"][::2], frame["lines"][1::2], strict=True):
        lines[index] = line
    return "\n".join(lines)
