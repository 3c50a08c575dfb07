"""Working folder of a preparation, beside the folder that it becomes.

The data is written to .NAME.partial/data beside NAME and renamed at the end. A lock in the working
folder tells whether its process lives. What a killed process has left is removed by the next one.
"""

import logging
import pathlib
import shutil
from typing import Any

from segjax.data.metadata import INFO_FILE
from segjax.locks import LOCK_FILE, FolderInUseError, FolderLock

_LOG = logging.getLogger(__name__)
_DATA, _SPARE, _REPLACED = "data", "spare", "replaced"


class Workspace:
    """Locked working folder. Use it with `with`: at the end, nothing of it is left.

    Args:
      out: folder to make.
      overwrite: replace earlier prepared data at `out`.

    Attributes:
      data: folder to write to. `finish` renames it to `out`.
      spare: folder for data that is needed in between.

    Raises:
      FileExistsError: `out` holds something that must not be replaced, or another process is
        preparing it.
    """

    def __init__(self, out: pathlib.Path, overwrite: bool):
        # "." and ".." have no name of their own.
        out = out if out.name not in ("", "..") else out.resolve()
        if not out.name:
            raise FileExistsError(f"{out} is not a folder that can be made; choose another folder")
        self.out, self.folder = out, out.with_name(f".{out.name}.partial")
        self.data, self.spare = self.folder / _DATA, self.folder / _SPARE
        self._replaced = self.folder / _REPLACED
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = FolderLock(self.folder)
        except FolderInUseError as error:
            raise FileExistsError(f"another process is preparing {out}: {error}") from error
        try:
            self._recover()
            _check_target(out, overwrite)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Workspace":
        return self

    def __exit__(self, *_: Any) -> None:
        # Somebody may have deleted the folder, which `finish` reports.
        for path in self._list_leftovers() if self.folder.is_dir() else []:
            shutil.rmtree(path, ignore_errors=True)
        self._lock.release()
        try:
            self.folder.rmdir()
        # Another process may have taken the lock in the meantime.
        except OSError:
            _LOG.debug("%s is not empty", self.folder)

    def finish(self) -> None:
        """Renames `data` to `out`, and removes the folder that it replaces."""
        self._lock.check()
        if self.out.exists():
            self.out.rename(self._replaced)
        self.data.rename(self.out)

    def _recover(self) -> None:
        """Removes what a killed process has left, and puts back data that it was replacing."""
        if self._replaced.exists() and not self.out.exists():
            self._replaced.rename(self.out)
            _LOG.warning("put back %s, which a preparation was replacing when it ended", self.out)
        leftovers = self._list_leftovers()
        for path in leftovers:
            shutil.rmtree(path)
        if leftovers:
            _LOG.warning("removed the incomplete data of an earlier preparation of %s", self.out)

    def _list_leftovers(self) -> list[pathlib.Path]:
        return [path for path in self.folder.iterdir() if path.name != LOCK_FILE]


def _check_target(out: pathlib.Path, overwrite: bool) -> None:
    """Raises FileExistsError unless `out` may be written."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / INFO_FILE).is_file():
        raise FileExistsError(
            f"{out} exists and is not prepared data, so it is not touched; choose another folder"
        )
    if not overwrite:
        raise FileExistsError(
            f"{out} already holds prepared data; pass overwrite=True (--overwrite) to replace it"
        )
