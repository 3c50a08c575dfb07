"""Checksums of the files in a folder, written when it is complete and verified before it is read.

`checksums.json` in the folder has the size of each file and a CRC-32 per 64 MiB of it. CRC-32
detects every change within 32 neighboring bits, so every flipped bit, and all but one in 4e9 of
other changes. It protects against faults of disks and copies, not against people who want to
deceive.
"""

import concurrent.futures
import itertools
import json
import os
import pathlib
import stat
import zlib
from collections.abc import Iterator

from segjax.files import write_atomic

CHECKSUMS_FILE = "checksums.json"
_PIECE = 2**26  # bytes under one checksum, so that several threads share a large file
_BUFFER = 2**18  # bytes that stay in the processor's cache between reading and summing


def write_checksums(folder: str | os.PathLike) -> None:
    """Writes the checksums of all files in a folder, which must not change any more."""
    folder = pathlib.Path(folder)
    sizes = {name: (folder / name).stat().st_size for name in list_files(folder)}
    pieces = [(name, start) for name, size in sizes.items() for start in range(0, size, _PIECE)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sums = pool.map(lambda piece: compute_checksum(folder / piece[0], piece[1]), pieces)
        files = {name: {"size": size, "crc32": []} for name, size in sizes.items()}
        for (name, _), checksum in zip(pieces, sums, strict=True):
            files[name]["crc32"].append(checksum)
    write_atomic(folder / CHECKSUMS_FILE, _render(files))


def find_damage(
    folder: str | os.PathLike, *, under: str = "", skip: str = "", share: tuple[int, int] = (0, 1)
) -> str:
    """Compares the files of a folder with its checksums and describes the first difference.

    Args:
      folder: Folder with a file of checksums.
      under: Subfolder to verify alone. "": everything.
      skip: Subfolder whose files are only counted and measured, not read. "": none.
      share: (index, count) of the process, if several processes divide the bytes among themselves.

    Returns:
      A clause such as "state/d/1f has changed since it was saved", or "" if nothing differs.
    """
    folder = pathlib.Path(folder)
    try:
        files = _parse((folder / CHECKSUMS_FILE).read_bytes())
        found = {name for name in list_files(folder) if _is_under(name, under)}
        expected = {name: entry for name, entry in files.items() if _is_under(name, under)}
        if missing := sorted(expected.keys() - found):
            return f"{missing[0]} is missing"
        if added := sorted(found - expected.keys()):
            return f"{added[0]} was not there when it was saved"
        for name, entry in expected.items():
            status = (folder / name).stat()
            if not stat.S_ISREG(status.st_mode):
                return f"{name} is no regular file"
            if status.st_size != entry["size"]:
                return f"{name} has {status.st_size} bytes instead of {entry['size']}"
        read = {n: e for n, e in expected.items() if not skip or not _is_under(n, skip)}
        return _find_changed_file(folder, read, share)
    except OSError as error:
        name = pathlib.Path(error.filename).name if error.filename else "a file"
        return f"{name} cannot be read ({error.strerror or error})"
    except ValueError as error:
        return str(error)


def list_files(folder: pathlib.Path) -> Iterator[str]:
    """Yields the paths of all files in a folder, relative to it, with "/" between the parts.

    Skips the file of checksums, and names that begin with a dot: file systems and desktops add
    such files on their own.
    """
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = pathlib.Path(parent).relative_to(folder)
        for name in names:
            path = (inside / name).as_posix()
            if not name.startswith(".") and path != CHECKSUMS_FILE:
                yield path


def compute_checksum(path: pathlib.Path, start: int = 0, size: int = _PIECE) -> str:
    """Returns the CRC-32 of a part of a file as 8 hexadecimal digits.

    Args:
      path: The file.
      start: First byte.
      size: Number of bytes. The part may end earlier, with the file.
    """
    checksum, buffer = 0, memoryview(bytearray(min(_BUFFER, size)))
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while size > 0 and (count := file.readinto(buffer[: min(len(buffer), size)])):
            checksum = zlib.crc32(buffer[:count], checksum)
            size -= count
    return f"{checksum:08x}"


def _find_changed_file(folder: pathlib.Path, files: dict, share: tuple[int, int]) -> str:
    """Returns a clause about the first file with another checksum, or ""."""
    pieces = [
        (name, index * _PIECE, checksum)
        for name, entry in files.items()
        for index, checksum in enumerate(entry["crc32"])
    ]
    pieces = list(itertools.islice(pieces, share[0], None, share[1]))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sums = pool.map(lambda piece: compute_checksum(folder / piece[0], piece[1]), pieces)
        for (name, _, checksum), found in zip(pieces, sums, strict=True):
            if found != checksum:
                pool.shutdown(wait=False, cancel_futures=True)
                return f"{name} has changed since it was saved"
    return ""


def _is_under(name: str, folder: str) -> bool:
    return not folder or name.startswith(f"{folder}/")


def _render(files: dict) -> bytes:
    """Returns the content of the file of checksums. Its own checksum covers the entries."""
    entries = json.dumps(files, sort_keys=True, indent=1)
    own = zlib.crc32(entries.encode())
    return f'{{"crc32": "{own:08x}", "files": {entries}}}\n'.encode()


def _parse(content: bytes) -> dict:
    """Returns the entries of a file of checksums.

    Raises:
      ValueError: The content differs from the one that `_render` writes for its entries.
    """
    damaged = ValueError(f"{CHECKSUMS_FILE} has changed since it was saved")
    try:
        files = json.loads(content)["files"]
        if _render(files) == content:
            return files
    except (ValueError, TypeError, KeyError, RecursionError):
        raise damaged from None
    raise damaged
