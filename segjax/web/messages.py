"""Messages of the page: prompts as steps, checked before anything is computed."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

_MOST_STEPS = 64
_MOST_POINTS = 64
MAX_BYTES = 64 * 1024  # of a message on the socket


class MessageError(ValueError):
    """A message that the page never sends."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One decoding. Later steps refine the chosen mask of the step before.

    Attributes:
      points: (x, y, label) in pixels of the image, all of the object so far.
      box: x1 y1 x2 y2, or None.
      text: phrase, or None.
      choice: index of the candidate mask that was chosen. None: the most confident one.
    """

    points: tuple[tuple[float, float, int], ...] = ()
    box: tuple[float, ...] | None = None
    text: str | None = None
    choice: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the step as it is stored with an object."""
        points = [list(point) for point in self.points]
        box = None if self.box is None else list(self.box)
        return {"points": points, "box": box, "text": self.text, "choice": self.choice}


@dataclasses.dataclass(frozen=True)
class PromptMessage:
    """A prompt of the page.

    Attributes:
      request: number of the message, which the answer repeats.
      image: id of the image.
      hover: True for a preview under the pointer, which a newer one replaces.
      steps: the decodings, at least one.
    """

    request: int
    image: str
    hover: bool
    steps: tuple[Step, ...]


def parse_message(text: str | bytes) -> PromptMessage:
    """Parses a message of the socket.

    Raises:
      MessageError: anything else than a prompt. The message says what was expected.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise MessageError("the message is no JSON") from None
    if not isinstance(message, Mapping):
        raise MessageError("the message is no JSON object")
    request = message.get("request")
    if type(request) is not int or not 0 <= request < 2**53:
        raise MessageError("request is missing; expected a whole number")
    image = message.get("image")
    if not isinstance(image, str) or len(image) > 64:
        raise MessageError("image is missing; expected the id of an image")
    steps = parse_steps(message.get("steps"))
    return PromptMessage(request, image, message.get("hover") is True, steps)


def parse_steps(steps: Any) -> tuple[Step, ...]:
    """Parses the steps of a prompt.

    Raises:
      MessageError: no step, too many, or a malformed one.
    """
    if not isinstance(steps, list) or not 1 <= len(steps) <= _MOST_STEPS:
        raise MessageError(f"steps are missing; expected a list of 1 to {_MOST_STEPS}")
    return tuple(_parse_step(step) for step in steps)


def _parse_step(step: Any) -> Step:
    if not isinstance(step, Mapping):
        raise MessageError("a step is no object; expected points, box, text and choice")
    points = step.get("points") or []
    if not isinstance(points, list) or len(points) > _MOST_POINTS:
        raise MessageError(f"points are no list of at most {_MOST_POINTS}")
    for point in points:
        if not _is_numbers(point, 3) or point[2] not in (0, 1):
            raise MessageError("a point is not [x, y, label] with label 0 or 1")
    box = step.get("box")
    if box is not None and not _is_numbers(box, 4):
        raise MessageError("a box is not [x1, y1, x2, y2]")
    text = step.get("text")
    if text is not None and (not isinstance(text, str) or not 0 < len(text.strip()) <= 200):
        raise MessageError("a text is not 1 to 200 characters")
    choice = step.get("choice")
    if choice is not None and (type(choice) is not int or not 0 <= choice < 3):
        raise MessageError("choice is not 0, 1 or 2")
    if not points and box is None and text is None:
        raise MessageError("a step has no prompt; expected points, a box or a text")
    points = tuple((float(x), float(y), int(label)) for x, y, label in points)
    return Step(points, None if box is None else tuple(map(float, box)), text, choice)


def _is_numbers(values: Any, count: int) -> bool:
    """Tells whether a value is a list of finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(x) in (int, float) and math.isfinite(x) for x in values)
    )
