"""SamAutomaticMaskGenerator with the constructor of segment-anything."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.inference import automatic
from segjax.inference.proposals import Proposals
from segjax.inference.segment_anything.predictor import SamPredictor
from segjax.inference.segment_anything.sam import Sam


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
