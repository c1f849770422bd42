"""A control redraws the picture; a drawing that fails says why and leaves the last picture standing."""

from __future__ import annotations

from collections.abc import Iterator

import ipywidgets
import matplotlib.pyplot as plt
import pytest
import traitlets
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from packaging.version import Version

from kd_course import widgets
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

    message = live_figure(forgetful, x=ipywidgets.FloatSlider(0.0)).children[2].value
    assert "could not be drawn" in message
    assert "must be a matplotlib figure, not NoneType; end the function with: return figure" in message


def test_a_drawing_that_makes_more_figures_than_it_returns_leaves_none_open():
    def two(x: float) -> Figure:
        plt.figure()
        return line(x)

    others = plt.get_fignums()
    slider = ipywidgets.FloatSlider(1.0)
    picture = live_figure(two, x=slider).children[1]
    slider.value = 2.0
    assert plt.get_fignums() == others
    assert picture.value == as_png(line(2.0))


@pytest.mark.parametrize("draw", [Figure(), None, "line"], ids=["figure", "None", "name"])
def test_what_is_no_function_is_refused(draw: object):
    with pytest.raises(TypeError, match=f"draw must be a function .*not {type(draw).__name__}; pass it uncalled"):
        live_figure(draw, slope=ipywidgets.FloatSlider(1.0))


@pytest.mark.parametrize("control", [5, (0, 1), None, ipywidgets.FloatSlider, ipywidgets.VBox([])], ids=repr)
def test_what_is_no_control_is_refused(control: object):
    with pytest.raises(TypeError, match=r"slope must be a widget with a value.*try slope=ipywidgets\.FloatSlider"):
        live_figure(line, slope=control)


def test_as_png_refuses_what_is_no_figure():
    for other in (line(1.0).gca(), "figure", None):
        with pytest.raises(TypeError, match=f"must be a matplotlib figure, not {type(other).__name__}; "):
            as_png(other)
    plt.close("all")


# Cells that are run again.

CELL = "box = live_figure(line, slope=ipywidgets.FloatSlider(1.0))"
DRAWN = "canvas = live_figure(lambda value: line(1.0), value=DigitCanvas())"


