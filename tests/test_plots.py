"""Every figure shows what it should: labels, one colour and marker per role, the numbers it was given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from contrast import contrast_with_white, luminance
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from kd_course import plots
from kd_course.evaluation import calibration_bins, mean_interval

SEEDS = {"scratch": [10.0, 12.0, 14.0], "distilled, T = 4": [7.0, 8.0, 9.0], "other": [1.0, 2.0, 6.0]}


@pytest.fixture(autouse=True)
def _own_figures() -> Iterator[None]:
    """Each test starts from matplotlib's own style, without a window, and leaves no figure open."""
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
    plt.close("all")


@pytest.fixture
def axes() -> Axes:
    return plt.figure().gca()


def draw(figure: Figure) -> None:
    """Render: layout, glyphs and scales are only looked at here."""
    figure.canvas.draw()


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


# --- the style ------------------------------------------------------------------------------------------------------


def test_course_style_is_complete_and_sane():
    plt.rcParams.update({"font.size": 99, "axes.edgecolor": "red"})
    plots.use_course_style()
    for name, value in plots.STYLE.items():
        assert plt.rcParams[name] == value, name
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert len(set(colours)) == len(colours) >= 8
    assert plt.rcParams["font.size"] >= 11, "legible on a projector"
    assert plt.rcParams["axes.edgecolor"] == "black", "what the course does not set has matplotlib's own value"


def test_course_style_can_be_set_twice_and_keeps_the_backend():
    plots.use_course_style()
    once, backend = dict(plt.rcParams), mpl.get_backend()
    plots.use_course_style()
    assert dict(plt.rcParams) == once
    assert mpl.get_backend() == backend


def test_roles_differ_in_colour_and_in_marker():
    """A reader who cannot see colours recognises a role by its marker."""
    assert set(plots.COLOURS) == set(plots.MARKERS) == set(plots.HATCHES)
    for table in (plots.COLOURS, plots.MARKERS):
        assert len(set(table.values())) == len(table)
    assert len({plots.HATCHES[role] for role in ("teacher", "scratch", "distilled")}) == 3


def test_colours_stand_out_from_white():
    """At least 3 to 1 of contrast (WCAG 2.2, 1.4.11), and no two roles of equal lightness among the three networks."""
    for role, colour in plots.COLOURS.items():
        assert contrast_with_white(colour) >= 3, role
    assert abs(luminance(plots.COLOURS["scratch"]) - luminance(plots.COLOURS["distilled"])) > 0.1


# --- digits ---------------------------------------------------------------------------------------------------------


def digits(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(("count", "columns", "grid"), [(1, 8, (1, 1)), (3, 8, (1, 3)), (8, 8, (1, 8)), (9, 4, (3, 4))])
def test_show_digits_lays_out_every_image_with_its_title(count: int, columns: int, grid: tuple[int, int]):
    images = digits(count)
    figure = plots.show_digits(images, [f"digit {i}" for i in range(count)], columns=columns)
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_gridspec().get_geometry() == grid
    shown = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in shown] == [f"digit {i}" for i in range(count)]
    for ax, image in zip(shown, images, strict=True):
        assert torch.equal(torch.as_tensor(ax.images[0].get_array().copy()), image[0])
    assert not any(ax.axison for ax in figure.axes), "frames without an image would look like missing data"
    draw(figure)


def test_show_digits_without_titles():
    figure = plots.show_digits(digits(2))
    assert [ax.get_title() for ax in figure.axes] == ["", ""]


def test_a_digit_is_dark_on_light(axes: Axes):
    assert plots.draw_digit(axes, digits(1)[0], "seven") is axes
    assert axes.images[0].get_cmap().name == "Greys"
    assert axes.get_title(loc="center") == "seven"
    assert not axes.axison


# --- distributions and matrices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["teacher", "scratch", "distilled", "neutral"])
def test_probability_bars(axes: Axes, role: str):
    probabilities = torch.tensor([0.7, 0.2, 0.1])
    assert plots.probability_bars(axes, probabilities, role=role, label=0) is axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(probabilities.tolist())
    assert {to_hex(bar.get_facecolor()) for bar in axes.patches} == {plots.COLOURS[role]}
    assert {bar.get_hatch() or "" for bar in axes.patches} == {plots.HATCHES[role]}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("class", "probability")
    assert axes.get_xticks().tolist() == [0, 1, 2]
    draw(axes.figure)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("probability", [1.0, 0.5, 1e-3, 1e-9])
