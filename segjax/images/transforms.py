"""Pictures into the model's frame: decoding, resizing the longest side, padding, and the same for coordinates.

Training and prediction share these functions. Canvas: a square of S x S pixels whose top left holds the content of
h x w pixels. Normalising happens on the device, so the padding here is plain zeros.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from segjax.images.encoding import SIXTEEN_BITS

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


class ImageError(ValueError):
    """A picture cannot be read or has a form that is not accepted; the message names it and says what was found."""


def decode_image(
    source: bytes | np.ndarray,
    *,
    name: str = "image",
    percentiles: tuple[float, float] | None = None,
) -> np.ndarray:
    """RGB uint8 [H, W, 3] of encoded bytes or of an array.

    Accepted arrays: uint8 or uint16, [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]. Grey is repeated over the three
    channels, palettes are looked up, CMYK becomes RGB as Pillow does it, and alpha is dropped. 16-bit grey is stretched
    from the picture's own darkest to its own brightest value, since what is used of the 16 bits differs between
    cameras; of encoded 16-bit colours Pillow hands over the upper 8. EXIF orientation is ignored: masks and points
    refer to the stored pixels.

    Args:
      source: encoded image file, or pixels.
      name: how errors call the picture (a file name, an image id).
      percentiles: (low, high) in 0..100: intensities between these percentiles of the picture are stretched over
        0-255 (all channels alike), as is usual for microscopy.

    Raises:
      ImageError: bytes that are no image or end early, no pixels, another dtype or shape.
    """
    pixels = (
        _decode_bytes(source, name)
        if isinstance(source, bytes | bytearray | memoryview)
        else source
    )
    pixels = np.asarray(pixels)
    _check_pixels(pixels, name)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    pixels = pixels[:, :, :3]
    if percentiles is not None:
        pixels = stretch_intensities(pixels, *np.percentile(pixels, percentiles))
    elif pixels.dtype == np.uint16:
        pixels = stretch_intensities(pixels, pixels.min(), pixels.max())
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def stretch_intensities(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps ``low``..``high`` linearly to 0..255, clipped and rounded; uint8. A flat picture (high <= low) is black."""
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.clip((pixels - np.float32(low)) * np.float32(scale) + 0.5, 0, 255).astype(np.uint8)