class Notebook:
    """IPython without a window: cells that are run in one namespace, and a count of the widgets that are alive.

    JupyterLab sends the id of a cell along; other front ends do not, and there a cell is known by its text.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        shell.user_ns.update(live_figure=live_figure, line=line, ipywidgets=ipywidgets, DigitCanvas=DigitCanvas)

    def run(self, text: str, cell: str | None = None) -> object:
        self.shell.parent_header = {"metadata": {"cellId": cell} if cell else {}}
        self.shell.run_cell(text, store_history=True).raise_error()
        return self.shell.user_ns

    def alive(self) -> int:
        old = Version(ipywidgets.__version__) < Version("8")
        return len(ipywidgets.Widget.widgets if old else ipywidgets.widgets.widget._instances)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    monkeypatch.setattr(widgets, "_shown", {})
    ipywidgets.Widget.close_all()
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    yield Notebook(shell)
    InteractiveShell.clear_instance()
    ipywidgets.Widget.close_all()


@pytest.mark.parametrize("ids", [True, False], ids=["by id", "by text"])
@pytest.mark.parametrize("cell", [CELL, DRAWN, f"{CELL}\n{DRAWN}", "canvas = DigitCanvas()"])
def test_a_cell_run_ten_times_leaves_one_set_of_widgets(notebook: Notebook, cell: str, ids: bool):
    notebook.run(cell, "a" if ids else None)
    once = notebook.alive()
    assert once >= 2
    for _ in range(9):
        notebook.run(cell, "a" if ids else None)
    assert notebook.alive() == once


def test_a_cell_that_is_changed_and_run_again_leaves_one_set_where_its_id_is_known(notebook: Notebook):
    notebook.run(CELL, "a")
    once = notebook.alive()
    notebook.run(CELL.replace("1.0", "2.0"), "a")
    assert notebook.alive() == once


@pytest.mark.parametrize("ids", [True, False], ids=["by id", "by text"])
def test_figures_of_other_cells_and_of_one_cell_live_on(notebook: Notebook, ids: bool):
    notebook.run(CELL, "a" if ids else None)
    notebook.run(
        "pair = [live_figure(line, slope=ipywidgets.FloatSlider(x)) for x in (1.0, 2.0)]", "b" if ids else None
    )
    names = notebook.run(DRAWN, "c" if ids else None)
    boxes = [names["box"], *names["pair"], names["canvas"]]
    assert all(widget.comm is not None for box in boxes for widget in (box, *box.children))
    slider, picture, _ = names["pair"][0].children
    before = picture.value
    slider.value = 3.0
    assert picture.value != before
    notebook.run(CELL, "a" if ids else None)
    assert boxes[0].comm is None
    assert boxes[0].children[0].comm is None
    assert all(widget.comm is not None for box in boxes[1:] for widget in (box, *box.children))


def test_a_control_that_another_figure_has_is_not_closed(notebook: Notebook):
    """A slider made in one cell may serve two figures, and is still there when one of them is drawn anew."""
    names = notebook.run("slider, canvas = ipywidgets.FloatSlider(1.0), DigitCanvas()", "a")
    notebook.run("first = live_figure(line, slope=slider)", "b")
    notebook.run("second = live_figure(line, slope=slider)", "c")
    notebook.run("third = live_figure(lambda value: line(1.0), value=canvas)", "d")
    slider, canvas, before = names["slider"], names["canvas"], names["first"].children[1].value
    for text, cell in (
        ("first = live_figure(line, slope=slider)", "b"),
        ("first = live_figure(line, slope=ipywidgets.FloatSlider())", "b"),
        ("other = DigitCanvas()", "a"),
    ):
        notebook.run(text, cell)
        assert slider.comm is not None
        assert canvas.comm is not None
        assert slider.layout.comm is not None
    slider.value = 2.5
    assert names["second"].children[1].value != before
    notebook.run("second = live_figure(line, slope=ipywidgets.FloatSlider())", "c")
    assert slider.comm is None


def test_a_new_canvas_does_not_close_the_slider_that_is_about_to_join_it(notebook: Notebook):
    """The cell makes a canvas first, and only then the figure that goes on using a slider of another cell."""
    slider = notebook.run("slider = ipywidgets.FloatSlider(1.0)", "a")["slider"]
    text = "box = live_figure(lambda slope, value: line(slope), slope=slider, value=DigitCanvas())"
    first = notebook.run(text, "b")["box"]
    once = notebook.alive()
    second = notebook.run(text, "b")["box"]
    assert slider.comm is not None
    assert (first.comm, first.children[1].comm) == (None, None)
    assert second.children[1].comm is not None
    assert notebook.alive() == once


def test_outside_a_notebook_nothing_is_closed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(widgets, "_shown", {})
    boxes = [live_figure(line, slope=ipywidgets.FloatSlider(1.0)) for _ in range(3)]
    assert all(box.comm is not None for box in boxes)
    assert not widgets._shown


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


@pytest.mark.parametrize(
    "value", [[0] * 783, [0] * 785, [0] * 783 + [256], [0] * 783 + [-1], [0.5] * 784, "0" * 784, None], ids=lambda _: ""
)
def test_a_canvas_holds_784_pixels_from_0_to_255(value: list[int]):
    with pytest.raises(traitlets.TraitError, match=r"a list of 784 whole numbers from 0 to 255.*flatten\(\)\.tolist"):
        DigitCanvas(value=value)
    canvas = DigitCanvas()
    with pytest.raises(traitlets.TraitError, match="a list of 784 whole numbers from 0 to 255"):
        canvas.value = value
    assert canvas.value == [0] * 784
    canvas.value = [255] * 784
    assert max(canvas.value) == 255
