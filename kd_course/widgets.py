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
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F


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
    :func:`live_figure` like any slider; :func:`as_mnist` makes an image of it that a network can read.

    >>> canvas = DigitCanvas()
    >>> len(canvas.value), max(canvas.value)
    (784, 0)
    """

    _esm = Path(__file__).with_name("canvas.js")
    value = traitlets.List(traitlets.Int(min=0, max=255), default_value=[0] * 784, minlen=784, maxlen=784).tag(
        sync=True
    )


def as_mnist(value: list[int]) -> Tensor:
    """A drawing, prepared as the images of MNIST were: (1, 28, 28), uint8.

    Its box is scaled to 20 pixels on the longer side, keeping its proportions, and its centre of mass is put in the
    middle of the image. A network that has only seen digits of this size and place recognises no others.

    An empty drawing stays empty.

    Reference: LeCun, Cortes & Burges, *The MNIST database of handwritten digits*.
    """
    drawing = torch.tensor(value, dtype=torch.float32).view(28, 28)
    rows, columns = (drawing.amax(dim).nonzero().squeeze(1) for dim in (1, 0))
    if len(rows) == 0:
        return torch.zeros(1, 28, 28, dtype=torch.uint8)
    box = drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(box.shape)
    size = [max(1, round(side * scale)) for side in box.shape]
    box = F.interpolate(box[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    mass = box / box.sum()
    height, width = box.shape
    centre = (mass.sum(1) @ torch.arange(height).float(), mass.sum(0) @ torch.arange(width).float())
    top, left = (min(max(round(14 - float(at)), 0), 28 - side) for at, side in zip(centre, box.shape, strict=True))
    image = F.pad(box, (left, 28 - width - left, top, 28 - height - top))
    return image.round().clamp(0, 255).to(torch.uint8)[None]
