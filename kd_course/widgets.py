"""Live controls: a picture that is drawn anew whenever a slider moves, or a learner draws a digit.

One mechanism serves the whole course: an ``ipywidgets.Image`` redrawn from ``observe``. It works in JupyterLab, on
Colab (ipywidgets 7.7) and under nbval, and leaves a still picture in a page made from the notebook.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from html import escape
from pathlib import Path

import anywidget
import ipywidgets
import matplotlib.pyplot as plt
import traitlets
from matplotlib.figure import Figure


def live_figure(draw: Callable[..., Figure], **controls: ipywidgets.ValueWidget) -> ipywidgets.VBox:
    """Controls above the figure that a function draws from their values.

    A drawing that fails leaves the last picture in place and says why below it.

    Args:
        draw: called as ``draw(name=value, …)`` with one argument per control; returns a matplotlib figure.
        **controls: ipywidgets with a ``value``, by the name of the argument each one sets.

    Returns:
        A box with the controls, the picture and a message.

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
    return ipywidgets.VBox([*controls.values(), picture, message])


def as_png(figure: Figure) -> bytes:
    """The figure as PNG bytes; the figure is closed, so the notebook does not show it a second time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()


class DigitCanvas(anywidget.AnyWidget):
    """A 28×28 area to draw a digit on, with the pointer or with the keyboard (arrows, space, Delete).

    ``value`` is a list of 784 numbers, 0 (paper) to 255 (ink), row by row, so a canvas is a control of
    :func:`live_figure` like any slider; :func:`~kd_course.data.as_mnist` makes an image of it that a network can read.

    >>> canvas = DigitCanvas()
    >>> len(canvas.value), max(canvas.value)
    (784, 0)
    """

    _esm = Path(__file__).with_name("canvas.js")
    value = traitlets.List(traitlets.Int(min=0, max=255), default_value=[0] * 784, minlen=784, maxlen=784).tag(
        sync=True
    )
