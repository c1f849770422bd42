"""The networks of the course. Every model names its stages, so that features can be taken from any of them.

>>> from torchvision.models.feature_extraction import create_feature_extractor
>>> student = StudentNet()
>>> extractor = create_feature_extractor(student, ["stage2", "classifier"])
>>> {name: tuple(value.shape) for name, value in extractor(torch.zeros(5, 1, 28, 28)).items()}
{'stage2': (5, 32, 7, 7), 'classifier': (5, 10)}
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from kd_course._validation import fraction, network, whole


def _count(value: int, name: str = "classes") -> int:
    """``value`` if it is a number of classes or units that can be meant, and fits into the memory."""
    return whole(value, name, least=1, most=1_000_000)


def _convolution_stage(channels_in: int, channels_out: int) -> nn.Sequential:
    """3×3 convolution, 2×2 max-pooling and ReLU, from (B, in, H, W) to (B, out, H//2, W//2).

    ReLU after the pooling gives the same numbers from a quarter of the values, and weights whose channels lie side by
    side in memory make everything up to the next layer of another kind faster: together they halve a training step on
    a CPU. ``model.to(memory_format=torch.channels_last)`` does the second for any network of convolutions.
    """
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    return nn.Sequential(convolution.to(memory_format=torch.channels_last), nn.MaxPool2d(2), nn.ReLU())


class TeacherNet(nn.Module):
    """The large network of the course's pair: convolutions 64-128-256, 512 hidden units; 1,554,954 parameters.

    Args:
        classes: number of logits; the input is (B, 1, 28, 28), the output (B, classes).
        dropout: probability of dropping a hidden unit.
    """

    stages = ("stage1", "stage2", "stage3", "embedding")

    def __init__(self, classes: int = 10, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.stage1 = _convolution_stage(1, 64)  # (B, 64, 14, 14)
        self.stage2 = _convolution_stage(64, 128)  # (B, 128, 7, 7)
        self.stage3 = _convolution_stage(128, 256)  # (B, 256, 3, 3)
        self.embedding = nn.Sequential(
            nn.Flatten(), nn.Linear(256 * 3 * 3, 512), nn.ReLU(), nn.Dropout(fraction(dropout, "dropout"))
        )  # (B, 512)
        self.classifier = nn.Linear(512, _count(classes))

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
        self.classifier = nn.Linear(64, _count(classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of ``images`` (B, 1, 28, 28)."""
        return self.classifier(self.embedding(self.stage2(self.stage1(images))))


class SeparableNet(nn.Module):
    """A depthwise-separable CNN in the manner of MobileNet: channels 32-64-128, batch norm; 13,322 parameters.

    Each stage filters every channel by itself (3×3) and then mixes channels (1×1). Input (B, 1, 28, 28), output logits
    (B, classes).

    Reference: Howard et al. 2017, *MobileNets*, arXiv:1704.04861.
    """

    stages = ("stage1", "stage2", "stage3", "embedding")

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )  # (B, 32, 14, 14)
        self.stage2 = _separable_stage(32, 64)  # (B, 64, 7, 7)
        self.stage3 = _separable_stage(64, 128)  # (B, 128, 4, 4)
        self.embedding = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # (B, 128)
        self.classifier = nn.Linear(128, _count(classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of ``images`` (B, 1, 28, 28)."""
        return self.classifier(self.embedding(self.stage3(self.stage2(self.stage1(images)))))


def _separable_stage(channels_in: int, channels_out: int) -> nn.Sequential:
    """Depthwise 3×3 at stride 2, pointwise 1×1, each with batch norm and ReLU: halves height and width."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, stride=2, padding=1, groups=channels_in, bias=False),
        nn.BatchNorm2d(channels_in),
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class MixerBlock(nn.Module):
    """Mixes between patches, then between channels, each after a layer norm and beside a residual connection."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm_patches, self.norm_channels = nn.LayerNorm(width), nn.LayerNorm(width)
        self.between_patches = nn.Sequential(nn.Linear(patches, 64), nn.GELU(), nn.Linear(64, patches))
        self.between_channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens (B, patches, width) into tokens of the same shape."""
        tokens = tokens + self.between_patches(self.norm_patches(tokens).transpose(1, 2)).transpose(1, 2)
        return tokens + self.between_channels(self.norm_channels(tokens))


class _MeanOverPatches(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


class MixerNet(nn.Module):
    """An MLP-Mixer on 4×4 patches: 49 tokens of width 64, two blocks; 48,300 parameters.

    Input (B, 1, 28, 28), output logits (B, classes).

    Reference: Tolstikhin et al. 2021, *MLP-Mixer: An all-MLP Architecture for Vision*, arXiv:2105.01601.
    """

    stages = ("stage1", "stage2", "embedding")

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 64, 4, stride=4)  # one linear map for every 4×4 patch: (B, 64, 7, 7)
        self.stage1 = MixerBlock(49, 64)  # (B, 49, 64)
        self.stage2 = MixerBlock(49, 64)
        self.embedding = nn.Sequential(nn.LayerNorm(64), _MeanOverPatches())  # (B, 64)
        self.classifier = nn.Linear(64, _count(classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of ``images`` (B, 1, 28, 28)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2)  # (B, 49, 64)
        return self.classifier(self.embedding(self.stage2(self.stage1(tokens))))


class _FromGrey(nn.Module):
    """Turns grey digits (B, 1, 28, 28) into the normalised (B, 3, size, size) that torchvision's networks expect."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = whole(size, "size", least=1, most=10_000)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        larger = nn.functional.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return (larger.expand(-1, 3, -1, -1) - self.mean) / self.std


def backbone(name: str, *, pretrained: bool = False, classes: int = 10, size: int = 64) -> nn.Sequential:
    """A torchvision network for digits, such as ``mobilenet_v3_small``, with a new last layer.

    Args:
        name: one of torchvision's image classifiers.
        pretrained: start from ImageNet weights, which torchvision downloads; random ones if False.
        classes: number of logits.
        size: height and width, in pixels, to which digits are enlarged before they are repeated on three channels.

    Returns:
        A network from (B, 1, 28, 28) to logits (B, classes): ``grey``, which prepares the images, then ``network``.

    Raises:
        ValueError: torchvision has no such classifier, its last layer is not linear, or a number is out of range.
        TypeError: ``classes`` or ``size`` is not a whole number.
        OSError: the pre-trained weights cannot be downloaded.
    """
    from torchvision import models as zoo

    if name not in zoo.list_models(module=zoo):  # the classifiers among them
        raise ValueError(f"torchvision has no classifier {name!r}; try 'resnet18' or 'mobilenet_v3_small'")
    try:
        network = zoo.get_model(name, weights="DEFAULT" if pretrained else None)
    except OSError as error:
        raise OSError(
            f"the pre-trained weights of {name!r} cannot be downloaded ({error}); "
            "connect to the network and try again, or start from random weights with pretrained=False"
        ) from error
    last_name, last = [entry for entry in network.named_modules() if not list(entry[1].children())][-1]
    if not isinstance(last, nn.Linear):
        raise ValueError(f"the last layer of {name!r} is {type(last).__name__}, not Linear; choose another classifier")
    network.set_submodule(last_name, nn.Linear(last.in_features, _count(classes)))
    return nn.Sequential(OrderedDict(grey=_FromGrey(size), network=network))


def mlp(
    hidden: int | Sequence[int], *, dropout: float = 0.0, input_dropout: float = 0.0, classes: int = 10
) -> nn.Sequential:
    """A fully connected ReLU network on flattened images; one stage per hidden layer (``stage1``, ``stage2``, …).

    Args:
        hidden: units of the hidden layer, or of each one in turn: ``mlp((1200, 1200))`` is Hinton's teacher.
        dropout: probability of dropping a hidden unit.
        input_dropout: probability of dropping a pixel.
        classes: number of logits.

    Raises:
        ValueError: no hidden layer, one without units or with more than a million, or a probability outside [0, 1].
        TypeError: a width, ``classes`` or a probability is not a number.

    >>> [name for name, _ in mlp((30, 20)).named_children()]
    ['input', 'stage1', 'stage2', 'classifier']
    """
    widths = list(hidden) if isinstance(hidden, Iterable) else [hidden]
    if not widths:
        raise ValueError(f"hidden must be one or more positive layer widths, not {hidden!r}; try mlp(30)")
    widths = [_count(width, "a width in hidden") for width in widths]
    fraction(dropout, "dropout")
    pixels = nn.Sequential(nn.Flatten(), nn.Dropout(fraction(input_dropout, "input_dropout")))
    layers: OrderedDict[str, nn.Module] = OrderedDict(input=pixels)
    for number, (width_in, width) in enumerate(zip([28 * 28, *widths], widths, strict=False), start=1):
        layers[f"stage{number}"] = nn.Sequential(nn.Linear(width_in, width), nn.ReLU(), nn.Dropout(dropout))
    layers["classifier"] = nn.Linear(widths[-1], _count(classes))
    return nn.Sequential(layers)


def count_parameters(model: nn.Module) -> int:
    """Number of weights and biases, frozen and quantised ones included; one that is used twice counts once.

    Raises:
        TypeError: ``model`` is not a network.

    >>> count_parameters(TeacherNet()), count_parameters(StudentNet())
    (1554954, 105866)
    """
    return sum(weight.numel() for weight in [*network(model).parameters(), *packed_weights(model)])


def packed_weights(model: nn.Module) -> list[Tensor]:
    """Weights and biases that PyTorch's quantised layers keep where ``parameters()`` does not find them."""
    found = []
    for module in model.modules():
        packed = getattr(module, "_packed_params", getattr(module, "_packed_weight", None))
        if isinstance(packed, torch.ScriptObject):  # a linear layer, a convolution, an embedding
            weights = packed.unpack()
            weight, bias = (weights, None) if isinstance(weights, Tensor) else weights
            found += [weight.half() if getattr(module, "dtype", None) is torch.float16 else weight, bias]
        elif type(module).__module__.startswith("torch.ao.nn.quantized.dynamic") and hasattr(module, "get_weight"):
            found += [*module.get_weight().values(), *module.get_bias().values()]  # a recurrent layer
    return [weight for weight in found if weight is not None]
