"""The models that `segjax.segment` composes, loaded when a prompt first needs them."""

import functools
import os
from typing import Any

from segjax.inference.clip.clip import Clip
from segjax.inference.detection.detector import Detector
from segjax.inference.loading import load, load_with_config
from segjax.inference.sam.predictor import SamPredictor
from segjax.inference.saved_options import read_saved_percentiles, read_saved_thresholds
from segjax.weights.registry import DEMO


class Models:
    """Models by role. A name or path is loaded on first use.

    Args:
      sam: a name, a path, a `SamPredictor`, or what `load_with_config` returns. None: the demo
        model.
      clip: a name, a path, a `Clip`, or None.
      detector: a name, a path, a `Detector`, or None.
      encoder: a name, a path, a pair (model, variables), or None for the SAM.
    """

    def __init__(self, sam: Any, clip: Any, detector: Any, encoder: Any) -> None:
        self._sam, self._clip, self._detector, self._encoder = sam, clip, detector, encoder
        # What the SAM's weights recommend for segment-everything
        self.thresholds: dict[str, float] = {}
        self.everything: dict[str, Any] = {}  # arguments of `SamAutomaticMaskGenerator`
        # What prompts have in common from image to image
        self.labelers: dict[Any, Any] = {}
        self.example: tuple[Any, Any] | None = None

    @functools.cached_property
    def sam(self) -> SamPredictor:
        """The SAM. A CLIP that is given encodes its texts."""
        predictor = self._sam
        if not isinstance(predictor, SamPredictor):
            if not isinstance(predictor, tuple):
                source = _check_source(self._sam or DEMO, SamPredictor, "sam")
                predictor = load_with_config(source, family="sam")
            model, variables, saved = predictor
            self.thresholds = read_saved_thresholds(saved)
            predictor = SamPredictor(model, variables, percentiles=read_saved_percentiles(saved))
        if predictor.clip is None and self._clip is not None and predictor.model.text_width:
            predictor.clip = self.clip
        return predictor

    @functools.cached_property
    def clip(self) -> Clip:
        """The CLIP.

        Raises:
          ValueError: none was given.
        """
        if self._clip is None:
            raise ValueError(
                "names and phrases need a CLIP; give one as clip=..., such as clip='clip_vit_b_16' "
                "or a run of experiments/clip (--clip on the command line)"
            )
        return _open(self._clip, Clip, "clip")

    @property
    def templates(self) -> str:
        """Templates of class names: a CLIP of captions of scenes has seen no photograph."""
        return "name" if self.clip.model.tokenizer == "captions" else "photo"

    @functools.cached_property
    def detector(self) -> Detector:
        """The detector.

        Raises:
          ValueError: none was given.
        """
        if self._detector is None:
            raise ValueError(
                "without a prompt, a detector says what to segment; give one as detector=..., such "
                "as detector='maskrcnn_resnet50_fpn' or a run of experiments/mask_rcnn (--detector "
                "on the command line)"
            )
        return _open(self._detector, Detector, "detector")

    @functools.cached_property
    def encoder(self) -> tuple[Any, Any]:
        """Model and variables whose features make emergent masks."""
        if self._encoder is None:
            return self.sam.model, self.sam.variables
        if isinstance(self._encoder, tuple):
            return self._encoder
        return load(self._encoder)


def _open(source: Any, kind: type, role: str) -> Any:
    """Returns a model that is given, or loads it."""
    return source if isinstance(source, kind) else kind.load(_check_source(source, kind, role))


def _check_source(source: Any, kind: type, role: str) -> str | os.PathLike:
    """Returns a name or a path.

    Raises:
      ValueError: an object of another class.
    """
    if isinstance(source, (str, os.PathLike)):
        return source
    raise ValueError(
        f"{role} is a {type(source).__name__}; expected a name, a path or a {kind.__name__}"
    )