def test_the_star_of_the_true_class_is_always_in_view(axes: Axes, log: bool, probability: float):
    plots.probability_bars(axes, torch.tensor([1 - probability, probability]), label=1, log=log)
    (star,) = axes.lines
    low, high = axes.get_ylim()
    (x,), (y,) = star.get_xdata(), star.get_ydata()
    assert x == 1
    assert low <= y <= high
    assert star.get_color() == plots.COLOURS["label"]


def test_probability_bars_without_a_label_have_no_star(axes: Axes):
    plots.probability_bars(axes, torch.tensor([0.5, 0.5]))
    assert not axes.lines


def test_a_logarithmic_axis_shows_what_hides_near_zero(axes: Axes):
    plots.probability_bars(axes, torch.tensor([0.999, 1e-5]), log=True)
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] <= 1e-6
    draw(axes.figure)


def test_heatmap_writes_every_number_in():
    values = torch.tensor([[0.0, 0.25, 0.5], [0.75, 1.0, 0.125]])
    ax = plots.heatmap(values, row_label="truth", column_label="answer", decimals=3, colour_bar="share")
    assert texts(ax) == ["0.000", "0.250", "0.500", "0.750", "1.000", "0.125"]
    assert [text.get_position() for text in ax.texts[:4]] == [(0, 0), (1, 0), (2, 0), (0, 1)]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("truth", "answer")
    assert ax.figure.axes[1].get_ylabel() == "share"
    assert not any(line.get_visible() for line in ax.get_xgridlines())
    draw(ax.figure)


def test_heatmap_numbers_are_light_on_dark_and_dark_on_light(axes: Axes):
    assert plots.heatmap(torch.tensor([[0.0, 1.0]]), ax=axes) is axes
    assert [text.get_color() for text in axes.texts] == ["white", "black"]
    assert len(axes.figure.axes) == 1, "no colour bar without a label for it"


def test_heatmap_of_equal_values(axes: Axes):
    plots.heatmap(torch.full((2, 2), 3.0), ax=axes, decimals=0)
    assert texts(axes) == ["3"] * 4
    draw(axes.figure)


# --- trainings and seeds --------------------------------------------------------------------------------------------


def history(*losses: float) -> pd.DataFrame:
    return pd.DataFrame({"loss": losses, "soft": [2 * x for x in losses]}, index=pd.RangeIndex(1, len(losses) + 1))


