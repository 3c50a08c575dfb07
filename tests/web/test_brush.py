"""Label Studio's brush masks, against its own converter where that is installed."""

import numpy as np
import pytest

from segjax.web.label_studio.brush import decode_brush, encode_brush

RNG = np.random.default_rng(0)
DISK = np.hypot(*np.mgrid[-150:150, -200:200]) < 120
MASKS = {
    "noise": RNG.random((37, 53)) < 0.5,
    "disk": DISK,
    "empty": np.zeros((300, 400), bool),  # a run of more than 65,536 bytes
    "full": np.ones((128, 128), bool),  # exactly 65,536 bytes
    "one pixel": np.array([[True]]),
    "last": np.array([[False, False, True]]),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_come_back(name):
    mask = MASKS[name]
    rle = encode_brush(mask)
    assert all(type(x) is int for x in rle)
    np.testing.assert_array_equal(decode_brush(rle, *mask.shape), mask)


@pytest.mark.parametrize("name", MASKS)
def test_label_studio_reads_and_writes_the_same_masks(name):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    mask = MASKS[name]
    decoded = brush.decode_rle(encode_brush(mask)).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(decoded, 255 * mask[..., None].repeat(4, 2))
    theirs = brush.mask2rle(255 * mask.astype(np.uint8))
    np.testing.assert_array_equal(decode_brush(theirs, *mask.shape), mask)


def test_separate_values():
    """A block of four separate values, (1, 2, 3, 0), as the format describes it."""
    bits = f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}"
    bits += f"000{3:03b}" + "".join(f"{x:08b}" for x in (1, 2, 3, 0))
    bits += f"100{3:03b}{255:08b}"
    bits += "0" * (-len(bits) % 8)
    rle = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    np.testing.assert_array_equal(decode_brush(rle, 1, 2), [[False, True]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rle: rle[:-3], "ends early"),
        (lambda rle: [], "ends early"),
        (lambda rle: [255, *rle[1:]], "its size is not"),
        (lambda rle: [*rle[:4], 0, *rle[5:]], "bits; expected 8"),
        (lambda rle: "abc", "not a list"),
        (lambda rle: [*rle, 256], "not a list"),
    ],
)
def test_damaged_masks(change, message):
    rle = encode_brush(DISK)
    with pytest.raises(ValueError, match=message):
        decode_brush(change(rle), *DISK.shape)
