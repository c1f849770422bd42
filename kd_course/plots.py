"""Figures in one style: the same colour and marker for the same role in every notebook, legible on a projector.

Every function draws into the axes it is given, or makes its own, and returns the axes or the figure, so that a cell
can add to it. Roles differ in marker and hatch as well as in colour. Tensors may be NumPy arrays or lists as well; all
raise ``TypeError`` for what they cannot draw, and ``ValueError`` for a wrong shape, value or role.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kd_course._validation import finite_numbers, whole
from kd_course.evaluation import mean_interval

if TYPE_CHECKING:
    import pandas as pd

COLOURS = {"teacher": "#5f4690", "scratch": "#d97400", "distilled": "#1d6996", "label": "#cc503e", "neutral": "#666666"}
"""The colour of each role: the teacher, the student from scratch, the distilled student, a true label, all else.

Each has a contrast of at least 3 to 1 with white, which WCAG 2.2 (success criterion 1.4.11) demands of graphics."""

MARKERS = {"teacher": "s", "scratch": "o", "distilled": "D", "label": "*", "neutral": "^"}
LOG_FLOOR = 1e-12  # where the logarithmic axis of probabilities begins; a confident teacher goes that low
HATCHES = {"teacher": "..", "scratch": "//", "distilled": "", "label": "xx", "neutral": ""}

STYLE = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 2,
    "lines.markersize": 7,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 90,
    "savefig.dpi": 90,
    "image.cmap": "Greys",
}


def use_course_style() -> None:
    """Switch matplotlib to the style of the course, for every figure that follows."""
    plt.rcdefaults()
    plt.rcParams.update(STYLE | {"axes.prop_cycle": plt.style.library["petroff10"]["axes.prop_cycle"]})


def show_digits(images: Tensor, titles: Sequence[str] | None = None, *, columns: int = 8) -> Figure:
    """A sheet of digits, dark on light: ``images`` (N, 1, 28, 28) with their titles, ``columns`` of them in a row."""
    images = _on_cpu(images, "images")
    if images.ndim < 3 or not len(images):
        raise ValueError(f"images must be (N, 1, height, width), at least one, not {tuple(images.shape)}")
    if titles is not None and (isinstance(titles, str) or len(titles) != len(images)):
        raise ValueError(f"{len(images)} images need a list of as many titles, not {titles!r}")
    columns = min(whole(columns, "columns", least=1), len(images))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.35 * columns, 1.6 * rows), squeeze=False)
    for place, ax in enumerate(axes.flat):
        ax.axis("off")
        if place < len(images):
            draw_digit(ax, images[place], titles[place] if titles is not None else "")
    return figure


def draw_digit(ax: Axes, image: Tensor, title: str = "") -> Axes:
    """Draw one digit ``image`` (1, 28, 28), dark on light, under its ``title``."""
    image = _on_cpu(image, "image")
    if image.ndim < 2 or image.shape[:-2].numel() != 1 or not image.numel():
        raise ValueError(f"a digit must be one grey image (1, height, width), not {tuple(image.shape)}")
    _axes(ax).imshow(image.reshape(image.shape[-2:]).numpy(), cmap="Greys", interpolation="nearest")
    ax.set_title(title, fontsize=11, loc="center")
    ax.axis("off")
    return ax


def probability_bars(
    ax: Axes, probabilities: Tensor, *, role: str = "teacher", label: int | None = None, log: bool = False
) -> Axes:
    """Draw a distribution over classes as bars.

    Args:
        ax: where to draw.
        probabilities: (C,).
        role: whose distribution it is; decides colour and hatch.
        label: the true class, which gets a star.
        log: use a logarithmic axis, which shows the probabilities near 0.
    """
    values = _on_cpu(probabilities, "probabilities")
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values < 1.001)).all():
        raise ValueError(f"probabilities must be (C,) numbers from 0 to 1, not {probabilities}; try logits.softmax(0)")
    values = values.tolist()
    label = label if label is None else whole(label, "label", most=len(values) - 1)
    role = _known(role)
    _axes(ax).bar(range(len(values)), values, color=COLOURS[role], hatch=HATCHES[role], edgecolor="white")
    if log:
        ax.set_yscale("log")
        ax.set_ylim(LOG_FLOOR, 30)
    else:
        ax.set_ylim(0, 1.12)
    if label is not None:
        top = max(values[label], LOG_FLOOR) * 6 if log else values[label] + 0.06
        ax.plot(label, top, "*", color=COLOURS["label"], markersize=11)
    ax.set(xticks=range(len(values)), xlabel="class", ylabel="probability")
    return ax


def heatmap(
    values: Tensor,
    *,
    ax: Axes | None = None,
    row_label: str = "",
    column_label: str = "",
    decimals: int = 2,
    colour_bar: str = "",
) -> Axes:
    """A small matrix with its numbers written in, in colour; ``colour_bar`` is the label of a bar, if there is one."""
    values, decimals = _on_cpu(values, "values"), whole(decimals, "decimals")
    if values.ndim != 2 or not values.numel():
        raise ValueError(f"a heatmap needs a matrix, not {tuple(values.shape)}")
    ax = _axes(ax, (6.4, 5.4))
    image = ax.imshow(values.numpy(), cmap="cividis")
    middle = (float(values.min()) + float(values.max())) / 2
    rows, columns = values.shape
    for row in range(rows):
        for column in range(columns):
            value = float(values[row, column])
            ink = "white" if value < middle else "black"
            ax.text(column, row, f"{value:.{decimals}f}", ha="center", va="center", fontsize=10, color=ink)
    ax.set(xticks=range(columns), yticks=range(rows), xlabel=column_label, ylabel=row_label)
    ax.grid(False)
    if colour_bar:
        ax.figure.colorbar(image, ax=ax, label=colour_bar, shrink=0.85)
    return ax


def loss_curves(histories: Mapping[str, pd.DataFrame], column: str = "loss", *, ax: Axes | None = None) -> Axes:
    """One line per history of ``fit``, labelled at its end; a name that begins with a role gets the role's colour."""
    ax = _axes(ax, (7, 4))
    for name, history in _by_name(histories, "histories"):
        if column not in getattr(history, "columns", ()) or not len(history):
            raise ValueError(f"the history of {name!r} must be a table with epochs and a column {column!r}:\n{history}")
        role = _role(name)
        (line,) = ax.plot(history.index, history[column], color=COLOURS.get(role), marker=MARKERS.get(role, "."))
        ax.annotate(f" {name}", (history.index[-1], history[column].iloc[-1]), color=line.get_color(), va="center")
    ax.set(xlabel="epoch", ylabel=column)
    ax.margins(x=0.18)
    return ax


