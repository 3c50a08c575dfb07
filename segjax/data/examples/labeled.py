"""Examples for classification: a square crop of the image and its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from segjax.data.examples.crop import CropExample
from segjax.data.fetch import SettingsError

RULES = ("record", "largest")
# Records of which at least one must have a label
_CHECKED = 64


class LabeledExample:
    """Callable (record, rng) -> example: the fields of a crop, and ``label`` int32.

    An image without a label gets label 0 and weight 0.

    Args:
      crop: makes the crop.
      rule: "record" or "largest", see `get_label`.
      classes: number of classes, with labels 0 .. classes - 1.

    Raises:
      ValueError: unknown rule.
    """

    def __init__(self, crop: CropExample, rule: str, classes: int):
        if rule not in RULES:
            raise ValueError(f"config.data.label is {rule!r}; choose one of {', '.join(RULES)}")
        self.crop, self.rule, self.classes = crop, rule, classes

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Makes the example of a record.

        Raises:
          ImageError: the image cannot be read.
          SettingsError: the label is not one of the classes.
        """
        label = get_label(record, self.rule)
        if label is None:
            return self.placeholder()
        if not 0 <= label < self.classes:
            raise SettingsError(
                f"image {record['image_id']!r} has label {label}; expected 0 to "
                f"{self.classes - 1}: set config.model.classes to the number of classes in the data"
            )
        return self.crop(record, rng) | {"label": np.int32(label)}

    def placeholder(self) -> dict[str, np.ndarray]:
        """Returns an example of weight 0."""
        return self.crop.placeholder() | {"label": np.int32(0)}


def get_label(record: Mapping, rule: str) -> int | None:
    """Returns the class of an image, or None if it has none.

    Args:
      record: see `segjax.data.records`.
      rule: "record" is the label of the record. "largest" is the category of the largest object
        that is not a crowd.
    """
    if rule == "record":
        return None if record.get("label") is None else int(record["label"])
    objects = record["objects"]
    single = np.flatnonzero(~objects["crowd"])
    if not len(single):
        return None
    return int(objects["category"][single[np.argmax(objects["area"][single])]])


def check_labels(source: Sequence[Mapping], rule: str, name: str) -> None:
    """Raises ValueError if none of some records has a label.

    Args:
      source: the checked records are spread evenly over it.
      rule: see `get_label`.
      name: of the source in the message.
    """
    count = min(_CHECKED, len(source))
    checked = (source[index * len(source) // count] for index in range(count))
    if all(get_label(record, rule) is None for record in checked):
        other = {
            "record": "its records have no label. config.data.label='largest' uses the category "
            "of the largest object",
            "largest": "its images have no objects. config.data.label='record' uses the label of "
            "the record",
        }[rule]
        raise ValueError(f"no image of {name} has a class: {other}")
