"""A control redraws the picture; a drawing that fails says why and leaves the last picture standing."""

from __future__ import annotations

from collections.abc import Iterator

import ipywidgets
import matplotlib.pyplot as plt
import pytest
import traitlets
from matplotlib.figure import Figure

from kd_course.widgets import DigitCanvas, as_png, live_figure

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _no_figure_stays_open() -> Iterator[None]:
    """Every drawing of a live figure is closed: a slider moved a hundred times must not fill the memory."""
    plt.switch_backend("agg")
    assert not plt.get_fignums()
    yield
    left = plt.get_fignums()
    plt.close("all")
    assert not left


def line(slope: float, intercept: float = 0.0) -> Figure:
    figure, ax = plt.subplots()
    ax.plot([0, 1], [intercept, intercept + slope])
    ax.set_ylim(-5, 5)
    return figure


def inverse(x: float) -> Figure:
    return line(1 / x)


def test_the_box_holds_the_controls_the_picture_and_a_message():
    slope, intercept = ipywidgets.FloatSlider(1.0), ipywidgets.FloatSlider(0.0)
    box = live_figure(line, slope=slope, intercept=intercept)
    assert isinstance(box, ipywidgets.VBox)
    *controls, picture, message = box.children
    assert controls == [slope, intercept]
    assert isinstance(picture, ipywidgets.Image)
    assert picture.format == "png"
    assert message.value == ""


def test_a_picture_is_there_before_anything_is_moved():
    box = live_figure(line, slope=ipywidgets.FloatSlider(1.0))
    assert box.children[1].value == as_png(line(1.0))
    assert bytes(box.children[1].value).startswith(PNG)


def test_moving_a_slider_draws_its_value():
    slope, intercept = ipywidgets.FloatSlider(1.0, max=3), ipywidgets.FloatSlider(0.0, max=3)
    picture = live_figure(line, slope=slope, intercept=intercept).children[2]
    seen = [picture.value]
    slope.value = 2.0
    seen.append(picture.value)
    intercept.value = 1.5
    seen.append(picture.value)
    assert len(set(seen)) == 3
    assert seen[-1] == as_png(line(2.0, 1.5)), "both controls count"
    slope.value, intercept.value = 1.0, 0.0
    assert picture.value == seen[0]


def test_any_control_with_a_value_will_do():
    picture = live_figure(line, slope=ipywidgets.Dropdown(options=[("flat", 0.0), ("steep", 4.0)])).children[1]
    assert picture.value == as_png(line(0.0))


def test_a_failing_drawing_keeps_the_picture_and_says_why():
    slider = ipywidgets.FloatSlider(2.0, min=-5, max=5)
    _, picture, message = live_figure(inverse, x=slider).children
    before = picture.value
    slider.value = 0.0
    assert picture.value == before
    assert "could not be drawn" in message.value
    assert "ZeroDivisionError" in message.value
    slider.value = 1.0
    assert picture.value == as_png(line(1.0))
    assert message.value == "", "the message goes once a drawing succeeds"


def test_a_drawing_that_fails_at_once_still_shows_its_controls():
    box = live_figure(inverse, x=ipywidgets.FloatSlider(0.0))
    assert "ZeroDivisionError" in box.children[2].value


def test_a_drawing_that_fails_half_way_leaves_no_figure_open():
    def half_way(x: float) -> Figure:
        plt.figure()
        raise ValueError(x)

    slider = ipywidgets.FloatSlider(0.0)
    others = plt.get_fignums()
    live_figure(half_way, x=slider)
    slider.value = 1.0
    assert plt.get_fignums() == others


def test_a_message_cannot_smuggle_markup_in():
    def angry(x: float) -> Figure:
        raise ValueError("<script>alert(1)</script>")

    message = live_figure(angry, x=ipywidgets.FloatSlider(0.0)).children[2].value
    assert "<script>" not in message
    assert "&lt;script&gt;" in message


def test_a_drawing_that_returns_no_figure_is_reported():
    def forgetful(x: float) -> None:
        return None

    assert "could not be drawn" in live_figure(forgetful, x=ipywidgets.FloatSlider(0.0)).children[2].value


def test_as_png_gives_a_png_and_closes_the_figure():
    figure = line(1.0)
    assert plt.fignum_exists(figure.number)
    assert as_png(figure).startswith(PNG)
    assert not plt.fignum_exists(figure.number)


# Drawing a digit.


def test_a_canvas_is_a_control_of_a_live_figure():
    canvas = DigitCanvas()
    seen = []

    def draw(value: list[int]) -> Figure:
        seen.append(sum(value))
        return line(1.0)

    box = live_figure(draw, value=canvas)
    canvas.value = [0] * 783 + [255]
    assert seen == [0, 255]
    assert box.children[0] is canvas


@pytest.mark.parametrize("value", [[0] * 783, [0] * 785, [0] * 783 + [256], [0] * 783 + [-1]])
def test_a_canvas_holds_784_pixels_from_0_to_255(value: list[int]):
    with pytest.raises(traitlets.TraitError):
        DigitCanvas(value=value)