def interval_plot(rows: Mapping[str, Sequence[float]], *, xlabel: str, ax: Axes | None = None) -> Axes:
    """Every seed as a faint dot, the mean and its 95 % interval as a marked bar: one row per recipe."""
    named = _by_name(rows, "rows")
    ax = _axes(ax, (7, 0.7 + 0.55 * len(rows)))
    for place, (name, values) in enumerate(named):
        role = _role(name) or "neutral"
        interval = mean_interval(values)
        ax.plot(values, [place] * len(values), ".", color=COLOURS[role], alpha=0.35)
        style = {"color": COLOURS[role], "marker": MARKERS[role], "capsize": 5, "linewidth": 2.5}
        ax.errorbar(interval.mean, place, xerr=interval.half_width, **style)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(f"{xlabel} (dots: seeds; bars: mean, 95 % interval)")
    return ax


def interval_lines(ax: Axes, x: Sequence[float], seeds: Sequence[Sequence[float]], *, name: str) -> Axes:
    """Draw a line of means over ``x`` with its 95 % interval as a band; ``seeds[i]`` holds the values at ``x[i]``."""
    ax, x = _axes(ax), finite_numbers(x, "x")
    if not x or len(x) != len(seeds := list(seeds)):
        raise ValueError(f"seeds must hold values for each of the {len(x)} places x, and not for {len(seeds)}")
    role = _role(name)
    mean, low, high, _ = zip(*map(mean_interval, seeds), strict=True)
    (line,) = ax.plot(x, mean, color=COLOURS.get(role), marker=MARKERS.get(role, "o"), label=name)
    ax.fill_between(x, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
    return ax


def reliability_diagram(ax: Axes, table: Tensor, *, role: str = "neutral", name: str = "") -> Axes:
    """Draw accuracy against confidence: calibrated on the diagonal, over-confident below, under-confident above.

    Args:
        ax: where to draw.
        table: (bins, 3), from :func:`~kd_course.evaluation.calibration_bins`; larger spots mean more samples.
        role: whose confidence it is; decides colour and marker.
        name: for the legend.
    """
    table, role = _on_cpu(table, "table"), _known(role)
    if table.shape[1:] != (3,) or not (table[:, 0] > 0).any():
        raise ValueError(f"a table (bins, 3) with samples is needed, not {tuple(table.shape)}; use calibration_bins()")
    count, confidence, correct = table[table[:, 0] > 0].T
    _axes(ax).plot([0, 1], [0, 1], "--", color="0.5", linewidth=1)
    ax.plot(confidence, correct, color=COLOURS[role], marker=MARKERS[role], label=name)
    ax.scatter(confidence, correct, s=12 + 300 * count / count.sum(), color=COLOURS[role], alpha=0.3, linewidths=0)
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    return ax


def _role(name: str) -> str | None:
    """The role a name begins with, if any: ``"distilled, T = 4"`` is drawn as ``"distilled"``."""
    return next((role for role in COLOURS if name.lower().startswith(role)), None)


def _known(role: str) -> str:
    if role not in COLOURS:
        raise ValueError(f"role must be one of {', '.join(COLOURS)}, not {role!r}")
    return role


def _axes(ax: Axes | None, size: tuple[float, float] | None = None) -> Axes:
    """``ax``, or new axes of a figure of this size in inches if None."""
    if ax is None and size is not None:
        return plt.figure(figsize=size).gca()
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be one matplotlib Axes, not {type(ax).__name__}; try figure, ax = plt.subplots()")
    return ax


def _by_name(values: Mapping, what: str) -> list[tuple]:
    if not isinstance(values, Mapping):
        raise TypeError(f"{what} must be a dictionary of them by name, not {type(values).__name__}")
    if not values:
        raise ValueError(f"{what} are empty, so there is nothing to draw")
    return list(values.items())


def _on_cpu(values: Tensor, what: str) -> Tensor:
    """``values`` as a tensor that matplotlib can draw: on the CPU, without its history, in a type that NumPy has."""
    try:
        values = torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{what} must be a tensor of numbers, not {type(values).__name__} ({error})") from None
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
