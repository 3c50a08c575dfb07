"""Mask R-CNN's keypoint head (arXiv 1703.06870, section 5): a map of one hot cell for each keypoint of a region."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.convolution import Conv
from segjax.ops.resize import linear_weights

# He's initialisation by the fan-out, as torch counts it for a transposed convolution: channels in times its 4x4 cells.
_msra_upscale = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=(0, 1, 2), out_axis=3)


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
            x, mirrored, (1, 1), [(2, 2), (2, 2)], lhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return out + bias.astype(self.dtype)
