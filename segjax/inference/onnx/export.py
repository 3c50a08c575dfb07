"""Exports SAM's image encoder and mask decoder to ONNX, as segment-anything names its parts.

The decoder has the inputs and outputs of segment-anything's `SamOnnxModel`, so programs written for
that file accept this one. jax2onnx writes the network, and this module adds the operations whose
shapes change from call to call.
"""

import importlib
import logging
import os
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from segjax.inference.onnx import graphs
from segjax.inference.onnx.contract import EMPTY, make_decoder, make_encoder, make_plain
from segjax.models.sam.sam import Sam

OPSET = 18  # the oldest version that jax2onnx writes correctly, which most runtimes read
POINT_SLOTS = 64  # points of one prompt, with padding points and corners of the box
MAX_MESSAGE = 1_900_000_000  # bytes. A protobuf message has at most 2 GiB.

DECODER_INPUTS = (
    "image_embeddings",
    "point_coords",
    "point_labels",
    "mask_input",
    "has_mask_input",
    "orig_im_size",
)
DECODER_OUTPUTS = ("masks", "iou_predictions", "low_res_masks")
ENCODER_INPUT, ENCODER_OUTPUT = "input_image", "image_embeddings"


def require_onnx() -> None:
    """Checks that the packages of the extra `onnx` are installed.

    Raises:
      ValueError: One is missing. The message says how to install it.
    """
    for name in ("onnx", "onnxruntime", "jax2onnx"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"ONNX export needs the extra 'onnx' ({error.name or name} is missing): "
                "pip install 'segjax[onnx]'"
            ) from None


def export_decoder(
    model: Sam,
    variables: Mapping[str, Any],
    *,
    single_mask: bool = False,
    slots: int = POINT_SLOTS,
) -> Any:
    """Exports prompt encoder, mask decoder and resizing to the image, for one prompt.

    Example:
      >>> import onnx, segjax
      >>> model, variables = segjax.load("sam_tiny_demo")
      >>> onnx.save(export_decoder(model, variables), "decoder.onnx")

    Args:
      model: The SAM.
      variables: Its variables, which become part of the file.
      single_mask: Return one mask, chosen by the number of points, instead of four.
      slots: Maximum number of points of a prompt.

    Returns:
      An onnx.ModelProto with `DECODER_INPUTS` and `DECODER_OUTPUTS`.

    Raises:
      ValueError: A missing package, or fewer than two slots.
    """
    require_onnx()
    if slots < 2:
        raise ValueError(f"{slots} points; expected at least 2, for a box or a point with padding")
    side, masks = model.mask_side, 1 if single_mask else 4
    network = _convert(
        make_decoder(make_plain(model), variables, single_mask=single_mask),
        {
            "image_embeddings": (1, model.prompt_width, side // 4, side // 4),
            "slot_coords": (1, slots, 2),
            "slot_labels": (1, slots),
            "mask_input": (1, 1, side, side),
            "has_mask_input": (1,),
        },
        ("low_res_masks", "iou_predictions"),
        "sam_decoder",
    )
    before = graphs.parse_operations(
        graphs.PROMPTS.format(slots=slots, empty=EMPTY),
        graphs.PROMPT_INPUTS,
        f"float[1, {slots}] slot_labels, float[1, {slots}, 2] slot_coords",
        OPSET,
        guard=f"more_than_{slots}_points",
    )
    after = graphs.parse_operations(
        graphs.MASKS.format(canvas=model.canvas, masks=masks),
        graphs.MASK_INPUTS.format(masks=masks, side=side),
        f"float[1, {masks}, image_height, image_width] masks",
        OPSET,
    )
    return graphs.wrap_network(network, DECODER_INPUTS, DECODER_OUTPUTS, before=before, after=after)


def export_encoder(model: Sam, variables: Mapping[str, Any]) -> Any:
    """Exports normalization, padding and the image encoder, for one image.

    Args:
      model: The SAM.
      variables: Its variables, which become part of the file.

    Returns:
      An onnx.ModelProto. Its input `input_image` is float32 [1, 3, height, width], RGB 0..255, an
      image resized so that its longest side fills the canvas. Its output is `image_embeddings`.

    Raises:
      ValueError: A missing package.
    """
    require_onnx()
    network = _convert(
        make_encoder(make_plain(model), variables),
        {"pixels": (1, model.canvas, model.canvas, 3), "sizes": ((1, 2), jnp.int32)},
        (ENCODER_OUTPUT,),
        "sam_encoder",
    )
    before = graphs.parse_operations(
        graphs.IMAGE.format(canvas=model.canvas),
        graphs.IMAGE_INPUTS,
        f"float[1, {model.canvas}, {model.canvas}, 3] pixels, int32[1, 2] sizes",
        OPSET,
        guard=f"image_larger_than_{model.canvas}_pixels",
    )
    return graphs.wrap_network(network, (ENCODER_INPUT,), (ENCODER_OUTPUT,), before=before)


def _convert(function: Any, inputs: Mapping[str, Any], outputs: tuple[str, ...], name: str) -> Any:
    """Converts a function to an onnx.ModelProto. `inputs` are shapes, or shapes with types."""
    import jax2onnx

    # jax2onnx reports its own stand-ins for jax's types, which do not concern the caller
    logging.getLogger("onnx_ir.serde").setLevel(logging.ERROR)
    shapes = [
        jax.ShapeDtypeStruct(*(spec if isinstance(spec[0], tuple) else (spec, jnp.float32)))
        for spec in inputs.values()
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Explicitly requested dtype")
        return jax2onnx.to_onnx(
            function,
            inputs=shapes,
            input_names=list(inputs),
            output_names=list(outputs),
            model_name=name,
            opset=OPSET,
        )


@contextmanager
def write_model(
    path: str | os.PathLike, model: Any, *, max_message: int = MAX_MESSAGE
) -> Iterator[pathlib.Path]:
    """Writes an ONNX file, yields a copy to check, and puts it in place if the block succeeds.

    Arrays of models that are too large for one protobuf message go to FILE.data beside it.

    Args:
      path: The file to write. Missing folders are made.
      model: The onnx.ModelProto.
      max_message: Bytes from which on arrays get a file of their own.

    Yields:
      Path of the copy, in a temporary folder beside `path`.
    """
    import onnx

    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    arrays = sum(len(array.raw_data) for array in model.graph.initializer)
    try:
        onnx.save_model(
            model,
            folder / path.name,
            save_as_external_data=arrays > max_message,
            location=f"{path.name}.data",
        )
        yield folder / path.name
        # Arrays first: the model must not name a file that is not there
        for part in sorted(folder.iterdir(), key=lambda part: part.name == path.name):
            part.replace(path.parent / part.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
