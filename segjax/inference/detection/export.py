"""Exports a detector to one StableHLO file that runs without segjax (`jax.export`).

    program = jax.export.deserialize(bytearray(open("detector.stablehlo", "rb").read()))
    rows = program.call(images, sizes)    # uint8 [B, H, W, 3], int32 [B, 2]

The program returns the arrays of `segjax.inference.detection.postprocess.detect_on_canvas`.
"""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from segjax.files import write_atomic
from segjax.inference.detection.canvases import Canvas, check_canvases
from segjax.inference.detection.postprocess import detect_on_canvas
from segjax.models.build import variable_shapes
from segjax.models.detection.mask_rcnn import MaskRcnn

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_detector(
    model: MaskRcnn,
    variables: Mapping[str, Any] | None,
    canvas: Canvas,
    *,
    batch: int = 1,
    platforms: Sequence[str] | None = None,
) -> jax.export.Exported:
    """Exports the program from images on canvases to `detect_on_canvas`'s arrays.

    Before and after the program, `Detector` places images on the canvas with `choose_canvas`, and
    converts detections to image pixels with `to_image_frame`.

    Args:
      model: the detector.
      variables: become part of the program, which is then called with (images, sizes). None: the
        program is called with (variables, images, sizes).
      canvas: (height, width) in pixels.
      batch: images per call.
      platforms: platforms on which the program may run: "cpu", "cuda", "rocm", "tpu". None: this
        process's.

    Raises:
      ValueError: The model does not take the canvas, or a platform is unknown.
    """
    (canvas,) = check_canvases(model, [canvas])
    if batch < 1:
        raise ValueError(f"batch is {batch}; expected at least 1")
    # jax itself writes a file for any name of a platform.
    if unknown := set(platforms or ()) - set(PLATFORMS):
        raise ValueError(f"unknown platform {min(unknown)!r}; choose from {', '.join(PLATFORMS)}")
    inputs = (
        jax.ShapeDtypeStruct((batch, *canvas, 3), jnp.uint8),
        jax.ShapeDtypeStruct((batch, 2), jnp.int32),
    )
    # Bound variables become constants of the program.
    detect = functools.partial(detect_on_canvas, model)
    arguments = (variable_shapes(model), *inputs) if variables is None else inputs
    program = jax.jit(detect if variables is None else functools.partial(detect, variables))
    return jax.export.export(program, platforms=platforms)(*arguments)


def write_exported(path: str | os.PathLike, exported: jax.export.Exported) -> int:
    """Writes a file that `jax.export.deserialize` reads, and returns its size in bytes."""
    content = bytes(exported.serialize())
    write_atomic(path, content)
    return len(content)


def read_exported(path: str | os.PathLike) -> jax.export.Exported:
    """Reads a file that `write_exported` wrote.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: The file is of another kind.
    """
    content = pathlib.Path(path).read_bytes()
    try:
        return jax.export.deserialize(bytearray(content))
    except Exception as error:  # the FlatBuffers reader fails in many ways
        raise ValueError(
            f"{path} ({len(content)} bytes) is no program that jax.export wrote: {error}"
        ) from error
