"""Readers of images and of run lengths, with small valid inputs of every kind."""

import json
import zlib

import numpy as np
from PIL import Image

from fuzzing.harness import Reader
from fuzzing.verdicts import WrongValueError
from segjax.data.sources.read_files import read_image
from segjax.images.decoding import decode_image
from segjax.masks import decode_mask, decode_run_lengths, encode_mask

MASK = np.zeros((20, 30), bool)
MASK[3:9, 4:20] = True
RUNS = [83, 6, *[14, 6] * 15, 211]


# Images


def _make_images(folder):
    """Writes an image of every kind that users have."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    color = Image.fromarray(pixels[..., :3])
    gray16 = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "rgb.png": (color, {}),
        "gray.png": (color.convert("L"), {}),
        "alpha.png": (Image.fromarray(pixels), {}),
        "palette.png": (color.quantize(8), {"transparency": 0}),
        "bits.png": (color.convert("1"), {}),
        "gray16.png": (gray16, {}),
        "rgb.jpg": (color, {"exif": exif}),
        "progressive.jpg": (color, {"progressive": True}),
        "cmyk.jpg": (color.convert("CMYK"), {}),
        "plain.tif": (color, {}),
        "gray16.tif": (gray16, {}),
        "float.tif": (color.convert("F"), {}),
        "lzw.tif": (color, {"compression": "tiff_lzw"}),
        "deflate.tif": (color, {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (color, {"compression": "jpeg"}),
        "fax.tif": (color.convert("1"), {"compression": "group4"}),
        "pages.tif": (color, {"save_all": True, "append_images": [color.convert("L")]}),
        "a.bmp": (color, {}),
        "a.gif": (color, {"save_all": True, "append_images": [color]}),
        "lossy.webp": (color, {}),
        "lossless.webp": (color, {"lossless": True}),
        "a.ppm": (color, {}),
    }
    for name, (image, options) in kinds.items():
        (folder / name).mkdir()
        image.save(folder / name / name, **options)


IMAGE_TOKENS = (
    *("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "%PDF-1.4\n", "GIF89a"),
    *(
        "P6 99999 99999 255\n",
        "P4 8 8\n",
        "P7\n",
        "BM",
        "8BPS",
        "DDS ",
        "icns",
        "SIMPLE  =",
        "#FIG",
    ),
    *(
        "RIFF\0\0\0\0WEBPVP8X",
        "/* XPM */\n",
        "\nGRIB",
        "<svg>",
        "\0\0\0\x18ftypavif",
        "FORM",
        "IDAT",
    ),
)


def _read_images(folder):
    """Reads an image in one of three ways, which its content decides."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        way = zlib.crc32(data) % 3
        if way == 0:
            decode_image(data, name=path.name)
        elif way == 1:
            decode_image(data, name=path.name, percentiles=(1, 99))
        else:
            read_image(path)


# Run lengths


def _make_run_lengths(folder):
    for name, counts in (("list", RUNS), ("text", encode_mask(MASK))):
        (folder / name).mkdir()
        (folder / name / "rle.json").write_text(json.dumps({"counts": counts}))


def _read_run_lengths(folder):
    try:
        content = json.loads((folder / "rle.json").read_text(errors="replace"))
    # Reading the JSON is not what is tested here.
    except (ValueError, RecursionError):
        return
    counts = content.get("counts") if isinstance(content, dict) else content
    if isinstance(counts, str):
        mask = decode_mask(counts, 20, 30)
    else:
        mask = decode_run_lengths(counts, 20, 30, "rle")
        if mask.sum() != sum(map(int, counts[1::2])):
            raise WrongValueError(f"{mask.sum()} pixels of {sum(counts[1::2])}")
    if mask.shape != (20, 30) or (decode_mask(encode_mask(mask), 20, 30) != mask).any():
        raise WrongValueError(f"a mask {mask.shape} that cannot be encoded again")


READERS = (
    Reader("images", _make_images, _read_images, tokens=IMAGE_TOKENS),
    Reader(
        "run_lengths",
        _make_run_lengths,
        _read_run_lengths,
        words=("mask", "rle", "runs"),
        tokens=(str(2**63 - 1), "~~~~~~~~~~~~~0", "P", "o_``10"),
    ),
)
