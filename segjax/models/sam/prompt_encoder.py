"""SAM's prompt encoder: points, boxes and texts to tokens, masks to maps (SAM, section 3).

Prompts of different kinds and numbers share one static shape. Empty slots are masked out.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.layers import LayerNorm, Linear, gelu, torch_conv
from segjax.ops.resize import space_to_depth

FOREGROUND, BACKGROUND = 1, 0
PADDING = -1  # an empty slot. Nothing attends to it.
# SAM's learned "not-a-point" embedding, given explicitly. The official code gives it the label -1.
NOT_A_POINT = -2


@flax.struct.dataclass
class Prompts:
    """Prompts of B images, P per image. Each is any mix of N points, a box, a mask and a text.

    A kind that no prompt has is None.

    Example:
      >>> click = Prompts(points=jnp.array([[[[320.0, 200.0]]]]), labels=jnp.array([[[1]]]))
      >>> click.batch
      (1, 1)

    Attributes:
      points: float32 [B, P, N, 2], (x, y) in canvas pixels. An integer is the center of the pixel
        with that index.
      labels: int32 [B, P, N]. 1 foreground, 0 background, -1 empty slot, -2 SAM's "not a point".
      boxes: float32 [B, P, 4], x1 y1 x2 y2 in canvas pixels.
      has_box: bool [B, P]. None: every prompt has its box.
      masks: float32 [B, P, 4h, 4w], logits on the mask grid, such as an earlier prediction.
      has_mask: bool [B, P]. None: every prompt has its mask.
      texts: float32 [B, P, E], vectors of CLIP, of length 1. E is the model's `text_width`.
      has_text: bool [B, P]. None: every prompt has its text.
    """

    points: jax.Array | None = None
    labels: jax.Array | None = None
    boxes: jax.Array | None = None
    has_box: jax.Array | None = None
    masks: jax.Array | None = None
    has_mask: jax.Array | None = None
    texts: jax.Array | None = None
    has_text: jax.Array | None = None

    @property
    def batch(self) -> tuple[int, int]:
        """Returns (B, P).

        Raises:
          ValueError: There are no points, boxes, masks or texts.
        """
        for part in (self.points, self.boxes, self.masks, self.texts):
            if part is not None:
                return part.shape[:2]
        raise ValueError(
            "no points, boxes, masks or texts; for an empty prompt, give points [B, P, 1, 2] whose "
            "labels are all -1"
        )


class PromptEncoder(nn.Module):
    """Prompt encoder of SAM.

    A point or box corner is the random Fourier features of its position plus a learned embedding of
    its kind. A text is a linear map of its vector plus a learned embedding: the paper's appendix
    D.5 does not say how, and this is our choice. Convolutions encode masks.

    Attributes:
      width: Channels of tokens and maps.
      mask_channels: Channels before the last layer of the mask branch.
      text_width: Channels of CLIP's vectors. 0: no text prompts, and no parameters for them.
      dtype: Type of the computation.
    """

    width: int
    mask_channels: int = 16
    text_width: int = 0
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Creates the parameters of every kind of prompt, used or not."""
        # Frequencies of the random Fourier features, which are not trained
        self.gaussian = self.variable(
            "constants",
            "gaussian_matrix",
            lambda: jax.random.normal(self.make_rng("params"), (2, self.width // 2)),
        )
        embedding = nn.initializers.normal(1.0)
        # Embeddings of the kinds of points and corners, and of their absence
        self.background = self.param("background", embedding, (self.width,))
        self.foreground = self.param("foreground", embedding, (self.width,))
        self.top_left = self.param("top_left", embedding, (self.width,))
        self.bottom_right = self.param("bottom_right", embedding, (self.width,))
        self.not_a_point = self.param("not_a_point", embedding, (self.width,))
        self.no_mask = self.param("no_mask", embedding, (self.width,))
        if self.text_width:
            self.text_kind = self.param("text_kind", embedding, (self.width,))
            # Vectors have length 1, so their channels are small
            self.text_proj = Linear(self.width, kernel_init=embedding)
        # Convolutions of mask prompts
        linear = lambda features: Linear(features, dtype=self.dtype, kernel_init=torch_conv)
        self.mask_conv_1 = linear(self.mask_channels // 4)
        self.mask_norm_1 = LayerNorm(dtype=self.dtype)
        self.mask_conv_2 = linear(self.mask_channels)
        self.mask_norm_2 = LayerNorm(dtype=self.dtype)
        self.mask_conv_3 = linear(self.width)

    def encode_positions(self, xy: jax.Array) -> jax.Array:
        """Computes random Fourier features (arXiv 2006.10739) of positions.

        Args:
          xy: float32 [..., 2], (x, y) between 0 and 1.

        Returns:
          float32 [..., width], sines and cosines of 2 pi times a fixed random projection.
        """
        angles = 2 * np.pi * jnp.matmul(2 * xy - 1, self.gaussian.value, precision="highest")
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

    def encode_image_grid(self, grid: tuple[int, int]) -> jax.Array:
        """Computes random Fourier features of the cell centers of the image embedding.

        An angle is the sum of one for the column and one for the row, so h + w sines and cosines
        are enough. Products with ones and zeros repeat them over the grid. With a broadcast, XLA
        would compute them again in every cell.

        Args:
          grid: (h, w), cells of the image embedding.

        Returns:
          float32 [h, w, width].
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
        # sin(a + b) and cos(a + b) of every pair of a column and a row
        sin_x, cos_x = spread(np.tile(np.eye(w, dtype=np.float32), (h, 1)), x)
        sin_y, cos_y = spread(np.repeat(np.eye(h, dtype=np.float32), w, axis=0), y)
        positions = jnp.concatenate(
            [sin_y * cos_x + cos_y * sin_x, cos_y * cos_x - sin_y * sin_x], axis=-1
        )
        return positions.reshape(h, w, self.width)

    def __call__(
        self, prompts: Prompts, canvas: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Encodes prompts.

        Args:
          prompts: Prompts in canvas pixels.
          canvas: (H, W), in pixels.
          grid: (h, w), cells of the image embedding.

        Returns:
          tokens: [B, P, T, width], sparse embeddings of points, texts and boxes.
          valid: bool [B, P, T], False where there is no token.
          dense: [B, P, h, w, width], dense embedding of masks, or [1, 1, 1, 1, width] if no prompt
            has one. It is added to the image embedding.
        """
        tokens, valid = self._encode_sparse(prompts, jnp.asarray(canvas[::-1], jnp.float32))
        return tokens.astype(self.dtype), valid, self._encode_dense(prompts, grid)

    def _encode_sparse(self, prompts: Prompts, extent: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encodes points, texts and boxes. `extent` is (W, H) of the canvas."""
        tokens = [jnp.zeros((*prompts.batch, 0, self.width))]
        valid = [jnp.zeros((*prompts.batch, 0), bool)]
        has_box = jnp.zeros(prompts.batch, bool)
        if prompts.boxes is not None:
            has_box = jnp.ones(prompts.batch, bool) if prompts.has_box is None else prompts.has_box
        # Points
        if prompts.points is not None:
            label = prompts.labels[..., None]
            kinds = jnp.where(label == FOREGROUND, self.foreground, self.background)
            point = (
                self.encode_positions((prompts.points.astype(jnp.float32) + 0.5) / extent) + kinds
            )
            tokens.append(jnp.where(label == NOT_A_POINT, self.not_a_point, point))
            valid.append(prompts.labels != PADDING)
            # SAM ends a list of points with one "not a point", unless a box follows.
            tokens.append(jnp.broadcast_to(self.not_a_point, (*prompts.batch, 1, self.width)))
            valid.append((jnp.any(prompts.labels != PADDING, axis=-1) & ~has_box)[..., None])
        # Texts
        if prompts.texts is not None or (self.text_width and self.is_initializing()):
            tokens.append(self._encode_texts(prompts))
            has_text = jnp.full(prompts.batch, prompts.texts is not None)
            has_text = has_text if prompts.has_text is None else prompts.has_text
            valid.append(has_text[..., None])
        # Corners of boxes
        if prompts.boxes is not None:
            corners = prompts.boxes.astype(jnp.float32).reshape(*prompts.batch, 2, 2)
            kinds = jnp.stack([self.top_left, self.bottom_right])
            tokens.append(self.encode_positions((corners + 0.5) / extent) + kinds)
            valid.append(jnp.broadcast_to(has_box[..., None], (*prompts.batch, 2)))
        valid = jnp.concatenate(valid, axis=-1)
        return jnp.where(valid[..., None], jnp.concatenate(tokens, axis=-2), 0), valid

    def _encode_texts(self, prompts: Prompts) -> jax.Array:
        """Encodes vectors of texts as tokens [B, P, 1, width]."""
        if not self.text_width:
            raise ValueError(
                "this SAM has no text prompts: config.model.text_width is 0. "
                "experiments/sam/words.py trains one"
            )
        texts = prompts.texts
        if texts is None:  # initialization: the text branch needs its parameters too
            texts = jnp.zeros((*prompts.batch, self.text_width))
        if texts.shape[-1] != self.text_width:
            raise ValueError(
                f"vectors of texts have {texts.shape[-1]} channels; this SAM takes those of a CLIP "
                f"with {self.text_width}"
            )
        return (self.text_proj(texts.astype(jnp.float32)) + self.text_kind)[..., None, :]

    def _encode_dense(self, prompts: Prompts, grid: tuple[int, int]) -> jax.Array:
        """Encodes masks, or returns the learned embedding of "no mask"."""
        no_mask = self.no_mask.astype(self.dtype).reshape(1, 1, 1, 1, self.width)
        if prompts.masks is None and not self.is_initializing():
            return no_mask
        masks = prompts.masks
        if masks is None:  # initialization: the mask branch needs its parameters too
            masks = jnp.zeros((1, 1, grid[0] * 4, grid[1] * 4))
        if masks.shape[-2:] != (grid[0] * 4, grid[1] * 4):
            raise ValueError(
                f"mask prompts are {masks.shape[-2]}x{masks.shape[-1]}, expected "
                f"{grid[0] * 4}x{grid[1] * 4} logits, four cells per cell of the image embedding "
                "and axis; give `low_res` of an earlier prediction, or resize the masks"
            )
        # Two convolutions 2 x 2 of stride 2, and one 1 x 1
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
