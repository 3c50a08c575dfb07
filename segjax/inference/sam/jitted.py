"""The two halves of SAM as compiled programs: images to embeddings, and prompts to masks.

You can skip this file; the math is in `segjax/models/sam/`.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.images.transforms import pad_to_canvas, resize_longest_side
from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.sam.sam import Sam

IMAGES_PER_BATCH = 4
# Bytes of upscaled embeddings that are decoded together on a CPU. Its last-level cache is about
# twice as large, and these embeddings are half of the working set.
CACHE_BYTES = 2**24


def resize_to_canvas(images: Iterable[np.ndarray], canvas: int) -> Iterator[np.ndarray]:
    """Yields each image resized so that its longest side fits the canvas, as SAM requires.

    Args:
      images: Each uint8 [H, W, 3], of any size.
      canvas: Side of the square canvas, in pixels.

    Yields:
      uint8 [h', w', 3], where max(h', w') = canvas.
    """
    for image in images:
        yield resize_longest_side(np.ascontiguousarray(image), canvas)


def encode_images(
    model: Sam, variables: Mapping[str, Any], contents: Iterable[np.ndarray], *, per_batch: int = 1
) -> list[jax.Array]:
    """Computes the image embedding of every image.

    Full batches hold `per_batch` images. The rest is split into batches whose sizes are powers of
    two, so a few compiled programs serve any number of images. Batches are never padded with empty
    images, because encoding one can cost more than compiling another program.

    Args:
      model: The SAM.
      variables: Its variables, {"params", "constants"}.
      contents: Images [h', w', 3] that fit the canvas, from `resize_to_canvas`.
      per_batch: Maximum number of images in one call.

    Returns:
      One embedding [1, h, w, D] per image, in `model.dtype`.
    """
    remaining, embeddings = iter(contents), []
    while group := list(itertools.islice(remaining, per_batch)):
        while group:
            size = per_batch if len(group) == per_batch else 1 << len(group).bit_length() - 1
            canvases = np.stack([pad_to_canvas(content, model.canvas) for content in group[:size]])
            sizes = np.array([content.shape[:2] for content in group[:size]], np.int32)
            embeddings += encode_canvases(model, variables, canvases, sizes)
            group = group[size:]
    return embeddings


@functools.partial(jax.jit, static_argnums=0)
def encode_canvases(
    model: Sam, variables: Mapping[str, Any], images: jax.Array, sizes: jax.Array
) -> tuple[jax.Array, ...]:
    """Runs the image encoder on a batch of canvases (see `Sam.encode_image`).

    Args:
      model: The SAM.
      variables: Its variables.
      images: uint8 or float32 [B, canvas, canvas, 3], values 0..255.
      sizes: int32 [B, 2], (height, width) of each canvas's content.

    Returns:
      B embeddings [1, h, w, D], as separate arrays.
    """
    model = tune_for_device(model)
    embeddings = model.apply(variables, images, sizes, method="encode_image")
    return tuple(jnp.split(embeddings, len(embeddings)))


@functools.partial(jax.jit, static_argnums=0)
def decode_prompts(
    model: Sam, variables: Mapping[str, Any], embeddings: Sequence[jax.Array], prompts: Prompts
) -> tuple[jax.Array, jax.Array]:
    """Runs the prompt encoder and the mask decoder (see `Sam.decode`).

    Args:
      model: The SAM.
      variables: Its variables.
      embeddings: R image embeddings [1, h, w, D]. The same embedding may occur several times.
      prompts: R rows of P prompts, in canvas pixels. Row r belongs to embedding r.

    Returns:
      logits: float32 [R, P, 4, 4h, 4w], mask where > 0.
      iou: float32 [R, P, 4], IoU of each mask as the model predicts it.
    """
    model = tune_for_device(model)
    embedding = jnp.concatenate(embeddings)
    rows, slots = prompts.batch
    if rows == 1 or not 0 < model.prompts_at_once < rows * slots:
        return model.apply(variables, embedding, prompts, method="decode")

    # Prompts are decoded a group at a time. Decode the rows one after another as well; otherwise
    # a group would hold a slice of every row, and short rows would wait for long ones.
    def decode_row(row: tuple[jax.Array, Prompts]) -> tuple[jax.Array, jax.Array]:
        return model.apply(variables, *row, method="decode")

    one_row_each = jax.tree.map(lambda x: x[:, None], (embedding, prompts))
    return jax.tree.map(lambda x: x[:, 0], jax.lax.map(decode_row, one_row_each))


def tune_for_device(model: Sam) -> Sam:
    """Returns the model with the settings that run fastest on the current device.

    Results are the same up to rounding. On CPUs, plain "xla" attention becomes "chunked", and
    prompts are decoded in groups whose upscaled embeddings fit into the cache. Settings that the
    model sets explicitly are not changed.

    Args:
      model: The SAM. Its variables fit the returned model too.
    """
    if jax.default_backend() != "cpu":
        return model
    # float32 [4h, 4w, width / 8] per prompt, in bytes
    upscaled_bytes = 4 * model.mask_side**2 * model.prompt_width // 8
    return model.clone(
        attention="chunked" if model.attention == "xla" else model.attention,
        prompts_at_once=model.prompts_at_once or max(1, CACHE_BYTES // upscaled_bytes),
    )
