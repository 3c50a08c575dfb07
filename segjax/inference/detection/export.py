"""A detector's inference as one file of StableHLO, which runs without segjax (`jax.export`).

program = jax.export.deserialize(bytearray(open("detector.stablehlo", "rb").read()))
answers = program.call(images, sizes)          # uint8 [B, H, W, 3], int32 [B, 2] -> the arrays of `found.detected`
"""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from segjax.files import write_whole
from segjax.inference.detection.canvases import Canvas, check_canvases
from segjax.inference.detection.postprocess import detected
from segjax.models.build import shapes_of
from segjax.models.detection.mask_rcnn import MaskRcnn


def export_detector(
    model: MaskRcnn,
    variables: Mapping[str, Any] | None,
    canvas: Canvas,
    *,
    batch: int = 1,
    platforms: Sequence[str] | None = None,
) -> jax.export.Exported:
    """The program from pictures on canvases to `segjax.inference.detection.postprocess.detected`'s arrays.

    Pictures come onto the canvas, and boxes, masks and keypoints back from it, as `Detector` has it:
    `segjax.inference.detection.canvases.placed` and `segjax.inference.detection.postprocess.found_in_picture`.

    Args:
      variables: become part of the program, which is then called with (images, sizes); None: it is called with
        (variables, images, sizes).
      canvas: (height, width). batch: pictures in a call.
      platforms: "cpu", "cuda", "rocm", "tpu": where it may run; None: where this process does.

    Raises:
      ValueError: a canvas that the model does not take, a platform that jax does not know.
    """
    (canvas,) = check_canvases(model, [canvas])
    if batch < 1:
        raise ValueError(f"batch is {batch}; expected at least 1")
    pictures = (
        jax.ShapeDtypeStruct((batch, *canvas, 3), jnp.uint8),
        jax.ShapeDtypeStruct((batch, 2), jnp.int32),
    )
    whole = functools.partial(detected, model)
    arguments = (shapes_of(model), *pictures) if variables is None else pictures
    program = jax.jit(whole if variables is None else functools.partial(whole, variables))
    return jax.export.export(program, platforms=platforms)(*arguments)


def write_exported(path: str | os.PathLike, exported: jax.export.Exported) -> int:
    """Writes a file that `jax.export.deserialize` reads, whole or not at all. Returns its bytes."""
    content = bytes(exported.serialize())
    write_whole(path, content)
    return len(content)


def read_exported(path: str | os.PathLike) -> jax.export.Exported:
    """What `write_exported` wrote. Raises FileNotFoundError, or ValueError for a file of another kind."""
    content = pathlib.Path(path).read_bytes()
    try:
        return jax.export.deserialize(bytearray(content))
    except Exception as error:  # the reader of flat buffers stumbles in many ways
        raise ValueError(
            f"{path} ({len(content)} bytes) is no program that jax.export wrote: {error}"
        ) from error
