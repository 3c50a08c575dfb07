"""The region proposal network (arXiv 1506.01497): which anchors of which cells are objects, and their boxes."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.convolution import Conv, numbered

_small = nn.initializers.normal(0.01)


class RpnHead(nn.Module):
    """Levels [B, h, w, C] -> logits and deltas of their anchors; the same weights for every level.

    Modules are conv, or conv_0, conv_1 where there are several, 3x3 with a ReLU; logits and deltas.

    Attributes:
      anchors: at each cell. convs: before the two predictions.
    """

    anchors: int = 3
    convs: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, levels: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """Returns float32 (logits [B, h * w * anchors], deltas [B, h * w * anchors, 4]) by level.

        Anchors count by row, column, then kind, as `segjax.ops.anchors` does; deltas are dx dy dw dh.
        """
        options = dict(kernel_init=_small, dtype=self.dtype)
        names = numbered("conv", self.convs)
        convs = [Conv(levels[0].shape[-1], 3, relu=True, name=name, **options) for name in names]
        logits = Conv(self.anchors, 1, name="logits", **options)
        deltas = Conv(4 * self.anchors, 1, name="deltas", **options)
        all_logits, all_deltas = [], []
        for x in levels:
            for conv in convs:
                x = conv(x)
            all_logits.append(logits(x).astype(jnp.float32).reshape(len(x), -1))
            all_deltas.append(deltas(x).astype(jnp.float32).reshape(len(x), -1, 4))
        return tuple(all_logits), tuple(all_deltas)
