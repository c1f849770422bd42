"""Losses on what happens inside the network: hints and attention maps.

Take features from any model with ``torchvision.models.feature_extraction.create_feature_extractor`` on its named
stages.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_course._validation import at_least, feature_maps, floating_pair, layer_pairs, number, positive, whole, widened
from kd_course.losses._geometry import rescaled_by, unit
from kd_course.losses._precision import loss
from kd_course.runtime import seeded

__all__ = ["HintRegressor", "attention_map", "attention_transfer_loss", "hint_loss", "layerwise_loss"]


@loss
def hint_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    r"""FitNet's hint: half the squared distance between the student's (regressed) feature and the teacher's.

    .. math:: \frac{1}{2B} \sum_b \| r(f_{s,b}) - f_{t,b} \|_2^2

    Pass the student's feature through a :class:`HintRegressor` first where the shapes differ. Many codes use the
    element mean (``F.mse_loss``) instead, which for features of D numbers is this value times 2/D.

    Args:
        student_feature: (B, …), already regressed.
        teacher_feature: the same shape.

    Raises:
        TypeError: features that are not floating-point tensors.
        ValueError: shapes that differ.

    Reference: Romero et al. 2015, *FitNets: Hints for Thin Deep Nets*, arXiv:1412.6550.

    >>> hint_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])).item()
    2.5
    """
    student, teacher = floating_pair(student_feature, teacher_feature, "features")
    return 0.5 * (student - teacher).square().sum() / len(student)


class HintRegressor(nn.Module):
    """The linear map r that brings a student's feature to the shape of the teacher's hint.

    For vectors (D,) a linear layer; for maps (C, H, W) a convolution whose kernel, as in the paper, is just large
    enough to shrink the student's map to the teacher's size (1×1 where the sizes agree).

    It has weights to be learned: hand them to the optimizer, by training ``nn.ModuleDict({"student": …, "regressor":
    …})``. Its initial weights depend on ``seed`` alone and leave PyTorch's generator as it was, so a student built
    after it is the same as without it.

    Args:
        student_shape: shape of one student feature, without the batch.
        teacher_shape: shape of one of the teacher's features, likewise.
        seed: decides the initial weights.

    Raises:
        ValueError: shapes of different kinds, or a student map smaller than the teacher's.

    Reference: Romero et al. 2015, arXiv:1412.6550, section 2.2.

    >>> HintRegressor((16, 14, 14), (64, 7, 7))(torch.zeros(5, 16, 14, 14)).shape
    torch.Size([5, 64, 7, 7])
    """

    def __init__(self, student_shape: Sequence[int], teacher_shape: Sequence[int], *, seed: int = 0) -> None:
        super().__init__()
        shapes = [[side] if isinstance(side, int) else side for side in (student_shape, teacher_shape)]
        student, teacher = (tuple(whole(size, "a size in a shape", least=1) for size in shape) for shape in shapes)
        if len(student) != len(teacher) or len(student) not in (1, 3):
            raise ValueError(
                f"features of shape {student} and {teacher} must both be vectors (D,) or both maps (C, H, W), "
                "without the batch; flatten one, or choose another stage"
            )
        self.student_shape = student
        kernel = tuple(s - t + 1 for s, t in zip(student[1:], teacher[1:], strict=True))
        if min(kernel, default=1) < 1:
            raise ValueError(f"the student's map {student} is smaller than the hint {teacher}; guide an earlier stage")
        with seeded(seed):
            if len(student) == 1:
                self.map: nn.Module = nn.Linear(student[0], teacher[0])
            else:
                self.map = nn.Conv2d(student[0], teacher[0], kernel)

    def forward(self, feature: Tensor) -> Tensor:
        """The student's features (B, …) in the teacher's shape (B, …)."""
        feature = widened(feature, "features")
        if tuple(feature.shape[1:]) != self.student_shape:
            wanted = ", ".join(map(str, ("batch", *self.student_shape)))
            raise ValueError(f"features must be ({wanted}), not {tuple(feature.shape)}")
        return self.map(feature.to(self.map.weight.dtype))


@loss
def attention_map(feature: Tensor, *, power: float = 2) -> Tensor:
    r"""Where a layer looks: the spatial map of channel energy, as a vector of length 1 per sample.

    .. math:: \hat Q = Q / \|Q\|_2, \quad Q = \mathrm{vec} \sum_c |F_c|^p

    Unchanged by scaling the feature and by permuting its channels. A map that is zero everywhere stays zero.

    Args:
        feature: (B, C, H, W).
        power: p ≥ 1, finite; a larger one attends more to the strongest places.

    Returns:
        (B, H·W), non-negative.

    Raises:
        TypeError: a feature that is not a floating-point tensor.
        ValueError: a feature that is not (B, C, H, W), or p < 1.

    Reference: Zagoruyko & Komodakis 2017, *Paying More Attention to Attention*, arXiv:1612.03928.

    >>> attention_map(torch.tensor([[[[3.0]], [[4.0]]]]))
    tensor([[1.]])
    """
    feature = feature_maps(feature).abs()
    if positive(at_least(power, 1, "power"), "power") > 2:  # of large and small numbers nothing else would be left
        feature = rescaled_by(feature, feature.detach().amax((1, 2, 3), keepdim=True))
    return unit(feature.pow(power).sum(1).flatten(1), dim=1)


@loss
def attention_transfer_loss(
    student_features: Sequence[Tensor],
    teacher_features: Sequence[Tensor],
    *,
    power: float = 2,
    paper_form: bool = False,
) -> Tensor:
    r"""AT: at each chosen layer the student should look where the teacher looks.

    .. math:: \sum_l \frac{1}{B\,H_l W_l} \sum_b \| \hat Q^l_{s,b} - \hat Q^l_{t,b} \|_2^2

    This is the authors' code: mean of squares, used with a weight of about 1000. The paper prints the unsquared
    norm, ½·Σ_l mean_b ‖·‖₂; ``paper_form=True`` computes that. Channels may differ; where the maps differ in size, the
    larger feature is average-pooled to the smaller one's.

    Args:
        student_features: one (B, C, H, W) per layer.
        teacher_features: one (B, C', H', W') per layer, for the same samples.
        power: p of :func:`attention_map`.
        paper_form: the paper's norm instead of the code's squares.

    Raises:
        TypeError: as :func:`attention_map`; also a feature that is not in a list.
        ValueError: as :func:`attention_map`; also lists that are empty or of different lengths, or batches that differ.

    Reference: Zagoruyko & Komodakis 2017, arXiv:1612.03928.

    >>> feature = torch.rand(2, 3, 4, 4)
    >>> attention_transfer_loss([feature], [7 * feature]).item() < 1e-12
    True
    """
    if isinstance(student_features, Tensor) or isinstance(teacher_features, Tensor):
        raise TypeError(
            "student_features and teacher_features must be lists with one feature per layer; wrap a single one in [ ]"
        )
    layers = []
    for student, teacher in layer_pairs(student_features, teacher_features):
        student, teacher = feature_maps(student, "student features"), feature_maps(teacher, "teacher features")
        if len(student) != len(teacher):
            raise ValueError(f"batches of {len(student)} and {len(teacher)} features must be of the same samples")
        student, teacher = _one_size(student, teacher)
        difference = attention_map(student, power=power) - attention_map(teacher, power=power)  # (B, H·W)
        if paper_form:
            layers.append(0.5 * torch.linalg.vector_norm(difference, dim=1).mean())
        else:
            layers.append(difference.square().mean())
    return torch.stack(layers).sum()


@loss
def layerwise_loss(layer_losses: Sequence[Tensor], weights: Tensor | Sequence[float] | None = None) -> Tensor:
    """A weighted sum of losses, one per layer: Σ_l w_l L_l; all weights 1 if none are given.

    Weights may be a learnable tensor, but beware: minimised together with the losses, free weights simply shrink (and
    turn negative), and the loss falls while nothing is learned. Notebook 04 shows it.

    Args:
        layer_losses: L scalars.
        weights: L numbers, or a tensor (L,).

    Raises:
        TypeError: losses that are no floating-point tensors, or weights that are no numbers.
        ValueError: no losses, losses of several numbers, or another number of weights.

    >>> layerwise_loss([torch.tensor(1.0), torch.tensor(10.0)], [2.0, 0.5]).item()
    7.0
    """
    if not len(layer_losses):
        raise ValueError("layer_losses is empty; give one loss per layer")
    for layer, value in enumerate(layer_losses):
        if widened(value, f"layer_losses[{layer}]").ndim:
            raise ValueError(f"layer_losses[{layer}] must be one number, not {tuple(value.shape)}; take its .mean()")
    if weights is None:
        weights = [1.0] * len(layer_losses)
    if len(weights) != len(layer_losses):
        raise ValueError(f"{len(layer_losses)} layer losses need as many weights, not {len(weights)}")
    weighted = [number(weight, "each weight") * value for weight, value in zip(weights, layer_losses, strict=True)]
    return torch.stack(weighted).sum()


def _one_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both features at the smaller of the two heights and widths."""
    size = tuple(min(s, t) for s, t in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return tuple(
        feature if tuple(feature.shape[2:]) == size else F.adaptive_avg_pool2d(feature, size)
        for feature in (student, teacher)
    )
