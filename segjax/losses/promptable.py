"""The losses of promptable segmentation: focal and dice on masks, squared error on predicted IoUs (SAM, appendix A)."""

import dataclasses

import jax
import jax.numpy as jnp

from segjax.ops.masks import mask_iou

FOCAL_NORMALISERS = ("mean", "area", "difficulty")


def focal_loss(
    logits: jax.Array,
    truth: jax.Array,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    normalise: str = "mean",
) -> jax.Array:
    """Sigmoid focal loss (arXiv 1708.02002), one number a mask.

    Args:
      logits: float32 [..., H, W].
      truth: {0, 1} [..., H, W], broadcast against the logits.
      alpha: weight of foreground pixels (1 - alpha of background); gamma: exponent that silences easy pixels.
      normalise: "mean" over pixels (SAM); "area": sum over pixels / (4 x object area), so that small objects
        weigh as much as large ones; "difficulty": pixel weights scaled to sum to the pixel count, without gradient, so
        that the loss does not fade as errors shrink (RITM, arXiv 2102.06583, section 3.3).

    Returns:
      float32 [...].
    """
    if normalise not in FOCAL_NORMALISERS:
        raise ValueError(
            f"focal normalisation {normalise!r} is unknown; choose one of {', '.join(FOCAL_NORMALISERS)}"
        )
    truth = truth.astype(jnp.float32)
    signed = jnp.where(truth > 0, logits, -logits)
    cross_entropy = jax.nn.softplus(-signed)
    # (1 - p_t) ** gamma; as a power its gradient is infinite on pixels that are all but certain, for gamma < 1.
    weight = jnp.exp(-gamma * (signed + cross_entropy))
    balance = jnp.where(truth > 0, alpha, 1 - alpha)
    axes = (-2, -1)
    pixels = logits.shape[-2] * logits.shape[-1]
    if normalise == "difficulty":
        weight = weight * jax.lax.stop_gradient(
            pixels / jnp.maximum(weight.sum(axes, keepdims=True), 1e-6)
        )
    total = jnp.sum(balance * weight * cross_entropy, axis=axes)
    if normalise == "area":
        return total / (4 * jnp.maximum(truth.sum(axes), 1.0))
    return total / pixels


def dice_loss(logits: jax.Array, truth: jax.Array) -> jax.Array:
    """1 - dice overlap of probabilities and truth, smoothed by one pixel: [..., H, W] -> [...] (arXiv 1606.04797)."""
    probability = jax.nn.sigmoid(logits)
    truth = truth.astype(jnp.float32)
    overlap = jnp.sum(probability * truth, axis=(-2, -1))
    return 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + truth.sum((-2, -1)) + 1)


@dataclasses.dataclass(frozen=True)
class PromptableLoss:
    """Focal and dice of the best mask, and IoU regression; the defaults are SAM's.

    Attributes:
      focal_weight, dice_weight, iou_weight: of the three terms; SAM has focal : dice = 20 : 1.
      focal_alpha, focal_gamma, focal_normalise: see `focal_loss`.
      iou_on: "all" regresses the IoU of every mask, "best" of the lowest-loss one alone.
      iou_norm: "squared" or "absolute" error of the predicted IoU. (sam2: absolute, and a model with `iou_sigmoid`.)
    """

    focal_weight: float = 20.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    focal_normalise: str = "mean"
    iou_on: str = "all"
    iou_norm: str = "squared"

    def __post_init__(self) -> None:
        if self.iou_on not in ("all", "best"):
            raise ValueError(
                f"iou_on is {self.iou_on!r}; choose 'all' masks or the 'best' one alone"
            )
        if self.iou_norm not in ("squared", "absolute"):
            raise ValueError(f"iou_norm is {self.iou_norm!r}; choose 'squared' or 'absolute'")

    def __call__(self, logits: jax.Array, iou: jax.Array, truth: jax.Array) -> dict[str, jax.Array]:
        """Loss of one answer: the mask terms of its lowest-loss mask only, so that three masks may mean three things.

        Args:
          logits: float32 [..., M, H, W].
          iou: float32 [..., M], predicted.
          truth: {0, 1} [..., H, W].

        Returns:
          dict of float32 [...]: "loss", and unweighted "focal", "dice" and "iou_error".
        """
        truth = truth[..., None, :, :]
        focal = focal_loss(
            logits,
            truth,
            alpha=self.focal_alpha,
            gamma=self.focal_gamma,
            normalise=self.focal_normalise,
        )
        dice = dice_loss(logits, truth)
        best = jnp.argmin(
            self.focal_weight * focal + self.dice_weight * dice, axis=-1, keepdims=True
        )
        of_best = lambda values: jnp.take_along_axis(values, best, axis=-1)[..., 0]
        error = iou - mask_iou(logits > 0, truth > 0)
        error = error**2 if self.iou_norm == "squared" else jnp.abs(error)
        terms = {
            "focal": of_best(focal),
            "dice": of_best(dice),
            "iou_error": error.mean(-1) if self.iou_on == "all" else of_best(error),
        }
        loss = (
            self.focal_weight * terms["focal"]
            + self.dice_weight * terms["dice"]
            + self.iou_weight * terms["iou_error"]
        )
        return {"loss": loss, **terms}
