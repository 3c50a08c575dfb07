"""Prompts of `segjax.segment`: what to segment in an image."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.text.templates import parse_names


@dataclasses.dataclass(frozen=True)
class Points:
    """Clicks on one object.

    Attributes:
      xy: [N, 2], (x, y) in pixels of the image.
      labels: [N], 1 on the object, 0 off it. None: all on it.
      box: [4], x1 y1 x2 y2 around the object. None: none.
    """

    xy: Any
    labels: Any = None
    box: Any = None


@dataclasses.dataclass(frozen=True)
class Box:
    """Box around one object.

    Attributes:
      xyxy: [4], x1 y1 x2 y2 in pixels of the image.
    """

    xyxy: Any


@dataclasses.dataclass(frozen=True)
class MaskHint:
    """Rough mask of one object, to be improved.

    Attributes:
      mask: bool [H, W].
    """

    mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Text:
    """Phrases, each of which refers to one object.

    Attributes:
      phrases: one phrase or several.
      min_score: a mask of lower score is left out: probability among all masks for a CLIP,
        predicted IoU for a SAM with text prompts.
    """

    phrases: str | Sequence[str]
    min_score: float = 0.0


@dataclasses.dataclass(frozen=True)
class Classes:
    """Names of classes.

    Without `stuff` the result is semantic: one mask per class. With `stuff` it is panoptic: one
    mask per object of `things` and one per class of `stuff`, without overlaps. With `instances` it
    is one mask per object, named.

    Attributes:
      things: names of countable classes, a list or text with commas.
      stuff: names of uncountable classes, such as sky.
      instances: one mask per object.
      min_score: a name of lower probability is left out.
    """

    things: str | Sequence[str]
    stuff: str | Sequence[str] = ()
    instances: bool = False
    min_score: float = 0.0

    def __post_init__(self) -> None:
        """Parses the names.

        Raises:
          ValueError: no name, one that occurs twice or is both a thing and stuff, or both `stuff`
            and `instances`.
        """
        things = tuple(parse_names(self.things)) if self.things else ()
        stuff = tuple(parse_names(self.stuff)) if self.stuff else ()
        if both := sorted(set(things) & set(stuff)):
            raise ValueError(f"class {both[0]!r} is both a thing and stuff; expected one of them")
        if not things and not stuff:
            raise ValueError("no class is named; expected at least one")
        if stuff and self.instances:
            raise ValueError("instances are objects; classes of stuff have none: leave out stuff")
        object.__setattr__(self, "things", things)
        object.__setattr__(self, "stuff", stuff)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, those of things first."""
        return (*self.things, *self.stuff)


@dataclasses.dataclass(frozen=True)
class Example:
    """Another image with the mask of an object, to be found in this image.

    Attributes:
      image: uint8 [H, W, 3].
      mask: bool [H, W].
      learn: learn from the example whether the object is a whole or a part (PerSAM-F).
    """

    image: np.ndarray
    mask: np.ndarray
    learn: bool = False


@dataclasses.dataclass(frozen=True)
class Everything:
    """All objects.

    Attributes:
      emergent: method that finds them in the features of a network, see `find_emergent_masks`. "":
        a SAM does, from a grid of clicks.
      options: further arguments of `SamAutomaticMaskGenerator` or `find_emergent_masks`.
    """

    emergent: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Nothing:
    """No prompt: the objects of the classes that a detector was trained for.

    Attributes:
      refine: a SAM draws the masks again from the detector's boxes.
    """

    refine: bool = False


Prompt = Points | Box | MaskHint | Text | Classes | Example | Everything | Nothing
