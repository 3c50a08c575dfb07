"""Mask R-CNN's mask head (arXiv 1703.06870, figure 4): a small fully convolutional network on each region."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.convolution import Conv
from segjax.models.layers import Upscale
from segjax.ops.resize import depth_to_space

# He's initialisation by the fan-out, as torch counts it for a transposed convolution: channels in times its 2x2 cells.
_msra_upscale = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=(0, 1, 2), out_axis=3)


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
        logits = Conv(masks, 1, name="logits", **options)(x.reshape(len(x), -1, 4, self.width)).astype(jnp.float32)
        logits = logits[..., unused:].reshape(*x.shape[:3], -1)
        return depth_to_space(logits, 2)
