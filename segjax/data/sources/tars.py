"""Reading tars that others made: nothing in them is believed beyond the size of the archive."""

import os
import pathlib
import tarfile
from typing import Any, BinaryIO

from segjax.data.sources.raw import UnusableError

# First bytes of compressed files that are often named *.tar
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class TarReader:
    """Open tar. Use it with `with`.

    A broken tar raises nothing. Its members up to the broken part can be read.

    Args:
      path: of the file.

    Attributes:
      members: files in the tar by name, in their order. Names have no leading "./".
      fault: why the tar is not complete, or "".
      detail: the path and the error, if there is a fault.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.members: dict[str, tarfile.TarInfo] = {}
        self.fault = self.detail = ""
        self._file: BinaryIO | None = None
        # tarfile raises its own errors for broken headers, and also ValueError, OverflowError,
        # RecursionError and others. Whatever it is, the tar costs only itself.
        try:
            self._file = path.open("rb")
            self._size = os.fstat(self._file.fileno()).st_size
            self._tar = tarfile.TarFile(fileobj=_Bounded(self._file, self._size))
            self._list_members()
        except Exception as error:
            self.fault = self._name_fault()
            self.detail = f"{path} ({str(error) or type(error).__name__})"

    def __enter__(self) -> "TarReader":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, name: str) -> bytes:
        """Reads a member.

        Raises:
          UnusableError: it is damaged, or its header is not to be believed.
        """
        member, where = self.members[name], f"{self.path}/{name}"
        # A sparse member may claim any size, and images are never sparse.
        if member.issparse():
            raise UnusableError("member of the tar is sparse", f"{where} ({member.size} bytes)")
        if member.offset_data + member.size > self._size:
            raise UnusableError(
                "member of the tar is longer than the tar",
                f"{where} ({member.size} bytes in a tar of {self._size})",
            )
        try:
            return self._tar.extractfile(member).read()
        except Exception as error:
            raise UnusableError("member of the tar cannot be read", f"{where} ({error})") from error

    def _list_members(self) -> None:
        before = -1
        while (member := self._tar.next()) is not None:
            # A negative size would lead back to an earlier member, and so on forever.
            if member.size < 0 or self._tar.offset <= before:
                raise tarfile.ReadError(f"member {member.name!r} has a negative size")
            before = self._tar.offset
            if member.isfile():
                self.members[str(pathlib.PurePosixPath(member.name))] = member
            # A member that claims too much hides all later ones.
            if member.offset_data + (0 if member.issparse() else member.size) > self._size:
                return

    def _name_fault(self) -> str:
        if self._file is None:
            return "tar cannot be opened"
        if self._size == 0:
            return "tar is empty"
        self._file.seek(0)
        start = self._file.read(8)
        for magic, name in _COMPRESSED.items():
            if start.startswith(magic):
                return f"tar is compressed with {name}; decompress it first"
        return "tar is truncated" if self.members else "file is not a tar"


class _Bounded:
    """File whose `read` asks for no more bytes than there are.

    Python takes the memory for all bytes that are asked for before it reads the first one.
    """

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size
        self.seek, self.tell, self.name = file.seek, file.tell, str(file.name)

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size is None or size < 0 else min(size, left))
