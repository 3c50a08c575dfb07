"""SamPredictor and SamAutomaticMaskGenerator with the interface of segment-anything.

You can skip this; the work is done in `segjax.inference.sam`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.compat.segment_anything.sam import Sam, check_canvas_prompts, to_content
from segjax.compat.segment_anything.tensors import make_converter, to_numpy
from segjax.compat.segment_anything.transforms import ResizeLongestSide
from segjax.inference.sam import automatic, predictor
from segjax.inference.sam.batching import EmbeddedImage, Prediction, predict_masks
from segjax.inference.sam.candidates import MaskCandidates
from segjax.inference.sam.jitted import encode_images


class SamPredictor:
    """Predictor of masks from prompts on one image, with segment-anything's methods.

    Example:
      >>> predictor = SamPredictor(sam_model_registry["vit_b"](checkpoint="sam_vit_b_01ec64.pth"))
      >>> predictor.set_image(image)
      >>> masks, scores, logits = predictor.predict(np.array([[320, 200]]), np.array([1]))

    The attributes `features`, `original_size`, `input_size` and `is_image_set` may be set, for
    example to values that were saved for an earlier image.

    Args:
      sam_model: The `Sam`.

    Attributes:
      model: The `Sam`.
      transform: `ResizeLongestSide` to the model's canvas.
      original_size: (H, W) of the image.
      input_size: (h, w) of the resized image.
      is_image_set: True if there is an image.
    """

    def __init__(self, sam_model: Sam) -> None:
        self.model = sam_model
        self.transform = ResizeLongestSide(sam_model.image_encoder.img_size)
        self._cached: tuple[Any, predictor.SamPredictor] | None = None
        self.reset_image()

    @property
    def _predictor(self) -> predictor.SamPredictor:
        """Returns a predictor with the model's current weights, which a program may replace."""
        if self._cached is None or self._cached[0] is not self.model.variables:
            made = predictor.SamPredictor(self.model.network, self.model.variables)
            self._cached = self.model.variables, made
        return self._cached[1]

    @property
    def device(self) -> Any:
        """Returns the model's device."""
        return self.model.device

    def reset_image(self) -> None:
        """Forgets the image."""
        if self._cached is not None:
            self._cached[1].reset_image()
        self.is_image_set = False
        self._features: jax.Array | None = None
        self.original_size: tuple[int, int] | None = None
        self.input_size: tuple[int, int] | None = None

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Computes the image embedding.

        Args:
          image: uint8 [H, W, 3].
          image_format: Order of the channels, "RGB" or "BGR".

        Raises:
          ValueError: As `segjax.SamPredictor.set_image`.
        """
        self.reset_image()
        self._predictor.set_image(to_numpy(image), image_format)
        self._store(self._predictor.images[0])

    def set_torch_image(self, transformed_image: Any, original_image_size: tuple[int, int]) -> None:
        """Computes the embedding of an image that is already resized.

        Args:
          transformed_image: [1, 3, h, w], whose longest side is that of the model's canvas.
          original_image_size: (H, W) of the original image.

        Raises:
          ValueError: Another shape.
        """
        self.reset_image()
        shape, side = tuple(transformed_image.shape), self.model.image_encoder.img_size
        if len(shape) != 4 or shape[:2] != (1, 3) or max(shape[2:]) != side:
            raise ValueError(
                f"transformed_image has shape {shape}; expected [1, 3, h, w] whose longest side is "
                f"{side}"
            )
        content = to_content(transformed_image[0], self.model.network)
        (features,) = encode_images(self.model.network, self.model.variables, [content])
        original_size = tuple(map(int, original_image_size))
        self._store(EmbeddedImage(features, original_size, content.shape[:2]))

    def _store(self, image: EmbeddedImage) -> None:
        """Stores an embedded image in the attributes."""
        self._features, self.is_image_set = image.features, True
        self.original_size, self.input_size = image.original_size, image.input_size

    @property
    def features(self) -> Any:
        """Returns the image embedding [1, D, h, w], or None if no image is set."""
        if self._features is None:
            return None
        return make_converter(device=self.device)(
            np.moveaxis(np.asarray(self._features, np.float32), -1, 1)
        )

    @features.setter
    def features(self, value: Any) -> None:
        # segment-anything has channels first, segjax last.
        features = None if value is None else jnp.moveaxis(jnp.asarray(to_numpy(value)), 1, -1)
        self._features = features if features is None else features.astype(self.model.network.dtype)

    def get_image_embedding(self) -> Any:
        """Returns the image embedding [1, D, h, w], a torch tensor if torch is imported.

        Raises:
          RuntimeError: No image is set.
        """
        self._get_image()
        return self.features

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Prediction:
        """Predicts masks of one object.

        Arguments and results are those of `segjax.SamPredictor.predict`.

        Raises:
          RuntimeError: No image is set.
          ValueError: Invalid prompts.
        """
        # The attributes may have been set since `set_image`, so they are handed over again.
        self._predictor.images = [self._get_image()]
        given = map(to_numpy, (point_coords, point_labels, box, mask_input))
        return self._predictor.predict(*given, multimask_output, return_logits)

    def predict_torch(
        self,
        point_coords: Any,
        point_labels: Any,
        boxes: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Any, Any, Any]:
        """Predicts masks of P objects. Prompts are in pixels of the resized image.

        Args:
          point_coords: [P, N, 2], (x, y), see `transform`.
          point_labels: [P, N].
          boxes: [P, 4], x1 y1 x2 y2.
          mask_input: [P, 1, 4h, 4w], logits.
          multimask_output: As in `predict`.
          return_logits: As in `predict`.

        Returns:
          masks [P, M, H, W], iou [P, M] and low_res [P, M, 4h, 4w]. Torch tensors if any prompt is
          one.

        Raises:
          RuntimeError: No image is set.
          ValueError: As `predict`, naming the prompt.
        """
        image, network = self._get_image(), self.model.network
        given = (point_coords, point_labels, boxes, mask_input)
        prompts = check_canvas_prompts(network, image.input_size, *given)
        options = dict(multimask=multimask_output, return_logits=return_logits)
        (outputs,) = predict_masks(network, self.model.variables, [image], [prompts], **options)
        return tuple(map(make_converter(*given, device=self.device), outputs))

    def _get_image(self) -> EmbeddedImage:
        """Returns the image with its embedding. Raises RuntimeError if none is set."""
        if not self.is_image_set:
            raise RuntimeError("no image is set; call set_image(image) before predicting")
        return EmbeddedImage(self._features, tuple(self.original_size), tuple(self.input_size))


class SamAutomaticMaskGenerator(automatic.SamAutomaticMaskGenerator):
    """`segjax.SamAutomaticMaskGenerator` of a `Sam`.

    Args:
      model: The `Sam`.
      *arguments: Other arguments of segment-anything (points_per_side, ..., output_mode).
      **options: The same by name, and the options that only segjax has.
    """

    def __init__(self, model: Sam, *arguments: Any, **options: Any) -> None:
        super().__init__(model.network, model.variables, *arguments, **options)
        self.predictor = SamPredictor(model)

    def propose_all(self, images: Sequence[np.ndarray], **floors: float) -> list[MaskCandidates]:
        """Returns the candidates of several images, with the model's current weights.

        Args:
          images: As in `segjax.SamAutomaticMaskGenerator.propose_all`.
          **floors: As in `segjax.SamAutomaticMaskGenerator.propose_all`.
        """
        self.variables = self.predictor.model.variables
        return super().propose_all(images, **floors)
