"""Unusual images as they occur among a million: their pixels in training and after `prepare`."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile
from raw_folders import truncate, write_image

from segjax.data.examples.crop import CropExample
from segjax.data.preparation.shrink import shrink_to_short_side
from segjax.data.records import stack_objects, validate_record
from segjax.data.sources.check_image import check_image_bytes
from segjax.data.sources.raw import SkipCounts, UnusableError
from segjax.data.sources.read_files import read_image
from segjax.images.decoding import decode_image
from segjax.images.encoding import encode_png
from segjax.images.transforms import compute_center_box, decode_crop

RED, GREEN = (200, 40, 30), (20, 180, 60)


def halves(left=RED, right=GREEN, height=40, width=60):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = left, right
    return Image.fromarray(pixels)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated_jpeg(orientation=6):
    """Encodes an image on its side, with an EXIF orientation of a quarter turn clockwise."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(halves(), "JPEG", quality=95, subsampling=0, exif=exif)


def gray_of_16_bits():
    pixels = np.full((40, 60), 1000, np.uint16)
    pixels[:, 30:] = 4000
    return Image.fromarray(pixels)


def transparent():
    palette = halves().quantize(4)
    return encoded(palette, "PNG", transparency=bytes([0, 128, 255]))


KINDS = {  # name -> (bytes, the colors that its left and right halves have as RGB)
    "RGB JPEG": (encoded(halves(), "JPEG", quality=95), (RED, GREEN)),
    "gray JPEG": (
        encoded(halves((50,) * 3, (90,) * 3).convert("L"), "JPEG"),
        ((50,) * 3, (90,) * 3),
    ),
    "CMYK JPEG": (encoded(halves().convert("CMYK"), "JPEG", quality=95), (RED, GREEN)),
    "palette": (encoded(halves().quantize(4), "PNG"), (RED, GREEN)),
    "palette with transparency": (transparent(), (RED, GREEN)),
    "alpha": (encoded(halves().convert("RGBA"), "PNG"), (RED, GREEN)),
    "gray with alpha": (
        encoded(halves((50,) * 3, (90,) * 3).convert("LA"), "PNG"),
        ((50,) * 3, (90,) * 3),
    ),
    "black and white": (
        encoded(halves((0,) * 3, (255,) * 3).convert("1"), "PNG"),
        ((0,) * 3, (255,) * 3),
    ),
    "16-bit gray": (encoded(gray_of_16_bits(), "PNG"), ((0,) * 3, (255,) * 3)),  # stretched
    "16-bit colors": (
        encode_png(np.asarray(halves(), np.uint16) * 16 + 15),
        # 20 to 200 stretched over 0 to 255
        tuple(tuple((value - 20) * 255 // 180 for value in color) for color in (RED, GREEN)),
    ),
    "EXIF orientation": (rotated_jpeg(), (RED, GREEN)),  # the stored pixels
}


def assert_halves(pixels, colors, tolerance=4):
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    quarter = pixels.shape[1] // 4
    for column, color in ((quarter, colors[0]), (3 * quarter, colors[1])):
        found = pixels[pixels.shape[0] // 2, column].astype(int)
        assert np.abs(found - color).max() <= tolerance, (found, color)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_training_sees_rgb(kind):
    data, colors = KINDS[kind]
    assert_halves(decode_image(data), colors)
    assert decode_image(data).shape == (40, 60, 3)
    record = {"image": data, "image_id": kind}
    assert_halves(CropExample(32, train=False)(record, np.random.default_rng(0))["image"], colors)
    example = CropExample(32, scale=(1, 1), ratio=(1.5, 1.5), flip=False)(
        record, np.random.default_rng(0)
    )
    assert_halves(example["image"], colors)


@pytest.mark.filterwarnings("ignore:.*EXIF orientation")
@pytest.mark.parametrize("kind", KINDS)
def test_preparing_keeps_the_pixels_even_if_it_shrinks(kind, tmp_path):
    data, colors = KINDS[kind]
    path = tmp_path / "image"
    path.write_bytes(data)
    image, height, width = read_image(path)
    assert (image, height, width) == (data, 40, 60)
    record = {
        "image": image,
        "image_id": "a",
        "height": height,
        "width": width,
        "objects": stack_objects([]),
    }
    small = shrink_to_short_side(record, 20, SkipCounts())
    validate_record(small)
    assert (small["height"], small["width"]) == (20, 30)
    assert small["image"][:3] == data[:3]  # the format stays the same
    assert_halves(decode_image(small["image"]), colors, tolerance=8)


def test_images_of_phones_stay_jpeg(tmp_path):
    """Prepares an MPO, which is a JPEG with a second image behind it."""
    data = encoded(halves(), "MPO", save_all=True, append_images=[halves()])
    (tmp_path / "a.jpg").write_bytes(data)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert opened.format == "MPO"
    assert read_image(tmp_path / "a.jpg")[0] == data
    assert_halves(decode_image(data), (RED, GREEN))


def test_other_formats_keep_their_bits(tmp_path):
    gray_of_16_bits().save(tmp_path / "a.tif")
    image, _, _ = read_image(tmp_path / "a.tif")
    with Image.open(io.BytesIO(image)) as opened:
        assert opened.format == "PNG" and np.asarray(opened).max() == 4000


@pytest.mark.filterwarnings("ignore:.*EXIF orientation")
@pytest.mark.parametrize("orientation, top_left", [(1, RED), (3, GREEN), (6, RED), (8, GREEN)])
def test_an_image_without_masks_is_rotated_upright(tmp_path, orientation, top_left):
    (tmp_path / "a.jpg").write_bytes(rotated_jpeg(orientation))
    image, height, width = read_image(tmp_path / "a.jpg", upright=True)
    assert (height, width) == ((60, 40) if orientation >= 5 else (40, 60))
    pixels = decode_image(image)
    assert pixels.shape == (height, width, 3) and image[:2] == b"\xff\xd8"
    assert np.abs(pixels[4, 4].astype(int) - top_left).max() <= 8
    again, *_ = read_image(_written(tmp_path / "b.jpg", image), upright=True)
    assert again == image  # the orientation is gone


TURNED = "image is turned upright as its EXIF orientation asks"
GUESSED = "image carries EXIF orientation; its masks are taken to refer to stored pixels"


@pytest.mark.parametrize(
    ("orientation", "annotated", "upright", "size", "said"),
    [
        (6, (60, 40), False, (60, 40), TURNED),  # only the turned image has the annotated size
        (6, (40, 60), True, (40, 60), None),  # only the stored one has it
        (6, None, False, (40, 60), GUESSED),
        (6, None, True, (60, 40), TURNED),
        (3, (40, 60), False, (40, 60), GUESSED),
        (3, (40, 60), True, (40, 60), TURNED),
        (6, (7, 8), False, (40, 60), None),  # the reader refuses the size
        (1, (40, 60), True, (40, 60), None),
    ],
)
def test_the_annotated_size_tells_which_pixels_masks_refer_to(
    tmp_path, orientation, annotated, upright, size, said
):
    counts = SkipCounts()
    image, *found = read_image(
        _written(tmp_path / "a.jpg", rotated_jpeg(orientation)),
        annotated_size=annotated,
        upright=upright,
        counts=counts,
    )
    assert tuple(found) == size == decode_image(image).shape[:2]
    assert (list(counts.changed), list(counts.suspicious)) == (
        [said] * (said == TURNED),
        [said] * (said == GUESSED),
    )
    # Red lies left in the stored image, so turning by half exchanges the colors.
    left = GREEN if said == TURNED and orientation == 3 else RED
    assert np.abs(decode_image(image)[2, 2].astype(int) - left).max() <= 8


def _written(path, data):
    path.write_bytes(data)
    return path


def test_a_large_jpeg_decoded_at_a_lower_resolution_shows_the_same_crop():
    ramp = np.tile(np.linspace(0, 255, 800).astype(np.uint8)[None, :, None], (600, 1, 3))
    data = encoded(Image.fromarray(ramp), "JPEG", quality=95)
    for box in [(0, 0, 600, 800), (101, 203, 450, 390), (37, 1, 512, 797), (0, 0, 129, 800)]:
        full, reduced = (
            np.asarray(decode_crop(data, lambda _, box=box: (box, (64, 64)), reduced=reduced), int)
            for reduced in (False, True)
        )
        # One level is 3.1 pixels of the ramp, so the crop has moved by less than a decoded pixel.
        assert np.abs(full - reduced).max() <= 1, box
        assert np.abs((full - reduced).mean()) < 0.25


def test_a_crop_near_the_size_of_the_canvas_is_decoded_in_full():
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", quality=95)
    for side, same in ((100, False), (101, True)):  # 200 pixels become 100 by halves, 101 not
        choose = lambda hw, side=side: (compute_center_box(hw), (side, side))
        crops = [
            np.asarray(decode_crop(data, choose, reduced=reduced)) for reduced in (False, True)
        ]
        assert np.array_equal(*crops) == same


def test_pixels_around_the_crop_have_no_influence():
    """Compares with cropping first and resizing then, as the reference does."""
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[20:40, 20:40] = 100
    cut = np.asarray(decode_crop(pixels, lambda _: ((20, 20, 20, 20), (8, 8))))
    assert (cut == 100).all()


def test_broken_images_raise_when_they_are_prepared(tmp_path):
    with pytest.raises(UnusableError, match="truncated"):
        read_image(truncate(write_image(tmp_path / "cut.jpg")), upright=True)


def test_percentiles_of_a_large_image_need_no_copy_in_floats():
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 1200, 3), np.uint8)
    tracemalloc.start()
    decode_image(pixels, percentiles=(1, 99))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The result and chunks. NumPy's percentile would need 8 bytes per value.
    assert peak < 2 * pixels.nbytes


@pytest.mark.slow
def test_an_image_of_182_megapixels_fits_in_1_7_gib(tmp_path):
    """Writes a PNG of 13000 x 14000 pixels and measures the peak in a process of its own."""
    height, width = 13000, 14000
    compressor = zlib.compressobj(1)
    row = b"\0" + bytes(range(240)) * (3 * width // 240)
    rows = compressor.compress(row * 100)
    rows += b"".join(compressor.compress(row * 100) for _ in range(height // 100 - 1))
    chunk = lambda kind, body: (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path = tmp_path / "large.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", rows + compressor.flush())
        + chunk(b"IEND", b"")
    )
    program = (
        "import pathlib, sys\n"
        "from segjax.images.decoding import decode_image\n"
        "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "image = decode_image(data, percentiles=(1, 99))\n"
        "print(*image.shape, image[0, 0, 0], image[-1, -1, -1])\n"
        # Not ru_maxrss, which begins with that of the process that has started this one
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(int(status.partition('VmHWM:')[2].split()[0]) / 2**20)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    shape, peak = done.stdout.splitlines()
    assert shape == "13000 14000 3 0 255"
    assert float(peak) < 1.7


def test_a_jpeg_is_checked_without_computing_all_of_its_pixels(monkeypatch):
    data = encoded(halves(height=400, width=600), "JPEG")
    sizes = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: (sizes.append(self.size), load(self))[1]
    )
    assert check_image_bytes(data, "a.jpg") == (data, 400, 600)
    assert sizes == [(75, 50)]
    for cut in (len(data) // 2, len(data) - 3):
        with pytest.raises(UnusableError, match="truncated"):
            check_image_bytes(data[:cut], "a.jpg")
