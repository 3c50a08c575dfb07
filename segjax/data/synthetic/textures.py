"""Backgrounds and textures of synthetic scenes: random crops of photographs."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from segjax.data.synthetic import photographs

# Photographs are cached at this many times the side of a scene. Crops need no more pixels, and
# resizing them is the main cost.
_PHOTOGRAPH_SIDES = 3


@functools.cache
def load_scaled_photographs(split: str, size: int) -> tuple[Image.Image, ...]:
    """Loads the photographs of a split, reduced for scenes of `size` pixels."""
    images = []
    for pixels in photographs.load_photographs(split).values():
        image = Image.fromarray(pixels)
        image.thumbnail((_PHOTOGRAPH_SIDES * size, _PHOTOGRAPH_SIDES * size))
        images.append(image)
    return tuple(images)


@functools.cache
def load_textures(split: str, size: int, chroma: bool) -> tuple[np.ndarray, ...]:
    """Loads the photographs of a split as arrays, in color or in grayscale."""
    return tuple(
        np.asarray(image if chroma else image.convert("L"))
        for image in load_scaled_photographs(split, size)
    )


def sample_background(rng: np.random.Generator, split: str, size: int) -> np.ndarray:
    """Samples a square crop of a photograph, float32 [size, size, 3]."""
    images = load_scaled_photographs(split, size)
    image = images[rng.integers(len(images))]
    shortest = min(image.size)
    side = rng.uniform(min(0.4, size / shortest), 1.0) * shortest
    x, y = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    crop = image.resize(
        (size, size), Image.BILINEAR, box=(x, y, x + side, y + side), reducing_gap=2.0
    )
    pixels = np.asarray(crop)[:, :: 1 if rng.random() < 0.5 else -1]
    return pixels.astype(np.float32, order="C")


def sample_texture(
    rng: np.random.Generator, textures: tuple[np.ndarray, ...], hw: tuple[int, int]
) -> np.ndarray:
    """Samples a crop of a photograph minus its mean, float32 [h, w, 3] or [h, w, 1].

    Photographs that are too small are continued by mirroring.
    """
    pixels = textures[rng.integers(len(textures))]
    missing = [max(0, hw[axis] - pixels.shape[axis]) for axis in range(2)]
    if any(missing):
        padding = [(0, missing[0]), (0, missing[1]), (0, 0)]
        pixels = np.pad(pixels, padding[: pixels.ndim], mode="symmetric")
    y = rng.integers(pixels.shape[0] - hw[0] + 1)
    x = rng.integers(pixels.shape[1] - hw[1] + 1)
    crop = pixels[y : y + hw[0], x : x + hw[1]].astype(np.float32).reshape(*hw, -1)
    return crop - crop.mean((0, 1))
