"""The networks of the course. Every model names its stages, so that features can be taken from any of them.

>>> from torchvision.models.feature_extraction import create_feature_extractor
>>> student = StudentNet()
>>> extractor = create_feature_extractor(student, ["stage2", "classifier"])
>>> {name: tuple(value.shape) for name, value in extractor(torch.zeros(5, 1, 28, 28)).items()}
{'stage2': (5, 32, 7, 7), 'classifier': (5, 10)}
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn


def _convolution_stage(channels_in: int, channels_out: int) -> nn.Sequential:
    """3×3 convolution, ReLU, 2×2 max-pooling: (B, in, H, W) to (B, out, H//2, W//2)."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))


class TeacherNet(nn.Module):
    """The large network of the course's pair: convolutions 64-128-256, 512 hidden units; 1,554,954 parameters.

    Input (B, 1, 28, 28), output logits (B, classes). ``dropout`` is the probability of dropping a hidden unit.
    """

    stages = ("stage1", "stage2", "stage3", "embedding")

    def __init__(self, classes: int = 10, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.stage1 = _convolution_stage(1, 64)  # (B, 64, 14, 14)
        self.stage2 = _convolution_stage(64, 128)  # (B, 128, 7, 7)
        self.stage3 = _convolution_stage(128, 256)  # (B, 256, 3, 3)
        self.embedding = nn.Sequential(
            nn.Flatten(), nn.Linear(256 * 3 * 3, 512), nn.ReLU(), nn.Dropout(dropout)
        )  # (B, 512)
        self.classifier = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of ``images`` (B, 1, 28, 28)."""
        return self.classifier(self.embedding(self.stage3(self.stage2(self.stage1(images)))))


class StudentNet(nn.Module):
    """The small network of the course's pair: convolutions 16-32, 64 hidden units; 105,866 parameters.

    Input (B, 1, 28, 28), output logits (B, classes). It is 14.7 times smaller than :class:`TeacherNet`.
    """

    stages = ("stage1", "stage2", "embedding")

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stage1 = _convolution_stage(1, 16)  # (B, 16, 14, 14)
        self.stage2 = _convolution_stage(16, 32)  # (B, 32, 7, 7)
        self.embedding = nn.Sequential(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU())  # (B, 64)
        self.classifier = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of ``images`` (B, 1, 28, 28)."""
        return self.classifier(self.embedding(self.stage2(self.stage1(images))))


def mlp(
    hidden: int | Sequence[int], *, dropout: float = 0.0, input_dropout: float = 0.0, classes: int = 10
) -> nn.Sequential:
    """A fully connected ReLU network on flattened images; one stage per hidden layer (``stage1``, ``stage2``, …).

    Args:
        hidden: units of the hidden layer, or of each one in turn: ``mlp((1200, 1200))`` is Hinton's teacher.
        dropout: probability of dropping a hidden unit.
        input_dropout: probability of dropping a pixel.
        classes: number of logits.

    >>> [name for name, _ in mlp((30, 20)).named_children()]
    ['input', 'stage1', 'stage2', 'classifier']
    """
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    if not widths or min(widths) < 1:
        raise ValueError(f"hidden must be one or more positive layer widths, not {hidden!r}; try mlp(30)")
    layers: OrderedDict[str, nn.Module] = OrderedDict(input=nn.Sequential(nn.Flatten(), nn.Dropout(input_dropout)))
    for number, (width_in, width) in enumerate(zip([28 * 28, *widths], widths, strict=False), start=1):
        layers[f"stage{number}"] = nn.Sequential(nn.Linear(width_in, width), nn.ReLU(), nn.Dropout(dropout))
    layers["classifier"] = nn.Linear(widths[-1], classes)
    return nn.Sequential(layers)


def count_parameters(model: nn.Module) -> int:
    """Number of weights and biases.

    >>> count_parameters(TeacherNet()), count_parameters(StudentNet())
    (1554954, 105866)
    """
    return sum(parameter.numel() for parameter in model.parameters())
