"""Resizing and normalization of images, as a detector's weights expect them."""

import dataclasses

import jax
import jax.numpy as jnp

from segjax.ops.masks import make_content_mask
from segjax.ops.pixels import PIXEL_MEAN, PIXEL_STD

_MEAN, _STD = (
    tuple(round(float(value), 3) for value in values) for values in (PIXEL_MEAN, PIXEL_STD)
)


@dataclasses.dataclass(frozen=True)
class PixelNormalization:
    """Mean and standard deviation of the pixel values, in the channel order of the network.

    Attributes:
      bgr: the network takes blue first. Images are RGB everywhere else.
      mean: subtracted from values 0..255, one per channel of the network.
      std: divides the difference, one per channel of the network.
    """

    bgr: bool = False
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD

    def normalize(self, images: jax.Array) -> jax.Array:
        """Normalizes images by the statistics that the network was trained with.

        Args:
          images: [..., 3], RGB values 0..255 of any dtype.

        Returns:
          float32 [..., 3], BGR if `bgr`.
        """
        x = images.astype(jnp.float32)
        x = (x[..., ::-1] if self.bgr else x) - jnp.float32(self.mean)
        return x / jnp.float32(self.std)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Path of an image to the network's input: resized, put on a canvas, normalized.

    Attributes:
      canvas: longest side in pixels of the canvases that the model is made for. Other canvases
        work too.
      short_side: images are resized until their shorter side has this many pixels ...
      long_side: ... unless their longer side would then have more than this many.
      resize: interpolation, "pillow" (antialiased, on uint8) or "torchvision" (plain bilinear).
      pixels: normalization.
    """

    canvas: int = 1344
    short_side: int = 800
    long_side: int = 1333
    resize: str = "torchvision"
    pixels: PixelNormalization = PixelNormalization()


def check_images(images: jax.Array, divisor: int) -> None:
    """Raises ValueError unless images are [B, H, W, 3], with sides that `divisor` divides."""
    sides = images.shape[1:3]
    if images.ndim != 4 or images.shape[-1] != 3 or any(side % divisor for side in sides):
        raise ValueError(
            f"images are {images.shape}; this detector takes RGB [B, H, W, 3] with sides that are "
            f"multiples of {divisor}: pad them at the bottom and the right, and pass `sizes`"
        )


def blank_padding(x: jax.Array, sizes: jax.Array) -> jax.Array:
    """Sets normalized images to 0, the mean color, outside of their content.

    Args:
      x: float [B, H, W, C], normalized.
      sizes: int [B, 2], (height, width) of the content at the top left of each canvas.

    Returns:
      An array like `x`.
    """
    return jnp.where(make_content_mask(sizes, x.shape[1:3])[..., None], x, 0)
