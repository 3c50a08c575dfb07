"""Chooses a canvas for an image of any size. Few canvases mean few compiled programs."""

from collections.abc import Sequence
from typing import Literal

from segjax.images.placement import Placement, place_for_detection
from segjax.models.detection.mask_rcnn import MaskRcnn

Canvas = tuple[int, int]  # (height, width) in pixels
_ASPECT_RATIOS = (1.0, 4 / 3)  # longer over shorter side, besides the longest that a model takes


def list_default_canvases(model: MaskRcnn) -> tuple[Canvas, ...]:
    """Returns the default canvases: square, 4:3 and the longest, landscape and portrait.

    The published models with sides of 800 and 1333 pixels get 800 x 800, 800 x 1088, 1088 x 800,
    800 x 1344 and 1344 x 800. A model of square images gets its one canvas.
    """
    size = model.preprocessing
    sides = [size.short_side * ratio for ratio in _ASPECT_RATIOS] + [size.long_side]
    short, *longer = (
        min(_round_up(min(side, size.long_side), model), model.canvas) for side in sides
    )
    both = (canvas for side in (short, *longer) for canvas in ((short, side), (side, short)))
    return tuple(dict.fromkeys(both))


def check_canvases(model: MaskRcnn, canvases: Sequence[Canvas]) -> tuple[Canvas, ...]:
    """Returns the canvases as tuples.

    Raises:
      ValueError: No canvas, or one whose sides are not multiples of the model's divisor.
    """
    checked = tuple(tuple(canvas) for canvas in canvases)
    for canvas in checked or [()]:
        if len(canvas) != 2 or any(side < 1 or side % model.divisor for side in canvas):
            raise ValueError(
                f"canvases are {checked}; expected at least one (height, width), in multiples of "
                f"{model.divisor} pixels"
            )
    return checked


def choose_canvas(
    model: MaskRcnn, hw: tuple[int, int], canvases: Sequence[Canvas] | Literal["tight"]
) -> tuple[Placement, Canvas]:
    """Chooses the canvas of an image and its placement there.

    The smallest canvas that holds the image at the model's size wins. If none does, the image
    shrinks into the canvas that shows it largest.

    Args:
      model: the detector, which decides the size of images.
      hw: (height, width) of the image in pixels.
      canvases: canvases to choose from. "tight" gives the image a canvas of its own, padded to the
        model's divisor, as torchvision and detectron2 do for single images.

    Returns:
      placement: from the image to the canvas.
      canvas: (height, width) in pixels.
    """
    size = model.preprocessing
    rule = (size.short_side, size.long_side, size.resize)
    placement = place_for_detection(hw, (model.canvas, model.canvas), *rule)
    if canvases == "tight":
        return placement, tuple(_round_up(side, model) for side in placement.size)
    # The smallest canvas wastes the least computation on padding.
    if fits := [canvas for canvas in canvases if all(map(int.__le__, placement.size, canvas))]:
        return placement, min(fits, key=_area)
    shrunk = [(place_for_detection(hw, canvas, *rule), canvas) for canvas in canvases]
    return max(shrunk, key=lambda each: _area(each[0].size))


def _area(sides: Canvas) -> int:
    return sides[0] * sides[1]


def _round_up(side: float, model: MaskRcnn) -> int:
    """Rounds a side up to a multiple of the model's divisor."""
    return int(-(-side // model.divisor) * model.divisor)
