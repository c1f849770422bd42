"""The table of losses: one case for each, or one for each set of options in which a loss is another formula.

A new loss needs one entry here, and nothing else of the contract's tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import oracles
import torch
from contract import CLASSES, Case, Change, Refusal, scale
from oracles import Loss, normal, rotation
from torch import Tensor
from torch.nn import functional as F

from kd_course.losses import (
    CRDLoss,
    HintRegressor,
    attention_map,
    attention_transfer_loss,
    correlation_congruence_loss,
    dist_loss,
    dkd_loss,
    hint_loss,
    info_nce_loss,
    irg_loss,
    kd_loss,
    layerwise_loss,
    logit_mse_loss,
    nce_loss,
    pkt_loss,
    probability_mse_loss,
    regression_kd_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    similarity_preserving_loss,
    soft_target_loss,
    standardize_logits,
)

# Inputs: float64 numbers for a batch and a seed.


def tensors(*shapes: tuple[int, ...], scale: float = 1.0) -> Callable[..., tuple]:
    """Random tensors whose shapes, without the batch, are these."""

    def inputs(batch: int = 5, seed: int = 0) -> tuple[Tensor, ...]:
        return tuple(normal(batch, *shape, seed=100 * seed + i, scale=scale) for i, shape in enumerate(shapes, 1))

    return inputs


def labels_of(batch: int, seed: int = 0) -> Tensor:
    return torch.randint(0, CLASSES, (batch,), generator=torch.Generator().manual_seed(seed + 3))


def logits_and_labels(batch: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return (*logits(batch, seed), labels_of(batch, seed))


def predictions_and_targets(batch: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The targets, 2 at one place and 0 elsewhere, are like nothing that the predictions are made of."""
    return (*logits(batch, seed), 2.0 * F.one_hot(labels_of(batch, seed), CLASSES).double())


