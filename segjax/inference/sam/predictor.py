"""SamPredictor: embed images once, then predict masks for any prompts in milliseconds."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.images.decoding import decode_image
from segjax.images.transforms import compute_fitted_size
from segjax.inference.clip.clip import Clip
from segjax.inference.loading import load_with_config
from segjax.inference.sam.batching import (
    PROMPTS_PER_BATCH,
    EmbeddedImage,
    Prediction,
    predict_masks,
)
from segjax.inference.sam.embedding_cache import EmbeddingCache
from segjax.inference.sam.jitted import IMAGES_PER_BATCH, encode_images, resize_to_canvas
from segjax.inference.sam.prompt_checks import PROMPT_NAMES, check_prompts, count_axes
from segjax.inference.sam.prompts import PromptSet
from segjax.inference.saved_options import read_saved_percentiles
from segjax.models.sam.sam import Sam
from segjax.weights.run_folder import Step


class SamPredictor:
    """Predictor of masks from prompts, with the methods of segment-anything.

    `set_image` runs the heavy image encoder once. Every `predict` after it runs only the light
    prompt encoder and mask decoder (SAM, section 3). Points and boxes are in pixels of the original
    image.

    Example:
      >>> predictor = segjax.SamPredictor.load("sam_vit_b")
      >>> predictor.set_image(image)
      >>> masks, iou, low_res = predictor.predict(point_coords=[[320, 200]], point_labels=[1])
      >>> best = masks[iou.argmax()]

    Args:
      model: The SAM, from `segjax.load`.
      variables: Its variables, from `segjax.load`.
      percentiles: (low, high). Stretches each image's intensities as in training
        (`config.data.percentiles`). None: no stretching.
      clip: CLIP that turns texts into vectors, the one that the SAM was trained with. None: texts
        are given as vectors.
      cache: Folder for image embeddings, see `EmbeddingCache`. None: no cache.
      images_per_batch: Maximum number of images that `set_images` encodes in one call.
      prompts_per_batch: Maximum number of prompts, over all images, in one decoder call. One prompt
        takes 23 MiB with the published sizes in float32. On CPUs only two prompts of an image are
        in memory at a time.

    Attributes:
      images: The embedded images that are set, in order.
    """

    def __init__(
        self,
        model: Sam,
        variables: Mapping[str, Any],
        *,
        percentiles: tuple[float, float] | None = None,
        clip: Clip | None = None,
        cache: str | os.PathLike | None = None,
        images_per_batch: int = IMAGES_PER_BATCH,
        prompts_per_batch: int = PROMPTS_PER_BATCH,
    ) -> None:
        if not isinstance(model, Sam):
            raise ValueError(
                "SamPredictor takes a SAM and its variables, in this order, as segjax.load returns "
                f"them; got {type(model).__name__} first. Detector takes a Mask R-CNN"
            )
        for name, value in (
            ("images_per_batch", images_per_batch),
            ("prompts_per_batch", prompts_per_batch),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        self.model = model
        self.variables = jax.device_put(dict(variables))
        self.percentiles, self.clip = percentiles, clip
        self.images_per_batch, self.prompts_per_batch = images_per_batch, prompts_per_batch
        self._cache = None if cache is None else EmbeddingCache(cache, model, self.variables)
        self.reset_image()

    @classmethod
    def load(
        cls,
        model: str | os.PathLike,
        path: str | os.PathLike | None = None,
        *,
        step: Step = None,
        overrides: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> "SamPredictor":
        """Loads a SAM as `segjax.load` does, with the percentiles that its run was trained with.

        Args:
          model: As for `segjax.load`, such as "sam_vit_b", a run's folder or a file.
          path: As for `segjax.load`.
          step: As for `segjax.load`.
          overrides: Attributes of the model to replace, such as {"dtype": "bfloat16"}.
          options: Further arguments of this class.

        Raises:
          ValueError: The model is no SAM. The message says what takes it.
          CheckpointError: The checkpoint cannot be read or does not fit, see `segjax.load`.
        """
        network, variables, saved = load_with_config(
            model, path, step=step, family="sam", **overrides or {}
        )
        return cls(network, variables, **{"percentiles": read_saved_percentiles(saved)} | options)

    def reset_image(self) -> None:
        """Forgets the image or images."""
        self.images: list[EmbeddedImage] = []

    @property
    def is_image_set(self) -> bool:
        """Returns True if at least one image is set."""
        return bool(self.images)

    @property
    def features(self) -> jax.Array | None:
        """Returns the image embedding [1, h, w, D], or None unless exactly one image is set."""
        return self.images[0].features if len(self.images) == 1 else None

    @property
    def original_size(self) -> tuple[int, int] | None:
        """Returns (H, W) of the image, or None unless exactly one image is set."""
        return self.images[0].original_size if len(self.images) == 1 else None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Returns (h, w) of the content on the canvas, or None unless exactly one image is set."""
        return self.images[0].input_size if len(self.images) == 1 else None

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Computes the image embedding that later predictions use.

        Args:
          image: uint8 [H, W, 3]. Also accepted: gray [H, W], RGBA (alpha is dropped) and uint16
            (stretched to 8 bits).
          image_format: Order of the channels, "RGB" or "BGR".

        Raises:
          ValueError: Unknown `image_format`.
          ImageError: A ValueError for another dtype or shape, or an image without pixels.
        """
        self._embed([image], image_format, ["image"])

    def set_images(self, images: Sequence[np.ndarray], image_format: str = "RGB") -> None:
        """Computes the embeddings of several images, for `predict_images`.

        Args:
          images: Images as in `set_image`, of any sizes.
          image_format: Order of the channels of all images, "RGB" or "BGR".

        Raises:
          ValueError: As `set_image`, naming the image. Also for an empty list, and for one array
            instead of a list.
        """
        if isinstance(images, np.ndarray) and images.ndim < 4:
            raise ValueError(
                f"images is one array of shape {images.shape}; expected a list of images. For one "
                "image use set_image"
            )
        if len(images) == 0:
            raise ValueError("images is empty; expected at least one")
        self._embed(images, image_format, [f"image {number}" for number in range(len(images))])

    def _embed(self, images: Sequence[np.ndarray], image_format: str, names: Sequence[str]) -> None:
        """Decodes and embeds images. `names` identify them in error messages."""
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format is {image_format!r}; expected 'RGB' or 'BGR'")
        self.reset_image()
        # BGR images are reversed to RGB.
        order = slice(None, None, 1 if image_format == "RGB" else -1)
        pixels = [
            decode_image(image, name=name, percentiles=self.percentiles)[:, :, order]
            for image, name in zip(images, names, strict=True)
        ]
        if self._cache:
            features = self._cache.embed(pixels, per_batch=self.images_per_batch)
        else:
            contents = resize_to_canvas(pixels, self.model.canvas)
            features = encode_images(
                self.model, self.variables, contents, per_batch=self.images_per_batch
            )
        # Sizes lead prompts to the canvas and masks back to the image.
        sizes = [image.shape[:2] for image in pixels]
        self.images = [
            EmbeddedImage(embedding, hw, compute_fitted_size(hw, self.model.canvas))
            for embedding, hw in zip(jax.block_until_ready(features), sizes, strict=True)
        ]

    def get_image_embedding(self) -> jax.Array:
        """Returns the image embedding [1, h, w, D], or [B, h, w, D] of B images.

        Raises:
          ValueError: No image is set.
        """
        self._require_image()
        return jnp.concatenate([image.features for image in self.images])

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        text: str | np.ndarray | None = None,
    ) -> Prediction:
        """Predicts masks of one object.

        Args:
          point_coords: [N, 2], (x, y) in pixels of the image. An integer is the center of the pixel
            with that index.
          point_labels: [N]. 1 is on the object, 0 is off it, -1 is SAM's "not a point".
          box: [4], x1 y1 x2 y2 in pixels of the image.
          mask_input: [1, 4h, 4w] logits, such as one mask of `low_res` of an earlier call.
          multimask_output: Return three masks, which suits an ambiguous prompt such as a single
            click. Otherwise return the one mask that is trained for several prompts.
          return_logits: Return masks as float32 logits (mask where > 0) instead of bool.
          text: Phrase such as "the red cup", for a SAM with text prompts, or its vector [E].

        Returns:
          masks: bool [M, H, W], where M is 3 or 1.
          iou: float32 [M], IoU of each mask as the IoU prediction head estimates it.
          low_res: float32 [M, 4h, 4w], mask logits on the mask grid.

        Raises:
          ValueError: Not exactly one image is set, or a prompt has another shape, lies outside the
            image, or is not finite.
        """
        self._require_one_image()
        # Arrays of one axis more are batches, which predict_batch takes.
        for name, value, ndim in (
            ("point_coords", point_coords, 2),
            ("point_labels", point_labels, 1),
            ("box", box, 1),
        ):
            axes = ndim if value is None else count_axes(value, name)
            if value is not None and name == "box" and np.shape(value) == (1, 4):
                box = np.asarray(value)[0]
            elif axes != ndim:
                raise ValueError(
                    f"{name} has shape {np.shape(value)}; predict takes one prompt: point_coords "
                    "[N, 2], point_labels [N], box [4]. For several prompts at once use "
                    "predict_batch"
                )
        if mask_input is not None and count_axes(mask_input, "mask_input") == 2:
            mask_input = np.asarray(mask_input)[None]
        # A batch of one prompt.
        parts = [None if value is None else [value] for value in (point_coords, point_labels, box)]
        masks = None if mask_input is None else np.asarray(mask_input)[None]
        texts = None if text is None else self._encode_texts([text])
        prompts = self._check_prompts(self.images[0], (*parts, masks, texts))
        options = self._decoder_options(multimask_output, return_logits)
        (batch,) = predict_masks(self.model, self.variables, self.images, [prompts], **options)
        return tuple(output[0] for output in batch)

    def predict_batch(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        texts: Sequence[str] | np.ndarray | None = None,
    ) -> Prediction:
        """Predicts masks of P objects, each with its own prompt.

        Every kind of prompt that is given is given for each object.

        Args:
          point_coords: [P, N, 2], (x, y) in pixels of the image. If a prompt has fewer points, fill
            it up with points of label -1.
          point_labels: [P, N].
          boxes: [P, 4], x1 y1 x2 y2 in pixels of the image.
          mask_input: [P, 1, 4h, 4w] or [P, 4h, 4w], logits.
          multimask_output: As in `predict`.
          return_logits: As in `predict`.
          texts: P phrases, or their vectors [P, E].

        Returns:
          masks [P, M, H, W], iou [P, M] and low_res [P, M, 4h, 4w]. Without prompts, such as boxes
          [0, 4], P is 0.

        Raises:
          ValueError: As `predict`, naming the first invalid prompt.
        """
        self._require_one_image()
        vectors = None if texts is None else self._encode_texts(texts)
        parts = (point_coords, point_labels, boxes, mask_input, vectors)
        prompts = self._check_prompts(self.images[0], parts)
        options = self._decoder_options(multimask_output, return_logits)
        return predict_masks(self.model, self.variables, self.images, [prompts], **options)[0]

    def predict_images(
        self,
        prompts: Sequence[Mapping[str, np.ndarray]],
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> list[Prediction]:
        """Predicts masks of objects in all images that are set, decoded together.

        Args:
          prompts: One mapping per image with any of point_coords, point_labels, boxes, mask_input
            and texts, as in `predict_batch`. Images may differ in the number of prompts, the
            number of points and the kinds of prompt.
          multimask_output: As in `predict`, for all images.
          return_logits: As in `predict`, for all images.

        Returns:
          For each image the result of `predict_batch` for it alone.

        Raises:
          ValueError: As `predict_batch`, naming the image. Also if the number of mappings is not
            the number of images, and for unknown keys.
        """
        self._require_image()
        if isinstance(prompts, Mapping) or len(prompts) != len(self.images):
            given = "one mapping" if isinstance(prompts, Mapping) else f"a list of {len(prompts)}"
            expected = f"a list of {len(self.images)} mappings, one for each image that is set"
            raise ValueError(f"prompts is {given}; expected {expected}")
        prompt_sets = []
        for number, (image, given) in enumerate(zip(self.images, prompts, strict=True)):
            if not isinstance(given, Mapping):
                raise ValueError(
                    f"image {number}: prompts are {type(given).__name__}; expected a mapping, {{}} "
                    "for none"
                )
            if unknown := sorted(set(given) - set(PROMPT_NAMES)):
                raise ValueError(
                    f"image {number}: unknown prompt {', '.join(unknown)}; expected "
                    f"{', '.join(PROMPT_NAMES)}"
                )
            try:
                parts = [given.get(name) for name in PROMPT_NAMES]
                parts[-1] = None if parts[-1] is None else self._encode_texts(parts[-1])
                prompt_sets.append(self._check_prompts(image, parts))
            except ValueError as error:
                raise ValueError(f"image {number}: {error}") from error
        options = self._decoder_options(multimask_output, return_logits)
        return predict_masks(self.model, self.variables, self.images, prompt_sets, **options)

    def _check_prompts(self, image: EmbeddedImage, parts: Sequence[Any]) -> PromptSet:
        """Checks prompts on an image and scales them to the canvas."""
        options = dict(cells=(self.model.mask_side,) * 2, text_width=self.model.text_width)
        prompts = check_prompts(*parts, hw=image.original_size, **options)
        return prompts.scale(image.original_size, image.input_size)

    def _encode_texts(self, texts: Any) -> Any:
        """Returns the vectors of phrases. Vectors stay as they are."""
        if isinstance(texts, str):
            raise ValueError(f"texts is one text, {texts!r}; expected a list")
        if not any(isinstance(text, str) for text in texts):
            return np.stack(texts) if len(texts) else np.zeros((0, self.model.text_width))
        if not self.model.text_width:
            return texts  # `check_texts` says what this SAM lacks
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError("a text is empty, or texts and vectors are mixed")
        if self.clip is None:
            raise ValueError(
                "texts need the CLIP that this SAM was trained with: "
                "SamPredictor(model, variables, clip=segjax.Clip.load(...)), or --clip"
            )
        return self.clip.encode_text(list(texts))

    def _decoder_options(self, multimask_output: bool, return_logits: bool) -> dict[str, Any]:
        """Returns the keyword arguments of `predict_masks`."""
        return dict(
            multimask=multimask_output,
            return_logits=return_logits,
            prompts_per_batch=self.prompts_per_batch,
        )

    def _require_image(self) -> None:
        """Raises ValueError unless an image is set."""
        if not self.images:
            raise ValueError("no image is set; call set_image(image) before predicting")

    def _require_one_image(self) -> None:
        """Raises ValueError unless exactly one image is set."""
        self._require_image()
        if len(self.images) > 1:
            raise ValueError(f"{len(self.images)} images are set; predict with predict_images")
