"""Checks that the objects of the training data can be prompts.

You can skip this; the losses are in `segjax.losses.promptable`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from segjax.data.examples.promptable import PromptableExample
from segjax.images.transforms import compute_fitted_size
from segjax.masks import parse_run_lengths
from segjax.tasks.usable_objects import check_records, judge_flags

NO_PROMPT = (
    "after augmentation, none has config.data.min_area canvas pixels or more and at most "
    "config.data.max_area_fraction of the image; look at them with `segjax show --config`"
)


def check_prompts(
    source: Sequence[Mapping[str, Any]], example: PromptableExample, data: Mapping[str, Any]
) -> None:
    """Raises an error unless an object of the training data can be a prompt.

    Args:
      source: training records.
      example: makes the training examples.
      data: `config.data`, which names the data in the error message.

    Raises:
      NoUsableObjectError: as `check_records`.
    """
    scale = example.augmentation.scale or (1.0, 1.0)

    def judge(record: Mapping[str, Any]) -> list[str]:
        verdicts = judge_flags(record, needs_mask=True)
        hw = record["height"], record["width"]
        fitted = compute_fitted_size(hw, example.canvas)
        enlarged = fitted[0] * fitted[1] / (hw[0] * hw[1]) * max(1.0, scale[1]) ** 2
        for index, rle in enumerate(record["objects"]["rle"]):
            if not verdicts[index]:
                area = int(parse_run_lengths(rle)[1::2].sum())
                verdicts[index] = _judge_area(example, area, enlarged, hw[0] * hw[1], scale[1] > 1)
        return verdicts

    check_records(source, judge, data)


def _judge_area(
    example: PromptableExample, area: int, enlarged: float, pixels: int, crops: bool
) -> str:
    """Returns the reason why an object of `area` pixels can never be a prompt, or "".

    Args:
      example: makes the training examples.
      area: of the mask, in pixels of the image.
      enlarged: canvas pixels per pixel of the image, at the largest scale.
      pixels: of the image.
      crops: True if a crop may show a smaller share of the object than of the image.
    """
    # Resizing moves the outline, so that an area may double or lose a tenth.
    if 2 * area * enlarged < example.min_area:
        return f"smaller than config.data.min_area = {example.min_area:g} canvas pixels"
    largest = 1.0 if crops else min(1.0, example.max_area_fraction * 1.1)
    if area > example.max_area_fraction * pixels and area >= largest * pixels:
        fraction = f"config.data.max_area_fraction = {example.max_area_fraction:g} of the image"
        return f"larger than {fraction}"
    return ""
