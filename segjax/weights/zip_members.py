"""Reads members of a zip archive that somebody else made, within bounds of memory."""

import zipfile
from typing import BinaryIO

MAX_DIRECTORY_BYTES = 8 << 20  # room for about 90,000 members
# A deflated member may take a thousand times its size in the archive. Weights hardly shrink.
EXPANSION, ALLOWANCE = 16, 64 << 20


class ZipMembers:
    """Members of a zip archive.

    Example:
      members = ZipMembers(file, size)
      text = members.read("archive/data.pkl")

    Attributes:
      names: names of all members.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        """Reads the archive's directory.

        Args:
          file: of the archive.
          size: of the archive in bytes.

        Raises:
          BadZipFile: no zip archive, or one with two members of the same name.
          ValueError: the directory is too large.
        """
        self._file, self._size = file, size
        # `zipfile` reads the directory at once, whatever size it claims
        bounded = _BoundedFile(file)
        self._archive = zipfile.ZipFile(bounded)
        bounded.limit = size
        self._budget = ALLOWANCE + EXPANSION * size
        infos = self._archive.infolist()
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) != len(infos):
            raise zipfile.BadZipFile("two members of the archive have the same name")
        self.names = self._infos.keys()

    def read(self, name: str) -> bytes:
        """Returns the content of a member, and checks its checksum.

        Raises:
          KeyError: no such member.
          BadZipFile: encrypted, compressed by another method than deflate, or damaged.
          ValueError: the archive would expand beyond bounds.
        """
        info = self._get(name)
        if info.compress_type != zipfile.ZIP_STORED:
            self._budget -= info.file_size
        if self._budget < 0:
            raise ValueError(
                f"its members would expand to more than {EXPANSION} times its {self._size:,} bytes"
            )
        with self._archive.open(info) as stream:
            # Without a length, a member expands to 2 GiB before its size is compared
            content = stream.read(info.file_size + 1)
        if len(content) != info.file_size:
            raise zipfile.BadZipFile(f"member {name!r} has another size than the directory states")
        return content

    def find_stored(self, name: str) -> tuple[int, int] | None:
        """Returns where a member lies in the archive, None if it is compressed.

        Returns:
          The index of its first byte, and its length in bytes.

        Raises:
          KeyError: no such member.
          BadZipFile: encrypted, or damaged.
        """
        info = self._get(name)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        # The local header ends with the lengths of the name and of the extra field
        self._file.seek(info.header_offset)
        header = self._file.read(30)
        if not header.startswith(b"PK\x03\x04") or len(header) < 30:
            raise zipfile.BadZipFile(f"member {name!r} has no header")
        name_length, extra_length = (
            int.from_bytes(header[at : at + 2], "little") for at in (26, 28)
        )
        begin = info.header_offset + 30 + name_length + extra_length
        if begin + info.file_size > self._size:
            raise EOFError(f"member {name!r} reaches beyond the end of the archive")
        return begin, info.file_size

    def _get(self, name: str) -> zipfile.ZipInfo:
        info = self._infos[name]
        if info.flag_bits & 1:
            raise zipfile.BadZipFile(f"member {name!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile(
                f"member {name!r} is compressed by method {info.compress_type}; expected none"
            )
        is_stored = info.compress_type == zipfile.ZIP_STORED
        if info.compress_size > self._size or (is_stored and info.compress_size != info.file_size):
            raise zipfile.BadZipFile(f"member {name!r} states a size that it cannot have")
        return info


class _BoundedFile:
    """File that refuses to read more than `limit` bytes at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.limit = file, MAX_DIRECTORY_BYTES
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        if count > self.limit:
            raise ValueError(f"{count:,} bytes are to be read at once, at most {self.limit:,} can")
        return self._file.read(count)

    def close(self) -> None:
        """Leaves the file open for its owner."""
