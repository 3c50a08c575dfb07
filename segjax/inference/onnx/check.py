"""Compares exported ONNX files in onnxruntime with the model in JAX, on drawn inputs.

The JAX side is the code behind `SamPredictor` (`Sam.decode` and its resizing), not the functions
that were exported. A mistake in the export therefore shows as a difference.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from segjax.images.transforms import compute_fitted_size
from segjax.inference.onnx.contract import POINT_THRESHOLD, make_plain
from segjax.inference.onnx.export import ENCODER_INPUT
from segjax.inference.sam.postprocess import compute_image_weights
from segjax.models.sam.prompt_encoder import PADDING, Prompts
from segjax.models.sam.sam import Sam

TOLERANCE = 1e-4  # of the largest value, or of 1 if all are smaller
# height and width of images in canvas sides
SHAPES = ((1.0, 1.0), (0.6, 1.0), (1.0, 0.45))


class OnnxDifference(NamedTuple):
    """Largest absolute differences between onnxruntime and JAX.

    Attributes:
      calls: Number of compared calls.
      largest: Output ("logits", "full-size logits", "predicted IoU" or "embedding") -> difference.
      magnitude: Largest absolute value of the logits, or of the embedding.
    """

    calls: int
    largest: dict[str, float]
    magnitude: float

    def is_small(self) -> bool:
        """Tells if every difference is at most 1e-4 of the larger of 1 and `magnitude`."""
        return all(d <= TOLERANCE * max(1, self.magnitude) for d in self.largest.values())


class DrawnPrompt(NamedTuple):
    """A prompt for both sides, in pixels of the canvas.

    Attributes:
      points: float32 [N, 2].
      labels: float32 [N], 1 foreground or 0 background.
      box: float32 [4] or None.
      mask: float32 [4h, 4w] or None.
      size: (height, width) of the image in pixels.
    """

    points: np.ndarray
    labels: np.ndarray
    box: np.ndarray | None
    mask: np.ndarray | None
    size: tuple[int, int]


def check_decoder(
    path: str | os.PathLike,
    model: Sam,
    variables: Mapping[str, Any],
    *,
    single_mask: bool = False,
    slots: int,
    seed: int = 0,
) -> OnnxDifference:
    """Compares a decoder with `Sam.decode` for points, boxes, masks and their combinations.

    Args:
      path: The file of `export_decoder`.
      model: The SAM.
      variables: Its variables.
      single_mask: As the file was exported.
      slots: As the file was exported.
      seed: Of the drawn embeddings and prompts.
    """
    session, model = _open(path), make_plain(model)
    decode = jax.jit(lambda *inputs: model.apply(variables, *inputs, method="decode"))
    random = np.random.default_rng(seed)
    side, width = model.mask_side, model.prompt_width
    found = []
    for prompt in _draw_prompts(random, model, slots):
        embedding = random.standard_normal((1, side // 4, side // 4, width), np.float32)
        feeds, points = _make_feeds(prompt, embedding, side)
        masks, iou, low_res = session.run(["masks", "iou_predictions", "low_res_masks"], feeds)
        # The same in JAX
        logits, expected_iou = (
            np.asarray(x)[0, 0] for x in decode(embedding, _make_prompts(prompt, side, slots))
        )
        if single_mask:
            best = 0 if points > POINT_THRESHOLD else 1 + int(np.argmax(expected_iou[1:]))
            logits, expected_iou = logits[best][None], expected_iou[best][None]
        pairs = {
            "logits": (low_res[0], logits),
            "full-size logits": (masks[0], _resize(logits, model.canvas, prompt.size)),
            "predicted IoU": (iou[0], expected_iou),
        }
        found.append((pairs, logits))
    return _summarize(found)


def check_encoder(
    path: str | os.PathLike, model: Sam, variables: Mapping[str, Any], *, seed: int = 0
) -> OnnxDifference:
    """Compares an encoder with `Sam.encode_image` on a square, a wide and a tall image.

    Args:
      path: The file of `export_encoder`.
      model: The SAM.
      variables: Its variables.
      seed: Of the drawn images.
    """
    session, model = _open(path), make_plain(model)
    encode = jax.jit(lambda *inputs: model.apply(variables, *inputs, method="encode_image"))
    random = np.random.default_rng(seed)
    found = []
    for shape in SHAPES:
        h, w = (round(part * model.canvas) for part in shape)
        image = random.integers(0, 256, (h, w, 3)).astype(np.float32)
        (embedding,) = session.run(None, {ENCODER_INPUT: image.transpose(2, 0, 1)[None]})
        # The same in JAX
        canvas = np.zeros((1, model.canvas, model.canvas, 3), np.float32)
        canvas[0, :h, :w] = image
        expected = np.moveaxis(np.asarray(encode(canvas, np.array([[h, w]], np.int32))), -1, 1)
        found.append(({"embedding": (embedding, expected)}, expected))
    return _summarize(found)


def _open(path: str | os.PathLike) -> Any:
    """Opens a file in onnxruntime, on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])


