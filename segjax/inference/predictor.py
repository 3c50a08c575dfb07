"""SamPredictor: embed an image once, then masks for any prompts in milliseconds (the calls of segment-anything)."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from segjax.data.transforms import decode_image, fitted_size
from segjax.inference.embedding_cache import EmbeddingCache
from segjax.inference.network import decode, embed, to_picture
from segjax.inference.prompts import PROMPT_COUNTS, check_boxes, check_masks, check_points, prompt_arrays
from segjax.inference.upscale import to_image
from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.sam.sam import Sam


class SamPredictor:
    """Masks for prompts on one image at a time. Points and boxes are in pixels of the original image.

    Args:
      model, variables: as `segjax.load` returns them.
      percentiles: (low, high): stretch each picture's intensities as in training (`config.data.percentiles`).
      cache: folder to keep embeddings in, see `EmbeddingCache`.
    """

    def __init__(
        self,
        model: Sam,
        variables: Mapping[str, Any],
        *,
        percentiles: tuple[float, float] | None = None,
        cache: str | os.PathLike | None = None,
    ) -> None:
        self.model = model
        self.variables = jax.device_put(dict(variables))
        self.percentiles = percentiles
        self._cache = None if cache is None else EmbeddingCache(cache, model, self.variables)
        self.reset_image()

    def reset_image(self) -> None:
        """Forgets the image."""
        self.features: jax.Array | None = None  # [1, h, w, D]
        self.original_size: tuple[int, int] | None = None  # (H, W)
        self.input_size: tuple[int, int] | None = None  # (h, w) of the content on the canvas

    @property
    def is_image_set(self) -> bool:
        """Whether `predict` has an image to work on."""
        return self.features is not None

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Embeds an image; everything after is about it.

        Args:
          image: uint8 [H, W, 3]. Also taken: grey [H, W], RGBA (alpha is dropped), uint16 (stretched to 8 bits).
          image_format: "RGB" or "BGR", the order of the channels.

        Raises:
          ValueError: another format. ImageError (a ValueError): another dtype or shape, or no pixels.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format is {image_format!r}; expected 'RGB' or 'BGR'")
        self.reset_image()
        pixels = decode_image(image, percentiles=self.percentiles)
        if image_format == "BGR":
            pixels = pixels[:, :, ::-1]
        features = self._cache.embed(pixels) if self._cache else embed(self.model, self.variables, [pixels])
        self.features = jax.block_until_ready(features)
        self.original_size = pixels.shape[:2]
        self.input_size = fitted_size(self.original_size, self.model.canvas)

    def get_image_embedding(self) -> jax.Array:
        """The image's embedding [1, h, w, D]. Raises ValueError before `set_image`."""
        self._require_image()
        return self.features

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks of one object.

        Args:
          point_coords: [N, 2], (x, y) in pixels of the image; an integer is the middle of the pixel of that index.
          point_labels: [N]: 1 on the object, 0 off it (-1: SAM's "not a point").
          box: [4], x1 y1 x2 y2 in pixels of the image.
          mask_input: [1, 4h, 4w], logits, such as a mask of `low_res` of an earlier call.
          multimask_output: three masks, best for an ambiguous prompt such as one click; else the one for several.
          return_logits: masks as float32 logits (mask where > 0) instead of bool.

        Returns:
          masks bool [M, H, W], iou float32 [M] as estimated by the model, low_res float32 [M, 4h, 4w] logits; M is 3
          or 1.

        Raises:
          ValueError: no image set; prompts of unequal lengths, other shapes, outside the image, or not finite.
        """
        self._require_image()
        single = {"point_coords": (point_coords, 2), "point_labels": (point_labels, 1), "box": (box, 1)}
        for name, (value, ndim) in single.items():
            if value is not None and name == "box" and np.shape(value) == (1, 4):
                box = np.asarray(value)[0]
            elif value is not None and _ndim(value, name) != ndim:
                raise ValueError(
                    f"{name} has shape {np.shape(value)}; predict takes one prompt: point_coords [N, 2], point_labels "
                    "[N], box [4]. For several prompts at once use predict_batch"
                )
        if mask_input is not None and np.ndim(mask_input) == 2:
            mask_input = np.asarray(mask_input)[None]
        batched = [None if value is None else [value] for value in (point_coords, point_labels, box)]
        masks = None if mask_input is None else np.asarray(mask_input)[None]
        outputs = self.predict_batch(*batched, masks, multimask_output, return_logits)
        return tuple(output[0] for output in outputs)

    def predict_batch(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks of P objects, each with its own prompt; what is given is given for each of them.

        Args:
          point_coords: [P, N, 2]; fill up with points of label -1 where one has fewer.
          point_labels: [P, N]. boxes: [P, 4]. mask_input: [P, 1, 4h, 4w] or [P, 4h, 4w].
          multimask_output, return_logits: as `predict`.

        Returns:
          masks [P, M, H, W], iou [P, M], low_res [P, M, 4h, 4w].

        Raises:
          ValueError: as `predict`.
        """
        self._require_image()
        parts: list[np.ndarray | None] = [None, None, None, None]
        if point_coords is not None or point_labels is not None:
            parts[:2] = check_points(point_coords, point_labels, self.original_size)
        if boxes is not None:
            parts[2] = check_boxes(boxes, self.original_size)
        if mask_input is not None:
            parts[3] = check_masks(mask_input, self._cells())
        counts = {len(part) for part in parts if part is not None}
        if len(counts) > 1:
            names = ("point_coords", "point_labels", "boxes", "mask_input")
            given = ", ".join(
                f"{len(part)} {name}" for name, part in zip(names, parts, strict=True) if part is not None
            )
            raise ValueError(f"{given}: expected as many of each, one a prompt")
        count = counts.pop() if counts else 1
        masks, iou, low_res = self._outputs(count, 3 if multimask_output else 1, return_logits)
        step = PROMPT_COUNTS[-1]
        for start in range(0, count, step):
            rows = slice(start, start + step)
            piece = [None if part is None else part[rows] for part in parts]
            self._predict_piece(piece, return_logits, masks[rows], iou[rows], low_res[rows])
        return masks, iou, low_res

    def _outputs(self, count: int, masks: int, logits: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Room for the answers to `count` prompts: made once, for full-size masks of many are large."""
        full = np.empty((count, masks, *self.original_size), np.float32 if logits else bool)
        return full, np.empty((count, masks), np.float32), np.empty((count, masks, *self._cells()), np.float32)

    def _predict_piece(
        self,
        parts: list[np.ndarray | None],
        return_logits: bool,
        masks: np.ndarray,
        iou: np.ndarray,
        low_res: np.ndarray,
    ) -> None:
        """Fills in the answers to at most PROMPT_COUNTS[-1] prompts, already checked."""
        arrays = prompt_arrays(*parts, from_hw=self.original_size, to_hw=self.input_size)
        logits, predicted = decode(self.model, self.variables, self.features, Prompts(**arrays))
        weights = to_picture(self.model, self.original_size)
        multimask = iou.shape[1] == 3
        answer = lambda prompt: to_image(logits, prompt, *weights, multimask=multimask, return_logits=return_logits)
        coming = answer(0)
        for prompt in range(len(iou)):
            arrived, coming = coming, answer(prompt + 1) if prompt + 1 < len(iou) else None
            masks[prompt], low_res[prompt] = jax.device_get(arrived)
        iou[:] = jax.device_get(predicted)[: len(iou), slice(1, None) if multimask else slice(1)]

    def _cells(self) -> tuple[int, int]:
        """Rows and columns of the mask grid."""
        return (self.model.mask_side,) * 2

    def _require_image(self) -> None:
        if not self.is_image_set:
            raise ValueError("no image is set; call set_image(image) before asking about it")


def _ndim(value: Any, name: str) -> int:
    try:
        return np.ndim(value)
    except ValueError as error:
        raise ValueError(f"{name} is ragged: {error}; expected an array") from error
