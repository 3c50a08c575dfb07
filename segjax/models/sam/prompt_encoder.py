"""Prompts to tokens and maps: points, boxes and mask logits, ragged within one static shape (SAM, appendix A)."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.layers import LayerNorm, Linear, gelu, torch_conv
from segjax.ops.resize import space_to_depth

FOREGROUND, BACKGROUND = 1, 0
PADDING = -1  # an empty slot: nothing attends to it, the result is as if it were not there
NOT_A_POINT = (
    -2
)  # SAM's learned "not a point" token, given explicitly (official code calls it label -1)


@flax.struct.dataclass
class Prompts:
    """B images x P prompts, each any mix of N points, a box and a mask; what is absent everywhere is None.

    Attributes:
      points: float32 [B, P, N, 2], (x, y) in canvas pixels; an integer is the middle of the pixel of that index.
      labels: int32 [B, P, N]: 1 foreground, 0 background, -1 empty slot, -2 SAM's "not a point" token.
      boxes: float32 [B, P, 4], x1 y1 x2 y2 in canvas pixels.
      has_box: bool [B, P]; None: every prompt has its box.
      masks: float32 [B, P, 4h, 4w], logits on the mask grid, e.g. of an earlier prediction.
      has_mask: bool [B, P]; None: every prompt has its mask.
    """

    points: jax.Array | None = None
    labels: jax.Array | None = None
    boxes: jax.Array | None = None
    has_box: jax.Array | None = None
    masks: jax.Array | None = None
    has_mask: jax.Array | None = None

    @property
    def batch(self) -> tuple[int, int]:
        """(B, P).

        Raises:
          ValueError: there is nothing to tell them from.
        """
        for part in (self.points, self.boxes, self.masks):
            if part is not None:
                return part.shape[:2]
        raise ValueError(
            "no points, boxes or masks; to ask without any prompt, give points [B, P, 1, 2] whose labels are all -1"
        )


class PromptEncoder(nn.Module):
    """Fourier features of positions plus learned kinds for points and corners; convolutions for masks.

    Attributes:
      width: channels of tokens and maps.
      mask_channels: channels before the last layer of the mask branch.
    """

    width: int
    mask_channels: int = 16
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Every kind of prompt has its parameters, used or not."""
        self.gaussian = self.variable(
            "constants",
            "gaussian_matrix",
            lambda: jax.random.normal(self.make_rng("params"), (2, self.width // 2)),
        )
        embedding = nn.initializers.normal(1.0)
        self.background = self.param("background", embedding, (self.width,))
        self.foreground = self.param("foreground", embedding, (self.width,))
        self.top_left = self.param("top_left", embedding, (self.width,))
        self.bottom_right = self.param("bottom_right", embedding, (self.width,))
        self.not_a_point = self.param("not_a_point", embedding, (self.width,))
        self.no_mask = self.param("no_mask", embedding, (self.width,))
        linear = lambda features: Linear(features, dtype=self.dtype, kernel_init=torch_conv)
        self.mask_conv_1 = linear(self.mask_channels // 4)
        self.mask_norm_1 = LayerNorm(dtype=self.dtype)
        self.mask_conv_2 = linear(self.mask_channels)
        self.mask_norm_2 = LayerNorm(dtype=self.dtype)
        self.mask_conv_3 = linear(self.width)

    def positional(self, xy: jax.Array) -> jax.Array:
        """Fourier features of positions in [0, 1]: [..., 2] -> [..., width], float32."""
        angles = 2 * np.pi * jnp.matmul(2 * xy - 1, self.gaussian.value, precision="highest")
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

    def image_positions(self, grid: tuple[int, int]) -> jax.Array:
        """Features of the cell centres of the image embedding: [h, w, width].

        An angle is one of its column plus one of its row, so h + w sines and cosines are enough. They are spread by
        products with ones and zeros: XLA would compute them again in every cell of a broadcast.
        """
        h, w = grid
        frequencies = 2 * np.pi * self.gaussian.value
        x, y = (
            (2 * (jnp.arange(cells)[:, None] + 0.5) / cells - 1) * frequency
            for cells, frequency in zip((w, h), frequencies, strict=True)
        )
        waves = lambda angles: jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        spread = lambda ones, angles: jnp.split(
            jnp.matmul(ones, waves(angles), precision="highest"), 2, axis=-1
        )
        sin_x, cos_x = spread(np.tile(np.eye(w, dtype=np.float32), (h, 1)), x)
        sin_y, cos_y = spread(np.repeat(np.eye(h, dtype=np.float32), w, axis=0), y)
        positions = jnp.concatenate(
            [sin_y * cos_x + cos_y * sin_x, cos_y * cos_x - sin_y * sin_x], axis=-1
        )
        return positions.reshape(h, w, self.width)

    def __call__(
        self, prompts: Prompts, canvas: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Encodes prompts given in pixels of a canvas of (H, W), for an embedding of grid (h, w).

        Returns:
          tokens: [B, P, T, width].
          valid: bool [B, P, T], False where a token is not there.
          dense: [B, P, h, w, width], or [1, 1, 1, 1, width] when no prompt has a mask; is added to the image embedding.
        """
        tokens, valid = self._tokens(prompts, jnp.asarray(canvas[::-1], jnp.float32))
        return tokens.astype(self.dtype), valid, self._dense(prompts, grid)

    def _tokens(self, prompts: Prompts, extent: jax.Array) -> tuple[jax.Array, jax.Array]:
        tokens = [jnp.zeros((*prompts.batch, 0, self.width))]
        valid = [jnp.zeros((*prompts.batch, 0), bool)]
        has_box = jnp.zeros(prompts.batch, bool)
        if prompts.boxes is not None:
            has_box = jnp.ones(prompts.batch, bool) if prompts.has_box is None else prompts.has_box
        if prompts.points is not None:
            label = prompts.labels[..., None]
            kinds = jnp.where(label == FOREGROUND, self.foreground, self.background)
            point = self.positional((prompts.points.astype(jnp.float32) + 0.5) / extent) + kinds
            tokens.append(jnp.where(label == NOT_A_POINT, self.not_a_point, point))
            valid.append(prompts.labels != PADDING)
            # SAM closes a list of points with one "not a point", unless a box follows.
            tokens.append(jnp.broadcast_to(self.not_a_point, (*prompts.batch, 1, self.width)))
            valid.append((jnp.any(prompts.labels != PADDING, axis=-1) & ~has_box)[..., None])
        if prompts.boxes is not None:
            corners = prompts.boxes.astype(jnp.float32).reshape(*prompts.batch, 2, 2)
            kinds = jnp.stack([self.top_left, self.bottom_right])
            tokens.append(self.positional((corners + 0.5) / extent) + kinds)
            valid.append(jnp.broadcast_to(has_box[..., None], (*prompts.batch, 2)))
        valid = jnp.concatenate(valid, axis=-1)
        return jnp.where(valid[..., None], jnp.concatenate(tokens, axis=-2), 0), valid

    def _dense(self, prompts: Prompts, grid: tuple[int, int]) -> jax.Array:
        no_mask = self.no_mask.astype(self.dtype).reshape(1, 1, 1, 1, self.width)
        if prompts.masks is None and not self.is_initializing():
            return no_mask
        masks = prompts.masks
        if masks is None:  # initialising: make the parameters of the mask branch all the same
            masks = jnp.zeros((1, 1, grid[0] * 4, grid[1] * 4))
        if masks.shape[-2:] != (grid[0] * 4, grid[1] * 4):
            raise ValueError(
                f"mask prompts are {masks.shape[-2]}x{masks.shape[-1]}, expected {grid[0] * 4}x{grid[1] * 4} logits, "
                "four cells for each of the image embedding; feed back `low_res` of an earlier prediction or resize"
            )
        x = gelu(
            self.mask_norm_1(
                self.mask_conv_1(space_to_depth(masks[..., None].astype(self.dtype), 2))
            )
        )
        x = gelu(self.mask_norm_2(self.mask_conv_2(space_to_depth(x, 2))))
        dense = self.mask_conv_3(x)
        if prompts.has_mask is None:
            return dense
        return jnp.where(prompts.has_mask[..., None, None, None], dense, no_mask)
