"""Box, mask and keypoint heads of Mask R-CNN, and the stages of a cascade."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.layers import Conv, caffe_xavier, numbered
from segjax.models.layers import Linear, Upscale
from segjax.ops.resize import depth_to_space, linear_weights


class Stage(NamedTuple):
    """A box head's place in a cascade (Cascade R-CNN, arXiv 1712.00726, section 4).

    weights: of its deltas, see `segjax.ops.boxes.encode_boxes`: those of a later stage stand for smaller moves.
    iou: with an object, from which on a region shows it in training.
    """

    weights: tuple[float, float, float, float]
    iou: float


# An ordinary detector has the first alone.
STAGES = (
    Stage((10.0, 10.0, 5.0, 5.0), 0.5),
    Stage((20.0, 20.0, 10.0, 10.0), 0.6),
    Stage((30.0, 30.0, 15.0, 15.0), 0.7),
)


class BoxAnswers(NamedTuple):
    """What a stage says of N regions of each of B pictures.

    boxes: float32 [B, N, 4], of the regions, pixels of the canvas. logits: float32 [B, N, 1 + K], the background first.
    deltas: float32 [B, N, K or 1, 4], to be decoded from the boxes with the stage's weights.
    """

    boxes: jax.Array
    logits: jax.Array
    deltas: jax.Array


class BoxHead(nn.Module):
    """Features of regions [R, h, w, C] -> scores of classes and boxes for them.

    Modules are conv_{i}; fc, or fc_0, fc_1 where there are several; scores and deltas.

    Attributes:
      classes: K, without the background.
      convs, conv_width: 3x3 convolutions with `norm` (of that epsilon) and ReLU; fcs, width: linear maps with ReLU.
      agnostic: one box for all classes.
      background_rows: scores and deltas have an output for the background; the deltas' is thrown away.
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
        """Returns float32 logits [R, 1 + K], the background first, and deltas dx dy dw dh [R, K or 1, 4]."""
        for i in range(self.convs):
            options = dict(norm=self.norm, epsilon=self.epsilon, relu=True, dtype=self.dtype)
            x = Conv(self.conv_width, 3, name=f"conv_{i}", **options)(x)
        x = x.reshape(len(x), -1)  # by row, column, channel
        for name in numbered("fc", self.fcs):
            x = jax.nn.relu(
                Linear(self.width, dtype=self.dtype, kernel_init=caffe_xavier, name=name)(x)
            )
        predict = lambda features, spread, name: Linear(
            features, dtype=self.dtype, kernel_init=nn.initializers.normal(spread), name=name
        )
        logits = predict(1 + self.classes, 0.01, "scores")(x).astype(jnp.float32)
        unused = int(self.background_rows and not self.agnostic)
        boxes = 1 if self.agnostic else self.classes + unused
        deltas = predict(4 * boxes, 0.001, "deltas")(x).astype(jnp.float32)
        return logits, deltas.reshape(len(x), boxes, 4)[:, unused:]


# He initialization by fan-out, which PyTorch counts as input channels times kernel cells here.
_msra_upscale = nn.initializers.variance_scaling(
    2.0, "fan_in", "normal", in_axis=(0, 1, 2), out_axis=3
)


class MaskHead(nn.Module):
    """Features of regions [R, h, w, C] -> float32 mask logits [R, 2h, 2w, K or 1], one mask for each class.

    Modules are conv_{i}, upscale and logits.

    Attributes:
      classes: K, without the background. convs, width: 3x3 convolutions with `norm` (of that epsilon) and ReLU.
      agnostic: one mask for all classes.
      background_rows: the logits have an output for the background, which is thrown away.
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
        for i in range(self.convs):
            options = dict(norm=self.norm, epsilon=self.epsilon, relu=True, dtype=self.dtype)
            x = Conv(self.width, 3, name=f"conv_{i}", **options)(x)
        x = jax.nn.relu(Upscale(self.width, self.dtype, _msra_upscale, name="upscale")(x))
        unused = int(self.background_rows and not self.agnostic)
        masks = 1 if self.agnostic else self.classes + unused
        options = dict(kernel_init=nn.initializers.normal(0.001), dtype=self.dtype)
        logits = Conv(masks, 1, name="logits", **options)(
            x.reshape(len(x), -1, 4, self.width)
        ).astype(jnp.float32)
        logits = logits[..., unused:].reshape(*x.shape[:3], -1)
        return depth_to_space(logits, 2)


class KeypointHead(nn.Module):
    """Features of regions [R, h, w, C] -> float32 logits [R, 4h, 4w, keypoints].

    Modules are conv_{i}, 3x3 with a ReLU, and upscale, whose maps are doubled bilinearly.
    """

    keypoints: int = 17
    convs: int = 8
    width: int = 512
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.convs):
            x = Conv(self.width, 3, relu=True, dtype=self.dtype, name=f"conv_{i}")(x)
        x = TransposedConv(self.keypoints, dtype=self.dtype, name="upscale")(x).astype(jnp.float32)
        rows, columns = (linear_weights(size, 2 * size) for size in x.shape[1:3])
        return jnp.einsum("yh,xw,rhwk->ryxk", rows, columns, x, precision="highest")


class TransposedConv(nn.Module):
    """Transposed convolution 4x4 of stride 2 and padding 1: [R, h, w, C] -> [R, 2h, 2w, features].

    Kernel [in, 4, 4, out]: entry (i, j) is what a cell adds to its output at row 2y + i - 1, column 2x + j - 1.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
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
