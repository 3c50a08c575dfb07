"""From a record to a square picture and what is on it: one class a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from segjax.data.examples.crop import CropExample
from segjax.data.loader import SettingsError

RULES = ("record", "largest")
_LOOKED_AT = 64  # records among which one must have a label


class LabeledExample:
    """Callable (record, rng) -> example; a loader's ``example_fn``. The crop's fields, and ``label`` int32.

    A picture without a label gets label 0 and weight 0.

    Args:
      crop: how the picture is cut.
      rule: where the label comes from, see `get_label`.
      classes: labels are 0 .. classes - 1.
    """

    def __init__(self, crop: CropExample, rule: str, classes: int):
        if rule not in RULES:
            raise ValueError(f"config.data.label is {rule!r}; choose one of {', '.join(RULES)}")
        self.crop, self.rule, self.classes = crop, rule, classes

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The example of ``record``; see the class.

        Raises ImageError for a picture that cannot be read, SettingsError for a label that is no class.
        """
        label = get_label(record, self.rule)
        if label is None:
            return self.placeholder()
        if not 0 <= label < self.classes:
            raise SettingsError(
                f"image {record['image_id']!r} is labelled {label}; expected 0 to {self.classes - 1}: set "
                "config.model.classes to the number of classes that the data has"
            )
        return self.crop(record, rng) | {"label": np.int32(label)}

    def placeholder(self) -> dict[str, np.ndarray]:
        """An example that counts for nothing."""
        return self.crop.placeholder() | {"label": np.int32(0)}


def get_label(record: Mapping, rule: str) -> int | None:
    """The class of a picture: the record's own `label` ("record"), or the category of its largest object ("largest").

    Crowds are no objects. None where there is no label, or no object.
    """
    if rule == "record":
        return None if record.get("label") is None else int(record["label"])
    objects = record["objects"]
    alone = np.flatnonzero(~objects["crowd"])
    return (
        int(objects["category"][alone[np.argmax(objects["area"][alone])]]) if len(alone) else None
    )


def check_labels(source: Sequence[Mapping], rule: str, name: str) -> None:
    """Raises ValueError when none of some records, spread over a source, has a label. name: how it calls the source."""
    count = min(_LOOKED_AT, len(source))
    looked_at = (source[index * len(source) // count] for index in range(count))
    if all(get_label(record, rule) is None for record in looked_at):
        other = {
            "record": "its records carry no label. config.data.label='largest' takes each picture's largest object",
            "largest": "its pictures hold no objects. config.data.label='record' takes the records' own label",
        }[rule]
        raise ValueError(f"no picture of {name} has a class: {other}")
