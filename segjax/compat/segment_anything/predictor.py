"""SamPredictor with the constructor and all calls of segment-anything."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.compat.segment_anything.sam import Sam, asked_on_canvas, content_of
from segjax.compat.segment_anything.tensors import as_given, to_numpy
from segjax.compat.segment_anything.transforms import ResizeLongestSide
from segjax.inference.sam import automatic, predictor
from segjax.inference.sam.batching import Answer, Embedded
from segjax.inference.sam.candidates import Proposals
from segjax.inference.sam.jitted import encode


class SamPredictor:
    """Masks for prompts on one picture, with segment-anything's calls.

    Attributes:
      model: the `Sam`. transform: `ResizeLongestSide` to its canvas.
      original_size: (H, W) of the picture; input_size: (h, w) of the resized one. These, `features` and `is_image_set`
        may be set to what was kept of an earlier picture.
    """

    def __init__(self, sam_model: Sam) -> None:
        self.model = sam_model
        self.transform = ResizeLongestSide(sam_model.image_encoder.img_size)
        self._made: tuple[Any, predictor.SamPredictor] | None = None
        self.reset_image()

    @property
    def _predictor(self) -> predictor.SamPredictor:
        """Of the model's present weights: a program may load others after it has made its predictor."""
        if self._made is None or self._made[0] is not self.model.variables:
            made = predictor.SamPredictor(self.model.network, self.model.variables)
            self._made = self.model.variables, made
        return self._made[1]

    @property
    def device(self) -> Any:
        """The model's."""
        return self.model.device

    def reset_image(self) -> None:
        """Forgets the picture."""
        if self._made is not None:
            self._made[1].reset_image()
        self.is_image_set = False
        self._features: jax.Array | None = None
        self.original_size: tuple[int, int] | None = None
        self.input_size: tuple[int, int] | None = None

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Embeds a picture uint8 [H, W, 3]; image_format is "RGB" or "BGR". Raises as `segjax.SamPredictor`."""
        self.reset_image()
        self._predictor.set_image(to_numpy(image), image_format)
        self._take(self._predictor.pictures[0])

    def set_torch_image(self, transformed_image: Any, original_image_size: tuple[int, int]) -> None:
        """Embeds a picture [1, 3, h, w] that is resized already.

        Raises ValueError unless its longest side is that of the model's canvas.
        """
        self.reset_image()
        shape, side = tuple(transformed_image.shape), self.model.image_encoder.img_size
        if len(shape) != 4 or shape[:2] != (1, 3) or max(shape[2:]) != side:
            raise ValueError(
                f"transformed_image has shape {shape}; expected [1, 3, h, w] whose longest side is {side}"
            )
        content = content_of(transformed_image[0], self.model.network)
        (features,) = encode(self.model.network, self.model.variables, [content])
        self._take(Embedded(features, tuple(map(int, original_image_size)), content.shape[:2]))

    def _take(self, picture: Embedded) -> None:
        self._features, self.is_image_set = picture.features, True
        self.original_size, self.input_size = picture.original_size, picture.input_size

    @property
    def features(self) -> Any:
        """The embedding [1, D, h, w], None when no picture is set; as `get_image_embedding` gives it."""
        if self._features is None:
            return None
        return as_given(device=self.device)(
            np.moveaxis(np.asarray(self._features, np.float32), -1, 1)
        )

    @features.setter
    def features(self, value: Any) -> None:
        features = None if value is None else jnp.moveaxis(jnp.asarray(to_numpy(value)), 1, -1)
        self._features = features if features is None else features.astype(self.model.network.dtype)

    def get_image_embedding(self) -> Any:
        """The picture's embedding [1, D, h, w], channels first as there: a torch tensor when torch is imported.

        Raises RuntimeError when no picture is set.
        """
        self._picture()
        return self.features

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Answer:
        """Masks of one object; `segjax.SamPredictor.predict`. Raises RuntimeError when no picture is set."""
        self._predictor.pictures = [self._picture()]
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
        """Masks of P objects whose prompts are in pixels of the resized picture (see `transform`).

        Args:
          point_coords: [P, N, 2]; point_labels: [P, N]; boxes: [P, 4]; mask_input: [P, 1, 4h, 4w].
          multimask_output, return_logits: as `predict`.

        Returns:
          masks [P, M, H, W], iou [P, M], low_res [P, M, 4h, 4w]: torch tensors where any prompt is one.

        Raises:
          RuntimeError: no picture is set. ValueError: as `predict`; names the prompt.
        """
        picture = self._picture()
        given = (point_coords, point_labels, boxes, mask_input)
        asked = asked_on_canvas(self.model.network, picture.input_size, *given)
        self._predictor.pictures = [picture]
        (answer,) = self._predictor.answer([asked], multimask_output, return_logits)
        return tuple(map(as_given(*given, device=self.device), answer))

    def _picture(self) -> Embedded:
        if not self.is_image_set:
            raise RuntimeError("no image is set; call set_image(image) before asking about it")
        return Embedded(self._features, tuple(self.original_size), tuple(self.input_size))


class SamAutomaticMaskGenerator(automatic.SamAutomaticMaskGenerator):
    """`segjax.SamAutomaticMaskGenerator` of a `Sam`, with the same arguments.

    Args:
      model: the `Sam`. arguments, options: everything else that segment-anything's takes (points_per_side, ..,
        output_mode), by place or by name, and by name what is ours.
    """

    def __init__(self, model: Sam, *arguments: Any, **options: Any) -> None:
        super().__init__(model.network, model.variables, *arguments, **options)
        self.predictor = SamPredictor(model)

    def propose_all(self, images: Sequence[np.ndarray], **floors: float) -> list[Proposals]:
        """As `segjax.SamAutomaticMaskGenerator`, with the weights that the model has by now."""
        self.variables = self.predictor.model.variables
        return super().propose_all(images, **floors)
