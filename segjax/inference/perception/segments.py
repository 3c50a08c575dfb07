"""Result of `segjax.segment`."""

import dataclasses
from collections.abc import Sequence

import numpy as np

KINDS = ("interactive", "everything", "emergent", "instance", "semantic", "panoptic", "referring")


@dataclasses.dataclass(frozen=True)
class Segments:
    """K masks of an image.

    Attributes:
      masks: bool [K, H, W].
      labels: int32 [K], index of each mask's name in `names`. -1 without a name.
      scores: float32 [K]: predicted IoU, probability or contrast, as the kind has it.
      kind: one of `KINDS`.
      names: class names or phrases.
      things: bool [K], False for masks of stuff. None for kinds without stuff.
    """

    masks: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    kind: str
    names: tuple[str, ...] = ()
    things: np.ndarray | None = None

    def __len__(self) -> int:
        """Returns the number of masks."""
        return len(self.masks)

    @property
    def mask_names(self) -> list[str | None]:
        """Name of each mask, None without one."""
        return [self.names[label] if label >= 0 else None for label in self.labels]

    def __repr__(self) -> str:
        """Describes the masks by kind and names."""
        named = [name for name in self.mask_names if name]
        shown = f": {', '.join(named[:8])}{', ...' if len(named) > 8 else ''}" if named else ""
        return f"Segments({len(self)} {self.kind} masks{shown})"


def make_segments(
    masks: Sequence[np.ndarray],
    scores: Sequence[float],
    kind: str,
    hw: tuple[int, int],
    labels: Sequence[int] | None = None,
    names: Sequence[str] = (),
    things: Sequence[bool] | None = None,
) -> Segments:
    """Returns segments of lists that may be empty.

    Args:
      masks: K masks, bool [H, W].
      scores: K scores.
      kind: see `Segments`.
      hw: (H, W).
      labels: K labels. None: no mask has a name.
      names: see `Segments`.
      things: see `Segments`.
    """
    labels = [-1] * len(masks) if labels is None else labels
    return Segments(
        np.array(masks, bool).reshape(-1, *hw),
        np.array(labels, np.int32),
        np.array(scores, np.float32),
        kind,
        tuple(names),
        None if things is None else np.array(things, bool),
    )