def test_loss_curves_take_the_colour_of_their_role_and_carry_their_name():
    ax = plots.loss_curves({"scratch": history(3, 2, 1), "Distilled, T = 4": history(2, 1), "mystery": history(1, 1)})
    assert isinstance(ax, Axes)
    scratch, distilled, mystery = ax.lines
    assert scratch.get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert (scratch.get_color(), scratch.get_marker()) == (plots.COLOURS["scratch"], plots.MARKERS["scratch"])
    assert (distilled.get_color(), distilled.get_marker()) == (plots.COLOURS["distilled"], plots.MARKERS["distilled"])
    assert mystery.get_color() not in plots.COLOURS.values()
    assert [text.strip() for text in texts(ax)] == ["scratch", "Distilled, T = 4", "mystery"]
    assert ax.texts[0].xy == (3, 1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")
    draw(ax.figure)


def test_loss_curves_of_another_column(axes: Axes):
    assert plots.loss_curves({"scratch": history(3, 2)}, "soft", ax=axes) is axes
    assert axes.lines[0].get_ydata().tolist() == [6, 4]
    assert axes.get_ylabel() == "soft"


def test_interval_plot_shows_seeds_mean_and_interval():
    ax = plots.interval_plot(SEEDS, xlabel="errors of 10,000")
    assert ax.get_xlabel() == "errors of 10,000 (dots: seeds; bars: mean, 95 % interval)"
    assert [label.get_text() for label in ax.get_yticklabels()] == list(SEEDS)
    assert ax.yaxis_inverted(), "the first recipe is on top"
    for place, (values, bar) in enumerate(zip(SEEDS.values(), ax.containers, strict=True)):
        interval = mean_interval(values)
        mean, _, (segment,) = bar.lines
        assert mean.get_xydata().tolist() == [[interval.mean, place]]
        (low, _), (high, _) = segment.get_segments()[0]
        assert (low, high) == pytest.approx((interval.low, interval.high))
    dots = [line.get_xdata().tolist() for line in ax.lines if line.get_marker() == "." and len(line.get_xdata()) > 1]
    assert dots == list(SEEDS.values())
    assert [bar.lines[0].get_color() for bar in ax.containers] == [
        plots.COLOURS[role] for role in ("scratch", "distilled", "neutral")
    ]
    draw(ax.figure)


def test_interval_lines_join_means_inside_a_band(axes: Axes):
    seeds = [[1.0, 2.0, 3.0], [4.0, 6.0, 8.0]]
    assert plots.interval_lines(axes, [1, 4], seeds, name="distilled") is axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[1, 2], [4, 6]]
    assert line.get_label() == "distilled"
    assert line.get_color() == plots.COLOURS["distilled"]
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    for x, values in zip([1, 4], seeds, strict=True):
        heights = corners[corners[:, 0] == x][:, 1]
        assert (heights.min(), heights.max()) == pytest.approx(mean_interval(values)[1:3])
    assert to_hex(band.get_facecolor()) == plots.COLOURS["distilled"]
    draw(axes.figure)


def test_lines_without_a_role_differ_in_colour(axes: Axes):
    for name in ("T = 1", "T = 4"):
        plots.interval_lines(axes, [1, 2], [[1.0, 2.0], [3.0, 4.0]], name=name)
    first, second = axes.lines
    assert first.get_color() != second.get_color()
    assert [to_hex(band.get_facecolor()) for band in axes.collections] == [
        to_hex(line.get_color()) for line in axes.lines
    ]


def test_reliability_diagram_draws_the_used_bins_and_the_diagonal(axes: Axes):
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 0.0], [9.0, 0.0]])
    table = calibration_bins(logits, torch.tensor([0, 0, 0, 1]))
    assert plots.reliability_diagram(axes, table, role="distilled", name="student") is axes
    diagonal, curve = axes.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    used = table[table[:, 0] > 0]
    assert curve.get_xydata() == pytest.approx(used[:, 1:].numpy())
    assert (curve.get_color(), curve.get_label()) == (plots.COLOURS["distilled"], "student")
    (spots,) = axes.collections
    assert spots.get_sizes()[-1] > spots.get_sizes()[0], "a bin with more samples has a larger spot"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("confidence", "accuracy")
    draw(axes.figure)


# --- what cannot be drawn -------------------------------------------------------------------------------------------

