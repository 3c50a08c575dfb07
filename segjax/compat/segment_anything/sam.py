"""Sam: a model and its weights in one object, with the interface of segment-anything."""

import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segjax.compat.segment_anything.tensors import find_tensor_device, make_converter, to_numpy
from segjax.inference.sam.batching import EmbeddedImage, predict_masks
from segjax.inference.sam.jitted import IMAGES_PER_BATCH, encode_images
from segjax.inference.sam.prompt_checks import check_prompts
from segjax.inference.sam.prompts import PromptSet
from segjax.models.build import variable_shapes
from segjax.models.sam.sam import Sam as Network
from segjax.weights.checkpoint import Checkpoint
from segjax.weights.names import OFFICIAL
from segjax.weights.state_dict import find_state_dict
from segjax.weights.tables.sam import SAM


class Sam:
    """SAM with its weights, as one object.

    Args:
      network: The linen module.
      variables: Its variables, {"params", "constants"}. None until `load_state_dict`.

    Attributes:
      network: The linen module.
      image_encoder: Namespace with the image encoder's `img_size`.
      prompt_encoder: Namespace with the prompt encoder's sizes.
      mask_threshold: Logit above which a pixel belongs to a mask.
      image_format: Order of the channels of images.
    """

    mask_threshold = 0.0
    image_format = "RGB"

    def __init__(self, network: Network, variables: Mapping[str, Any] | None = None) -> None:
        self.network, self._variables, self._device = network, None, "cpu"
        if variables is not None:
            self._variables = jax.device_put(dict(variables))
        canvas, cells = (network.canvas,) * 2, (network.canvas // network.patch,) * 2
        # Programs read these sizes, so that the parts exist as namespaces.
        self.image_encoder = types.SimpleNamespace(img_size=network.canvas)
        self.prompt_encoder = types.SimpleNamespace(
            embed_dim=network.prompt_width, input_image_size=canvas, image_embedding_size=cells
        )

    @property
    def variables(self) -> dict[str, Any]:
        """Returns {"params", "constants"} on JAX's device.

        Raises:
          ValueError: There are no weights yet.
        """
        if self._variables is None:
            raise ValueError(
                "this Sam has no weights; build it with checkpoint=path, or call load_state_dict"
            )
        return self._variables

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Loads a state dict with the names of segment-anything or transformers.

        Args:
          state_dict: Arrays or tensors by name.
          strict: Ignored. Loading is always strict.

        Raises:
          CheckpointError: An array is missing, is unknown, or has another shape.
        """
        state = find_state_dict(
            {key: to_numpy(value) for key, value in state_dict.items()},
            source="the state dict",
            is_known=SAM.find_format,
        )
        checkpoint = Checkpoint(
            "the state dict", SAM.find_format(state) or OFFICIAL, state, table=SAM
        )
        self._variables = jax.device_put(checkpoint.variables(variable_shapes(self.network)))

    @property
    def device(self) -> Any:
        """Returns the device of torch tensors for and from this model, as set by `to`."""
        return find_tensor_device(self._device)

    def to(self, device: Any) -> "Sam":
        """Sets the device of torch tensors and returns itself. See the package's docstring."""
        self._device = device
        return self

    def cuda(self, index: int | None = None) -> "Sam":
        """Calls `to("cuda")`, with the index if given."""
        return self.to("cuda" if index is None else f"cuda:{index}")

    def cpu(self) -> "Sam":
        """Calls `to("cpu")`."""
        return self.to("cpu")

    def eval(self) -> "Sam":
        """Returns itself. It never trains."""
        return self

    def __call__(
        self, batched_input: Sequence[Mapping[str, Any]], multimask_output: bool
    ) -> list[dict[str, Any]]:
        """Predicts masks for several images, each with its prompts, decoded together.

        Args:
          batched_input: One dict per image, with the keys below. Points and boxes are in pixels of
            the resized image.

            image: [3, h, w], resized so that its longest side is `image_encoder.img_size`.
            original_size: (H, W) of the original image.
            point_coords: [P, N, 2], optional.
            point_labels: [P, N], with point_coords.
            boxes: [P, 4], optional.
            mask_inputs: [P, 1, 4h, 4w], optional.
          multimask_output: Return three masks per prompt (M = 3) instead of one.

        Returns:
          For each image a dict of masks bool [P, M, H, W], iou_predictions [P, M] and
          low_res_logits [P, M, 4h, 4w].

        Raises:
          ValueError: An image does not fit the canvas or a prompt is invalid. Names the image.
        """
        # Check images and prompts.
        contents, prompts = [], []
        for number, record in enumerate(batched_input):
            try:
                if missing := {"image", "original_size"} - set(record):
                    raise ValueError(
                        f"there is no {' and no '.join(sorted(missing))}; found {', '.join(record)}"
                    )
                contents.append(to_content(record["image"], self.network))
                names = ("point_coords", "point_labels", "boxes", "mask_inputs")
                parts = (record.get(name) for name in names)
                size = contents[-1].shape[:2]
                prompts.append(check_canvas_prompts(self.network, size, *parts))
            except ValueError as error:
                raise ValueError(f"batched_input[{number}]: {error}") from error

        # Encode and decode.
        features = encode_images(self.network, self.variables, contents, per_batch=IMAGES_PER_BATCH)
        images = [
            EmbeddedImage(each, tuple(map(int, record["original_size"])), content.shape[:2])
            for each, record, content in zip(features, batched_input, contents, strict=True)
        ]
        options = dict(multimask=multimask_output, return_logits=False)
        predictions = predict_masks(self.network, self.variables, images, prompts, **options)
        names = ("masks", "iou_predictions", "low_res_logits")
        return [
            dict(zip(names, map(make_converter(record["image"]), prediction), strict=True))
            for record, prediction in zip(batched_input, predictions, strict=True)
        ]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"this Sam has no {name!r}; help(segjax.compat.segment_anything) lists the differences "
            "from segment-anything"
        )


def to_content(image: Any, network: Network) -> np.ndarray:
    """Converts a resized image [3, h, w] to [h, w, 3].

    Args:
      image: Array or tensor [3, h, w], values 0..255.
      network: The SAM.

    Returns:
      uint8 or float32 [h, w, 3].

    Raises:
      ValueError: It does not fit the canvas.
    """
    pixels = np.asarray(to_numpy(image))
    if pixels.ndim != 3 or len(pixels) != 3 or max(pixels.shape) > network.canvas:
        raise ValueError(
            f"image has shape {pixels.shape}; expected [3, h, w], h and w at most "
            f"{network.canvas}: see ResizeLongestSide"
        )
    return np.moveaxis(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32), 0, -1)


def check_canvas_prompts(
    network: Network, size: tuple[int, int], coords: Any, labels: Any, boxes: Any, masks: Any
) -> PromptSet:
    """Checks prompts in pixels of the resized image, which are canvas pixels.

    Args:
      network: The SAM.
      size: (h, w) of the resized image.
      coords: [P, N, 2] or None.
      labels: [P, N] or None.
      boxes: [P, 4], [P, 1, 4] or None.
      masks: [P, 1, 4h, 4w] or None.
    """
    coords, labels, boxes, masks = map(to_numpy, (coords, labels, boxes, masks))
    if np.ndim(boxes) == 3:
        # segment-anything also accepts boxes [P, 1, 4].
        boxes = np.reshape(boxes, (-1, 4))
    return check_prompts(coords, labels, boxes, masks, hw=size, cells=(network.mask_side,) * 2)
