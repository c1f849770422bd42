"""Live controls: a picture that is drawn anew whenever a slider moves.

One mechanism serves the whole course: an ``ipywidgets.Image`` redrawn from ``observe``. It works in JupyterLab, on
Colab (ipywidgets 7.7) and under nbval, and leaves a still picture in a page made from the notebook.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from html import escape

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def live_figure(draw: Callable[..., Figure], **controls: ipywidgets.ValueWidget) -> ipywidgets.VBox:
    """The controls, above the figure that ``draw`` makes of their values.

    Args:
        draw: called as ``draw(name=value, …)`` with one argument per control; returns a matplotlib figure.
        controls: ipywidgets with a ``value``, by the name of the argument each one sets.

    A drawing that fails leaves the last picture in place and says why below it.

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
        try:
            picture.value = as_png(draw(**{name: control.value for name, control in controls.items()}))
            message.value = ""
        except Exception as error:  # a callback's traceback would be lost; the learner should see it
            message.value = f"<b>This setting could not be drawn:</b> {escape(f'{type(error).__name__}: {error}')}"

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