P = torch.tensor([0.7, 0.2, 0.1])
NAN = math.nan
UNDRAWABLE = {
    "no images": (lambda ax: plots.show_digits(digits(0)), r"\(0, 1, 28, 28\)"),
    "images without a row": (lambda ax: plots.show_digits(torch.zeros(28, 28)), r"\(N, 1, height, width\)"),
    "colours": (lambda ax: plots.show_digits(torch.zeros(2, 3, 8, 8)), r"one grey image .*\(3, 8, 8\)"),
    "a text for titles": (lambda ax: plots.show_digits(digits(3), "abc"), "3 images need a list of as many titles"),
    "too few titles": (lambda ax: plots.show_digits(digits(3), ["a"]), "3 images need a list of as many titles"),
    "too many titles": (lambda ax: plots.show_digits(digits(1), ["a", "b"]), "1 images need a list of as many titles"),
    "no columns": (lambda ax: plots.show_digits(digits(3), columns=0), "columns must be 1 or more, not 0"),
    "a flat image": (lambda ax: plots.draw_digit(ax, torch.zeros(784)), r"one grey image .*\(784,\)"),
    "a batch as an image": (lambda ax: plots.draw_digit(ax, digits(2)), "one grey image"),
    "an empty image": (lambda ax: plots.draw_digit(ax, torch.zeros(1, 0, 28)), "one grey image"),
    "logits as bars": (lambda ax: plots.probability_bars(ax, torch.tensor([0.5, -0.25])), r"0 to 1.*softmax\(0\)"),
    "large logits": (lambda ax: plots.probability_bars(ax, torch.tensor([1.01, 0.0])), "0 to 1"),
    "a table as bars": (lambda ax: plots.probability_bars(ax, torch.ones(2, 2)), r"\(C,\) numbers"),
    "no bars": (lambda ax: plots.probability_bars(ax, torch.ones(0)), r"\(C,\) numbers"),
    "NaN as a bar": (lambda ax: plots.probability_bars(ax, [NAN, 0.5]), "0 to 1"),
    "a role nobody has": (
        lambda ax: plots.probability_bars(ax, P, role="student"),
        "one of teacher, scratch, distilled",
    ),
    "label 3 of 3": (lambda ax: plots.probability_bars(ax, P, label=3), "label must be 2 or less, not 3"),
    "label -1": (lambda ax: plots.probability_bars(ax, P, label=-1), "label must be 0 or more, not -1"),
    "a vector as heat": (lambda ax: plots.heatmap(P, ax=ax), r"needs a matrix, not \(3,\)"),
    "nothing as heat": (lambda ax: plots.heatmap(torch.zeros(0, 3), ax=ax), "needs a matrix"),
    "fewer than no decimals": (
        lambda ax: plots.heatmap(torch.eye(2), ax=ax, decimals=-1),
        "decimals must be 0 or more",
    ),
    "no histories": (lambda ax: plots.loss_curves({}, ax=ax), "histories are empty"),
    "a column that is not there": (lambda ax: plots.loss_curves({"a": history(1)}, "nll"), "'a' must .*column 'nll'"),
    "a history without epochs": (lambda ax: plots.loss_curves({"a": history()}), "'a' must be a table with epochs"),
    "a history as a dictionary": (lambda ax: plots.loss_curves({"a": {"loss": [1.0]}}), "'a' must be a table"),
    "one seed": (lambda ax: plots.interval_plot({"a": [1.0]}, xlabel=""), "two seeds or more"),
    "a run that failed": (lambda ax: plots.interval_plot({"a": [1.0, NAN]}, xlabel=""), "finite"),
    "no rows": (lambda ax: plots.interval_plot({}, xlabel=""), "rows are empty"),
    "places without values": (lambda ax: plots.interval_lines(ax, [1, 2], [[1.0, 2.0]], name="a"), "2 places x, .* 1$"),
    "no places": (lambda ax: plots.interval_lines(ax, [], [], name="a"), "0 places x"),
    "bins without samples": (lambda ax: plots.reliability_diagram(ax, torch.zeros(15, 3)), "with samples"),
    "logits for bins": (lambda ax: plots.reliability_diagram(ax, torch.ones(4, 5)), r"\(4, 5\); use calibration_bins"),
    "one bin": (lambda ax: plots.reliability_diagram(ax, torch.ones(3)), r"\(3,\); use calibration_bins"),
    "a reliability of nobody": (lambda ax: plots.reliability_diagram(ax, torch.ones(2, 3), role="x"), "role must be"),
}


@pytest.mark.parametrize(("draw_it", "words"), UNDRAWABLE.values(), ids=UNDRAWABLE)
def test_what_cannot_be_drawn_is_refused(axes: Axes, draw_it: Callable, words: str):
    with pytest.raises(ValueError, match=words):
        draw_it(axes)
    assert not axes.has_data(), "nothing is half drawn"


