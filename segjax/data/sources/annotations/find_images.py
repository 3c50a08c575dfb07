"""Finding the image that an annotation file names, on another machine than the one that wrote it.

A name is tried as it is first. If no such file exists, a unique file of the same name is used, even
if the name has backslashes, another composition of accents, percent escapes, another case, or
folders that exist only elsewhere.
"""

import os
import pathlib
import re
import unicodedata
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from segjax.data.sources.annotations.values import describe
from segjax.data.sources.raw import SkipCounts, UnusableError, join_inside

# An exact file name decides between files that differ in case alone.
_EXACT = 0.5


class ImageFinder:
    """Finder of the image files of a raw folder.

    The folder is listed once, when the first image is not where its name says.

    Args:
      folders: in which names are looked up, the first one that has the file wins.
      root: folder that is searched for files of the same name, with all folders inside.
      outside: True allows names that lead out of `root`.
    """

    def __init__(
        self, folders: Sequence[pathlib.Path], root: pathlib.Path, *, outside: bool = False
    ):
        self.folders, self.root, self.outside = tuple(folders), root, outside
        self._by_name: dict[str, list[pathlib.Path]] | None = None

    def find(self, names: Sequence[Any], counts: SkipCounts) -> pathlib.Path:
        """Finds an image by one of its names.

        Args:
          names: file names, perhaps with folders, the most trusted one first.
          counts: counts the images that were found under another name.

        Raises:
          UnusableError: the file is missing, or several files have its name. The message lists
            the folders that were searched.
        """
        problem = None
        for name in names:
            for folder in self.folders:
                try:
                    path = join_inside(folder, name, self.outside, root=self.root)
                except UnusableError as error:
                    problem = problem or error
                    continue
                if _is_file(path):
                    return path
        for name in names:
            if isinstance(name, str) and (path := self._find_by_name(name)) is not None:
                where = f"{describe(name)} is {str(path.relative_to(self.root))!r} in {self.root}"
                counts.add_change("image found by its name elsewhere", where)
                return path
        if problem is not None:
            raise problem
        searched = ", ".join(str(folder) for folder in dict.fromkeys(self.folders))
        raise UnusableError("image file is missing", f"{describe(names[0])} in {searched}")

    def _find_by_name(self, name: str) -> pathlib.Path | None:
        """Returns the file that agrees with most of a name, from its end. None if there is none.

        Raises:
          UnusableError: several files agree equally.
        """
        if self._by_name is None:
            self._by_name = _list_files(self.root)
        # What follows the path of a URL is no part of the name.
        name_only = re.split(r"[?#]", name)[0] if "://" in name else name
        wanted = name_only.replace("\\", "/").split("/")
        candidates = self._by_name.get(normalize_name(wanted[-1]), [])
        ranked: dict[float, list[pathlib.Path]] = {}
        for path in candidates:
            parts = path.relative_to(self.root).parts
            rank = _count_equal_ends(parts, wanted) + _EXACT * (parts[-1] == wanted[-1])
            ranked.setdefault(rank, []).append(path)
        if not ranked:
            return None
        best = ranked[max(ranked)]
        if len(best) > 1:
            detail = f"{describe(name)} is {str(best[0])!r} or {str(best[1])!r}"
            raise UnusableError("several files have the name of the image", detail)
        return best[0]


def normalize_name(name: str) -> str:
    """Returns a name without differences of case, accents' composition, escapes and spaces."""
    return unicodedata.normalize("NFC", urllib.parse.unquote(name)).strip().casefold()


def _count_equal_ends(parts: Sequence[str], wanted: Sequence[str]) -> int:
    """Counts the parts of two paths that agree, from the end."""
    count = 0
    for one, other in zip(reversed(parts), reversed(wanted), strict=False):
        if normalize_name(one) != normalize_name(other):
            break
        count += 1
    return count


def _list_files(root: pathlib.Path) -> Mapping[str, list[pathlib.Path]]:
    """Maps normalized names to the files under a folder. Links to folders are not followed."""
    found: dict[str, list[pathlib.Path]] = {}
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            found.setdefault(normalize_name(name), []).append(pathlib.Path(folder, name))
    return found


def _is_file(path: pathlib.Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have, such as one of 5,000 letters
        return False
