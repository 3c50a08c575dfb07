"""Shards of a set of images: which images belong to which output file, whoever computes it."""

import dataclasses
import pathlib
from collections.abc import Sequence

from segjax.engine.images import SUFFIXES


@dataclasses.dataclass(frozen=True)
class Shard:
    """Images whose masks go into one file.

    Attributes:
      index: of the shard.
      first: index of its first image among all.
      files: paths of the images, relative to the folder.
    """

    index: int
    first: int
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the output file without suffix. It depends on the index alone."""
        return f"sa_{self.index:06d}"


def list_shards(
    folder: pathlib.Path, size: int, manifest: pathlib.Path | None = None
) -> list[Shard]:
    """Splits the images of a folder into shards.

    Args:
      folder: folder of the images, with all folders inside.
      size: images per shard.
      manifest: text file with one path per line, relative to the folder. None: all image files,
        sorted by their path.

    Raises:
      ValueError: no image, a size below 1, or a path that occurs twice or leads out of the folder.
    """
    if size < 1:
        raise ValueError(f"{size} images per shard; expected at least 1")
    if manifest is None:
        files = sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
    else:
        files = [line.strip() for line in manifest.read_text().splitlines() if line.strip()]
        _check_manifest(files, manifest)
    if not files:
        raise ValueError(f"{manifest or folder} has no images; expected {', '.join(SUFFIXES)}")
    starts = range(0, len(files), size)
    return [Shard(i, at, tuple(files[at : at + size])) for i, at in enumerate(starts)]


def _check_manifest(files: Sequence[str], manifest: pathlib.Path) -> None:
    """Raises ValueError for paths that occur twice or lead out of the folder."""
    seen: set[str] = set()
    for file in files:
        if file in seen:
            raise ValueError(f"{manifest} lists {file} twice; expected each image once")
        if pathlib.PurePosixPath(file).is_absolute() or ".." in pathlib.PurePosixPath(file).parts:
            raise ValueError(f"{manifest} lists {file}, which leads out of the folder")
        seen.add(file)


def order_shards(shards: Sequence[Shard], shard: int, processes: int, steal: bool) -> list[Shard]:
    """Returns the shards that a process works on, in its order.

    Args:
      shards: all of them.
      shard: index of the process, 0 .. processes - 1.
      processes: number of processes.
      steal: append the other processes' shards, those of the next process first, so that a fast
        process helps a slow one.

    Raises:
      ValueError: an index outside of the range.
    """
    if not 0 <= shard < processes:
        raise ValueError(f"shard {shard}/{processes}; expected an index from 0 to {processes - 1}")
    of = lambda owner: [one for one in shards if one.index % processes == owner]
    others = [(shard + step) % processes for step in range(1, processes)] if steal else []
    return [one for owner in (shard, *others) for one in of(owner)]
