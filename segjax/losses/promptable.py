"""Losses of promptable segmentation: focal loss, dice loss and IoU loss (SAM, appendix A)."""

import dataclasses

import jax
import jax.numpy as jnp

from segjax.ops.masks import mask_iou

FOCAL_NORMALISERS = ("mean", "area", "difficulty")


def focal_loss(
    logits: jax.Array,
    ground_truth: jax.Array,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    normalise: str = "mean",
) -> jax.Array:
    """Computes the sigmoid focal loss of masks (Lin et al. 2017, arXiv 1708.02002, section 3).

        FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t)

    where p_t is the probability of the correct label of a pixel: sigmoid(logit) on the object, and
    1 - sigmoid(logit) elsewhere. Likewise alpha_t is alpha on the object and 1 - alpha elsewhere.

        logits, ground_truth = jnp.zeros((2, 8, 8)), jnp.ones((2, 8, 8))
        focal_loss(logits, ground_truth)  # [0.0433, 0.0433] = 0.25 * 0.5**2 * log(2)

    Args:
      logits: float32 [..., H, W].
      ground_truth: {0, 1} [..., H, W], broadcast against the logits.
      alpha: Weight of object pixels. Background pixels have weight 1 - alpha.
      gamma: Exponent that reduces the weight of easy pixels. 0: cross-entropy.
      normalise: "mean": mean over pixels (SAM). "area": sum over pixels / (4 x object area), so
        that small objects count as much as large ones. "difficulty": pixel weights are scaled to
        sum to the number of pixels, without gradient, so that the loss does not vanish as errors
        shrink (RITM, arXiv 2102.06583, section 3.3).

    Returns:
      float32 [...], one number per mask.

    Raises:
      ValueError: Unknown `normalise`.
    """
    if normalise not in FOCAL_NORMALISERS:
        raise ValueError(
            f"focal normalization {normalise!r} is unknown; choose one of "
            f"{', '.join(FOCAL_NORMALISERS)}"
        )
    ground_truth = ground_truth.astype(jnp.float32)
    signed = jnp.where(ground_truth > 0, logits, -logits)
    cross_entropy = jax.nn.softplus(-signed)
    # This is (1 - p_t)^gamma. As a power, its gradient would be infinite on pixels that are almost
    # certain, for gamma < 1.
    weight = jnp.exp(-gamma * (signed + cross_entropy))
    balance = jnp.where(ground_truth > 0, alpha, 1 - alpha)
    axes = (-2, -1)
    pixels = logits.shape[-2] * logits.shape[-1]
    if normalise == "difficulty":
        weight = weight * jax.lax.stop_gradient(
            pixels / jnp.maximum(weight.sum(axes, keepdims=True), 1e-6)
        )
    # Sum over pixels, normalized
    total = jnp.sum(balance * weight * cross_entropy, axis=axes)
    if normalise == "area":
        return total / (4 * jnp.maximum(ground_truth.sum(axes), 1.0))
    return total / pixels


def dice_loss(logits: jax.Array, ground_truth: jax.Array) -> jax.Array:
    """Computes the dice loss of masks (V-Net, Milletari et al. 2016, arXiv 1606.04797, section 3).

        dice = 1 - (2 sum(p g) + 1) / (sum(p) + sum(g) + 1)

    with probabilities p = sigmoid(logits) and ground truth g. The 1 is a smoothing of one pixel.

        logits, ground_truth = jnp.full((1, 8, 8), 20.0), jnp.ones((1, 8, 8))
        dice_loss(logits, ground_truth)  # [0.0]

    Args:
      logits: float32 [..., H, W].
      ground_truth: {0, 1} [..., H, W], broadcast against the logits.

    Returns:
      float32 [...], 0 for a perfect mask, at most 1.
    """
    probability = jax.nn.sigmoid(logits)
    ground_truth = ground_truth.astype(jnp.float32)
    overlap = jnp.sum(probability * ground_truth, axis=(-2, -1))
    return 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + ground_truth.sum((-2, -1)) + 1)


@dataclasses.dataclass(frozen=True)
class PromptableLoss:
    """Sum of focal loss and dice loss of the best mask, and IoU loss. The defaults are SAM's.

        loss_fn = PromptableLoss()
        logits, iou = jnp.zeros((4, 3, 8, 8)), jnp.full((4, 3), 0.5)  # three masks per prompt
        terms = loss_fn(logits, iou, jnp.ones((4, 8, 8)))
        terms["loss"]  # [4]: 20 focal + dice + IoU loss

    Attributes:
      focal_weight: Weight of the focal loss. SAM has focal : dice = 20 : 1.
      dice_weight: Weight of the dice loss.
      iou_weight: Weight of the IoU loss.
      focal_alpha: Weight of object pixels in the focal loss.
      focal_gamma: Exponent of the focal loss that reduces the weight of easy pixels.
      focal_normalise: Normalization of the focal loss: "mean", "area" or "difficulty".
      iou_on: "all" computes the IoU loss of every mask, "best" of the mask with the lowest loss.
      iou_norm: "squared" or "absolute" error of the IoU prediction. (SAM 2: "absolute", and a model
        with `iou_sigmoid`.)
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

    def __call__(
        self, logits: jax.Array, iou: jax.Array, ground_truth: jax.Array
    ) -> dict[str, jax.Array]:
        """Computes the loss terms of predicted masks.

        Only the mask with the lowest focal and dice loss gets a gradient from them, so that the
        masks of an ambiguous prompt can mean different things (SAM, section 3). The IoU loss is the
        squared error between the IoU prediction and the IoU of the thresholded mask with the ground
        truth (appendix A).

        Args:
          logits: float32 [..., M, H, W].
          iou: float32 [..., M], IoU predictions.
          ground_truth: {0, 1} [..., H, W].

        Returns:
          dict of float32 [...]: "loss" (weighted sum), and "focal", "dice" and "iou_error"
          (unweighted).
        """
        ground_truth = ground_truth[..., None, :, :]

        # Mask losses
        focal = focal_loss(
            logits,
            ground_truth,
            alpha=self.focal_alpha,
            gamma=self.focal_gamma,
            normalise=self.focal_normalise,
        )
        dice = dice_loss(logits, ground_truth)
        best = jnp.argmin(
            self.focal_weight * focal + self.dice_weight * dice, axis=-1, keepdims=True
        )
        select_best = lambda values: jnp.take_along_axis(values, best, axis=-1)[..., 0]

        # IoU loss
        error = iou - mask_iou(logits > 0, ground_truth > 0)
        error = error**2 if self.iou_norm == "squared" else jnp.abs(error)
        terms = {
            "focal": select_best(focal),
            "dice": select_best(dice),
            "iou_error": error.mean(-1) if self.iou_on == "all" else select_best(error),
        }
        loss = (
            self.focal_weight * terms["focal"]
            + self.dice_weight * terms["dice"]
            + self.iou_weight * terms["iou_error"]
        )
        return {"loss": loss, **terms}
