"""SamAutomaticMaskGenerator with the constructor of segment-anything."""

from typing import Any

from segjax.inference import automatic
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
