"""Mutators of binary formats, which keep lengths and checksums valid: only so are the readers
behind these checks reached.

A mutator here is called as mutate(rng, data, tokens, mutate_part). `mutate_part(rng, path, data,
tokens)` changes a part that has a format of its own.
"""

import functools
import io
import pickletools
import struct
import tarfile
import zipfile
import zlib

PNG = b"\x89PNG\r\n\x1a\n"
SIZES = (0, 1, 2, 255, 256, 13_000, 40_000, 65_535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)


class Unparsable(Exception):
    """Error for data that are not of the format."""


# PNG: chunks of length, kind, data and CRC


def mutate_png(rng, data, tokens, mutate_part):
    """Changes, removes, repeats or inserts a chunk. All CRCs are valid."""
    chunks = list(_split_png(data))
    index, change = rng.randrange(len(chunks)), rng.choice((*range(7), *range(7), *range(7), 7))
    kind, body = chunks[index]
    if change <= 2:
        chunks[index] = kind, mutate_part(rng, "", body, tokens)
    elif change <= 4:
        width, height = rng.choice(SIZES), rng.choice(SIZES)
        chunks[0] = b"IHDR", struct.pack(">II", width, height) + chunks[0][1][8:]
    elif change == 5:
        kinds = (b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"IEND")
        chunks.insert(index, (rng.choice(kinds), body))
    elif change == 6:
        chunks[index : index + 1] = [chunks[index]] * rng.choice((0, 2, 100))
    else:
        # Megapixels in a few kilobytes, at times with an end that is missing. Decoding takes up to
        # 60 ns per pixel, so larger ones would only show that large images take long.
        depth, color = rng.choice(((8, 0), (8, 2), (16, 0), (8, 3), (8, 6), (16, 2)))
        side = rng.choice((3_000, 13_000 if depth == 8 else 9_000))
        header = struct.pack(">IIBBBBB", side, side, depth, color, 0, 0, 0)
        palette = [(b"PLTE", bytes(range(9)))] if color == 3 else []
        pixels = side * side * (depth // 8) * {0: 1, 2: 3, 3: 1, 6: 4}[color] + side
        content = _compress_zeros(pixels if rng.random() < 0.7 else pixels // 3)
        chunks = [(b"IHDR", header), *palette, (b"IDAT", content), (b"IEND", b"")]
    return PNG + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _split_png(data):
    at = len(PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


@functools.lru_cache(maxsize=8)
def _compress_zeros(count):
    packer, part = zlib.compressobj(1), bytes(1 << 20)
    whole = b"".join(packer.compress(part) for _ in range(count >> 20))
    return whole + packer.compress(bytes(count % (1 << 20))) + packer.flush()


# TIFF: a directory of entries of tag, type, count and value


def mutate_tiff(rng, data, tokens, mutate_part):
    """Changes fields of one to three entries of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    content = bytearray(data)
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    if at + 2 > len(data):
        raise Unparsable
    (count,) = struct.unpack_from(f"{order}H", data, at)
    for _ in range(rng.choice((1, 1, 2, 3))):
        entry = at + 2 + 12 * rng.randrange(max(count, 1))
        if entry + 12 > len(content):
            raise Unparsable
        field, offset = rng.choice((("H", 0), ("H", 2), ("I", 4), ("I", 8), ("I", 8), ("H", 8)))
        value = rng.choice((*SIZES, 3, 4, 5, 8, 16, 32, 64, 32773, 50000, len(data), at))
        bits = 16 if field == "H" else 32
        struct.pack_into(order + field, content, entry + offset, value % 2**bits)
    return bytes(content)


# JPEG: segments of marker, length and data


def mutate_jpeg(rng, data, tokens, mutate_part):
    """Changes, removes or repeats a segment before the pixels."""
    segments, at = [], 2
    while data[at : at + 1] == b"\xff" and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4])
        segments.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    if not segments:
        raise Unparsable
    index = rng.randrange(len(segments))
    marker, body = segments[index]
    change = rng.randrange(4)
    if change <= 1:
        segments[index] = marker, mutate_part(rng, "", body, tokens)[:65_000]
    elif change == 2:
        segments[index] = rng.choice((0xC0, 0xC2, 0xC4, 0xDB, 0xE1, 0xE2, 0xEE, 0xFE)), body
    else:
        segments[index : index + 1] = [segments[index]] * rng.choice((0, 2, 20))
    head = b"".join(
        bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2) + body for marker, body in segments
    )
    return data[:2] + head + data[at:]


# Tar: headers of 512 bytes with a checksum

# Field -> offset, length, and odd values of it
_NAMES = (b"/etc/x.jpg", b"../../x.jpg", b"a/../x.json", b"", b"\xff\xfe")
_SIZES = (b"77777777777\0", b"\x80" + bytes(3) + b"\1" + bytes(7), b"0" * 12, b"-1", b"x" * 12)
_TAR_FIELDS = (
    (0, 100, _NAMES),
    (124, 12, _SIZES),
    (156, 1, (b"S", b"1", b"2", b"5", b"x", b"L", b"g", b"K", b"\0")),
    (157, 100, _NAMES),
)


def mutate_tar(rng, data, tokens, mutate_part):
    """Changes a member, or a field of a header whose checksum stays valid."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
        offsets = [member.offset for member in tar]
    if rng.random() < 0.4:
        index = rng.randrange(len(members))
        members[index] = members[index][0], mutate_part(rng, *members[index], tokens)
        return write_tar(members)
    content, at = bytearray(data), rng.choice(offsets)
    start, size, values = rng.choice(_TAR_FIELDS)
    content[at + start : at + start + size] = rng.choice(values).ljust(size, b"\0")
    # An old sparse file states its real size apart.
    if content[at + 156 : at + 157] == b"S":
        content[at + 386 : at + 398] = b"00000000000\0"
        content[at + 398 : at + 410] = content[at + 124 : at + 136]
        content[at + 483 : at + 495] = b"30000000000\0"
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    return bytes(content)


def write_tar(members):
    """Returns a tar of (name, data) members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


# Zip


def mutate_zip(rng, data, tokens, mutate_part):
    """Changes, renames, repeats, packs or inflates a member. CRCs are valid."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    index, change = rng.randrange(len(members)), rng.randrange(8)
    name, body = members[index]
    packed = zipfile.ZIP_STORED
    if change <= 4:
        # The pickle says what the others mean.
        pickles = [i for i, (name, _) in enumerate(members) if name.endswith(".pkl")]
        index = rng.choice([index, *pickles * 3])
        members[index] = members[index][0], mutate_part(rng, *members[index], tokens)
    elif change == 5:
        members[index] = rng.choice((*tokens, "../escaped", "x/data.pkl")), body
    elif change == 6:
        members[index : index + 1] = [members[index]] * rng.choice((0, 2))
    else:
        members[index], packed = (name, bytes(rng.choice((1 << 10, 1 << 26)))), zipfile.ZIP_DEFLATED
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packed) as archive:
        for name, body in members:
            archive.writestr(zipfile.ZipInfo(name), body, packed)
    content = bytearray(out.getvalue())
    # Encrypted, or another method of compression
    if rng.random() < 0.1 and (at := content.find(b"PK\x01\x02")) >= 0:
        content[at + rng.choice((8, 10))] = rng.choice((1, 8, 9, 12, 14, 93))
    return bytes(content)


# Pickle: a program of opcodes

_SNIPPETS = (
    b"r\xff\xff\xff\x3f",  # store in slot 2**30 of the memo
    b"r\x00\x00\x00\x04",
    b"j\xff\xff\xff\x0f",
    b"h\x00",
    b"q\x00",
    b"\x94",  # memoize
    b"\x8e\x00\x00\x00\x00\x01\x00\x00\x00",  # bytes of 4 GiB
    b"\x8d\x00\x00\x00\x00\x01\x00\x00\x00",
    b"\x96\x00\x00\x00\x00\x01\x00\x00\x00",
    b"\x8b\x00\x00\x00\x10",  # an integer of 256 MiB
    b"\x95\x00\x00\x00\x00\x01\x00\x00\x00",  # a frame of 4 GiB
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"cfuzz_canary\nrun\n",
    b"\x8c\x0cfuzz_canary\x8c\x03run\x93",
    b"\x82\x01",  # an extension
    b"Q",
    b"P0\n",
    *(
        b"R",
        b"b",
        b"\x81",
        b"\x92",
        b"o",
        b"0",
        b"1",
        b"2",
        b"(",
        b"t",
        b"l",
        b"d",
        b"}",
        b"]",
        b".",
    ),
    *(b"a", b"e", b"s", b"u", b"\x8f", b"\x90", b"\x91", b"\x97", b"\x98", b"N", b"\x88", b"K\x01"),
    b"\x85" * 100_000,  # tuples in tuples
    b"]" * 50_000 + b"a" * 49_999,
    b"]" + b"2a" * 2,  # a list in itself
    b"".join(b"](" + b"h\x00" * 20 + b"eq\x00" for _ in range(8)),  # a billion laughs
    b"I" + b"9" * 5_000 + b"\n",
    b"L" + b"9" * 100_000 + b"L\n",
    b"F1e400\n",
    b"I-1\n",
)


def mutate_pickle(rng, data, tokens, mutate_part):
    """Removes, repeats or inserts opcodes of one of the pickles that follow each other."""
    starts = _find_pickles(data)
    number = rng.randrange(len(starts))
    begin = starts[number]
    positions = [begin + position for _, _, position in pickletools.genops(data[begin:])]
    end = positions[-1] + 1
    opcodes = [data[a:b] for a, b in zip(positions, [*positions[1:], end], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        index, change = rng.randrange(len(opcodes)), rng.randrange(5)
        if change <= 1:
            opcodes.insert(index, rng.choice(_SNIPPETS))
        elif change == 2:
            opcodes[index : index + 1] = [opcodes[index]] * rng.choice((0, 2))
        elif change == 3:
            opcodes[index] = mutate_part(rng, "", opcodes[index], tokens)
        else:
            opcodes[index] = rng.choice(opcodes)
    return data[:begin] + b"".join(opcodes) + data[end:]


def _find_pickles(data):
    starts, at = [], 0
    while data[at : at + 1] == b"\x80":
        try:
            length = 1 + [position for _, _, position in pickletools.genops(data[at:])][-1]
        except Exception:  # noqa: BLE001 - pickletools raises all kinds of errors
            break
        starts.append(at)
        at += length
    if not starts:
        raise Unparsable
    return starts


FORMATS = (
    (lambda path, data: data.startswith(PNG), mutate_png),
    (lambda path, data: data[:4] in (b"II*\0", b"MM\0*"), mutate_tiff),
    (lambda path, data: data[:3] == b"\xff\xd8\xff", mutate_jpeg),
    (lambda path, data: data[257:262] == b"ustar", mutate_tar),
    (lambda path, data: data[:4] == b"PK\x03\x04", mutate_zip),
    (lambda path, data: data[:1] == b"\x80" and path.endswith((".pkl", ".pth")), mutate_pickle),
)
