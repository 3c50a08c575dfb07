"""Box, mask, keypoint and semantic heads of Mask R-CNN, and the stages of a cascade."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.layers import Conv, caffe_xavier, number_names
from segjax.models.detection.valid_region import ValidRegion
from segjax.models.layers import Linear, Upscale
from segjax.ops.resize import depth_to_space, linear_weights


class CascadeStage(NamedTuple):
    """Stage of a cascade of box heads (Cascade R-CNN, arXiv 1712.00726, section 4).

    Attributes:
      weights: of the box deltas, see `segjax.ops.boxes.encode_boxes`. Larger weights in later
        stages mean that the same delta is a smaller move.
      iou: a region counts as an object in training from this IoU with the ground truth on.
    """

    weights: tuple[float, float, float, float]
    iou: float


# An ordinary detector has the first stage alone.
STAGES = (
    CascadeStage((10.0, 10.0, 5.0, 5.0), 0.5),
    CascadeStage((20.0, 20.0, 10.0, 10.0), 0.6),
    CascadeStage((30.0, 30.0, 15.0, 15.0), 0.7),
)


def cascade_stages(count: int, agnostic: bool) -> tuple[CascadeStage, ...]:
    """Returns the first stages of a cascade.

    Args:
      count: number of box heads, `box_stages` in configs. 1 means no cascade.
      agnostic: the box heads predict one box for all classes.

    Raises:
      ValueError: there are not as many stages, or several stages with a box for each class.
    """
    if not 1 <= count <= len(STAGES):
        raise ValueError(f"box_stages is {count}; expected 1 (no cascade) to {len(STAGES)}")
    if count > 1 and not agnostic:
        raise ValueError(
            f"box_stages is {count} and agnostic_boxes False; a cascade passes one box per region "
            "on, not one per class: set agnostic_boxes=True, or box_stages=1 for no cascade"
        )
    return STAGES[:count]


class BoxOutputs(NamedTuple):
    """Outputs of one box head for N regions of each of B images.

    Attributes:
      boxes: float32 [B, N, 4], the regions themselves, pixels of the canvas.
      logits: float32 [B, N, 1 + K], class logits, the background first.
      deltas: float32 [B, N, K or 1, 4], to be decoded from `boxes` with the weights of the stage.
    """

    boxes: jax.Array
    logits: jax.Array
    deltas: jax.Array


class BoxHead(nn.Module):
    """Box head: class logits and box deltas of regions.

    Submodules are `conv_{i}`, then `fc` (or `fc_0`, `fc_1` and so on if there are several),
    `scores` and `deltas`.

    Attributes:
      classes: K, without the background.
      convs: number of 3x3 convolutions with norm and ReLU.
      conv_width: channels of the convolutions.
      fcs: number of fully connected layers with ReLU.
      width: their features.
      norm: of the convolutions, a key of `segjax.models.detection.layers.NORMS`.
      epsilon: of the norm.
      agnostic: predict one box for all classes.
      background_rows: scores and deltas have an output for the background. That of the deltas is
        ignored.
      dtype: of the computation.
    """

    classes: int
    convs: int = 0
    conv_width: int = 256
    fcs: int = 2
    width: int = 1024
    norm: str = "none"
    epsilon: float = 1e-5
    agnostic: bool = False
    background_rows: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Predicts classes and boxes of regions.

        Args:
          x: [R, h, w, C], pooled features.

        Returns:
          logits: float32 [R, 1 + K], the background first.
          deltas: float32 [R, K or 1, 4], dx dy dw dh.
        """
        for i in range(self.convs):
            options = dict(norm=self.norm, epsilon=self.epsilon, relu=True, dtype=self.dtype)
            x = Conv(self.conv_width, 3, name=f"conv_{i}", **options)(x)
        x = x.reshape(len(x), -1)  # by row, column, channel
        for name in number_names("fc", self.fcs):
            layer = Linear(self.width, dtype=self.dtype, kernel_init=caffe_xavier, name=name)
            x = jax.nn.relu(layer(x))
        predict = lambda features, spread, name: Linear(
            features, dtype=self.dtype, kernel_init=nn.initializers.normal(spread), name=name
        )
        # torchvision's deltas have four unused outputs for the background, in front of the classes.
        logits = predict(1 + self.classes, 0.01, "scores")(x).astype(jnp.float32)
        unused = int(self.background_rows and not self.agnostic)
        boxes = 1 if self.agnostic else self.classes + unused
        deltas = predict(4 * boxes, 0.001, "deltas")(x).astype(jnp.float32)
        return logits, deltas.reshape(len(x), boxes, 4)[:, unused:]


# He initialization by fan-in. PyTorch counts input channels times kernel cells as the fan-out here.
_msra_upscale = nn.initializers.variance_scaling(
    2.0, "fan_in", "normal", in_axis=(0, 1, 2), out_axis=3
)