def _draw_prompts(random: np.random.Generator, model: Sam, slots: int) -> Iterator[DrawnPrompt]:
    """Draws one prompt per combination of points, box and mask, on images of several sizes."""
    canvas, side = model.canvas, model.mask_side
    kinds = ((1, 0, 0), (3, 0, 0), (0, 1, 0), (2, 1, 0), (1, 0, 1), (0, 1, 1), (4, 1, 1))
    for index, (count, has_box, has_mask) in enumerate(kinds):
        count = min(count, slots - 2 * has_box - (not has_box))
        corners = np.sort(random.uniform(0, canvas, (2, 2)), axis=0)
        # Larger and smaller than the canvas, so that the resizing goes both ways
        size = tuple(round(part * canvas * (1.7, 0.8)[index % 2]) for part in SHAPES[index % 3])
        yield DrawnPrompt(
            random.uniform(0, canvas, (count, 2)).astype(np.float32),
            (np.arange(count) % 3 != 1).astype(np.float32),
            corners.reshape(4).astype(np.float32) if has_box else None,
            random.normal(0, 5, (side, side)).astype(np.float32) if has_mask else None,
            size,
        )


def _make_feeds(
    prompt: DrawnPrompt, embedding: np.ndarray, side: int
) -> tuple[dict[str, np.ndarray], int]:
    """Returns the arrays for the ONNX file, and the number of points in them."""
    # A prompt without a box ends with a padding point
    corners, kinds = np.zeros((1, 2), np.float32), [-1.0]
    if prompt.box is not None:
        corners, kinds = prompt.box.reshape(2, 2), [2.0, 3.0]
    coords = np.concatenate([prompt.points, corners])[None]
    labels = np.concatenate([prompt.labels, np.array(kinds, np.float32)])[None]
    mask = np.zeros((side, side), np.float32) if prompt.mask is None else prompt.mask
    feeds = {
        "image_embeddings": np.ascontiguousarray(np.moveaxis(embedding, -1, 1)),
        "point_coords": coords,
        "point_labels": labels,
        "mask_input": mask[None, None],
        "has_mask_input": np.array([prompt.mask is not None], np.float32),
        "orig_im_size": np.array(prompt.size, np.float32),
    }
    return feeds, labels.shape[1]


def _make_prompts(prompt: DrawnPrompt, side: int, slots: int) -> Prompts:
    """Returns the prompt for `Sam.decode`, in shapes that are the same for every prompt."""
    unused = min(4, slots) - len(prompt.points)
    has = lambda part: np.array([[part is not None]])
    fill = lambda part, shape: np.zeros(shape, np.float32) if part is None else part
    return Prompts(
        points=np.pad(prompt.points, ((0, unused), (0, 0)))[None, None],
        labels=np.pad(prompt.labels, (0, unused), constant_values=PADDING).astype(int)[None, None],
        boxes=fill(prompt.box, 4)[None, None],
        has_box=has(prompt.box),
        masks=fill(prompt.mask, (side, side))[None, None],
        has_mask=has(prompt.mask),
    )


def _resize(logits: np.ndarray, canvas: int, size: tuple[int, int]) -> np.ndarray:
    """Resizes logits [M, 4h, 4w] to an image, as `SamPredictor` does."""
    rows, columns = (
        compute_image_weights(logits.shape[-1], canvas, content, original)
        for content, original in zip(compute_fitted_size(size, canvas), size, strict=True)
    )
    return rows @ logits @ columns.T


def _summarize(found: Sequence[tuple[dict[str, Any], np.ndarray]]) -> OnnxDifference:
    """Finds the largest differences of all calls. NaN counts as larger than any number."""
    largest = {
        name: max(_compute_difference(*pairs[name]) for pairs, _ in found) for name in found[0][0]
    }
    return OnnxDifference(len(found), largest, max(float(np.abs(x).max()) for _, x in found))


def _compute_difference(x: np.ndarray, expected: np.ndarray) -> float:
    """Computes the largest absolute difference, infinite for NaN and for other shapes."""
    if x.shape != expected.shape:
        return float("inf")
    difference = float(np.abs(x - expected).max())
    return difference if np.isfinite(difference) else float("inf")
