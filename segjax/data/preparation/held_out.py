"""Holding images out of a single split, to evaluate on."""

import zlib
from collections.abc import Callable, Iterator, Sequence

from segjax.data.records import Record

NAMES = ("train", "val")


def check_single_split(splits: Sequence[str], where: object) -> None:
    """Raises ValueError unless there is exactly one split to divide."""
    if len(splits) != 1:
        raise ValueError(
            f"{where} has the splits {', '.join(splits)}, and held_out divides a single one; "
            f"choose it (--splits {splits[0]}), or leave held_out out"
        )


def choose_held_out(image_ids: Sequence[str], share: float, where: object) -> dict[str, list[int]]:
    """Divides images into "train" and "val" by the CRC-32 of their ids.

    The images with the smallest values are held out. The choice is therefore the same on every
    machine and in every run, and mostly the same after images are added.

    Args:
      image_ids: of the usable images.
      share: of the images to hold out, in 0 .. 1. At least one image, and not all.
      where: name of the data in error messages.

    Returns:
      The indices of each split, in increasing order.

    Raises:
      ValueError: there are fewer than two images.
    """
    if len(image_ids) < 2:
        raise ValueError(
            f"{where} has {len(image_ids)} usable image, and held_out needs at least 2; leave "
            "held_out out to use it for training"
        )
    order = sorted(range(len(image_ids)), key=lambda i: zlib.crc32(image_ids[i].encode()))
    count = min(max(1, round(share * len(image_ids))), len(image_ids) - 1)
    return {"train": sorted(order[count:]), "val": sorted(order[:count])}


def read_parts(
    source: Sequence[Record], parts: dict[str, list[int]]
) -> dict[str, Callable[[], Iterator[Record]]]:
    """Returns a function per split that yields its records of a source."""
    return {
        name: lambda indices=indices: (source[index] for index in indices)
        for name, indices in parts.items()
    }