class MaskHead(nn.Module):
    """Mask head: one mask per class for every region.

    Submodules are `conv_{i}`, `upscale` and `logits`.

    Attributes:
      classes: K, without the background.
      convs: number of 3x3 convolutions with norm and ReLU.
      width: channels of the convolutions and of the upscaled map.
      norm: of the convolutions, a key of `segjax.models.detection.layers.NORMS`.
      epsilon: of the norm.
      agnostic: predict one mask for all classes.
      background_rows: the logits have an output for the background, which is ignored.
      dtype: of the computation.
    """

    classes: int
    convs: int = 4
    width: int = 256
    norm: str = "none"
    epsilon: float = 1e-5
    agnostic: bool = False
    background_rows: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps pooled features [R, h, w, C] to mask logits, float32 [R, 2h, 2w, K or 1]."""
        for i in range(self.convs):
            options = dict(norm=self.norm, epsilon=self.epsilon, relu=True, dtype=self.dtype)
            x = Conv(self.width, 3, name=f"conv_{i}", **options)(x)
        x = jax.nn.relu(Upscale(self.width, self.dtype, _msra_upscale, name="upscale")(x))
        unused = int(self.background_rows and not self.agnostic)
        masks = 1 if self.agnostic else self.classes + unused
        options = dict(kernel_init=nn.initializers.normal(0.001), dtype=self.dtype)
        # The 1x1 convolution acts on single cells, so the 4 new cells are placed after it.
        cells = x.reshape(len(x), -1, 4, self.width)
        logits = Conv(masks, 1, name="logits", **options)(cells).astype(jnp.float32)
        logits = logits[..., unused:].reshape(*x.shape[:3], -1)
        return depth_to_space(logits, 2)


class KeypointHead(nn.Module):
    """Keypoint head: one heatmap per keypoint for every region.

    Submodules are `conv_{i}`, 3x3 convolutions with ReLU, and `upscale`. The output of the latter
    is doubled bilinearly.

    Attributes:
      keypoints: number of keypoints, J.
      convs: number of convolutions.
      width: their channels.
      dtype: of the computation.
    """

    keypoints: int = 17
    convs: int = 8
    width: int = 512
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps pooled features [R, h, w, C] to heatmap logits, float32 [R, 4h, 4w, J]."""
        for i in range(self.convs):
            x = Conv(self.width, 3, relu=True, dtype=self.dtype, name=f"conv_{i}")(x)
        x = TransposedConv(self.keypoints, dtype=self.dtype, name="upscale")(x).astype(jnp.float32)
        return _enlarge(x, 2)


class SemanticHead(nn.Module):
    """Semantic branch of Panoptic FPN (arXiv 1901.02446, section 3.1): a class for every pixel.

    Each level of the pyramid is enlarged to a quarter of the image, in steps of a 3x3 convolution,
    group norm, ReLU and bilinear doubling. P2 has one convolution and no doubling. A 1x1
    convolution of the sum predicts the classes. Submodules are `p{level}_conv_{i}` and `logits`.

    Attributes:
      classes: S, classes of stuff. Class 0 holds the pixels of all things.
      width: channels of the convolutions.
      dtype: of the computation.
    """

    classes: int
    width: int = 128
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, levels: tuple[jax.Array, ...], region: ValidRegion | None = None
    ) -> jax.Array:
        """Maps P2 to P5, [B, H/4, W/4, C] to [B, H/32, W/32, C], to logits of pixels.

        Args:
          levels: of the pyramid.
          region: valid region of the images. Values beyond it have no influence.

        Returns:
          float32 [B, H, W, 1 + S]. Values outside of the valid region are arbitrary.
        """
        # The sum of all levels, at a quarter of the image
        total = 0
        for doublings, x in enumerate(levels):
            options = dict(norm="gn", relu=True, dtype=self.dtype)
            for i in range(max(doublings, 1)):
                x = Conv(self.width, 3, name=f"p{doublings + 2}_conv_{i}", **options)(x, region)
                if doublings:
                    x = _enlarge(x, 2, region).astype(self.dtype)
            total = total + x
        logits = Conv(1 + self.classes, 1, dtype=self.dtype, name="logits")(total)
        return _enlarge(logits.astype(jnp.float32), 4, region)


def _enlarge(x: jax.Array, factor: int, region: ValidRegion | None = None) -> jax.Array:
    """Enlarges a map bilinearly: [B, h, w, C] -> [B, factor * h, factor * w, C]."""
    x = x if region is None else region.extend(x)
    rows, columns = (linear_weights(size, factor * size) for size in x.shape[1:3])
    return jnp.einsum("yh,xw,rhwk->ryxk", rows, columns, x, precision="highest")


class TransposedConv(nn.Module):
    """Transposed convolution with a 4x4 kernel, stride 2 and padding 1.

    The kernel is [in, 4, 4, out]. Entry (i, j) is the contribution of cell (y, x) to the output at
    row 2y + i - 1 and column 2x + j - 1.

    Attributes:
      features: output channels.
      dtype: of the computation.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [R, h, w, C] to [R, 2h, 2w, features]."""
        kernel = self.param("kernel", _msra_upscale, (x.shape[-1], 4, 4, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        # A convolution gathers where a transposed one scatters: the same taps, mirrored.
        mirrored = kernel[:, ::-1, ::-1].transpose(1, 2, 0, 3).astype(self.dtype)
        out = jax.lax.conv_general_dilated(
            x,
            mirrored,
            (1, 1),
            [(2, 2), (2, 2)],
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return out + bias.astype(self.dtype)
