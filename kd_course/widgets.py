"""Live controls: a picture that is drawn anew whenever a slider moves, or a learner draws a digit.

One mechanism serves the whole course: an ``ipywidgets.Image`` redrawn from ``observe``. It works in JupyterLab, on
Colab (ipywidgets 7.7) and under nbval, and leaves a still picture in a page made from the notebook.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

import anywidget
import ipywidgets
import matplotlib.pyplot as plt
import traitlets
from IPython import get_ipython
from matplotlib.figure import Figure

_shown: dict[tuple[str, str], tuple[int, list[ipywidgets.Widget]]] = {}
"""What the last run of each cell showed, by class, with the number of that run."""


def live_figure(draw: Callable[..., Figure], **controls: ipywidgets.ValueWidget) -> ipywidgets.VBox:
    """Controls above the figure that a function draws from their values.

    A drawing that fails leaves the last picture in place and says why below it. In a notebook, a cell that is run
    again closes what its last run showed, with every control that no other live figure has.

    Args:
        draw: called as ``draw(name=value, …)`` with one argument per control; returns a matplotlib figure.
        **controls: ipywidgets with a ``value``, by the name of the argument each one sets.

    Returns:
        A box with the controls, the picture and a message.

    Raises:
        TypeError: ``draw`` is not a function, or a control is not a widget with a value.

    >>> def line(slope):
    ...     figure, ax = plt.subplots()
    ...     ax.plot([0, 1], [0, slope])
    ...     return figure
    >>> box = live_figure(line, slope=ipywidgets.FloatSlider(1.0))
    >>> before = box.children[1].value
    >>> box.children[0].value = 2.0
    >>> box.children[1].value != before
    True
    """
    if not callable(draw):
        raise TypeError(f"draw must be a function that returns a figure, not {type(draw).__name__}; pass it uncalled")
    for name, control in controls.items():
        if not (isinstance(control, ipywidgets.Widget) and control.has_trait("value")):
            raise TypeError(
                f"{name} must be a widget with a value, not {control!r}; try {name}=ipywidgets.FloatSlider(…)"
            )
    picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%"))
    message = ipywidgets.HTML()

    def redraw(_change: object = None) -> None:
        before = plt.get_fignums()
        try:
            picture.value = as_png(draw(**{name: control.value for name, control in controls.items()}))
            message.value = ""
        except Exception as error:  # a callback's traceback would be lost; the learner should see it
            message.value = f"<b>This setting could not be drawn:</b> {escape(f'{type(error).__name__}: {error}')}"
        for number in set(plt.get_fignums()) - set(before):  # a half-drawn figure would appear below the cell
            plt.close(number)

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    box = ipywidgets.VBox([*controls.values(), picture, message])
    _replace(box)
    return box


def _replace(widget: ipywidgets.Widget) -> None:
    """Close what the running cell showed the last time it ran, now that it shows ``widget``."""
    shell = get_ipython()
    if shell is None:
        return
    parent = getattr(shell, "parent_header", None) or {}  # of the message that runs the cell; JupyterLab adds its id
    cell = parent.get("metadata", {}).get("cellId") or shell.history_manager.input_hist_raw[-1]
    key = cell, type(widget).__name__
    run, before = _shown.get(key, (0, []))
    together = run == shell.execution_count  # several of a class in one cell
    _shown[key] = shell.execution_count, [*before, widget] if together else [widget]
    live = {each for _, widgets in _shown.values() for root in widgets for each in _with_parts(root)}
    for old in {each for root in before for each in _with_parts(root)} - live:
        old.close()


def _with_parts(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    """A widget, its layout and style, and everything inside it."""
    yield widget
    for part in (*getattr(widget, "children", ()), getattr(widget, "layout", None), getattr(widget, "style", None)):
        if isinstance(part, ipywidgets.Widget):
            yield from _with_parts(part)


def as_png(figure: Figure) -> bytes:
    """The figure as PNG bytes; the figure is closed, so the notebook does not show it a second time.

    Raises:
        TypeError: it is not a matplotlib figure.
    """
    if not isinstance(figure, Figure):
        hint = "end the function with: return figure" if figure is None else "pass ax.figure for axes"
        raise TypeError(f"a drawing must be a matplotlib figure, not {type(figure).__name__}; {hint}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()


class _Pixels(traitlets.List):
    """784 whole numbers from 0 to 255."""

    def validate(self, obj: traitlets.HasTraits, value: object) -> list[int]:
        try:
            return super().validate(obj, value)
        except traitlets.TraitError:
            raise traitlets.TraitError(
                "value must be a list of 784 whole numbers from 0 to 255, row by row, such as "
                "image.flatten().tolist() of a uint8 image"
            ) from None


class DigitCanvas(anywidget.AnyWidget):
    """A 28×28 area to draw a digit on, with the pointer or with the keyboard (arrows, space, Delete).

    ``value`` is a list of 784 numbers, 0 (paper) to 255 (ink), row by row, so a canvas is a control of
    :func:`live_figure` like any slider; :func:`~kd_course.data.as_mnist` makes an image of it that a network can read.

    >>> canvas = DigitCanvas()
    >>> len(canvas.value), max(canvas.value)
    (784, 0)
    """

    _esm = Path(__file__).with_name("canvas.js")
    value = _Pixels(traitlets.Int(min=0, max=255), default_value=[0] * 784, minlen=784, maxlen=784).tag(sync=True)

    def __init__(self, **traits: object) -> None:
        super().__init__(**traits)
        _replace(self)