def compute_fitted_size(hw: tuple[int, int], canvas: int | tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a picture of ``hw`` resized until it fills a canvas of (H, W), or a square, along one side; rounded as
    SAM does, at least 1."""
    height, width = (canvas, canvas) if isinstance(canvas, int) else canvas
    scale = min(height / hw[0], width / hw[1])
    return max(1, int(hw[0] * scale + 0.5)), max(1, int(hw[1] * scale + 0.5))


def resize_longest_side(image: np.ndarray, canvas: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [h, w, 3] with max(h, w) = ``canvas``: Pillow's antialiased bilinear, as SAM does."""
    h, w = compute_fitted_size(image.shape[:2], canvas)
    return np.asarray(Image.fromarray(image).resize((w, h), Image.BILINEAR))


def compute_center_box(hw: tuple[int, int], margin: float = 1.0) -> Box:
    """(top, left, height, width) of the square in the middle of a picture of ``hw``, the shorter side over `margin`.

    256 / 224 cuts off as much all around as ImageNet is measured without.
    """
    side = max(round(min(hw) / margin), 1)
    return (hw[0] - side) // 2, (hw[1] - side) // 2, side, side


def center_crop(image: np.ndarray, canvas: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [canvas, canvas, 3]: the middle, the shorter side filling the canvas; Pillow's bicubic."""
    return np.asarray(decode_crop(image, lambda hw: (compute_center_box(hw), (canvas, canvas))))


def decode_crop(
    source: bytes | np.ndarray,
    choose: Callable[[tuple[int, int]], tuple[Box, tuple[int, int]]],
    *,
    name: str = "image",
    percentiles: tuple[float, float] | None = None,
    reduced: bool = False,
) -> Image.Image:
    """A part of a picture, RGB, resized; what is around it is not seen. Pillow's antialiased bicubic.

    Args:
      source, name, percentiles: see `decode_image`, whose errors are raised here too.
      choose: from (H, W) of the picture to the part and to the size (h, w) that it gets.
      reduced: a JPEG of which the part would shrink to half or less is decoded at 1/2, 1/4 or 1/8 of its size, so
        that at least as many pixels are left as are wanted: much faster. The part stays the same.
    """
    if not isinstance(source, np.ndarray) and percentiles is None:
        with open_image(source, name) as picture:
            if picture.mode not in SIXTEEN_BITS:
                return crop_and_resize(picture, *choose((picture.height, picture.width)), reduced=reduced)
    picture = Image.fromarray(decode_image(source, name=name, percentiles=percentiles))
    return crop_and_resize(picture, *choose((picture.height, picture.width)))


def crop_and_resize(
    picture: Image.Image,
    box: Box,
    size: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
    *,
    reduced: bool = False,
) -> Image.Image:
    """The box of an opened picture in ``size`` = (h, w) pixels, antialiased; RGB, or grey of 16 bits as it is.

    reduced: see `decode_crop`. A picture that is reduced is not to be used again.
    """
    factor = _reduce(picture, min(box[2] // size[0], box[3] // size[1])) if reduced else 1
    top, left, height, width = box
    outer = (
        left // factor,
        top // factor,
        -(-(left + width) // factor),
        -(-(top + height) // factor),
    )
    window = picture if outer == (0, 0, *picture.size) else picture.crop(outer)
    window = window if picture.mode in SIXTEEN_BITS else _rgb(window)
    if factor == 1:
        return window if window.size == size[::-1] else window.resize(size[::-1], resample)
    x, y = left / factor - outer[0], top / factor - outer[1]
    part = (x, y, min(x + width / factor, window.width), min(y + height / factor, window.height))
    return window.resize(size[::-1], resample, box=part)


def _reduce(picture: Image.Image, shrinks: int) -> int:
    """Has libjpeg shrink by up to so much while it decodes; returns how many pixels become one in x and in y."""
    factor = max((k for k in (2, 4, 8) if k <= shrinks), default=1)
    if factor == 1:
        return 1
    width = picture.width
    drafted = picture.draft(None, (width // factor, picture.height // factor))
    return 1 if drafted is None else round(width / drafted[1][2])  # None: no JPEG


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "P":
        picture.info.pop("transparency", None)  # Pillow would warn that it is dropped
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def pad_to_canvas(image: np.ndarray, canvas: int | tuple[int, int]) -> np.ndarray:
    """[h, w, ...] -> [H, W, ...] of a canvas (H, W) or a square, zeros to the right and below.

    Raises ValueError if it does not fit.
    """
    h, w = image.shape[:2]
    height, width = (canvas, canvas) if isinstance(canvas, int) else canvas
    if h > height or w > width:
        raise ValueError(
            f"content of {h} x {w} pixels does not fit a canvas of {canvas}; resize it first (resize_longest_side)"
        )
    padded = np.zeros((height, width, *image.shape[2:]), image.dtype)
    padded[:h, :w] = image
    return padded


def scale_points(
    points: np.ndarray, from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> np.ndarray:
    """Points [..., 2] (x, y) of a picture of ``from_hw`` in the frame of ``to_hw``, float32.

    As SAM does: multiplied by the ratio of the (rounded) sizes; the half pixel of the centre is added by the model.
    """
    ratio = np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]])
    return (np.asarray(points, np.float64) * ratio).astype(np.float32)


def scale_boxes(boxes: np.ndarray, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> np.ndarray:
    """Boxes [..., 4] (x1 y1 x2 y2) of a picture of ``from_hw`` in the frame of ``to_hw``, float32."""
    boxes = np.asarray(boxes)
    return scale_points(boxes.reshape(*boxes.shape[:-1], 2, 2), from_hw, to_hw).reshape(boxes.shape)


@contextlib.contextmanager
def open_image(data: bytes, name: str) -> Iterator[Image.Image]:
    """The picture of encoded bytes, which Pillow decodes when it is asked for pixels, inside the block.

    Raises ImageError for whatever cannot be read, of the header or of the pixels, and for more than 16 bits a channel.
    """
    if len(data) == 0:
        raise ImageError(
            f"{name}: the file is empty (0 bytes); expected an encoded PNG, JPEG or TIFF"
        )
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.mode in ("I", "F"):
                raise ImageError(
                    f"{name}: {picture.format} with 32 bits a pixel (mode {picture.mode}); expected 8 or 16 bits. "
                    "Convert it to a uint8 or uint16 array yourself and pass that"
                )
            yield picture
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: {len(data)} bytes that are no known image (they start with {bytes(data[:8])!r}); "
            "expected an encoded PNG, JPEG or TIFF"
        ) from None
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"{name}: the image of {len(data)} bytes is truncated or damaged ({error}); fetch the file again"
        ) from error


def _decode_bytes(data: bytes, name: str) -> np.ndarray:
    with open_image(data, name) as picture:
        if picture.mode in SIXTEEN_BITS:
            return np.asarray(picture).astype(np.uint16)
        return np.asarray(_rgb(picture))


def _check_pixels(pixels: np.ndarray, name: str) -> None:
    expected = "expected uint8 or uint16 of shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
    if pixels.dtype not in (np.uint8, np.uint16):
        hint = ""
        if pixels.dtype.kind == "f":
            hint = "; if its values lie in 0..1, pass (image * 255).round().astype(np.uint8)"
        raise ImageError(f"{name}: pixels are {pixels.dtype}; {expected}{hint}")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        hint = "; the channels go last" if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) else ""
        raise ImageError(f"{name}: pixels have shape {pixels.shape}; {expected}{hint}")
    if 0 in pixels.shape:
        raise ImageError(f"{name}: the image has no pixels (shape {pixels.shape}); {expected}")
