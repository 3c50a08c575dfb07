"""Records that cannot be read while a run trains: named once, counted, and an end to the run when they are many."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import threading

_LOG = logging.getLogger(__name__)
_LOGGED = 10  # records that each process names in its log; a file names all
_IN_A_ROW = (
    16  # so many different records breaking one after another is no accident of single files
)
_TOO_FEW = 20  # broken examples that prove nothing about a share


class BrokenDataError(ValueError):
    """More of the records are broken than a run may pass over."""


class BrokenRecords:
    """One process's account of the records that broke, safe for its threads.

    It pickles; what it has counted stays behind, for each process judges what it has seen itself.

    Args:
      folder: each process appends lines of JSON to a file of its own there: `position` in the source, `image_id` or
        null where not even that could be read, `reason`, and how many examples this process had `seen` by then and
        found `broken`. A record that any file of the folder names, of another process or an earlier start of the run,
        is not named again. None: there is only the log.
      process_index: of the host; part of the files' names.
      max_share: of the examples, repeats included, that may be broken. Above 0 it is judged from 21 broken ones on.

    Raises:
      ValueError: a share outside 0..1.
    """

    def __init__(self, folder: str | os.PathLike | None, process_index: int, max_share: float):
        if not 0 <= max_share <= 1:
            raise ValueError(
                f"max_broken is the share of examples that may be broken, in 0 .. 1, got {max_share}"
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
        """Counts an example that was read."""
        with self._lock:
            self._seen += 1
            self._row.clear()

    def count_broken(self, position: int, image_id: str | None, error: Exception, of: int) -> None:
        """Counts and names an example of a source of `of` records that raised `error`.

        Raises BrokenDataError when that is one too many.
        """
        reason = f"{type(error).__name__}: {error}"
        named = f"record {position}" + ("" if image_id is None else f" ({image_id})")
        with self._lock:
            self._seen += 1
            self._broken += 1
            self._row.add(position)
            self._name(position, image_id, named, reason)
            where = "" if self.folder is None else f"; all are named in {self.folder}"
            if len(self._row) >= min(_IN_A_ROW, of):
                raise BrokenDataError(
                    f"{len(self._row)} records broke one after another, the last was {named}: {reason}{where}"
                ) from error
            if (
                self._broken > (_TOO_FEW if self.max_share else 0)
                and self._broken > self.max_share * self._seen
            ):
                raise BrokenDataError(
                    f"{self._broken} of {self._seen} examples are broken, a larger share than config.data.max_broken = "
                    f"{self.max_share:g} allows; the last was {named}: {reason}{where}. Mend them or allow more"
                ) from error

    def _name(self, position: int, image_id: str | None, named: str, reason: str) -> None:
        if position in self._named:
            return
        if self.folder is not None:
            self._catch_up()
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
            with path.open("ab", buffering=0) as file:  # one write a line: readers see whole ones
                file.write(json.dumps(line).encode() + b"\n")
        self._named.add(position)
        self._logged += 1
        if self._logged <= _LOGGED:
            _LOG.warning("%s is broken and counts for nothing: %s", named, reason)
        if self._logged == _LOGGED and self.folder is not None:
            _LOG.warning("further broken records are named in %s alone", self.folder)

    def _catch_up(self) -> None:
        """Learns what files of the folder have named since it last looked."""
        for path in self.folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read_up_to.get(path, 0))
                news = file.read()
            complete = news[: news.rfind(b"\n") + 1]
            self._read_up_to[path] = self._read_up_to.get(path, 0) + len(complete)
            self._named.update(json.loads(line)["position"] for line in complete.splitlines())
