"""`explore`: a drawing function becomes a figure with at most two sliders, alive with and without a kernel.

With a kernel the sliders are ipywidgets and every frame is drawn when it is asked for, never kept: a reader may have
changed a function in between. The cell's output also holds the first frame as a still picture, shown when no kernel
stands behind the sliders any more. In the built page (the book's builder sets ``NSLAB_STATIC``) every frame is drawn
beforehand and a few lines of plain JavaScript show them.
"""

import json
import os
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib.resources import files
from itertools import product
from math import prod

from nslab.explore.frames import Canvas, Frame, draw_frame, pack
from nslab.explore.modules import fold
from nslab.style import Number

MAX_CONTROLS = 2
MAX_FRAMES = 150
MAX_BYTES = 2_000_000
RERUN = "A picture of the first frame: run this cell to bring its sliders to life."


@dataclass(frozen=True)
class Control:
    """One slider: the drawing function's argument ``name``, its spoken ``label``, its ``values`` and how they read."""

    name: str
    label: str
    values: tuple
    texts: tuple[str, ...]

    @classmethod
    def of(cls, name: str, values: Iterable, label: str | None = None, form: str | None = None) -> "Control":
        """Build a control from any iterable of numbers or words; tensors and arrays give plain Python numbers."""
        items = tuple(value.item() if hasattr(value, "item") else value for value in values)
        if not items:
            raise ValueError(f"{name} has no values: a slider needs at least one; give a non-empty sequence")
        texts = tuple((form or "{:g}").format(v) if isinstance(v, (int, float)) else str(v) for v in items)
        return cls(name, label or name, items, tuple(text.replace("-", "−", text.startswith("-")) for text in texts))


