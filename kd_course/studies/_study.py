"""What a study is: a question, the recipes that answer it with the columns that identify them, and the claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from kd_course.comparison import Recipe
from kd_course.data import Data, Split, load_data
from kd_course.studies._claims import Analysis, Plain
from kd_course.teachers import teacher_logits


class Arm(NamedTuple):
    """A recipe of a study, and the columns by which its runs are found.

    Attributes:
        recipe: for :func:`kd_course.comparison.compare`; plain options only, so that every run is remembered.
        columns: what the recipe is, as plain values. A token training has those of the training it stands for.
    """

    recipe: Recipe
    columns: Mapping[str, Plain]


@dataclass(frozen=True, kw_only=True)
class Study(Analysis):
    """One question, the trainings that answer it, and how to read them.

    Attributes:
        load: gives the data, with the teacher's logits where recipes want them.
        arms: by name.

    Raises:
        ValueError: no arms, two with the same columns, columns that other arms do not have, or a value not plain.
    """

    load: Callable[[], Data]
    arms: Mapping[str, Arm]

    def __post_init__(self) -> None:
        if not self.arms or not all(isinstance(arm, Arm) for arm in self.arms.values()):
            raise ValueError("a study needs arms by name, each an Arm(recipe, columns)")
        named = [tuple(arm.columns) for arm in self.arms.values()]
        if len(set(named)) > 1 or {"recipe", "seed", "seconds"} & {name for columns in named for name in columns}:
            raise ValueError(f"every arm needs the same columns, beside recipe, seed and seconds, not {set(named)}")
        values = [tuple(arm.columns.values()) for arm in self.arms.values()]
        if odd := [value for row in values for value in row if not isinstance(value, Plain)]:
            raise ValueError(f"the columns {named[0]} must have plain values, not {odd[0]!r}")
        if len(set(values)) < len(values):
            raise ValueError(f"the columns {named[0]} must have other values for every arm, not {values}")

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The recipes by name, for :func:`kd_course.comparison.compare`."""
        return {name: arm.recipe for name, arm in self.arms.items()}


def at_most(images: int, data: Data) -> Data:
    """The same data with at most this many images in each split, drawn at random."""
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    few = {name: split.sample(images, seed=0) for name, split in parts.items() if len(split) > images}
    return replace(data, **few)


def load_with_teacher(*, teacher: str, validation_size: int | None = None, fast: bool = False) -> Data:
    """The course's data, with the logits of one of its teachers beside every image.

    Args:
        teacher: the name of a shipped teacher.
        validation_size: how many training images are set aside; the usual number if None.
        fast: at most 1,000 images in each split.
    """
    data = load_data(validation_size=validation_size)
    if fast:
        data = at_most(1_000, data)
    parts = {}
    for name in ("train", "validation", "test"):
        split: Split = getattr(data, name)
        parts[name] = split.with_teacher(teacher_logits(split, teacher)) if len(split) else split
    return replace(data, **parts)
