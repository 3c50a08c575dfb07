"""Records that break during training: logged once, counted, and an error if there are many."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import threading

_LOG = logging.getLogger(__name__)
# Records that each process names in its log; files name all of them
_MAX_LOGGED = 10
# This many different records that break one after another are not an accident of single files.
_MAX_IN_A_ROW = 16
# This few broken examples prove nothing about their share.
_TOO_FEW = 20


class BrokenDataError(ValueError):
    """Error for more broken records than a run may skip."""


class BrokenRecords:
    """Log of the broken records of one process, safe to use from its threads.

    It can be pickled. The counts are not copied, because each process judges its own examples.

    Files: each process appends JSON lines to a file of its own in `folder`. A line has `position`
    in the source, `image_id` (null if it could not be read), `reason`, and how many examples this
    process had `seen` and found `broken` by then. A record is named once, even by another process
    or after a restart.

    Args:
      folder: of the files. None writes only to the log.
      process_index: of the host, and part of the file names.
      max_share: largest share of broken examples, repeats included. 0 allows none. Any other
        share is judged from the 21st broken example on.

    Raises:
      ValueError: a share outside 0..1.
    """

    def __init__(self, folder: str | os.PathLike | None, process_index: int, max_share: float):
        if not 0 <= max_share <= 1:
            raise ValueError(
                "max_broken is the share of examples that may be broken, in 0 .. 1, got "
                f"{max_share}"
            )
        self.folder = None if folder is None else pathlib.Path(folder)
        self.process_index, self.max_share = process_index, max_share
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._seen = self._broken = self._logged = 0
        self._row: set[int] = set()
        self._named: set[int] = set()
        self._read_up_to: dict[pathlib.Path, int] = {}

    def __getstate__(self) -> dict:
        return {name: getattr(self, name) for name in ("folder", "process_index", "max_share")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start()

    def count_read(self) -> None:
        """Counts an example that was read without an error."""
        with self._lock:
            self._seen += 1
            self._row.clear()

    def count_broken(self, position: int, image_id: str | None, error: Exception, of: int) -> None:
        """Counts and names an example that raised an error.

        Args:
          position: of the record in the source.
          image_id: of the record, if it could be read.
          error: that was raised.
          of: number of records of the source.

        Raises:
          BrokenDataError: too many records are broken.
        """
        reason = f"{type(error).__name__}: {error}"
        named = f"record {position}" + ("" if image_id is None else f" ({image_id})")
        with self._lock:
            self._seen += 1
            self._broken += 1
            self._row.add(position)
            self._name(position, image_id, named, reason)
            where = "" if self.folder is None else f"; all are named in {self.folder}"
            if len(self._row) >= min(_MAX_IN_A_ROW, of):
                raise BrokenDataError(
                    f"{len(self._row)} records broke one after another, the last was {named}: "
                    f"{reason}{where}"
                ) from error
            tolerated = _TOO_FEW if self.max_share else 0
            if self._broken > tolerated and self._broken > self.max_share * self._seen:
                raise BrokenDataError(
                    f"{self._broken} of {self._seen} examples are broken, a larger share than "
                    f"config.data.max_broken = {self.max_share:g} allows; the last was {named}: "
                    f"{reason}{where}. Fix them or allow more"
                ) from error

    def _name(self, position: int, image_id: str | None, named: str, reason: str) -> None:
        """Names a broken record in the file and in the log, unless it has been named."""
        if position in self._named:
            return
        if self.folder is not None:
            self._read_new_lines()
            if position in self._named:
                return
            line = dict(
                position=position,
                image_id=image_id,
                reason=reason,
                broken=self._broken,
                seen=self._seen,
            )
            path = self.folder / f"{self.process_index}-{os.getpid()}.jsonl"
            self.folder.mkdir(parents=True, exist_ok=True)
            # One unbuffered write per line, so that readers see complete lines
            with path.open("ab", buffering=0) as file:
                file.write(json.dumps(line).encode() + b"\n")
        self._named.add(position)
        self._logged += 1
        if self._logged <= _MAX_LOGGED:
            _LOG.warning("%s is broken and gets weight 0: %s", named, reason)
        if self._logged == _MAX_LOGGED and self.folder is not None:
            _LOG.warning("further broken records are named only in %s", self.folder)

    def _read_new_lines(self) -> None:
        """Reads the records that files of the folder named since the last call."""
        for path in self.folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read_up_to.get(path, 0))
                new = file.read()
            complete = new[: new.rfind(b"\n") + 1]
            self._read_up_to[path] = self._read_up_to.get(path, 0) + len(complete)
            for line in complete.splitlines():
                self._note_line(line, path)

    def _note_line(self, line: bytes, path: pathlib.Path) -> None:
        """Notes the record that a line names. A damaged line names none, and ends no run."""
        try:
            position = json.loads(line)["position"]
            if not isinstance(position, int):
                raise TypeError(f"position is {type(position).__name__}")
        except (ValueError, KeyError, TypeError, RecursionError):
            _LOG.warning("a line of %s is damaged; its record may be named twice", path)
        else:
            self._named.add(position)
