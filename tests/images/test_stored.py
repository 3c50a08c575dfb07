"""Kinds of image files against the arrays that they were written from: TIFF, PNG, PPM, WebP."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from segjax.images.decoding import decode_image
from segjax.images.encoding import encode_png
from segjax.images.intensities import stretch_intensities
from segjax.images.labels import read_label_values
from segjax.images.opening import ImageError, UnsupportedImageError
from segjax.images.stored import read_pixels

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 21, 34
RGB16 = RNG.integers(0, 4096, (HEIGHT, WIDTH, 3), np.uint16)  # 12 bits, as cameras store them
GRAY16 = RGB16[:, :, 0]
RGB8 = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
BANDS = RNG.integers(0, 4096, (HEIGHT, WIDTH, 4), np.uint16)


def tiff(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def pillow(pixels, form="TIFF", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def recompress(data):
    """Compresses the strips of an uncompressed TIFF with LZW, which tifffile cannot write."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        (offset,), (count,) = page.dataoffsets, page.databytecounts
        raw = data[offset : offset + count]
        at = {name: page.tags[name].valueoffset for name in ("Compression", "StripByteCounts")}
        at["StripOffsets"] = page.tags["StripOffsets"].valueoffset
        kind = page.tags["StripByteCounts"].dtype
    # Codes of 9 bits: clear after every 200 literals, so that they never grow longer.
    codes = []
    for start in range(0, len(raw), 200):
        codes += [256, *raw[start : start + 200]]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    strip = int(bits, 2).to_bytes(len(bits) // 8)
    data = bytearray(data + strip)
    data[at["Compression"] : at["Compression"] + 2] = (5).to_bytes(2, "little")
    size = 2 if int(kind) == 3 else 4 if int(kind) == 4 else 8
    data[at["StripByteCounts"] : at["StripByteCounts"] + size] = len(strip).to_bytes(size, "little")
    offset_bytes = (len(data) - len(strip)).to_bytes(4, "little")
    data[at["StripOffsets"] : at["StripOffsets"] + 4] = offset_bytes
    return bytes(data)


FLOATS = RNG.normal(0, 100, (HEIGHT, WIDTH, 3)).astype(np.float32)
PLANES = dict(photometric="rgb", planarconfig="separate")
RGBA16 = np.dstack([RGB16, np.full((HEIGHT, WIDTH), 9, np.uint16)])
KINDS = {  # name -> (file, the stored colors)
    "planar 16 bits": (tiff(RGB16.transpose(2, 0, 1), **PLANES), RGB16),
    "planar 8 bits": (tiff(RGB8.transpose(2, 0, 1), **PLANES), RGB8),
    "planar big-endian": (tiff(RGB16.transpose(2, 0, 1), byteorder=">", **PLANES), RGB16),
    "planar deflate": (tiff(RGB16.transpose(2, 0, 1), compression="zlib", **PLANES), RGB16),
    "16 bits": (tiff(RGB16, photometric="rgb"), RGB16),
    "tiles of 16 bits": (tiff(RGB16, photometric="rgb", tile=(16, 16)), RGB16),
    "predictor": (tiff(RGB16, photometric="rgb", compression="zlib", predictor=2), RGB16),
    "LZW of 16-bit colors": (recompress(tiff(RGB16, photometric="rgb")), RGB16),
    "LZW of 16-bit colors with alpha": (
        recompress(tiff(RGBA16, photometric="rgb", extrasamples=["unassalpha"])),
        RGB16,
    ),
    "LZW of 16-bit gray": (recompress(tiff(GRAY16)), GRAY16[..., None]),
    "LZW of 8 bits": (pillow(RGB8, compression="tiff_lzw"), RGB8),
    "gray of 16 bits": (tiff(GRAY16), GRAY16[..., None]),
    "gray where 0 is white": (
        tiff(GRAY16, photometric="miniswhite"),
        65535 - GRAY16[..., None],
    ),
    "float colors": (tiff(FLOATS, photometric="rgb"), FLOATS),
    "signed": (tiff(FLOATS[..., 0].astype(np.int16)), FLOATS[..., :1].astype(np.int16)),
    "32-bit": (tiff(GRAY16.astype(np.uint32) * 9999), GRAY16[..., None].astype(np.uint32) * 9999),
    "alpha": (tiff(np.dstack([RGB8, RGB8[..., :1]])), RGB8),
    "multiplied by alpha": (
        tiff(
            np.dstack([RGB16 // 2, np.full((HEIGHT, WIDTH), 32768, np.uint16)]),
            photometric="rgb",
            extrasamples=["assocalpha"],
        ),
        RGB16 // 2 * 2,
    ),
    "PNG of 16-bit colors": (encode_png(RGB16), RGB16),
    "PNG of 16-bit gray": (pillow(GRAY16, "PNG"), GRAY16[..., None]),
    "PPM of 16-bit colors": (
        b"P6 %d %d 65535\n" % (WIDTH, HEIGHT) + RGB16.astype(">u2").tobytes(),
        RGB16,
    ),
    "PNG with alpha": (pillow(np.dstack([RGB8, RGB8[..., 0]]), "PNG"), RGB8),
    "WebP": (pillow(RGB8, "WEBP", lossless=True), RGB8),
    "BMP": (pillow(RGB8, "BMP"), RGB8),
    "BigTIFF": (tiff(RGB16, photometric="rgb", bigtiff=True), RGB16),
}


@pytest.mark.parametrize("kind", KINDS)
def test_stored_values_are_those_that_were_written(kind):
    data, expected = KINDS[kind]
    pixels = read_pixels(data, name=kind, notes=[])
    assert pixels.dtype == expected.dtype
    if kind == "multiplied by alpha":  # halves lose their last bit
        assert np.abs(pixels.astype(int) - expected).max() <= 1
    else:
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_and_its_array_decode_to_the_same_image(kind):
    data, expected = KINDS[kind]
    image = decode_image(data, notes=[])
    np.testing.assert_array_equal(image, decode_image(read_pixels(data, notes=[]), notes=[]))
    if expected.dtype == np.uint16 and kind != "multiplied by alpha":
        low, high = int(expected.min()), int(expected.max())
        exact = (expected.astype(float) - low) / (high - low) * 255
        assert np.abs(image - exact).max() <= 0.501 and np.ptp(image) == 255


@pytest.mark.parametrize(
    "options", [{"planarconfig": "contig"}, {}], ids=["one page", "a page per row"]
)
def test_bands_are_chosen_by_number_and_never_guessed(options):
    data = tiff(BANDS, photometric="minisblack", **options)
    with pytest.raises(UnsupportedImageError, match="4 bands and does not say.*--bands 3,2,1"):
        decode_image(data, name="field.tif")
    np.testing.assert_array_equal(read_pixels(data, bands=(3, 2, 1)), BANDS[..., [2, 1, 0]])
    np.testing.assert_array_equal(
        decode_image(data, bands=(3, 2, 1)), decode_image(BANDS, bands=(3, 2, 1))
    )
    assert read_pixels(data, bands=[4]).shape == (HEIGHT, WIDTH, 1)
    for bands in ((5,), (0, 1, 2), (1, 2), ()):
        with pytest.raises(ImageError, match="one or three numbers from 1 to 4"):
            read_pixels(data, bands=bands)
    notes = []
    declared = tiff(BANDS, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_pixels(declared, notes=notes), BANDS[..., :3])
    assert notes[0].reason == "bands beyond red, green and blue are not used"


def test_of_several_pages_the_first_is_read_and_noted():
    notes = []
    stack = tiff(RGB16.transpose(2, 0, 1), photometric="minisblack")
    np.testing.assert_array_equal(read_pixels(stack, notes=notes)[..., 0], GRAY16)
    assert notes == [("only the first page of several is read", "1 of 3 pages")]
    np.testing.assert_array_equal(read_pixels(stack, bands=(3, 1, 2)), RGB16[..., [2, 0, 1]])
    frames = [Image.fromarray(RGB8[..., channel]) for channel in range(3)]
    animated = pillow(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="only the first frame is read .1 of 3 frames"):
        np.testing.assert_array_equal(decode_image(animated)[..., 0], RGB8[..., 0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(np.zeros((8, 8), np.complex64)), "complex64"),
        (tiff(np.zeros((8, 8), np.int64)), "int64.*astype"),
        (recompress(tiff(FLOATS[..., 0])), "32 bits.*LZW.*imagecodecs"),
        (recompress(tiff(FLOATS, photometric="rgb")), "32.*LZW.*imagecodecs"),
        (tiff(RGB8, photometric="cielab"), "CIELAB; convert it to RGB"),
        (tiff(np.zeros((2, 8, 8), np.uint8), volumetric=True, tile=(1, 16, 16)), "volume of 2"),
        (tiff(RGB16, photometric="rgb")[:-9], "truncated or damaged"),
        (tiff(RGB16, photometric="rgb")[:90], "truncated or damaged"),
        (tiff(np.full((4, 4), np.nan, np.float32)), "no pixel has a finite value"),
    ],
)
def test_other_kinds_are_refused_with_the_reason(data, message):
    with pytest.raises(ImageError, match=message):
        decode_image(data, name="a.tif", notes=[])


def test_floats_of_zero_to_one_keep_their_scale_and_others_are_stretched():
    unit = np.array([[0, 0.2, 0.5]], np.float32)
    np.testing.assert_array_equal(decode_image(unit)[0, :, 0], [0, 51, 128])
    np.testing.assert_array_equal(decode_image(tiff(unit))[0, :, 0], [0, 51, 128])
    notes = []
    wide = np.array([[-10, 0, 10, np.nan, np.inf]])
    np.testing.assert_array_equal(decode_image(wide, notes=notes)[0, :, 0], [0, 128, 255, 0, 0])
    assert [note.detail for note in notes] == ["2 values", "float64 from -10 to 10"]
    with pytest.warns(UserWarning, match="stretched, lowest to highest"):
        decode_image(wide[:, :3])
    signed = np.array([[-1000, 0, 1000]], np.int16)
    np.testing.assert_array_equal(decode_image(signed, notes=[])[0, :, 0], [0, 128, 255])
    np.testing.assert_array_equal(decode_image(unit > 0.1)[0, :, 0], [0, 255, 255])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_percentiles_are_numpys(dtype):
    pixels = RNG.integers(0, 200, (50, 40, 3)).astype(dtype)
    low, high = np.percentile(pixels, (2.5, 97.3))
    expected = stretch_intensities(pixels, low, high)
    np.testing.assert_array_equal(decode_image(pixels, percentiles=(2.5, 97.3)), expected)


LABELS = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 7


@pytest.mark.parametrize(
    "data",
    [
        *(tiff(LABELS.astype(kind)) for kind in "bBhHiIlLfd"),
        recompress(tiff(LABELS.astype(np.uint8))),
        recompress(tiff(LABELS.astype(np.uint8), photometric="miniswhite")),
        pillow(LABELS.astype(np.uint8), "PNG"),
        pillow(LABELS.astype(np.uint16), "PNG"),
        pillow(LABELS.astype(np.uint8), "BMP"),
    ],
)
def test_label_maps_keep_their_numbers(data):
    labels = read_label_values(data, "a")
    assert labels.dtype.kind in "iu"
    np.testing.assert_array_equal(labels, LABELS)


def test_label_maps_that_hold_no_labels_are_refused():
    palette = Image.fromarray(LABELS.astype(np.uint8))
    palette.putpalette(RGB8.ravel()[:768].tobytes())
    np.testing.assert_array_equal(read_label_values(pillow(palette, "PNG"), "a"), LABELS)
    mask = LABELS > 2
    for data in (tiff(mask), pillow(mask, "PNG")):
        np.testing.assert_array_equal(read_label_values(data, "a"), mask)
    for data, message in (
        (tiff(LABELS + 0.5), "not all whole numbers"),
        (tiff(RGB8), "single-channel|3 channels"),
        (tiff(np.zeros((2, 8, 8), np.uint8), photometric="minisblack"), "2 pages"),
        (pillow(RGB8, "PNG"), "mode RGB"),
        (pillow(LABELS.astype(np.uint8), "PNG")[:-30], "truncated"),
    ):
        with pytest.raises(ImageError, match=message):
            read_label_values(data, "a")
