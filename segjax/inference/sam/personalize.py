"""PerSAM: segments the object of one example in other images, without training (arXiv 2305.03048).

The example's mask selects cells of its image embedding. Their mean finds the most similar cell of
another image, which becomes a click, and guides the mask decoder: attention is drawn to similar
cells, and the mean is added to the tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.inference.sam.mask_weights import learn_mask_weights
from segjax.inference.sam.predictor import SamPredictor
from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.sam.two_way_transformer import Guidance
from segjax.ops.resize import resize_bilinear

_COVERED = 0.5  # share of a cell that the example's mask must cover


class PersonalMask(NamedTuple):
    """Result of `PersonalSam.predict`.

    Attributes:
      mask: bool [H, W].
      score: predicted IoU.
      similarity: float32 [H, W], cosine of each pixel's cell with the example, -1..1.
      points: int [2, 2], (x, y) of the most and of the least similar pixel. [1, 2], the first
        alone, with learned weights.
    """

    mask: np.ndarray
    score: float
    similarity: np.ndarray
    points: np.ndarray


class PersonalSam:
    """Segmenter of the object that one example shows.

    Example:
      personal = PersonalSam(segjax.SamPredictor.load("sam_vit_b"))
      personal.set_example(image, mask)
      mask = personal.predict(other_image).mask

    Args:
      predictor: the SAM. Its image is replaced.
      strict: follow the published code where it treats masks and images that are not square in an
        unintended way: cells of the example count if almost all of their sampled pixels are in the
        mask, and the guidance stretches the image over the square of cells.
    """

    def __init__(self, predictor: SamPredictor, *, strict: bool = False):
        self.predictor, self.strict = predictor, strict
        self.target: np.ndarray | None = None
        self.weights: np.ndarray | None = None

    def set_example(self, image: np.ndarray, mask: np.ndarray, *, learn: bool = False) -> None:
        """Takes an object from an image and its mask.

        Args:
          image: uint8 [H, W, 3].
          mask: bool [H, W].
          learn: learn also whether a click on the object means the whole, a part or a subpart
            (PerSAM-F): two numbers, in seconds. `predict` then uses one click and no guidance.

        Raises:
          ValueError: a mask that is empty, of another size, or too small to cover a cell.
        """
        self.predictor.set_image(image)
        mask = np.asarray(mask, bool)
        if mask.shape != self.predictor.original_size:
            raise ValueError(
                f"the example's mask is {mask.shape}, its image {self.predictor.original_size}"
            )
        if not mask.any():
            raise ValueError("the example's mask is empty")
        cells = self._cover_cells(mask)
        if not cells.any():
            raise ValueError(
                f"the example's mask of {np.count_nonzero(mask)} pixels covers no cell of the "
                "image embedding; use a larger object, or a crop around it"
            )
        features = np.asarray(self.predictor.features[0], np.float32)[cells]
        self.target, self.weights = features.mean(axis=0), None
        if learn:
            self.target = (features.max(axis=0) + self.target) / 2
            points = self._find_points(self._compare(self.predictor.features[0])[0])
            logits, _, _ = self.predictor.predict(points[:1], np.array([1]), return_logits=True)
            self.weights = learn_mask_weights(logits, mask)

    def predict(self, image: np.ndarray) -> PersonalMask:
        """Segments the example's object in another image.

        Three passes refine the mask: two clicks with guidance, the clicks and the first mask, and
        both with the box of the second mask.

        Args:
          image: uint8 [H, W, 3].

        Raises:
          ValueError: no example is set.
        """
        if self.target is None:
            raise ValueError("no example is set; call set_example(image, mask)")
        predictor = self.predictor
        predictor.set_image(image)
        similarity, guide = self._compare(predictor.features[0])
        points, labels = self._find_points(similarity), np.array([1, 0])
        if self.weights is not None:
            mask, score = self._predict_weighted(points[:1])
            return PersonalMask(mask, score, similarity, points[:1])

        # Pass 1: both clicks, guided
        low_res = self._decode_guided(points, labels, guide)
        # Pass 2: the clicks and that mask
        clicks = dict(point_coords=points, point_labels=labels)
        masks, iou, logits = predictor.predict(**clicks, mask_input=low_res)
        best = int(iou.argmax())
        # Pass 3: and its box
        mask, score, _ = self._refine(clicks, masks[best], float(iou[best]), logits[best])
        return PersonalMask(mask, score, similarity, points)

    def _predict_weighted(self, point: np.ndarray) -> tuple[np.ndarray, float]:
        """Returns mask and score of one click whose three masks are mixed, refined by boxes."""
        clicks = dict(point_coords=point, point_labels=np.array([1]))
        logits, iou, low_res = self.predictor.predict(**clicks, return_logits=True)
        mix = lambda values: np.tensordot(self.weights, values, axes=1)
        mask, score, low_res = mix(logits) > 0, float(iou.max()), mix(low_res)
        for _ in range(2):
            mask, score, low_res = self._refine(clicks, mask, score, low_res)
        return mask, score

    def _refine(
        self, clicks: dict, mask: np.ndarray, score: float, low_res: np.ndarray
    ) -> tuple[np.ndarray, float, np.ndarray]:
        """Predicts from clicks, a mask's box and its logits. An empty mask stays as it is."""
        y, x = np.nonzero(mask)
        if not len(x):
            return mask, score, low_res
        box = np.array([x.min(), y.min(), x.max(), y.max()])
        # A mask of one row or column has no area as published
        box[2:] = np.maximum(box[2:], box[:2] + 1)
        masks, iou, logits = self.predictor.predict(**clicks, box=box, mask_input=low_res[None])
        best = int(iou.argmax())
        return masks[best], float(iou[best]), logits[best]

    def _find_points(self, similarity: np.ndarray) -> np.ndarray:
        """Returns (x, y) of the most and of the least similar pixel, int [2, 2]."""
        flat = similarity.reshape(-1)
        rows, columns = np.unravel_index([flat.argmax(), flat.argmin()], similarity.shape)
        return np.stack([columns, rows], axis=-1)

    def _cover_cells(self, mask: np.ndarray) -> np.ndarray:
        """Returns bool [h, w], cells of the embedding that a mask of the image covers."""
        model, (height, width) = self.predictor.model, self.predictor.input_size
        side = model.canvas // model.patch
        fitted = resize_bilinear(jnp.asarray(mask, jnp.float32), (height, width))
        canvas = np.zeros((model.canvas, model.canvas), np.float32)
        canvas[:height, :width] = np.asarray(fitted)
        if self.strict:
            # The four pixels around the center of a cell, of which almost all must be inside
            half = model.patch // 2
            middle = canvas.reshape(side, model.patch, side, model.patch)
            middle = middle[:, half - 1 : half + 1, :, half - 1 : half + 1].mean(axis=(1, 3))
            return middle > 0.966
        cells = canvas.reshape(side, model.patch, side, model.patch).mean(axis=(1, 3))
        return cells > _COVERED

    def _compare(self, features: jax.Array) -> tuple[np.ndarray, jax.Array]:
        """Returns the similarity of every pixel [H, W], and the guidance of every cell [h * w]."""
        predictor, features = self.predictor, jnp.asarray(features, jnp.float32)
        unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        cells = unit(features) @ unit(jnp.asarray(self.target))
        h, w = cells.shape
        canvas = predictor.model.canvas
        height, width = predictor.input_size
        fine = resize_bilinear(resize_bilinear(cells, (4 * h, 4 * w)), (canvas, canvas))
        similarity = resize_bilinear(fine[:height, :width], predictor.original_size)
        normed = (similarity - similarity.mean()) / similarity.std(ddof=1)
        if self.strict:
            guide = resize_bilinear(normed, (h, w))
        else:
            guide = (cells - similarity.mean()) / similarity.std(ddof=1)
        return np.asarray(similarity), jax.nn.sigmoid(guide).reshape(-1)

    def _decode_guided(
        self, points: np.ndarray, labels: np.ndarray, guide: jax.Array
    ) -> np.ndarray:
        """Returns the logits [1, 4h, 4w] of the single mask of two clicks, with guidance."""
        predictor = self.predictor
        scale = np.array(predictor.input_size[::-1]) / np.array(predictor.original_size[::-1])
        prompts = Prompts(
            points=jnp.asarray(points * scale, jnp.float32)[None, None],
            labels=jnp.asarray(labels, jnp.int32)[None, None],
        )
        guidance = Guidance(jnp.asarray(self.target)[None, None], guide[None, None])
        logits, _ = _decode(
            predictor.model, predictor.variables, predictor.features, prompts, guidance
        )
        return np.asarray(logits)[0, 0, :1]


def _apply_decoder(
    model: Any, variables: Any, features: jax.Array, prompts: Prompts, guidance: Guidance
) -> tuple[jax.Array, jax.Array]:
    return model.apply(variables, features, prompts, guidance, method="decode")


_decode = jax.jit(_apply_decoder, static_argnums=0)
