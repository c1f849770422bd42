"""The networks that make ensembles diverse: a separable CNN, an MLP-Mixer, and backbones from torchvision."""

from __future__ import annotations

import re
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from kd_course.models import MixerNet, SeparableNet, backbone, count_parameters
from kd_course.runtime import seeded

Network = type[SeparableNet] | type[MixerNet]

IMAGES = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
SEPARABLE_STAGES = {"stage1": (32, 14, 14), "stage2": (64, 7, 7), "stage3": (128, 4, 4), "embedding": (128,)}
MIXER_STAGES = {"stage1": (49, 64), "stage2": (49, 64), "embedding": (64,)}
BACKBONES = ("resnet18", "mobilenet_v3_small", "efficientnet_b0")

both = pytest.mark.parametrize("build", [SeparableNet, MixerNet])


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def separable_parameters(classes: int) -> int:
    """Filters, batch norms (weight and bias per channel) and the classifier, counted by hand."""
    first = 9 * 32 + 2 * 32
    stages = sum(9 * c + 2 * c + c * d + 2 * d for c, d in ((32, 64), (64, 128)))
    return first + stages + linear(128, classes)


def mixer_parameters(classes: int) -> int:
    """Patch map, two blocks, the last layer norm and the classifier, counted by hand."""
    block = 2 * (2 * 64) + linear(49, 64) + linear(64, 49) + linear(64, 128) + linear(128, 64)
    return linear(16, 64) + 2 * block + 2 * 64 + linear(64, classes)


@pytest.mark.parametrize(
    ("build", "by_hand"),
    [(SeparableNet, separable_parameters), (MixerNet, mixer_parameters)],
    ids=["separable", "mixer"],
)
def test_the_docstring_states_the_exact_parameter_count(build: Network, by_hand: Callable[[int], int]) -> None:
    stated = re.search(r"([\d,]+) parameters", build.__doc__)
    assert stated
    assert int(stated[1].replace(",", "")) == count_parameters(build()) == by_hand(10)
    assert count_parameters(build(classes=4)) == by_hand(4)


@pytest.mark.parametrize(("build", "shapes"), [(SeparableNet, SEPARABLE_STAGES), (MixerNet, MIXER_STAGES)])
def test_features_of_every_stage_can_be_extracted_beside_the_logits(
    build: Network, shapes: dict[str, tuple[int, ...]]
) -> None:
    assert build.stages == tuple(shapes)
    model = build().eval()
    found = create_feature_extractor(model, [*build.stages, "classifier"])(IMAGES)
    expected = {name: (3, *shape) for name, shape in shapes.items()} | {"classifier": (3, 10)}
    assert {name: tuple(value.shape) for name, value in found.items()} == expected
    assert torch.equal(found["classifier"], model(IMAGES))


@both
@pytest.mark.parametrize("classes", [2, 10])
def test_logits_have_one_column_per_class(build: Network, classes: int) -> None:
    assert build(classes=classes)(IMAGES).shape == (3, classes)


@both
def test_the_stages_are_children_of_the_network_in_order(build: Network) -> None:
    children = [name for name, _ in build().named_children() if name != "patches"]
    assert children == [*build.stages, "classifier"]


@both
def test_a_gradient_reaches_every_parameter(build: Network) -> None:
    with seeded(0):
        model = build()
    model(IMAGES).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@both
def test_the_logits_of_a_sample_do_not_depend_on_its_batch_in_evaluation_mode(build: Network) -> None:
    model = build().eval()
    assert_close(model(IMAGES)[1:2], model(IMAGES[1:2]), rtol=1e-4, atol=1e-6)


def touched(model: nn.Module, stage: str, row: int, column: int) -> torch.Tensor:
    """How far the output of ``stage`` changes at each position and channel when one pixel does."""
    features = create_feature_extractor(model, [stage])
    moved = IMAGES[:1].clone()
    moved[0, 0, row, column] += 1
    with torch.no_grad():
        return (features(moved)[stage] - features(IMAGES[:1])[stage]).abs()[0]


