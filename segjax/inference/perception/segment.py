"""One function from an image and a prompt to masks, which composes the models of this library."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segjax.images.decoding import decode_image
from segjax.inference.perception.models import Models
from segjax.inference.perception.prompts import (
    Box,
    Classes,
    Everything,
    Example,
    MaskHint,
    Nothing,
    Points,
    Prompt,
    Text,
)
from segjax.inference.perception.segments import Segments
from segjax.inference.perception.services import (
    detect_objects,
    find_everything,
    follow_example,
    follow_prompt,
    follow_text,
    name_instances,
    name_panoptic,
    name_pixels,
)

Source = str | os.PathLike | Any


def segment(
    image: Any,
    prompt: Prompt,
    *,
    sam: Source | None = None,
    clip: Source | None = None,
    detector: Source | None = None,
    encoder: Source | None = None,
) -> Segments:
    """Segments an image by a prompt.

    Example:
      segments = segjax.segment(image, segjax.Points([[320, 200]]))
      segments = segjax.segment(image, segjax.Classes("cup,spoon", stuff="table"), clip="runs/clip")
      segments = segjax.segment(image, segjax.Nothing(), detector="runs/mask_rcnn")
      segments = segjax.segment(image, segjax.Everything("maskcut"), encoder="runs/mae")
      segments.masks, segments.names, segments.scores

    | prompt | result | models |
    |---|---|---|
    | `Points`, `Box`, `MaskHint` | one object, the most confident mask | sam |
    | `Everything()` | all objects | sam |
    | `Everything("tokencut")`, ... | emergent masks | encoder |
    | `Nothing()` | instances of the detector's classes | detector, sam with `refine` |
    | `Classes(names)` | semantic: one mask per class | sam, clip |
    | `Classes(names, instances=True)` | named objects | sam, clip |
    | `Classes(things, stuff)` | panoptic | sam, clip |
    | `Text(phrases)` | one object per phrase | sam, clip |
    | `Example(image, mask)` | the object of the example | sam |

    Args:
      image: uint8 [H, W, 3].
      prompt: what to segment.
      sam: a SAM: a name or path as for `segjax.load`, or a `SamPredictor`. None: the demo model.
      clip: a CLIP: a name or path, or a `Clip`.
      detector: a Mask R-CNN: a name or path, or a `Detector`.
      encoder: a model whose features make emergent masks: a name or path, or a pair (model,
        variables). None: the SAM.

    Returns:
      `Segments`.

    Raises:
      ValueError: a prompt that cannot be meant, or one that needs a model that is not given. The
        message says which.
    """
    return Segmenter(sam=sam, clip=clip, detector=detector, encoder=encoder)(image, prompt)


@dataclasses.dataclass
class Segmenter:
    """`segment` with models that are loaded once, for many images.

    Example:
      segmenter = Segmenter(sam="sam_vit_b", clip="clip_vit_b_16")
      for image in images:
          segments = segmenter(image, Classes("cup,spoon"))

    Attributes:
      sam: see `segment`.
      clip: see `segment`.
      detector: see `segment`.
      encoder: see `segment`.
      everything: arguments of `SamAutomaticMaskGenerator`, such as lower thresholds for a small
        model, for `Everything`, `Classes` and `Text`.
    """

    sam: Source | None = None
    clip: Source | None = None
    detector: Source | None = None
    encoder: Source | None = None
    everything: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Prepares the models. They are loaded on first use."""
        self._models = Models(self.sam, self.clip, self.detector, self.encoder)
        self._models.everything = dict(self.everything)

    def __call__(self, image: Any, prompt: Prompt) -> Segments:
        """Segments an image by a prompt, see `segment`."""
        service = _SERVICES.get(type(prompt))
        if service is None:
            kinds = ", ".join(kind.__name__ for kind in _SERVICES)
            raise ValueError(f"the prompt is a {type(prompt).__name__}; expected one of {kinds}")
        return service(self._models, decode_image(image), prompt)


def _name_classes(models: Models, image: np.ndarray, prompt: Classes) -> Segments:
    """Returns instances, a panoptic or a semantic segmentation, as the prompt asks."""
    if prompt.instances:
        return name_instances(models, image, prompt)
    return (name_panoptic if prompt.stuff else name_pixels)(models, image, prompt)


_SERVICES: Mapping[type, Callable[[Models, np.ndarray, Any], Segments]] = {
    Points: follow_prompt,
    Box: follow_prompt,
    MaskHint: follow_prompt,
    Text: follow_text,
    Classes: _name_classes,
    Example: follow_example,
    Everything: find_everything,
    Nothing: detect_objects,
}
