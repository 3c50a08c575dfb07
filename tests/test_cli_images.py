"""How the commands read images: upright, with the bands that are asked for, and never silently."""

import argparse
import io
import subprocess

import numpy as np
import pytest
import tifffile
from PIL import EpsImagePlugin, Image, ImageOps

from segjax.cli.inference.image_arguments import add_image_arguments, read_image
from segjax.data.sources.raw import UnusableError
from segjax.data.sources.read_files import read_image as read_raw
from segjax.data.sources.read_files import read_label_map
from segjax.images.opening import ImageError
from segjax.images.orientation import turn_back
from segjax.images.transforms import decode_crop

# Four quarters: red, green; blue, white
UPRIGHT = np.zeros((16, 32, 3), np.uint8)
UPRIGHT[:8, :16, 0] = UPRIGHT[:8, 16:, 1] = UPRIGHT[8:, :16, 2] = 255
UPRIGHT[8:, 16:] = 255


def write(path, pixels, orientation=None):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} if orientation else {}
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options)
    return str(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_images_are_turned_upright_and_said_to_be(tmp_path, orientation, suffix, capsys):
    path = tmp_path / f"a.{suffix}"
    stored = turn_back(UPRIGHT, orientation)
    if suffix == "tif":
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, stored, photometric="rgb", extratags=tags)
    else:
        options = {"lossless": True} if suffix == "webp" else {}
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    with Image.open(path) as opened:  # Pillow agrees about how the image is meant
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(opened)), UPRIGHT)
    np.testing.assert_array_equal(read_image(str(path)), UPRIGHT)
    expected = f"turned upright (EXIF orientation {orientation}, now 16 x 32 pixels)"
    assert (f"{path}: {expected}\n" == capsys.readouterr().out) == (orientation > 1)


def test_invalid_orientations_leave_the_image_as_it_is(tmp_path, capsys):
    for value in (0, 9, 77):
        path = write(tmp_path / "a.png", UPRIGHT, value or None)
        np.testing.assert_array_equal(read_image(path), UPRIGHT)
    assert not capsys.readouterr().out


def test_bands_are_an_argument(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_image_arguments(parser)
    bands = parser.parse_args(["a.tif", "--bands", "3,2,1", "--out", "o"]).bands
    data = np.random.default_rng(0).integers(0, 256, (8, 9, 4), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(
        read_image(str(tmp_path / "a.tif"), None, bands), data[..., 2::-1]
    )
    with pytest.raises(ImageError, match="a.tif: the image has 4 bands"):
        read_image(str(tmp_path / "a.tif"))
    for text in ("1,2", "0", "a", "1,2,3,4"):
        with pytest.raises(SystemExit):
            parser.parse_args(["a.tif", "--bands", text, "--out", "o"])
        assert "expected one or three numbers from 1" in capsys.readouterr().err


def test_what_is_stretched_is_printed(tmp_path, capsys):
    Image.fromarray(np.array([[100, 4000]], np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png"))[0, :, 0], [0, 255])
    assert "stretched, lowest to highest (uint16 from 100 to 4000)" in capsys.readouterr().out


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    """A program called gs on the path would leave a file."""
    trap = tmp_path / "bin" / "gs"
    trap.parent.mkdir()
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n")
    trap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{trap.parent}:/bin:/usr/bin")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    image = Image.open(io.BytesIO(page))  # Pillow alone would start it
    with pytest.raises((OSError, subprocess.SubprocessError)):
        image.load()
    assert (tmp_path / "started").exists()
    (tmp_path / "started").unlink()
    for name in ("a.png", "a.jpg", "a.tif", "a.eps"):
        path = tmp_path / name
        path.write_bytes(page)
        with pytest.raises(ImageError, match="not an image"):
            read_image(str(path))
        with pytest.raises(ImageError, match="not an image"):
            decode_crop(page, lambda hw: ((0, 0, *hw), hw))
        for read in (read_raw, lambda path: read_label_map(path, "label map")):
            with pytest.raises(UnusableError, match="not an image file"):
                read(path)
    assert not (tmp_path / "started").exists()


def test_the_limit_of_pixels_is_stated_and_can_be_raised(tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", UPRIGHT)
    monkeypatch.setenv("SEGJAX_MAX_IMAGE_PIXELS", "500")
    with pytest.raises(ImageError, match="16 x 32 pixels, more than the limit of 500.*such as 512"):
        read_image(path)
    monkeypatch.setenv("SEGJAX_MAX_IMAGE_PIXELS", "512")
    np.testing.assert_array_equal(read_image(path), UPRIGHT)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own limit is no error here
    np.testing.assert_array_equal(read_image(path), UPRIGHT)
    assert Image.MAX_IMAGE_PIXELS == 10
    monkeypatch.setenv("SEGJAX_MAX_IMAGE_PIXELS", "many")
    with pytest.raises(ValueError, match="SEGJAX_MAX_IMAGE_PIXELS is 'many'"):
        read_image(path)
