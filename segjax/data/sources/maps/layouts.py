"""Finding images and their label maps in a folder.

Maps lie in labels/ or masks/ beside images/, under the name of the image, perhaps with one of
`MAP_ENDINGS`. Or images and maps share one folder, and the ending tells them apart, as in Cellpose.
"""

import pathlib
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from segjax.data.sources.annotations.find_images import normalize_name
from segjax.data.sources.raw import SkipCounts, UnusableError
from segjax.data.sources.read_files import list_images

MAP_FOLDERS = ("labels", "masks")
MAP_ENDINGS = ("_masks", "_mask", "_labels", "_label")
# Endings of images whose maps have another ending instead, as in 007_img.png, 007_masks.png
IMAGE_ENDINGS = ("_img", "_image")


class MapFolder(NamedTuple):
    """Folder of images and folder of their label maps, which may be the same.

    Attributes:
      images: folder of the images.
      maps: folder of the label maps.
    """

    images: pathlib.Path
    maps: pathlib.Path

    @property
    def is_shared(self) -> bool:
        """True if images and maps lie in one folder."""
        return self.images == self.maps


def find_map_folder(folder: pathlib.Path) -> MapFolder | None:
    """Returns where the images and label maps of a split are, or None if there are none."""
    images = folder / "images"
    for name in MAP_FOLDERS:
        if images.is_dir() and (folder / name).is_dir():
            return MapFolder(images, folder / name)
    for shared in (images, folder):
        if shared.is_dir() and _list_shared_images(shared):
            return MapFolder(shared, shared)
    return None


def list_map_images(where: MapFolder) -> list[pathlib.Path]:
    """Lists the images of a split, sorted by name."""
    return _list_shared_images(where.images) if where.is_shared else list_images(where.images)


class MapFinder:
    """Finder of the label maps of a split.

    Args:
      where: folders of the split.
    """

    def __init__(self, where: MapFolder):
        self._where = where
        self._maps: Mapping[str, list[pathlib.Path]] = _index_by_stem(where.maps)
        self._used: set[pathlib.Path] = set()

    def find(self, image: pathlib.Path) -> pathlib.Path:
        """Returns the label map of an image.

        Raises:
          UnusableError: there is none, or several.
        """
        stems = _list_map_stems(image.stem)
        if self._where.is_shared:
            stems.remove(image.stem)
        found = [path for stem in stems for path in self._maps.get(normalize_name(stem), ())]
        if not found:
            expected = self._where.maps / f"{stems[0]}.png"
            raise UnusableError("label map is missing", f"{expected}, of {image}")
        self._used.update(found)
        if len(found) > 1:
            detail = f"{found[0]} and {found[1].name}"
            raise UnusableError("several label maps have the name of the image", detail)
        return found[0]

    def report_unused(self, counts: SkipCounts) -> None:
        """Warns about label maps that belong to no image."""
        for paths in () if self._where.is_shared else self._maps.values():
            for path in paths:
                if path not in self._used:
                    counts.add_warning("label map belongs to no image", str(path))


def _list_map_stems(stem: str) -> list[str]:
    """Lists the names without suffix that the label map of an image may have."""
    stems = [stem, *(stem + ending for ending in MAP_ENDINGS)]
    for ending in IMAGE_ENDINGS:
        if stem.endswith(ending):
            stems += [stem.removesuffix(ending) + each for each in MAP_ENDINGS]
    return stems


def _list_shared_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the images of a folder that holds their label maps too, empty if it holds none."""
    paths = list_images(folder)
    stems = {normalize_name(path.stem): path for path in paths}
    maps = set()
    for path in paths:
        for stem in _list_map_stems(path.stem)[1:]:
            if (other := stems.get(normalize_name(stem))) is not None:
                maps.add(other)
    return [path for path in paths if path not in maps] if maps else []


def _index_by_stem(folder: pathlib.Path) -> Mapping[str, list[pathlib.Path]]:
    index: defaultdict[str, list[pathlib.Path]] = defaultdict(list)
    for path in list_images(folder):
        index[normalize_name(path.stem)].append(path)
    return index