def test_each_patch_is_a_token_until_the_first_block_mixes_them() -> None:
    model = MixerNet().eval()
    in_patches = touched(model, "patches", row=9, column=21).sum(0)  # (7, 7), one place per patch
    assert in_patches.nonzero().tolist() == [[9 // 4, 21 // 4]]
    assert (touched(model, "stage1", row=9, column=21).sum(1) > 0).all()  # (49,)


@pytest.mark.parametrize("mix", ["between_patches", "between_channels"])
def test_a_mixer_block_adds_what_it_mixes_to_what_it_was_given(mix: str) -> None:
    """With its last layer at 0, each of the two mixes leaves the tokens to the other one."""
    block, tokens = MixerNet().stage1, torch.rand(2, 49, 64, generator=torch.Generator().manual_seed(0))
    for name in ("between_patches", "between_channels"):
        nn.init.zeros_(getattr(block, name)[-1].weight)
        nn.init.constant_(getattr(block, name)[-1].bias, float(name == mix))
    assert_close(block(tokens), tokens + 1)


def test_the_embedding_of_a_mixer_is_the_mean_over_patches() -> None:
    tokens = torch.rand(2, 49, 64, generator=torch.Generator().manual_seed(0))
    embedding = MixerNet().embedding
    assert_close(embedding(tokens), torch.stack([embedding[0](tokens[:, patch]) for patch in range(49)]).mean(0))


def test_a_depthwise_filter_keeps_channels_apart_and_a_pointwise_filter_mixes_them() -> None:
    depthwise, pointwise = (layer for layer in SeparableNet().stage2 if isinstance(layer, nn.Conv2d))
    features = torch.rand(1, 32, 14, 14, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert depthwise(features).shape == (1, 32, 7, 7)
    depthwise(features)[0, 5].sum().backward()
    assert features.grad[0].abs().sum((1, 2)).nonzero().flatten().tolist() == [5]
    small = depthwise(features).detach().requires_grad_()
    pointwise(small)[0, 5].sum().backward()
    assert (small.grad[0].abs().sum((1, 2)) > 0).all()


# Backbones from torchvision.


def last_linear(model: nn.Module) -> nn.Linear:
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_with_random_weights_gives_logits_for_digits(name: str) -> None:
    model = backbone(name, classes=7).eval()
    with torch.no_grad():
        logits = model(IMAGES[:2])
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    original = get_model(name)
    head = last_linear(original)
    assert count_parameters(model) == (
        count_parameters(original) - linear(head.in_features, head.out_features) + linear(head.in_features, 7)
    )


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_can_be_trained_from_end_to_end(name: str) -> None:
    with seeded(0):
        model = backbone(name)
        model(IMAGES).square().sum().backward()
    first = next(iter(model.parameters()))
    assert first.ndim == 4  # the first convolution, which the gradient reaches last
    assert first.grad.abs().max() > 0
    assert last_linear(model).weight.grad.abs().max() > 0


def test_stages_of_a_backbone_can_be_extracted() -> None:
    model = backbone("resnet18", size=32).eval()
    features = create_feature_extractor(model, ["network.layer4", "network.fc"])(IMAGES)
    assert features["network.layer4"].shape == (3, 512, 1, 1)
    assert torch.equal(features["network.fc"], model(IMAGES))


@pytest.mark.parametrize("size", [28, 48])
def test_digits_become_normalised_colour_images_of_the_given_size(size: int) -> None:
    grey = backbone("mobilenet_v3_small", size=size).grey
    for value in (0.0, 0.25, 1.0):
        found = grey(torch.full((2, 1, 28, 28), value))
        assert found.shape == (2, 3, size, size)
        for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
            assert_close(found[:, channel], torch.full((2, size, size), (value - mean) / std))
    assert not list(grey.parameters())


def test_enlarging_keeps_the_picture() -> None:
    found = backbone("mobilenet_v3_small", size=28).grey(IMAGES) * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert_close(found + torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), IMAGES.expand(-1, 3, -1, -1))


def test_twice_as_large_a_picture_mixes_neighbours_three_to_one() -> None:
    """Pixels are squares with a centre: the new ones lie a quarter of a pixel beside the old."""
    grey = backbone("mobilenet_v3_small", size=56).grey
    found = (grey(IMAGES) * grey.std + grey.mean)[:, 0]
    first, second = IMAGES[:, 0, 0, 0], IMAGES[:, 0, 0, 1]
    assert_close(found[:, 0, :3], torch.stack([first, 0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second], 1))


def no_network(*_: object, **__: object) -> None:
    raise urllib.error.URLError("Name or service not known")


@pytest.fixture
def _no_weights_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a network whose cache of weights is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)


@pytest.mark.usefixtures("_no_weights_here")
@pytest.mark.parametrize("name", BACKBONES)
def test_without_a_network_pretrained_weights_are_refused_with_a_fix(name: str) -> None:
    with pytest.raises(OSError, match=f"'{name}' cannot be downloaded .*not known.*pretrained=False"):
        backbone(name, pretrained=True)
    backbone(name)  # the fix works


def test_pretrained_weights_fill_all_but_the_last_layer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with seeded(1):
        published = get_model("mobilenet_v3_small").state_dict()
    addresses = []

    def download(url: str, target: str, *_: object, **__: object) -> None:
        addresses.append(url)
        torch.save(published, target)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    found = backbone("mobilenet_v3_small", pretrained=True).network.state_dict()
    assert len(addresses) == 1
    assert "mobilenet_v3_small" in addresses[0]
    assert found.keys() == published.keys()
    changed = [name for name in published if not torch.equal(found[name], published[name])]
    assert changed == ["classifier.3.weight", "classifier.3.bias"]
    assert found["classifier.3.weight"].shape == (10, 1024)


@pytest.mark.usefixtures("_no_weights_here")
@pytest.mark.parametrize("name", ["resnet19", "", "fasterrcnn_resnet50_fpn", "fcn_resnet50", "r3d_18"])
def test_a_network_that_is_not_a_classifier_is_refused_before_anything_is_downloaded(name: str) -> None:
    for pretrained in (False, True):
        with pytest.raises(ValueError, match=f"'{name}'; try 'resnet18'"):
            backbone(name, pretrained=pretrained)


def test_a_network_whose_last_layer_is_not_linear_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'squeezenet1_1' .*AdaptiveAvgPool2d"):
        backbone("squeezenet1_1")


def test_a_backbone_of_odd_numbers_is_refused() -> None:
    for name, value in (("size", 0), ("size", 10**6), ("classes", 0)):
        with pytest.raises(ValueError, match=f"{name} must be .* or (more|less), not"):
            backbone("mobilenet_v3_small", **{name: value})
    for name, value in (("size", "64"), ("size", 64.5), ("classes", "10")):
        with pytest.raises(TypeError, match=f"{name} must be a whole number"):
            backbone("mobilenet_v3_small", **{name: value})
