"""Refuses training data without a single object that the task can learn.

Such a run would reach its last step with a loss of 0. The records are checked before training, and
the first examples during it, because augmentation can remove what the records hold.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data.mixture import MixedRecords

# Examples without an object after which training stops: two epochs, but not fewer than the first
# number, since augmentation is random, and not more than the second. Even if one image in 200
# shows an object, 4096 without one come once in 10**9 runs.
_PATIENCE = (64, 4096)


class NoUsableObjectError(ValueError):
    """Error for training data in which no object can be learned."""


def check_records(
    source: Sequence[Mapping[str, Any]],
    judge: Callable[[Mapping[str, Any]], list[str]],
    data: Mapping[str, Any],
) -> None:
    """Reads records until one has a usable object, which is nearly always the first.

    Args:
      source: records, see `segjax.data.records`. Of a mixture, each source is checked.
      judge: returns for each object of a record the reason why it cannot be used, "" if it can.
      data: `config.data`, which names the data in the error message.

    Raises:
      NoUsableObjectError: no object of any record can be used. The message counts the reasons.
    """
    if isinstance(source, MixedRecords):
        for part, entry in zip(source.parts, source.entries, strict=True):
            check_records(part, judge, entry.replace_in(data))
        return
    reasons: Counter[str] = Counter()
    images = 0
    for index in range(len(source)):
        try:
            found = judge(source[index])
        except Exception:  # the loader reports and counts broken records
            continue
        if "" in found:
            return
        reasons.update(found)
        images += 1
    if images:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise NoUsableObjectError(
            f"no object of split {data['train_split']!r} of {data['source']} can be trained on: "
            f"{images} images with {counts or 'no objects at all'}"
        )


def judge_flags(record: Mapping[str, Any], *, needs_mask: bool) -> list[str]:
    """Returns the reason why each object of a record cannot be used, "" if it can.

    Args:
      record: see `segjax.data.records`.
      needs_mask: objects that have a box alone cannot be used.
    """
    objects = record["objects"]
    crowds = np.asarray(objects["crowd"], bool)
    lone = np.asarray(objects.get("box_only", np.zeros(len(crowds))), bool) & needs_mask
    return [
        "crowds (iscrowd is 1)" if crowd else "with a box and no mask" if box else ""
        for crowd, box in zip(crowds, lone, strict=True)
    ]


class CheckedBatches(Iterator):
    """Iterator of training batches that stops if the first ones hold no object.

    Args:
      batches: iterator of batches with a method `close`.
      records: number of records of the training data.
      reason: end of the error message, which names the settings.
    """

    def __init__(self, batches: Iterator[dict[str, np.ndarray]], records: int, reason: str):
        self._batches, self._reason = batches, reason
        self._most = min(max(_PATIENCE[0], 2 * records), _PATIENCE[1])
        self._seen, self._found = 0, False

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._batches)
        if not self._found:
            self._check(batch)
        return batch

    def _check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raises NoUsableObjectError if this batch and all before it hold no object."""
        usable = batch["valid"] & (batch["weight"] > 0)[:, None]
        if "crowd" in batch:
            usable &= ~batch["crowd"]
        self._found = bool(usable.any())
        self._seen += len(usable)
        if not self._found and self._seen >= self._most:
            raise NoUsableObjectError(
                f"the first {self._seen} training examples hold no object to learn: {self._reason}"
            )

    def close(self) -> None:
        """Stops the workers of the batches."""
        self._batches.close()

    def __enter__(self) -> "CheckedBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