NO_KIND = {
    "texts for numbers": lambda ax: plots.probability_bars(ax, "abc"),
    "None for numbers": lambda ax: plots.heatmap(None),
    "axes for numbers": lambda ax: plots.probability_bars(P, ax),
    "ragged rows": lambda ax: plots.heatmap([[1], [1, 2]]),
    "text columns": lambda ax: plots.show_digits(digits(3), columns="8"),
    "a text label": lambda ax: plots.probability_bars(ax, P, label="2"),
    "one history": lambda ax: plots.loss_curves(history(1, 2)),
    "a list of rows": lambda ax: plots.interval_plot([[1.0, 2.0]], xlabel=""),
    "texts of a row": lambda ax: plots.interval_plot({"a": ["1", "2"]}, xlabel=""),
    "places that are None": lambda ax: plots.interval_lines(ax, None, [[1.0, 2.0]], name="a"),
    "a figure for axes": lambda ax: plots.draw_digit(ax.figure, digits(1)[0]),
    "many axes": lambda ax: plots.draw_digit(plt.subplots(1, 2)[1], digits(1)[0]),
    "no axes": lambda ax: plots.reliability_diagram(None, torch.ones(2, 3)),
    "axes that are a number": lambda ax: plots.loss_curves({"a": history(1, 2)}, ax=3),
    "axes that are a text": lambda ax: plots.interval_plot(SEEDS, xlabel="", ax="left"),
    "axes that are a figure": lambda ax: plots.heatmap(torch.eye(2), ax=ax.figure),
    "lines without axes": lambda ax: plots.interval_lines(None, [1], [[1.0, 2.0]], name="a"),
}


@pytest.mark.parametrize("draw_it", NO_KIND.values(), ids=NO_KIND)
def test_what_is_of_another_kind_is_refused_in_a_sentence(axes: Axes, draw_it: Callable):
    with pytest.raises(TypeError, match=r"^\S.* must be .*, not "):
        draw_it(axes)


@pytest.mark.parametrize("kind", [torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.half, torch.Tensor.bfloat16])
def test_tensors_arrays_and_lists_are_drawn_alike(kind: Callable):
    values = torch.tensor([[0.5, 0.25], [0.25, 0.75]])
    assert texts(plots.heatmap(kind(values))) == ["0.50", "0.25", "0.25", "0.75"]
    bars = plots.probability_bars(plt.figure().gca(), kind(values[0]), label=np.int64(1)).patches
    assert [bar.get_height() for bar in bars] == [0.5, 0.25]
    figure = plots.show_digits(kind(values[:, None, None].expand(2, 1, 2, 2).reshape(4, 1, 2, 1).contiguous()))
    assert figure.axes[0].images[0].get_array().shape == (2, 1)
    ax = plots.reliability_diagram(plt.figure().gca(), kind(torch.tensor([[4.0, 0.5, 0.25], [0.0, 0.0, 0.0]])))
    assert ax.lines[1].get_xydata().tolist() == [[0.5, 0.25]]


def test_a_tensor_with_a_history_is_drawn(axes: Axes):
    plots.probability_bars(axes, torch.zeros(2, requires_grad=True).softmax(0))
    assert [bar.get_height() for bar in axes.patches] == [0.5, 0.5]
    assert texts(plots.heatmap(torch.eye(2, requires_grad=True))) == ["1.00", "0.00", "0.00", "1.00"]


@pytest.mark.parametrize("style", [False, True], ids=["plain style", "course style"])
def test_every_figure_can_be_saved_in_either_style(style: bool, tmp_path):
    if style:
        plots.use_course_style()
    figures = [
        plots.show_digits(digits(3), ["α = 0.9", "T²", "−1"]),
        plots.probability_bars(plt.figure().gca(), torch.tensor([0.5, 0.5]), label=1, log=True).figure,
        plots.heatmap(torch.eye(3), colour_bar="x").figure,
        plots.loss_curves({"teacher": history(1, 2)}).figure,
        plots.interval_plot(SEEDS, xlabel="errors").figure,
        plots.reliability_diagram(plt.figure().gca(), calibration_bins(torch.eye(4), torch.arange(4))).figure,
    ]
    for number, figure in enumerate(figures):
        path = tmp_path / f"{number}.png"
        figure.savefig(path)
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("distilled", "distilled"),
        ("Distilled, T = 4", "distilled"),
        ("scratch", "scratch"),
        ("teacher (frozen)", "teacher"),
        ("the teacher", None),
        ("", None),
    ],
)
def test_a_role_is_what_a_name_begins_with(name: str, role: str | None):
    assert plots._role(name) == role
