"""Intensities of any kind as 8 bits: one rule for files and arrays, training and prediction.

| stored values | become |
|---|---|
| uint8 | themselves |
| Boolean | 0 and 255 |
| floats that all lie in 0..1 | 0..255 |
| other floats, uint16, and signed or 32-bit integers | lowest..highest is stretched over 0..255 |

All channels of an image are stretched alike. With percentiles, values between these two
percentiles are stretched instead, for every kind.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image

from segjax.images.opening import UnsupportedImageError

# Resizing makes floats overshoot 0..1 by a little.
_TOLERANCE = 1e-3
# Values that are stretched at once. They fit the processor's cache, and need no copy of the image.
_CHUNK = 2**18


class Note(NamedTuple):
    """Report of something in an image that was not read as it is stored.

    Attributes:
      reason: text without names or numbers, so that equal notes of many images add up.
      detail: names and numbers of this image.
    """

    reason: str
    detail: str


def add_note(notes: list[Note] | None, name: str, reason: str, detail: str) -> None:
    """Appends a note to a list. Without a list, warns."""
    if notes is None:
        warnings.warn(f"{name}: {reason} ({detail})", stacklevel=2)
    else:
        notes.append(Note(reason, detail))


def convert_to_eight_bits(
    pixels: np.ndarray,
    name: str,
    percentiles: tuple[float, float] | None = None,
    notes: list[Note] | None = None,
    levels: int = 255,
) -> np.ndarray:
    """Converts intensities to 8 bits by the rule of this module.

    Args:
      pixels: numbers or Booleans of any shape.
      name: of the image in messages.
      percentiles: (low, high) in 0..100, or None.
      notes: list that receives notes, see `add_note`.
      levels: 255. `prepare` asks for 65535, which keeps stretched values finer.

    Returns:
      uint8 of the same shape. With 65535 levels it is uint16 if values were stretched.

    Raises:
      ImageError: 64-bit integers, complex numbers, or no finite value.
    """
    check_kind(pixels.dtype, name)
    if pixels.dtype == bool:
        pixels = pixels.view(np.uint8) * np.uint8(255)
    if percentiles is not None:
        low, high = compute_percentiles(pixels, percentiles, name)
        return stretch_intensities(pixels, low, high)
    if pixels.dtype == np.uint8:
        return pixels
    low, high = _find_range(pixels, name, notes)
    if pixels.dtype.kind == "f" and low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
        return stretch_intensities(pixels, 0, 1)
    # 16-bit images are common, and their rule is well known: a warning each would be noise.
    if notes is not None or pixels.dtype != np.uint16:
        detail = f"{pixels.dtype} from {low:g} to {high:g}"
        add_note(notes, name, "intensities are stretched, lowest to highest", detail)
    return stretch_intensities(pixels, low, high, levels)


def check_kind(dtype: np.dtype, name: str) -> None:
    """Raises ImageError for numbers that no image has."""
    if dtype.kind in "iu" and dtype.itemsize > 4:
        raise UnsupportedImageError(
            f"{name}: pixels are {dtype}; expected uint8 or uint16. If the values lie in 0..255, "
            "pass image.astype(np.uint8)"
        )
    if dtype.kind not in "biuf":
        raise UnsupportedImageError(f"{name}: pixels are {dtype}; expected uint8, uint16 or floats")


def compute_percentiles(
    pixels: np.ndarray, percentiles: tuple[float, float], name: str = "image"
) -> tuple[float, float]:
    """Computes percentiles of intensities as `numpy.percentile` does.

    Up to 16 bits they come from a histogram, which needs no copy of the pixels.

    Args:
      pixels: numbers of any shape. Values that are not finite are ignored.
      percentiles: (low, high) in 0..100.
      name: of the image in error messages.

    Returns:
      The two intensities.

    Raises:
      ValueError: percentiles that are not 0 <= low < high <= 100.
    """
    percentiles = _check_percentiles(percentiles)
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
        counts = np.zeros(2 ** (8 * pixels.dtype.itemsize), np.int64)
        for chunk in _split(pixels):
            if pixels.dtype == np.uint8:
                counts += Image.fromarray(chunk.reshape(len(chunk), -1)).histogram()
            else:
                counts += np.bincount(chunk.ravel(), minlength=len(counts))
        low, high = (_find_percentile(np.cumsum(counts), q) for q in percentiles)
        return low, high
    values = pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels
    _require_values(values, name)
    low, high = np.percentile(values, percentiles, overwrite_input=values is not pixels)
    return float(low), float(high)


def _check_percentiles(percentiles: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = map(float, percentiles)
    except (TypeError, ValueError, OverflowError):
        low = high = np.nan
    if not 0 <= low < high <= 100:
        raise ValueError(
            f"percentiles are {percentiles!r:.80}; expected two numbers (low, high) with "
            "0 <= low < high <= 100, such as (1, 99)"
        )
    return low, high


def _find_percentile(cumulative: np.ndarray, q: float) -> float:
    """Interpolates a percentile between its two neighbors, from a cumulative histogram."""
    position = q / 100 * (cumulative[-1] - 1)
    below = int(position)
    first, second = np.searchsorted(cumulative, [below, below + 1], side="right")
    second = min(int(second), len(cumulative) - 1)
    share = position - below
    # NumPy interpolates from the nearer neighbor, which rounds differently.
    difference = float(second - first)
    return second - difference * (1 - share) if share >= 0.5 else first + difference * share


def stretch_intensities(
    pixels: np.ndarray, low: float, high: float, levels: int = 255
) -> np.ndarray:
    """Maps intensities low..high linearly to 0..levels, clipped and rounded.

    A flat image (high <= low) becomes black. So do values that are not finite.

    Args:
      pixels: numbers of any shape.
      low: intensity that becomes 0.
      high: intensity that becomes `levels`.
      levels: 255, or 65535 for a result of 16 bits.

    Returns:
      uint8 of the same shape, or uint16.
    """
    dtype = np.uint8 if levels == 255 else np.uint16
    # float32 holds 16 bits exactly.
    exact = np.float32 if pixels.dtype.itemsize <= 2 else np.float64
    low, high = float(low), float(high)
    scale = exact(levels / (high - low) if high > low else 0.0)
    result = np.empty(pixels.shape, dtype)
    if pixels.dtype == result.dtype == np.uint8 and pixels.ndim > 0:
        # Pillow looks values up faster than NumPy.
        values = (np.arange(256, dtype=np.float32) - exact(low)) * scale + exact(0.5)
        table = np.clip(values, 0, levels).astype(dtype).tolist()
        for source, target in zip(_split(pixels), _split(result), strict=True):
            looked_up = Image.fromarray(source.reshape(len(source), -1)).point(table)
            target[...] = np.asarray(looked_up).reshape(source.shape)
        return result
    for source, target in zip(_split(pixels), _split(result), strict=True):
        values = (source.astype(exact) - exact(low)) * scale + exact(0.5)
        np.clip(values, 0, levels, out=values)
        if source.dtype.kind == "f":
            values[~np.isfinite(source)] = 0
        target[...] = values
    return result


def _find_range(pixels: np.ndarray, name: str, notes: list[Note] | None) -> tuple[float, float]:
    """Returns the lowest and the highest finite value, and notes the values that are not finite."""
    if pixels.dtype.kind != "f":
        return float(pixels.min()), float(pixels.max())
    low, high, lost = np.inf, -np.inf, 0
    for chunk in _split(pixels):
        finite = np.isfinite(chunk)
        lost += chunk.size - int(np.count_nonzero(finite))
        low = min(low, float(chunk.min(where=finite, initial=np.inf)))
        high = max(high, float(chunk.max(where=finite, initial=-np.inf)))
    _require_values(pixels[:0] if lost == pixels.size else pixels, name)
    if lost:
        add_note(notes, name, "values that are not finite become black", f"{lost} values")
    return low, high


def _require_values(values: np.ndarray, name: str) -> None:
    if values.size == 0:
        raise UnsupportedImageError(f"{name}: no pixel has a finite value")


def _split(pixels: np.ndarray) -> list[np.ndarray]:
    """Splits an array along its first axis into views of bounded size."""
    if pixels.ndim == 0 or pixels.size <= _CHUNK:
        return [pixels]
    rows = max(1, _CHUNK * len(pixels) // pixels.size)
    return [pixels[start : start + rows] for start in range(0, len(pixels), rows)]