def features_and_numbers(batch: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return (*tensors((4,), (6,))(batch, seed), SAMPLES[-batch:])


logits = tensors((CLASSES,), (CLASSES,), scale=3.0)
embeddings = tensors((4,), (6,))
same_width = tensors((4,), (4,))
maps = tensors((2, 4, 4), (2, 4, 4))


# Changes, and which losses they leave alone.


def either(change: Callable[[Tensor], Tensor]) -> Change:
    """Done to the student alone, and to the teacher alone."""
    return Change(change.__name__, change)


def together(change: Callable[[Tensor], Tensor]) -> Change:
    """Done to both at once."""
    return Change(f"common {change.__name__}", change, ((0, 1),))


def first(change: Callable[[Tensor], Tensor]) -> Change:
    """Done to the first input, which may be the only one."""
    return Change(change.__name__, change, ((0,),))


def second(change: Callable[[Tensor], Tensor]) -> Change:
    return Change(f"{change.__name__} of the second", change, ((1,),))


def column(value: Tensor, start: float, end: float) -> Tensor:
    """Numbers from ``start`` to ``end``, one for each sample."""
    return torch.linspace(start, end, len(value), dtype=value.dtype).view(-1, *[1] * (value.ndim - 1))


def constant_per_row(value: Tensor) -> Tensor:
    return value + column(value, -50, 50)


def shift(value: Tensor) -> Tensor:
    return value + torch.linspace(-3, 5, value.shape[1])


def growth(value: Tensor) -> Tensor:
    return 1e3 * value


def negation(value: Tensor) -> Tensor:
    return -2 * value


def length_of_samples(value: Tensor) -> Tensor:
    return value * column(value, 0.5, 3)


def turn(value: Tensor) -> Tensor:
    return value @ rotation(value.shape[1])


def mirror(value: Tensor) -> Tensor:
    return value * torch.tensor([-1.0] + [1.0] * (value.shape[1] - 1))


def order_of_columns(value: Tensor) -> Tensor:
    return value[:, torch.randperm(value.shape[1], generator=torch.Generator().manual_seed(1)).roll(1)]


def flipped_columns(value: Tensor) -> Tensor:
    return value.flip(1)


def sign_of_channels(value: Tensor) -> Tensor:
    signs = [(-1.0) ** channel for channel in range(value.shape[1])]
    return value * torch.tensor(signs).view(1, -1, *[1] * (value.ndim - 2))


ORDER_OF_CLASSES = (together(order_of_columns), together(flipped_columns))
CONSTANT = (either(constant_per_row),)
TURN = (either(turn), either(mirror))
SCALE = (scale, either(growth))
CHANNELS = (flipped_columns, sign_of_channels, length_of_samples)


# Refusals.


def out_of_range(option: str, *values: float) -> tuple[Refusal, ...]:
    """The option is named, and so is what it was."""
    return tuple(Refusal(f"{option} {value}", (option, repr(value)), options={option: value}) for value in values)


def no_number(option: str) -> tuple[Refusal, ...]:
    """What is no number at all: the option is named, and so is what it was."""
    return tuple(
        Refusal(f"{option} {name}", (option, says), options={option: value}, error=TypeError)
        for name, says, value in (("text", "'0.5'", "0.5"), ("list", "[0.5]", [0.5]), ("missing", "None", None))
    )


def with_more(refusals: tuple[Refusal, ...], *more: Any) -> tuple[Refusal, ...]:
    """The same refusals for a loss with further arguments."""
    return tuple(
        Refusal(each.name, each.says, (*each.arguments, *more), each.options, each.error, each.call)
        for each in refusals
    )


LOGITS, LABELS = torch.zeros(2, 3), torch.tensor([0, 2])
NO_LOGITS = (
    Refusal("labels", ("teacher logits", "int64", "labels"), (LOGITS, LABELS), error=TypeError),
    Refusal("integers", ("student logits", "int64", ".float()"), (LOGITS.long(), LOGITS), error=TypeError),
    Refusal("booleans", ("teacher logits", "bool"), (LOGITS, LOGITS.bool()), error=TypeError),
    Refusal("no teacher", ("teacher logits", "NoneType", "with_teacher"), (LOGITS, None), error=TypeError),
    Refusal("a list", ("student logits", "list"), (LOGITS.tolist(), LOGITS), error=TypeError),
    Refusal(
        "batch differs", ("student logits (2, 3)", "teacher logits (3, 3)", "same samples"), (LOGITS, torch.zeros(3, 3))
    ),
    Refusal(
        "classes differ",
        ("student logits (2, 3)", "teacher logits (2, 4)", "other numbers of classes"),
        (LOGITS, torch.zeros(2, 4)),
    ),
    Refusal("would broadcast", ("student logits (2, 3)", "teacher logits (1, 3)"), (LOGITS, torch.zeros(1, 3))),
    Refusal("one dimension", ("logits", "(batch, classes)", "(3,)", "logits[None]"), (torch.zeros(3),) * 2),
    Refusal(
        "sequences",
        ("(batch, classes)", "(2, 3, 4)", "logits.flatten(0, 1)", "labels.flatten()"),
        (torch.zeros(2, 3, 4),) * 2,
    ),
    Refusal(
        "maps",
        ("(batch, classes)", "(2, 3, 4, 4)", "logits.movedim(1, -1).flatten(0, 2)"),
        (torch.zeros(2, 3, 4, 4),) * 2,
    ),
    Refusal("an array", ("teacher logits", "ndarray", "torch.as_tensor(…)"), (LOGITS, LOGITS.numpy()), error=TypeError),
    Refusal("a tuple", ("student logits", "tuple", "model returned"), ((LOGITS, None), LOGITS), error=TypeError),
    Refusal("two devices", ("cpu", "meta", ".to('cpu')"), (LOGITS, LOGITS.to("meta"))),
    Refusal("one class", ("logits", "(batch, classes)", "(2, 1)"), (torch.zeros(2, 1),) * 2),
    Refusal("empty", ("logits", "(0, 3)"), (torch.zeros(0, 3),) * 2),
)
NO_TEMPERATURE = (
    *out_of_range("temperature", 0, -1, -0.5, 1e-30, 1e30, math.nan, math.inf),
    *no_number("temperature"),
)
ONE_TEMPERATURE = Refusal(
    "temperatures", ("temperature", "one number", "(3,)"), options={"temperature": torch.ones(3)}, error=TypeError
)
NO_TEMPERATURES = tuple(
    Refusal(f"temperatures {name}", ("temperature", says), options={"temperature": value})
    for name, says, value in (
        ("for others", "(2,)", torch.ones(2)),
        ("in a column", "(3, 1)", torch.ones(3, 1)),
        ("of integers", "int64", torch.ones(3).long()),
        ("below 0", "-1.0", torch.tensor([1.0, -1.0, 2.0])),
        ("not a number", "nan", torch.tensor([1.0, math.nan, 2.0])),
    )
)
NO_FRACTION = (*out_of_range("alpha", -0.01, 1.01, 9, math.nan), *no_number("alpha"))
NO_WEIGHT = (-0.1, -1.0, math.nan, math.inf)
NO_LABELS = (
    Refusal("one-hot labels", ("labels", "int64", "(2, 3)", "labels.argmax(1)"), (LOGITS, LOGITS, F.one_hot(LABELS))),
    Refusal(
        "one-hot floats",
        ("labels", "float32", "(2, 3)", "labels.argmax(1)"),
        (LOGITS, LOGITS, F.one_hot(LABELS).float()),
    ),
    Refusal("one-hot booleans", ("bool", "labels.int().argmax(1)"), (LOGITS, LOGITS, F.one_hot(LABELS).bool())),
    Refusal(
        "mixed labels", ("soft or mixed", "F.cross_entropy"), (LOGITS, LOGITS, torch.tensor([[0.7, 0.3, 0.0]] * 2))
    ),
    Refusal(
        "several classes", ("F.binary_cross_entropy_with_logits",), (LOGITS, LOGITS, torch.tensor([[1, 0, 1]] * 2))
    ),
    Refusal("no class", ("F.binary_cross_entropy_with_logits",), (LOGITS, LOGITS, torch.zeros(2, 3))),
    Refusal("boolean labels", ("labels", "bool", "labels.long()"), (LOGITS, LOGITS, LABELS.bool())),
    Refusal("labels in a column", ("(2, 1)", "labels.flatten()"), (LOGITS, LOGITS, LABELS[:, None])),
    Refusal("labels to be ignored", ("-100..2", "keep = labels >= 0"), (LOGITS, LOGITS, torch.tensor([-100, 2]))),
    Refusal("float labels", ("labels", "float32", "(2,)", "labels.long()"), (LOGITS, LOGITS, LABELS.float())),
    Refusal("too few labels", ("labels", "(2,)", "(1,)"), (LOGITS, LOGITS, torch.tensor([0]))),
    Refusal("label too large", ("labels", "0..2", "0..3"), (LOGITS, LOGITS, torch.tensor([0, 3]))),
    Refusal("negative label", ("labels", "0..2", "-1..2"), (LOGITS, LOGITS, torch.tensor([-1, 2]))),
    Refusal("labels in a list", ("labels", "list"), (LOGITS, LOGITS, [0, 2]), error=TypeError),
)
LABELS_NEEDED = Refusal("no labels", ("labels", "alpha=1"), (LOGITS, LOGITS, None))

NO_PREDICTIONS = (
    Refusal(
        "shapes differ",
        ("student predictions (2, 3)", "teacher predictions (2, 1)", "student.view_as(teacher)"),
        (LOGITS, torch.zeros(2, 1)),
    ),
    Refusal("integers", ("teacher predictions", "int64"), (LOGITS, LABELS), error=TypeError),
    Refusal("no teacher", ("teacher predictions", "NoneType"), (LOGITS, None), error=TypeError),
    Refusal("empty", ("predictions", "(0, 3)"), (LOGITS[:0], LOGITS[:0])),
)
NO_TARGETS = (
    Refusal("no targets", ("targets", "alpha"), (LOGITS, LOGITS), {"alpha": 0.5}),
    Refusal("only a margin", ("targets", "margin"), (LOGITS, LOGITS), {"alpha": 1, "margin": 0.1}),
    Refusal("targets' shape", ("targets (2,)", "(2, 3)", "targets.view_as"), (LOGITS, LOGITS, torch.zeros(2))),
    Refusal("whole targets", ("targets", "int64", ".float()"), (LOGITS, LOGITS, LOGITS.long()), error=TypeError),
)

PAIR = torch.zeros(3, 4)


def no_batch(what: str, least: int = 2) -> tuple[Refusal, ...]:
    """What cannot be a batch of the student's and the teacher's features, which the loss calls ``what``."""
    student, teacher = f"student {what}", f"teacher {what}"
    return (
        *(
            [Refusal("one sample", ("1 sample", str(least), "last batch", "drop_last=True"), (PAIR[:1], PAIR[:1]))]
            * (least > 1)
        ),
        Refusal("no sample", ("0 sample", str(least)), (PAIR[:0], PAIR[:0])),
        Refusal("batches differ", (f"3 {student}", f"2 {teacher}", "same samples"), (PAIR, PAIR[:2])),
        Refusal("one dimension", (student, "(4,)", "batch dimension"), (PAIR[0], PAIR[0])),
        Refusal("no width", (teacher, "(3, 0)"), (PAIR, PAIR[:, :0])),
        Refusal("integers", (teacher, "int64"), (PAIR, PAIR.long()), error=TypeError),
        Refusal("a list", (student, "list"), (PAIR.tolist(), PAIR), error=TypeError),
        Refusal("no teacher", (teacher, "NoneType"), (PAIR, None), error=TypeError),
    )


NO_EMBEDDINGS = (
    *no_batch("embeddings"),
    Refusal("maps", ("student embeddings", "(3, 4, 2, 2)", ".flatten(1)"), (torch.zeros(3, 4, 2, 2), PAIR)),
)
NO_FEATURES = no_batch("features")
NO_GRAPHS = (
    *[each for each in NO_FEATURES if each.name not in ("a list", "no teacher")],  # a list is one of layers
    Refusal("rows for layers", ("3 student layers", "1 teacher layers"), (PAIR.tolist(), PAIR)),
    Refusal("numbers for layers", ("student features", "list"), ([PAIR.tolist()], [PAIR]), error=TypeError),
    Refusal("no teacher", ("NoneType",), (PAIR, None), error=TypeError),
    Refusal("no teacher layer", ("teacher features", "NoneType"), ([PAIR], [None]), error=TypeError),
    Refusal("no layers", ("0 student layers", "0 teacher layers"), ([], [])),
    Refusal("other numbers of layers", ("2 student layers", "1 teacher layers"), ([PAIR, PAIR], [PAIR])),
    *(refusal for weight in ("vertex_weight", "edge_weight", "transform_weight")
      for refusal in (*out_of_range(weight, *NO_WEIGHT), *no_number(weight))),
)  # fmt: skip
WIDTHS_THAT_DIFFER = (
    Refusal("vertices", ("(3, 4)", "(3, 2)", "vertex_weight=0"), (PAIR, PAIR[:, :2]), call=irg_loss),
    Refusal(
        "widths of layers",
        ("(3, 4)", "(3, 2)", "transform_weight=0"),
        ([PAIR, PAIR[:, :2]], [PAIR, PAIR[:, :2]]),
        call=irg_loss,
    ),
    Refusal("batches of layers", ("(3, 4)", "(2, 4)"), ([PAIR, PAIR[:2]], [PAIR, PAIR[:2]]), call=irg_loss),
)

MAP = torch.zeros(2, 3, 4, 4)
NO_HINTS = (
    Refusal("batch differs", ("student features (2, 3, 4, 4)", "teacher features (1, 3, 4, 4)"), (MAP, MAP[:1])),
    Refusal(
        "would broadcast",
        ("student features (2, 3, 4, 4)", "teacher features (2, 1, 4, 4)", "HintRegressor"),
        (MAP, MAP[:, :1]),
    ),
    Refusal("flat", ("teacher features (2, 48)",), (MAP, MAP.flatten(1))),
    Refusal("empty", ("features", "(0, 3, 4, 4)"), (MAP[:0], MAP[:0])),
    Refusal("integers", ("teacher features", "int64"), (MAP, MAP.long()), error=TypeError),
    Refusal("no teacher", ("teacher features", "NoneType"), (MAP, None), error=TypeError),
)
NO_REGRESSOR = tuple(
    Refusal(name, says, shapes, call=HintRegressor)
    for name, says, shapes in (
        ("kinds differ", ("(4,)", "(3, 7, 7)", "vectors", "maps"), ((4,), (3, 7, 7))),
        ("neither vector nor map", ("(4, 4)", "vectors", "maps"), ((4, 4), (4, 4))),
        ("scalars", ("()", "vectors", "maps"), ((), ())),
        ("with the batch", ("(5, 16, 14, 14)", "(5, 64, 7, 7)", "without the batch"), ((5, 16, 14, 14), (5, 64, 7, 7))),
        ("too low", ("(3, 6, 7)", "(3, 7, 7)", "earlier"), ((3, 6, 7), (3, 7, 7))),
        ("too narrow", ("(3, 7, 6)", "(3, 7, 7)", "earlier"), ((3, 7, 6), (3, 7, 7))),
    )
)
NO_MAP = (
    Refusal("no batch", ("map", "(3, 4, 4)"), (MAP[0],)),
    Refusal("logits", ("map", "(2, 10)", "logits"), (torch.zeros(2, 10),)),
    Refusal("empty", ("features", "(0, 3, 4, 4)"), (MAP[:0],)),
    Refusal("integers", ("features", "int64"), (MAP.long(),), error=TypeError),
    *out_of_range("power", 0.5, math.nan, math.inf),
    *no_number("power"),
)
NO_LAYERS = (
    *(
        Refusal(each.name, each.says, ([MAP], list(each.arguments)), each.options, each.error, attention_transfer_loss)
        for each in NO_MAP
        if each.arguments
    ),
    *out_of_range("power", 0.5, math.nan, math.inf),
    *no_number("power"),
    *(
        Refusal(name, says, layers, error=error, call=attention_transfer_loss)
        for name, says, layers, error in (
            ("not lists", ("student_features", "teacher_features", "lists", "[ ]"), (MAP, MAP), TypeError),
            ("one list", ("student_features", "teacher_features", "lists"), ([MAP], MAP), TypeError),
            ("no layers", ("0 student layers", "0 teacher layers"), ([], []), ValueError),
            ("other numbers of layers", ("1 student layers", "2 teacher layers"), ([MAP], [MAP] * 2), ValueError),
            ("batches differ", ("batches of 2 and 1", "same samples"), ([MAP], [MAP[:1]]), ValueError),
            ("nothing", ("student features", "NoneType"), ([None], [MAP]), TypeError),
            ("integers for the teacher", ("teacher features", "int64"), ([MAP], [MAP.long()]), TypeError),
        )
    ),
)
ONE = torch.tensor(1.0)
NO_LAYER_LOSSES = tuple(
    Refusal(name, says, arguments, call=layerwise_loss)
    for name, says, arguments in (
        ("none", ("layer_losses",), ([], None)),
        ("too many weights", ("1 layer losses", "weights", "2"), ([ONE], [1, 2])),
        ("too few weights", ("2 layer losses", "weights", "1"), ([ONE] * 2, torch.ones(1))),
        ("vectors", ("layer_losses[1]", "(3,)", ".mean()"), ([ONE, torch.ones(3)], None)),
    )
) + tuple(
    Refusal(name, says, arguments, error=TypeError, call=layerwise_loss)
    for name, says, arguments in (
        ("numbers", ("layer_losses[0]", "float"), ([1.0], None)),
        ("integers", ("layer_losses[0]", "int64"), ([ONE.long()], None)),
        ("names", ("layer_losses[0]", "str"), ({"first": ONE}, None)),
        ("text", ("weight", "'2'"), ([ONE], ["2"])),
    )
)
NO_SCORES = (
    *(
        Refusal(name, (f"positive_log_score {own}", f"negative_log_scores {others}"), shapes)
        for name, own, others in (
            ("batches differ", (3,), (2, 5)),
            ("positive as a column", (3, 1), (3, 5)),
            ("negatives in a row", (3,), (3,)),
            ("no negatives", (3,), (3, 0)),
            ("no samples", (0,), (0, 5)),
        )
        for shapes in [(torch.zeros(own), torch.zeros(others))]
    ),
    Refusal("integers", ("negative_log_scores", "int64"), (PAIR[:, 0], PAIR.long()), error=TypeError),
    Refusal("no scores", ("positive_log_score", "NoneType"), (None, PAIR), error=TypeError),
    *out_of_range("samples", 1),
    *no_number("samples"),
)
SAMPLES = torch.tensor([905, 17, 4, 33, 250, 6, 77, 101, 58, 12, *range(300, 330)])  # of a subset, in no order


def crd(make: type[CRDLoss], student: Tensor, teacher: Tensor, indices: Tensor) -> Tensor:
    """CRD as a function of its inputs: Z = 1, banks that do not move, and always the same negatives for a row."""
    module = make(4, teacher.shape[1], SAMPLES, dimension=3, negatives=6, temperature=0.5).eval()
    module.log_z.zero_()
    module.draw_negatives = lambda rows: (rows[:, None] + torch.arange(1, 7)) % len(SAMPLES)
    wider = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return module.to(wider)(student, teacher, indices)


def make_crd(samples: Tensor = SAMPLES, **options: Any) -> CRDLoss:
    return CRDLoss(4, 4, samples, **{"negatives": 2, **options})


NO_BANK = tuple(
    Refusal(name, says, (samples,), options, call=make_crd)
    for name, says, samples, options in (
        ("one sample", ("sample_indices", "1"), SAMPLES[:1], {}),
        ("labels for numbers", ("sample_indices", "train.indices"), SAMPLES % 3, {}),
        ("a negative number", ("sample_indices", "0 up"), torch.tensor([-1, 0, 1]), {}),
        ("a column", ("sample_indices", "row"), SAMPLES[:, None], {}),
        *(
            (f"{option} {value}", (option, repr(value)), SAMPLES, {option: value})
            for option, values in {
                "negatives": (0, -1),
                "momentum": (1, -0.1),
                "temperature": (0, -1, 1e30, math.nan, math.inf),
            }.items()
            for value in values
        ),
    )
) + tuple(
    Refusal(name, says, (samples,), options, TypeError, make_crd)
    for name, says, samples, options in (
        ("floats", ("sample_indices", "float32"), SAMPLES.float(), {}),
        ("booleans", ("sample_indices", "bool"), SAMPLES > 9, {}),
        ("a list", ("sample_indices", "list"), SAMPLES.tolist(), {}),
        ("half a negative", ("negatives", "1.5"), SAMPLES, {"negatives": 1.5}),
        ("text for momentum", ("momentum", "'0.5'"), SAMPLES, {"momentum": "0.5"}),
        ("text for temperature", ("temperature", "'0.5'"), SAMPLES, {"temperature": "0.5"}),
    )
)
NO_ROWS = tuple(
    Refusal(name, says, (PAIR, PAIR, torch.tensor(numbers)), call=lambda *batch: make_crd()(*batch))
    for name, says, numbers in (
        ("a gap", ("sample 5", "train.indices"), [4, 5, 6]),
        ("beyond the last", ("sample 906",), [4, 6, 906]),
        ("negative number", ("sample -1",), [-1, 4, 6]),
        ("too few numbers", ("3 features", "(1,)"), [4]),
        ("numbers in a column", ("3 features", "(3, 1)"), [[4], [6], [12]]),
    )
) + tuple(
    Refusal(name, says, arguments, error=error, call=lambda *batch: make_crd()(*batch))
    for name, says, arguments, error in (
        ("floats", ("indices", "float32"), (PAIR, PAIR, torch.ones(3)), TypeError),
        ("booleans", ("indices", "bool"), (PAIR, PAIR, torch.ones(3).bool()), TypeError),
        ("numbers in a list", ("indices", "list"), (PAIR, PAIR, [4, 6, 12]), TypeError),
        (
            "another width",
            ("teacher features", "5", "teacher_dimension=4"),
            (PAIR, torch.zeros(3, 5), SAMPLES[:3]),
            ValueError,
        ),
    )
)
NO_CRD_FEATURES = tuple(
    Refusal(
        each.name,
        each.says,
        (*each.arguments, SAMPLES[: len(each.arguments[0])]),
        error=each.error,
        call=lambda *batch: make_crd()(*batch),
    )
    for each in no_batch("features", least=1)
)


# How losses that want lists, or weights of their own, are called.


def transfer_over_two_layers(loss: Loss, student: Tensor, teacher: Tensor, **options: Any) -> Any:
    """In the second, the teacher's map is twice as large in either direction, with four places for one."""
    small, large = (feature[..., ::2, ::2] for feature in (student, teacher))
    large = large.repeat_interleave(2, -1).repeat_interleave(2, -2)
    return loss([student, small], [teacher, large], **options)


def irg_over_two_layers(loss: Loss, student: Tensor, teacher: Tensor, **options: Any) -> Any:
    return loss([student, student.flip(1)], [teacher, teacher.flip(1)], **options)


def hint_after_a_regressor(make: type[HintRegressor], student: Tensor, teacher: Tensor) -> Tensor:
    regressor = make(student.shape[1:], teacher.shape[1:], seed=1).to(student.dtype)
    return hint_loss(regressor(student), teacher)


def hint_after_the_loops(student: Tensor, teacher: Tensor) -> float:
    """The weights come from the package, the convolution and the loss from loops."""
    regressor = HintRegressor(student.shape[1:], teacher.shape[1:], seed=1).to(student.dtype)
    return oracles.hint(oracles.convolved(regressor.map, student), teacher)


def weighted_sum(loss: Loss, losses: Tensor, weights: Tensor) -> Tensor:
    """Here the layers take the place of the samples."""
    return loss(list(losses), weights)


COLDER = {"temperature": 4.0}
TEMPERATURES = (0.5, 1.0, 4.0, 20.0)
ALPHAS = (0.0, 0.1, 0.5, 0.9, 1.0)
RESPONSE = {"zero_at_equal": 0.0, "zero_gradient": 1e-14, "mean_over_samples": True, "precision": 2e-6}
MEANS = {"mean_over_samples": True, "precision": 2e-6}
FEATURE = {"zero_at_equal": 0.0, "zero_gradient": 0.0, "mean_over_samples": True}
RELATION = {"zero_at_equal": 1e-15, "least": 2}

CASES: list[Case] = [
    # response
    Case(
        soft_target_loss,
        logits,
        COLDER,
        oracle=oracles.soft_target,
        oracle_at={"temperature": TEMPERATURES},
        **RESPONSE,
        invariant_to=(*CONSTANT, *ORDER_OF_CLASSES),
        refuses=(*NO_LOGITS, *NO_TEMPERATURE, *NO_TEMPERATURES),
    ),
    Case(
        kd_loss,
        logits_and_labels,
        {**COLDER, "alpha": 1.0},
        "soft only",
        oracle=oracles.kd,
        oracle_at={"temperature": TEMPERATURES},
        **RESPONSE,
        invariant_to=(*CONSTANT, *ORDER_OF_CLASSES),
        refuses=(*with_more(NO_LOGITS, None), *NO_TEMPERATURE, *NO_TEMPERATURES, *NO_FRACTION),
    ),
    Case(
        kd_loss,
        logits_and_labels,
        {**COLDER, "alpha": 0.9},
        "both",
        oracle=oracles.kd,
        oracle_at={"temperature": TEMPERATURES, "alpha": ALPHAS},
        **MEANS,
        invariant_to=CONSTANT,
        refuses=(*with_more(NO_LOGITS, LABELS), *NO_LABELS, LABELS_NEEDED, *NO_TEMPERATURE, *NO_FRACTION),
    ),
    Case(
        kd_loss,
        logits_and_labels,
        {**COLDER, "alpha": 0.0},
        "hard only",
        oracle=oracles.kd,
        oracle_at={"temperature": TEMPERATURES},
        **MEANS,
        invariant_to=CONSTANT,
        refuses=(*NO_LABELS, LABELS_NEEDED, *NO_TEMPERATURE, *NO_FRACTION),
        apart_from={"computes_in_the_finer_of_two_types": "does not look at the teacher"},
    ),
    Case(
        logit_mse_loss,
        logits,
        oracle=oracles.mean_square,
        **RESPONSE,
        invariant_to=(together(constant_per_row), *ORDER_OF_CLASSES),
        changed_by=CONSTANT,
        refuses=NO_LOGITS,
    ),
    Case(
        probability_mse_loss,
        logits,
        COLDER,
        oracle=oracles.probability_mse,
        oracle_at={"temperature": TEMPERATURES},
        **RESPONSE,
        invariant_to=(*CONSTANT, *ORDER_OF_CLASSES),
        refuses=(*NO_LOGITS, *NO_TEMPERATURE, *NO_TEMPERATURES),
    ),
    Case(
        regression_kd_loss,
        logits,
        oracle=oracles.mean_square,
        **RESPONSE,
        invariant_to=(together(constant_per_row), *ORDER_OF_CLASSES),
        refuses=(*NO_PREDICTIONS, *NO_FRACTION),
    ),
    Case(
        regression_kd_loss,
        predictions_and_targets,
        {"alpha": 0.3},
        "targets",
        oracle=oracles.regression,
        oracle_at={"alpha": ALPHAS},
        **MEANS,
        refuses=(*NO_PREDICTIONS, *NO_TARGETS, *NO_FRACTION),
    ),
    Case(
        regression_kd_loss,
        predictions_and_targets,
        {"alpha": 0.3, "margin": 0.1},
        "margin",
        oracle=oracles.regression,
        oracle_at={"alpha": ALPHAS, "margin": (0.0, 0.5, 1e6)},
        **MEANS,
        refuses=(
            *NO_PREDICTIONS,
            *NO_TARGETS,
            *NO_FRACTION,
            *out_of_range("margin", -1, math.nan),
            *no_number("margin")[:2],
        ),
    ),
    Case(
        standardize_logits,
        tensors((CLASSES,), scale=3.0),
        oracle=oracles.standardized,
        rows=(CLASSES,),
        mean_over_samples=True,
        invariant_to=(first(constant_per_row), first(length_of_samples), first(growth), scale),
        changed_by=(first(negation),),
        refuses=(
            Refusal("integers", ("logits", "int64"), (LABELS,), error=TypeError),
            Refusal("no rows", ("logits", "(0, 3)"), (torch.zeros(0, 3),)),
            Refusal("one dimension", ("logits", "(batch, classes)", "(3,)"), (torch.zeros(3),)),
            Refusal("one class", ("logits", "(batch, classes)", "(3, 1)"), (torch.zeros(3, 1),)),
            Refusal("masked class", ("-inf", "logits[:, allowed]"), (torch.tensor([[1.0, 2.0, -math.inf]]),)),
        ),
    ),
    Case(
        dkd_loss,
        logits_and_labels,
        {**COLDER, "alpha": 1.0, "beta": 8.0},
        oracle=oracles.dkd,
        oracle_at={"temperature": TEMPERATURES, "alpha": (0, 0.3, 1), "beta": (0, 1, 2.5, 8)},
        **RESPONSE,
        invariant_to=CONSTANT,
        refuses=(
            *with_more(NO_LOGITS, LABELS),
            *NO_LABELS,
            Refusal("no labels", ("labels", "NoneType"), (LOGITS, LOGITS, None), error=TypeError),
            *NO_TEMPERATURE,
            ONE_TEMPERATURE,
            *(
                refusal
                for weight in ("alpha", "beta")
                for refusal in (*out_of_range(weight, *NO_WEIGHT), *no_number(weight))
            ),
            Refusal(
                "two classes", ("three classes", "2", "soft_target_loss"), (LOGITS[:, :2], LOGITS[:, :2], LABELS // 2)
            ),
        ),
    ),
    Case(
        dist_loss,
        logits,
        {"beta": 1.0, "gamma": 2.0, "temperature": 2.0},
        oracle=oracles.dist,
        oracle_at={"temperature": TEMPERATURES, "beta": (0, 1, 2), "gamma": (0, 1, 3)},
        zero_at_equal=1e-14,
        zero_gradient=1e-14,
        least=2,
        invariant_to=(*CONSTANT, *ORDER_OF_CLASSES),
        refuses=(
            *NO_LOGITS,
            Refusal("one sample", ("1 sample", "2", "last batch", "drop_last=True"), (LOGITS[:1], LOGITS[:1])),
            *NO_TEMPERATURE,
            ONE_TEMPERATURE,
            *(
                refusal
                for weight in ("beta", "gamma")
                for refusal in (*out_of_range(weight, *NO_WEIGHT), *no_number(weight))
            ),
        ),
    ),
    # feature
    Case(
        hint_loss,
        maps,
        oracle=oracles.hint,
        **FEATURE,
        invariant_to=(together(flipped_columns), together(constant_per_row)),
        refuses=NO_HINTS,
    ),
    Case(
        HintRegressor,
        tensors((2, 4, 4), (3, 2, 2)),
        call=hint_after_a_regressor,
        oracle=hint_after_the_loops,
        mean_over_samples=True,
        widens=False,  # a layer computes in the type of its weights
        apart_from={
            "computes_in_full_precision_whatever_autocast_surrounds_it": "a layer of the network, not a loss",
            "does_not_depend_on_the_default_type": "its weights are made in it",
        },
        refuses=NO_REGRESSOR,
    ),
    *(
        Case(
            attention_map,
            tensors((3, 2, 4)),
            {"power": power},
            f"power {power}",
            oracle=oracles.attention,
            rows=(8,),
            mean_over_samples=True,
            invariant_to=(*map(first, CHANNELS), first(growth), first(negation), scale),
            refuses=NO_MAP,
        )
        for power in (1, 2, 3.5, 12)
    ),
    *(
        Case(
            attention_transfer_loss,
            maps,
            options,
            " ".join(map(str, *options.items())),
            transfer_over_two_layers,
            oracle=partial(transfer_over_two_layers, oracles.attention_transfer),
            **FEATURE,
            gradient_tolerance=1e-5,  # the student is met twice, and its two gradients are added in its own type
            invariant_to=(*map(either, CHANNELS), *SCALE),
            refuses=NO_LAYERS,
        )
        for options in ({"power": 2}, {"power": 4}, {"paper_form": True})
    ),
    Case(
        layerwise_loss,
        tensors((), ()),
        call=weighted_sum,
        oracle=lambda losses, weights: oracles.dot(losses.tolist(), weights.tolist()),
        widens=False,  # the losses that it adds are widened already
        refuses=NO_LAYER_LOSSES,
        apart_from={
            "takes_as_many_operations_for_a_large_batch_as_for_a_small_one": "adds layer by layer, not over a batch",
        },
    ),
    # relation
    Case(
        rkd_distance_loss,
        embeddings,
        oracle=oracles.rkd_distance,
        **RELATION,
        invariant_to=(*TURN, *SCALE, either(shift)),
        changed_by=(either(length_of_samples),),
        refuses=NO_EMBEDDINGS,
    ),
    Case(
        rkd_angle_loss,
        embeddings,
        oracle=oracles.rkd_angle,
        **RELATION,
        invariant_to=(*TURN, *SCALE, either(shift)),
        changed_by=(either(length_of_samples),),
        refuses=NO_EMBEDDINGS,
    ),
    Case(
        similarity_preserving_loss,
        embeddings,
        oracle=oracles.similarity_preserving,
        **RELATION,
        invariant_to=(*TURN, *SCALE),
        changed_by=(either(shift), either(length_of_samples)),
        refuses=NO_FEATURES,
    ),
    *(
        Case(
            correlation_congruence_loss,
            embeddings,
            options,
            variant,
            oracle=oracles.correlation_congruence,
            **RELATION,
            invariant_to=(*TURN, *SCALE, either(length_of_samples)),
            changed_by=(either(shift),),
            refuses=(
                *NO_EMBEDDINGS,
                *out_of_range("order", 0, -1),
                *no_number("order"),
                *out_of_range("gamma", 0, -1, math.nan),
                *no_number("gamma"),
            ),
        )
        for variant, options in {
            "": {},
            "order 1": {"order": 1, "gamma": 1.0},
            "order 3": {"order": 3, "gamma": 1.0},
        }.items()
    ),
    Case(
        irg_loss,
        embeddings,
        {"vertex_weight": 0},
        "edges",
        oracle=lambda student, teacher, **_: oracles.irg([student], [teacher], vertex=0, edge=1, transform=0),
        **RELATION,
        invariant_to=(*TURN, *SCALE, either(shift)),
        changed_by=(either(length_of_samples),),
        refuses=NO_GRAPHS,
    ),
    Case(
        irg_loss,
        same_width,
        {},
        "two layers",
        irg_over_two_layers,
        oracle=partial(irg_over_two_layers, partial(oracles.irg, vertex=1, edge=1, transform=1)),
        **RELATION,
        refuses=WIDTHS_THAT_DIFFER,
    ),
    Case(
        pkt_loss,
        embeddings,
        oracle=oracles.pkt,
        **RELATION,
        invariant_to=(*TURN, *SCALE, either(length_of_samples)),
        changed_by=(either(shift),),
        refuses=NO_EMBEDDINGS,
    ),
    # contrast
    *(
        Case(
            info_nce_loss,
            same_width,
            {"temperature": temperature},
            f"temperature {temperature}",
            oracle=oracles.info_nce,
            least=2,
            invariant_to=(*SCALE, either(length_of_samples), together(turn)),
            changed_by=(either(turn),),
            refuses=(
                *NO_EMBEDDINGS,
                Refusal("widths differ", ("(3, 4)", "(3, 2)", "width"), (PAIR, PAIR[:, :2])),
                *NO_TEMPERATURE,
                ONE_TEMPERATURE,
            ),
        )
        for temperature in (0.01, 0.07, 0.5, 1.0)
    ),
    Case(
        nce_loss,
        tensors((), (6,)),
        {"samples": 9},
        oracle=lambda own, others, samples: oracles.nce(own.exp().tolist(), others.exp().tolist(), samples),
        mean_over_samples=True,
        invariant_to=(second(order_of_columns),),
        refuses=NO_SCORES,
        apart_from={"depends_on_who_is_who": "each score is judged by itself"},
    ),
    Case(
        CRDLoss,
        features_and_numbers,
        call=crd,
        mean_over_samples=True,
        refuses=(*NO_BANK, *NO_ROWS, *NO_CRD_FEATURES),
        apart_from={
            "equals_its_oracle": "test_contrast.py::crd_equals_the_loops",  # with banks, draws and Z of its own
            "does_not_depend_on_the_default_type": "its weights and banks are made in it",
        },
    ),
]
CASE = {str(case): case for case in CASES}
