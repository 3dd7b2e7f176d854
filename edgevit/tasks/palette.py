"""Colours for classes, and pictures of them."""

from __future__ import annotations

import colorsys

import numpy as np

from edgevit.artifact.manifest import Array

GOLDEN_TURN = 0.618033988749895  # of the hue circle: neighbours are far apart, however many there are
OPACITY = 0.55
DIMMED = 0.4


def colour(index: int) -> tuple[int, int, int]:
    """(red, green, blue) of a class, 0 to 255; black for none (-1)."""
    if index < 0:
        return 0, 0, 0
    hue = (index * GOLDEN_TURN) % 1.0
    # every second round of hues is darker, so that 100 classes are still told apart
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.95 if index % 2 == 0 else 0.7)
    return round(red * 255), round(green * 255), round(blue * 255)


def colours(classes: Array) -> Array:
    """(H, W) whole numbers -> (H, W, 3) uint8."""
    known, places = np.unique(classes, return_inverse=True)
    table = np.array([colour(int(index)) for index in known], np.uint8)
    found: Array = table[places.reshape(classes.shape)]
    return found


MARK = (255, 214, 0)


def marked(image: Array, where: Array) -> Array:
    """The (H, W, 3) uint8 ``image`` dark and grey, and yellow where ``where`` (H, W) says so."""
    found: Array = np.where(where[..., None], np.array(MARK, np.uint8), dimmed(image))
    return found


def dimmed(image: Array) -> Array:
    """The (H, W, 3) uint8 ``image`` dark and grey, so that what is laid over it is seen."""
    grey = (image.mean(axis=2, keepdims=True) * DIMMED).astype(np.uint8)
    return np.repeat(grey, 3, axis=2)


def blended(image: Array, over: Array, where: Array) -> Array:
    """``over`` laid half transparent on the (H, W, 3) uint8 ``image``, where ``where`` (H, W) says so."""
    mixed = image.astype(np.float32) * (1 - OPACITY) + over.astype(np.float32) * OPACITY
    return np.where(where[..., None], np.round(mixed), image).astype(np.uint8)
