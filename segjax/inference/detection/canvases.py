"""Which canvas a picture of any size comes to lie on: few of them, so that few programs serve all pictures."""

from collections.abc import Sequence
from typing import Literal

from segjax.images.placement import Placement, detection_placement
from segjax.models.detection.mask_rcnn import MaskRcnn

Canvas = tuple[int, int]  # (height, width) in pixels
_SHAPES = (
    1.0,
    4 / 3,
)  # longer over shorter side of most pictures, beside the most that a model takes


def usual_canvases(model: MaskRcnn) -> tuple[Canvas, ...]:
    """Square, 4:3, and as long as the model takes, lying and standing; one where its pictures are square anyway.

    For the published models with 800 and 1333 pixels: 800 x 800, 800 x 1088, 1088 x 800, 800 x 1344, 1344 x 800.
    """
    sides = [model.short_side * shape for shape in _SHAPES] + [model.long_side]
    short, *longer = (min(_up(min(side, model.long_side), model), model.canvas) for side in sides)
    return tuple(
        dict.fromkeys(
            canvas for side in (short, *longer) for canvas in ((short, side), (side, short))
        )
    )


def check_canvases(model: MaskRcnn, canvases: Sequence[Canvas]) -> tuple[Canvas, ...]:
    """The same, as tuples. Raises ValueError for none, or one that the model does not take."""
    found = tuple(tuple(canvas) for canvas in canvases)
    for canvas in found or [()]:
        if len(canvas) != 2 or any(side < 1 or side % model.divisor for side in canvas):
            raise ValueError(
                f"canvases are {found}; expected at least one (height, width), in multiples of {model.divisor} pixels"
            )
    return found


def placed(
    model: MaskRcnn, hw: tuple[int, int], canvases: Sequence[Canvas] | Literal["tight"]
) -> tuple[Placement, Canvas]:
    """How a picture of `hw` pixels comes onto which canvas: as large as in evaluation, where any canvas holds that.

    Args:
      canvases: the smallest that holds the picture is taken; where none does, the picture shrinks into the one that
        shows it largest. "tight": a canvas of its own, padded to the model's divisor, as the published models have it.
    """
    rule = (model.short_side, model.long_side, model.rules.resize)
    usual = detection_placement(hw, (model.canvas, model.canvas), *rule)
    if canvases == "tight":
        return usual, tuple(_up(side, model) for side in usual.size)
    if fits := [canvas for canvas in canvases if all(map(int.__le__, usual.size, canvas))]:
        return usual, min(fits, key=_area)
    shrunk = [(detection_placement(hw, canvas, *rule), canvas) for canvas in canvases]
    return max(shrunk, key=lambda each: _area(each[0].size))


def _area(sides: Canvas) -> int:
    return sides[0] * sides[1]


def _up(side: float, model: MaskRcnn) -> int:
    return int(-(-side // model.divisor) * model.divisor)
