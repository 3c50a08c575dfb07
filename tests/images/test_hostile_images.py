"""Small files that would keep a decoder busy for minutes: JPEG scans, pages of TIFF files."""

import io
import struct
import time

import numpy as np
import pytest
from PIL import Image

from segjax.images.decoding import ImageError, decode_image
from segjax.images.jpeg_scans import has_too_many_scans


def save_jpeg(side=64, seed=0, **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **options)
    return out.getvalue()


def repeat_last_scan(data, times):
    start = data.rfind(b"\xff\xda")
    return data[:-2] + data[start:-2] * times + data[-2:]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_usual_files_are_read(options):
    for seed in range(20):
        data = save_jpeg(seed=seed, **options)
        assert not has_too_many_scans(data, 64 * 64) and not has_too_many_scans(data, 2**28)
        # Pixels, a thumbnail and a video behind the image may look like scans.
        comment = b"\xff\xfe" + (2 + 600).to_bytes(2) + b"\xff\xda" * 300
        assert not has_too_many_scans(data[:2] + comment + data[2:], 64 * 64)
        assert not has_too_many_scans(data + b"\xff\xda" * 300, 64 * 64)
        decode_image(data)


def test_many_scans_are_refused_before_they_are_decoded():
    data = save_jpeg(progressive=True)
    with pytest.raises(ImageError, match="evil.jpg: .* many more times than encoders"):
        decode_image(repeat_last_scan(data, 200), name="evil.jpg")
    # Fifty scans of a large image take as long as thousands of a small one.
    fifty = repeat_last_scan(data, 50)
    assert not has_too_many_scans(fifty, 64 * 64) and has_too_many_scans(fifty, 2**28)
    decode_image(fifty)


def test_cut_and_empty_files_end_the_count():
    data = save_jpeg(progressive=True)
    for end in range(0, len(data), 97):
        assert not has_too_many_scans(data[:end], 64 * 64)


def test_a_hundred_thousand_pages_of_a_tiff_take_less_than_seconds(capfd):
    """Each page is 18 bytes: one entry, which declares a thumbnail."""
    out = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(out, "TIFF")
    data = bytearray(out.getvalue())
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * entries, len(data))
    count = 100_000
    for page in range(1, count + 1):
        following = len(data) + 18 if page < count else 0
        data += struct.pack("<HHHIII", 1, 254, 4, 1, 1, following)
    started = time.process_time()
    with pytest.warns(UserWarning, match="1 of 99002 pages"):
        assert decode_image(bytes(data)).shape == (20, 30, 3)
    assert time.process_time() - started < 8
    assert not capfd.readouterr().err