class Explorer:
    """A figure with controls. Show it as the last line of a cell; ask it for a `frame` or its ``data`` in a test."""

    def __init__(
        self, draw: Callable, controls: tuple[Control, ...], canvas: Canvas, discovery: str, start: Mapping[str, object]
    ):
        self.draw, self.controls, self.canvas, self.discovery = draw, controls, canvas, discovery
        self.name = draw.__name__.replace("_", "-")
        self.start = tuple(self._index(control, start) for control in controls)

    @staticmethod
    def _index(control: Control, start: Mapping[str, object]) -> int:
        if control.name not in start:
            return len(control.values) // 2 if len(control.values) > 2 else 0
        if start[control.name] not in control.values:
            raise ValueError(
                f"start[{control.name!r}] is {start[control.name]!r}, which is not one of its values; "
                f"they are {', '.join(control.texts)}"
            )
        return control.values.index(start[control.name])

    def _draw(self, indices: tuple[int, ...]) -> Frame:
        values = {control.name: control.values[index] for control, index in zip(self.controls, indices, strict=True)}
        return draw_frame(self.draw, values, self.canvas, self.name)

    def frame(self, **values: object) -> Frame:
        """The frame at exactly these values, e.g. ``figure.frame(rho=0.5, layer=2)``."""
        if set(values) != {control.name for control in self.controls}:
            raise ValueError(
                f"frame takes {', '.join(c.name for c in self.controls)}; got {', '.join(values) or 'nothing'}"
            )
        return self._draw(tuple(self._index(control, values) for control in self.controls))

    def data(self, **values: object) -> Mapping[str, object]:
        """The numbers behind the frame at these values: label -> array (see `Frame`)."""
        return self.frame(**values).data

    def __repr__(self) -> str:
        return f"Explorer({self.name}: {', '.join(f'{c.name} ({len(c.values)})' for c in self.controls)})"

    def _repr_mimebundle_(self, include=None, exclude=None):  # IPython's protocol
        return {"text/html": self.html, "text/plain": repr(self)}

    def _ipython_display_(self) -> None:  # IPython asks for this first
        if os.environ.get("NSLAB_STATIC"):
            raise NotImplementedError  # which sends it to the bundle above
        from IPython.display import display

        first = self._draw(self.start)
        live = self._box(first)._repr_mimebundle_()
        live = live[0] if isinstance(live, tuple) else live
        display({**live, "text/plain": repr(self)}, raw=True)
        display({"text/html": self._still(first), "text/plain": first.alt}, raw=True)

    @cached_property
    def html(self) -> str:
        """The figure for a page with no kernel: native sliders over every frame."""
        frames = {indices: self._draw(indices) for indices in product(*(range(len(c.values)) for c in self.controls))}
        first = frames[self.start]
        payload = {"controls": [c.texts for c in self.controls], "start": self.start, **pack(list(frames.values()))}
        text = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
        if (weight := len(text.encode())) > MAX_BYTES:
            raise ValueError(
                f"the frames of {self.name!r} take {weight / 1e6:.1f} MB, over {MAX_BYTES / 1e6:.0f} MB; "
                "fix the axis limits so that frames differ in few lines, draw fewer points, or use explore.module"
            )
        rows = "".join(self._row(control, index) for control, index in zip(self.controls, self.start, strict=True))
        return (
            f'<div class="ns-explore" role="group" data-name="{escape(self.name)}" '
            f'aria-label="Interactive figure: {escape(self.name.replace("-", " "))}">'
            f'<div class="ns-controls">{rows}</div>'
            f'<div class="ns-stage" role="img" aria-label="{escape(first.alt, quote=True)}">{first.svg}</div>'
            f'<p class="ns-alt" aria-live="polite">{escape(first.alt)}</p>'
            f'{fold(self.discovery)}<script type="application/json">{text}</script></div>'
        )

    def _row(self, control: Control, index: int) -> str:
        ident, label = f"ns-{self.name}-{control.name}", escape(control.label)
        return (
            f'<div class="ns-control"><label for="{ident}">{label}</label>'
            f'<input id="{ident}" type="range" min="0" max="{len(control.values) - 1}" value="{index}" disabled '
            f'data-lm-suppress-shortcuts="true" aria-valuetext="{escape(control.texts[index], quote=True)}">'
            f'<output for="{ident}">{escape(control.texts[index])}</output>'
            f'<button type="button" class="ns-play" aria-label="Play {label}" aria-pressed="false" disabled>&#9654;'
            f"</button></div>"
        )

    def widget(self):
        """The live figure: an ipywidgets box that redraws when a slider moves."""
        return self._box(self._draw(self.start))

    def _box(self, first: Frame):
        import ipywidgets

        stage, spoken = ipywidgets.HTML(), ipywidgets.HTML()
        sliders, rows = [], []
        wide = max(len(control.label) for control in self.controls)  # sliders begin and end at the same places
        for control, index in zip(self.controls, self.start, strict=True):
            slider = ipywidgets.SelectionSlider(
                options=list(zip(control.texts, range(len(control.values)), strict=True)),
                index=index,
                description=control.label,
                style={"description_width": f"{wide}ch"},
                layout={"width": "36rem"},
            )
            play = ipywidgets.Play(min=0, max=len(control.values) - 1, value=index, interval=250)
            ipywidgets.jslink((play, "value"), (slider, "index"))
            sliders.append(slider)
            rows.append(ipywidgets.HBox([slider, play]))

        def show(frame: Frame) -> None:
            stage.value = f'<div role="img" aria-label="{escape(frame.alt, quote=True)}">{frame.svg}</div>'
            spoken.value = f'<p class="ns-alt" aria-live="polite">{escape(frame.alt)}</p>'

        def redraw(_change: object) -> None:
            try:
                show(self._draw(tuple(slider.index for slider in sliders)))
            except Exception as error:  # a reader would not see what a widget's callback raises
                stage.value, spoken.value = self._failure(error, [slider.label for slider in sliders]), ""

        for slider in sliders:
            slider.observe(redraw, "index")
        show(first)
        longest = max(len(text) for control in self.controls for text in control.texts)
        readouts = f".ns-explore-{self.name} .widget-readout {{ min-width: {longest}ch; }}"
        look = ipywidgets.HTML(f"<style>{_look()}{readouts}</style>")
        question = ipywidgets.HTML(fold(self.discovery))
        box = ipywidgets.VBox([look, *rows, stage, spoken, question])
        box.add_class("ns-explore-live")
        box.add_class(f"ns-explore-{self.name}")
        return box

    def _failure(self, error: Exception, texts: list[str]) -> str:
        setting = ", ".join(f"{control.name} = {text}" for control, text in zip(self.controls, texts, strict=True))
        where = "".join(traceback.format_exception(error))
        return (
            f'<div class="ns-failed" role="alert"><p>{escape(self.name)} could not be drawn at {escape(setting)}: '
            f"{escape(type(error).__name__)}: {escape(str(error))}</p>"
            f"<details><summary>Traceback</summary><pre>{escape(where)}</pre></details></div>"
        )

    def _still(self, frame: Frame) -> str:
        """A frame for a notebook that is opened again; an image, which JupyterLab shows in untrusted notebooks too."""
        picture = b64encode(frame.svg.encode()).decode()
        return (
            f'<div class="ns-explore-still"><style>{_look()}</style><p><em>{RERUN}</em></p>'
            f'<img width="608" alt="{escape(frame.alt, quote=True)}" src="data:image/svg+xml;base64,{picture}">'
            f'<p class="ns-alt">{escape(frame.alt)}</p></div>'
        )


