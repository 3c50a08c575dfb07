"""SamPredictor: embed images once, then masks for any prompts in milliseconds (the calls of segment-anything)."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.images.transforms import decode_image, compute_fitted_size
from segjax.inference.sam.batching import Prediction, EmbeddedImage, answers
from segjax.inference.sam.embedding_cache import EmbeddingCache
from segjax.inference.sam.jitted import embed
from segjax.inference.sam.prompts import NAMES, PromptSet, check_prompts
from segjax.models.sam.sam import Sam


class SamPredictor:
    """Masks for prompts on an image, or on several at once. Points and boxes are in pixels of the original image.

    Args:
      model, variables: as `segjax.load` returns them.
      percentiles: (low, high): stretch each picture's intensities as in training (`config.data.percentiles`).
      cache: folder to keep embeddings in, see `EmbeddingCache`.
      images_per_batch: images that `set_images` encodes in one call, at most.
      prompts_per_batch: prompts, of all images together, that are decoded in one call. Each takes 23 MiB with the
        published sizes in float32; on CPUs two of a picture are worked on at a time.
    """

    def __init__(
        self,
        model: Sam,
        variables: Mapping[str, Any],
        *,
        percentiles: tuple[float, float] | None = None,
        cache: str | os.PathLike | None = None,
        images_per_batch: int = 4,
        prompts_per_batch: int = 64,
    ) -> None:
        for name, value in (
            ("images_per_batch", images_per_batch),
            ("prompts_per_batch", prompts_per_batch),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        self.model = model
        self.variables = jax.device_put(dict(variables))
        self.percentiles = percentiles
        self.images_per_batch, self.prompts_per_batch = images_per_batch, prompts_per_batch
        self._cache = None if cache is None else EmbeddingCache(cache, model, self.variables)
        self.reset_image()

    def reset_image(self) -> None:
        """Forgets the image or images."""
        self.pictures: list[EmbeddedImage] = []

    @property
    def is_image_set(self) -> bool:
        """Whether there is an image to work on."""
        return bool(self.pictures)

    @property
    def features(self) -> jax.Array | None:
        """The embedding [1, h, w, D] of the image; None when none is set, or several are."""
        return self.pictures[0].features if len(self.pictures) == 1 else None

    @property
    def original_size(self) -> tuple[int, int] | None:
        """(H, W) of the image, else None."""
        return self.pictures[0].original_size if len(self.pictures) == 1 else None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(h, w) of the image's content on the canvas, else None."""
        return self.pictures[0].input_size if len(self.pictures) == 1 else None

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Embeds an image; everything after is about it.

        Args:
          image: uint8 [H, W, 3]. Also taken: grey [H, W], RGBA (alpha is dropped), uint16 (stretched to 8 bits).
          image_format: "RGB" or "BGR", the order of the channels.

        Raises:
          ValueError: another format. ImageError (a ValueError): another dtype or shape, or no pixels.
        """
        self._set([image], image_format, ["image"])

    def set_images(self, images: Sequence[np.ndarray], image_format: str = "RGB") -> None:
        """Embeds several images, of any sizes, `images_per_batch` in a call; `predict_images` is then about them.

        Args:
          images: each as `set_image` takes it. image_format: of all of them.

        Raises:
          ValueError: as `set_image`, and names the image; no image at all; one array where several are expected.
        """
        if isinstance(images, np.ndarray) and images.ndim < 4:
            raise ValueError(
                f"images is one array of shape {images.shape}; expected a list of images, or set_image"
            )
        if len(images) == 0:
            raise ValueError("images is empty; expected at least one")
        self._set(images, image_format, [f"image {number}" for number in range(len(images))])

    def _set(self, images: Sequence[np.ndarray], image_format: str, names: Sequence[str]) -> None:
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format is {image_format!r}; expected 'RGB' or 'BGR'")
        self.reset_image()
        order = slice(None, None, 1 if image_format == "RGB" else -1)
        pictures = [
            decode_image(image, name=name, percentiles=self.percentiles)[:, :, order]
            for image, name in zip(images, names, strict=True)
        ]
        if self._cache:
            features = self._cache.embed(pictures, per_batch=self.images_per_batch)
        else:
            features = embed(self.model, self.variables, pictures, per_batch=self.images_per_batch)
        sizes = [picture.shape[:2] for picture in pictures]
        self.pictures = [
            EmbeddedImage(each, hw, compute_fitted_size(hw, self.model.canvas))
            for each, hw in zip(jax.block_until_ready(features), sizes, strict=True)
        ]

    def get_image_embedding(self) -> jax.Array:
        """The embedding [1, h, w, D] of the image, [B, h, w, D] of several. Raises ValueError when none is set."""
        self._require_image()
        return jnp.concatenate([picture.features for picture in self.pictures])

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Prediction:
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
          ValueError: no image set, or several; prompts of unequal lengths, other shapes, outside the image, or not
            finite.
        """
        self._require_one_image()
        single = {
            "point_coords": (point_coords, 2),
            "point_labels": (point_labels, 1),
            "box": (box, 1),
        }
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
        batched = [
            None if value is None else [value] for value in (point_coords, point_labels, box)
        ]
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
    ) -> Prediction:
        """Masks of P objects, each with its own prompt; what is given is given for each of them.

        Args:
          point_coords: [P, N, 2]; fill up with points of label -1 where one has fewer.
          point_labels: [P, N]. boxes: [P, 4]. mask_input: [P, 1, 4h, 4w] or [P, 4h, 4w].
          multimask_output, return_logits: as `predict`.

        Returns:
          masks [P, M, H, W], iou [P, M], low_res [P, M, 4h, 4w]. No prompts, such as boxes [0, 4], have no answers.

        Raises:
          ValueError: as `predict`; of several prompts it names the first bad one.
        """
        self._require_one_image()
        asked = self._checked(self.pictures[0], (point_coords, point_labels, boxes, mask_input))
        return self.answer([asked], multimask_output, return_logits)[0]

    def predict_images(
        self,
        prompts: Sequence[Mapping[str, np.ndarray]],
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> list[Prediction]:
        """Masks of objects in all images that are set, decoded together.

        Args:
          prompts: for each image a mapping with any of point_coords, point_labels, boxes and mask_input, as
            `predict_batch` takes them. The images may have different numbers of prompts, points and kinds of prompt.
          multimask_output, return_logits: as `predict`, for all of them.

        Returns:
          For each image what `predict_batch` gives for it alone.

        Raises:
          ValueError: as `predict_batch`, and names the image; another number of mappings than of images; a key that
            is none of those.
        """
        self._require_image()
        if isinstance(prompts, Mapping) or len(prompts) != len(self.pictures):
            given = "one mapping" if isinstance(prompts, Mapping) else f"a list of {len(prompts)}"
            expected = f"a list of {len(self.pictures)} mappings, one for each image that is set"
            raise ValueError(f"prompts is {given}; expected {expected}")
        asked = []
        for number, (picture, given) in enumerate(zip(self.pictures, prompts, strict=True)):
            if not isinstance(given, Mapping):
                raise ValueError(
                    f"image {number}: prompts are {type(given).__name__}; expected a mapping, {{}} for none"
                )
            if unknown := sorted(set(given) - set(NAMES)):
                raise ValueError(
                    f"image {number}: unknown prompt {', '.join(unknown)}; expected {', '.join(NAMES)}"
                )
            try:
                asked.append(self._checked(picture, [given.get(name) for name in NAMES]))
            except ValueError as error:
                raise ValueError(f"image {number}: {error}") from error
        return self.answer(asked, multimask_output, return_logits)

    def _checked(self, picture: EmbeddedImage, parts: Sequence[Any]) -> PromptSet:
        """The prompts for a picture, on the canvas."""
        asked = check_prompts(*parts, hw=picture.original_size, cells=(self.model.mask_side,) * 2)
        return asked.scaled(picture.original_size, picture.input_size)

    def answer(
        self, asked: Sequence[PromptSet], multimask_output: bool, return_logits: bool
    ) -> list[Prediction]:
        """`predict_images` for prompts that are checked and on the canvas: in pixels of the resized pictures."""
        options = dict(multimask=multimask_output, return_logits=return_logits)
        options["prompts_per_batch"] = self.prompts_per_batch
        return answers(self.model, self.variables, self.pictures, asked, **options)

    def _require_image(self) -> None:
        if not self.pictures:
            raise ValueError("no image is set; call set_image(image) before asking about it")

    def _require_one_image(self) -> None:
        self._require_image()
        if len(self.pictures) > 1:
            raise ValueError(
                f"{len(self.pictures)} images are set; ask about them with predict_images"
            )


def _ndim(value: Any, name: str) -> int:
    try:
        return np.ndim(value)
    except ValueError as error:
        raise ValueError(f"{name} is ragged: {error}; expected an array") from error
