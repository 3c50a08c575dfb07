"""What a region of interest shows, and its box: Fast R-CNN's head (arXiv 1504.08083) as FPN has it, and cascades."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.convolution import Conv, caffe_xavier, numbered
from segjax.models.layers import Linear


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
            x = jax.nn.relu(Linear(self.width, dtype=self.dtype, kernel_init=caffe_xavier, name=name)(x))
        predict = lambda features, spread, name: Linear(
            features, dtype=self.dtype, kernel_init=nn.initializers.normal(spread), name=name
        )
        logits = predict(1 + self.classes, 0.01, "scores")(x).astype(jnp.float32)
        unused = int(self.background_rows and not self.agnostic)
        boxes = 1 if self.agnostic else self.classes + unused
        deltas = predict(4 * boxes, 0.001, "deltas")(x).astype(jnp.float32)
        return logits, deltas.reshape(len(x), boxes, 4)[:, unused:]
