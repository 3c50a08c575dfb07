"""The model and its weights in one object that is called as segment-anything's is."""

import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segjax.compat.segment_anything.tensors import as_given, tensor_device, to_numpy
from segjax.inference.sam import predictor
from segjax.inference.sam.batching import Embedded
from segjax.inference.sam.jitted import encode
from segjax.inference.sam.prompts import Asked, check_prompts
from segjax.models.build import shapes_of
from segjax.models.sam.sam import Sam as Network
from segjax.weights.checkpoint import Checkpoint
from segjax.weights.names import OFFICIAL
from segjax.weights.state_dict import state_of
from segjax.weights.tables.sam import SAM


class Sam:
    """A SAM with its weights, as segment-anything has it in one object.

    Attributes:
      network: the linen module. image_encoder, prompt_encoder: their sizes. mask_threshold, image_format: constants.
    """

    mask_threshold = 0.0
    image_format = "RGB"

    def __init__(self, network: Network, variables: Mapping[str, Any] | None = None) -> None:
        self.network, self._variables, self._device = network, None, "cpu"
        if variables is not None:
            self._variables = jax.device_put(dict(variables))
        canvas, cells = (network.canvas,) * 2, (network.canvas // network.patch,) * 2
        self.image_encoder = types.SimpleNamespace(img_size=network.canvas)
        self.prompt_encoder = types.SimpleNamespace(
            embed_dim=network.prompt_width, input_image_size=canvas, image_embedding_size=cells
        )

    @property
    def variables(self) -> dict[str, Any]:
        """{"params", "constants"} on JAX's device. Raises ValueError before there are any."""
        if self._variables is None:
            raise ValueError(
                "this Sam has no weights; build it with checkpoint=path, or call load_state_dict"
            )
        return self._variables

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Takes the arrays or tensors of a state dict with segment-anything's (or transformers') names.

        Raises CheckpointError unless it is that of this model, array by array, whatever `strict` says.
        """
        state = state_of(
            {key: to_numpy(value) for key, value in state_dict.items()}, source="the state dict"
        )
        checkpoint = Checkpoint(
            "the state dict", SAM.family_of(state) or OFFICIAL, state, table=SAM
        )
        self._variables = jax.device_put(checkpoint.variables(shapes_of(self.network)))

    @property
    def device(self) -> Any:
        """Where torch tensors for and from this model are: what `to` was told, where torch has it."""
        return tensor_device(self._device)

    def to(self, device: Any) -> "Sam":
        """Itself; notes where torch tensors are to be. See the module's docstring."""
        self._device = device
        return self

    def cuda(self, index: int | None = None) -> "Sam":
        """`to("cuda")`."""
        return self.to("cuda" if index is None else f"cuda:{index}")

    def cpu(self) -> "Sam":
        """`to("cpu")`."""
        return self.to("cpu")

    def eval(self) -> "Sam":
        """Itself: it never trains."""
        return self

    def __call__(
        self, batched_input: Sequence[Mapping[str, Any]], multimask_output: bool
    ) -> list[dict[str, Any]]:
        """Masks for several pictures, each with its prompts, decoded together.

        Args:
          batched_input: for each picture a dict of image [3, h, w] (resized so that its longest side is
            `image_encoder.img_size`), original_size (H, W), and any of point_coords [P, N, 2] with point_labels [P, N],
            boxes [P, 4] and mask_inputs [P, 1, 4h, 4w]; points and boxes in pixels of the resized picture.
          multimask_output: three masks a prompt (M = 3), else one.

        Returns:
          For each picture a dict of masks bool [P, M, H, W], iou_predictions [P, M] and low_res_logits
          [P, M, 4h, 4w].

        Raises:
          ValueError: a picture does not fit the canvas, or a prompt is refused; names the picture.
        """
        contents, asked = [], []
        for number, record in enumerate(batched_input):
            try:
                if absent := {"image", "original_size"} - set(record):
                    raise ValueError(
                        f"there is no {' and no '.join(sorted(absent))}; found {', '.join(record)}"
                    )
                contents.append(content_of(record["image"], self.network))
                parts = (
                    record.get(name)
                    for name in ("point_coords", "point_labels", "boxes", "mask_inputs")
                )
                asked.append(asked_on_canvas(self.network, contents[-1].shape[:2], *parts))
            except ValueError as error:
                raise ValueError(f"batched_input[{number}]: {error}") from error
        asks = predictor.SamPredictor(self.network, self.variables)
        features = encode(self.network, self.variables, contents, per_batch=asks.images_per_batch)
        asks.pictures = [
            Embedded(each, tuple(map(int, record["original_size"])), content.shape[:2])
            for each, record, content in zip(features, batched_input, contents, strict=True)
        ]
        names = ("masks", "iou_predictions", "low_res_logits")
        return [
            dict(zip(names, map(as_given(record["image"]), answer), strict=True))
            for record, answer in zip(
                batched_input, asks.answer(asked, multimask_output, False), strict=True
            )
        ]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"this Sam has no {name!r}; help(segjax.compat.segment_anything) says what is not as in segment-anything"
        )


def content_of(image: Any, network: Network) -> np.ndarray:
    """A resized picture [3, h, w] as [h, w, 3], uint8 or float32. Raises ValueError unless it fits the canvas."""
    pixels = np.asarray(to_numpy(image))
    if pixels.ndim != 3 or len(pixels) != 3 or max(pixels.shape) > network.canvas:
        raise ValueError(
            f"image has shape {pixels.shape}; expected [3, h, w], h and w at most {network.canvas}: see "
            "ResizeLongestSide"
        )
    return np.moveaxis(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32), 0, -1)


def asked_on_canvas(
    network: Network, size: tuple[int, int], coords: Any, labels: Any, boxes: Any, masks: Any
) -> Asked:
    """Prompts in pixels of the resized picture of `size`, which are those of the canvas, checked."""
    coords, labels, boxes, masks = map(to_numpy, (coords, labels, boxes, masks))
    if np.ndim(boxes) == 3:
        boxes = np.reshape(boxes, (-1, 4))  # [P, 1, 4] means the same there
    return check_prompts(coords, labels, boxes, masks, hw=size, cells=(network.mask_side,) * 2)