def _look() -> str:
    return files("nslab.explore").joinpath("assets/explore.css").read_text(encoding="utf-8")


def explore(
    *,
    discovery: str,
    size: tuple[Number, Number] = (5.4, 3.2),
    rows: int = 1,
    columns: int = 1,
    margins: Mapping[str, Number] | None = None,
    labels: Mapping[str, str] | None = None,
    formats: Mapping[str, str] | None = None,
    start: Mapping[str, object] | None = None,
    **controls: Iterable,
) -> Callable[[Callable], Explorer]:
    """Decorate a drawing function ``draw(ax, **controls) -> alt text``; get an `Explorer`.

    Args:
        discovery: the sentence a reader should be able to say after moving the sliders; a test asserts it.
        size: width and height in inches.
        rows: rows of axes; with several axes ``draw`` gets the list in reading order.
        columns: columns of axes.
        margins: fixed margins in inches, see `nslab.style.figure`.
        labels: what a slider is called, by control name (default: the name).
        formats: how a number reads, by control name (default ``"{:g}"``).
        start: the value each slider begins with (default: the middle one).
        **controls: one or two, each with its values; at most 150 frames together.

    Fix the axis limits in ``draw``: frames whose ticks stay put are stored as a few changed lines. Draw on the axes you
    are given and return the sentence that describes the frame; without it the figure is refused.

    Raises:
        ValueError: no controls or more than two, no values, too many frames, no discovery, an unknown name.
    """
    if not discovery or not discovery.strip():
        raise ValueError("discovery is empty: say in one sentence what the reader finds by moving the sliders")
    if not 1 <= len(controls) <= MAX_CONTROLS:
        raise ValueError(
            f"explore takes 1 to {MAX_CONTROLS} controls; got {len(controls)} ({', '.join(controls)}); "
            "fix one of them, or use explore.module"
        )
    for argument, mapping in (("labels", labels), ("formats", formats), ("start", start)):
        if unknown := set(mapping or {}) - set(controls):
            raise ValueError(
                f"{argument} names {sorted(unknown)[0]!r}, which is not a control; controls: {', '.join(controls)}"
            )
    made = tuple(
        Control.of(name, values, (labels or {}).get(name), (formats or {}).get(name))
        for name, values in controls.items()
    )
    if (total := prod(len(control.values) for control in made)) > MAX_FRAMES:
        raise ValueError(
            f"the controls give {total} frames, over the limit of {MAX_FRAMES}; give fewer values, "
            "or use explore.module for a figure that computes in the page"
        )
    canvas = Canvas(size, rows, columns, margins)
    return lambda draw: Explorer(draw, made, canvas, discovery.strip(), start or {})
