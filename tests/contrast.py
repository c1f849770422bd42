"""How far a colour stands out from white paper, as the Web Content Accessibility Guidelines 2.2 reckon it."""

from matplotlib.colors import to_rgb


def luminance(colour: str) -> float:
    """Relative luminance: 0 for black, 1 for white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast_with_white(colour: str) -> float:
    """The contrast ratio: 1 for white itself, 21 for black. Graphics need 3 (success criterion 1.4.11)."""
    return 1.05 / (luminance(colour) + 0.05)
