"""The two halves of a SAM as a session runs them, each compiled once: pictures to embeddings, prompts to masks."""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.images.transforms import pad_to_canvas, resize_longest_side
from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.sam.sam import Sam

CACHE_BYTES = (
    2**24
)  # a CPU's last cache has about twice that; upscaled embeddings are half of what decoding holds


def embed(
    model: Sam, variables: Mapping[str, Any], pictures: Sequence[np.ndarray], *, per_batch: int = 1
) -> list[jax.Array]:
    """uint8 [H, W, 3] each, of any sizes -> [1, h, w, D] each: fitted to the canvas as SAM does, then `encode`."""
    contents = (
        resize_longest_side(np.ascontiguousarray(picture), model.canvas) for picture in pictures
    )
    return encode(model, variables, contents, per_batch=per_batch)


def encode(
    model: Sam, variables: Mapping[str, Any], contents: Iterable[np.ndarray], *, per_batch: int = 1
) -> list[jax.Array]:
    """Embeddings [1, h, w, D] of contents [h', w', 3] that fit the canvas.

    In calls of `per_batch`, and what is left in calls of a power of two: few programs serve any number. None is filled
    up, for a picture may cost more than a program.
    """
    remaining, embeddings = iter(contents), []
    while group := list(itertools.islice(remaining, per_batch)):
        while group:
            size = per_batch if len(group) == per_batch else 1 << len(group).bit_length() - 1
            canvases = np.stack([pad_to_canvas(content, model.canvas) for content in group[:size]])
            sizes = np.array([content.shape[:2] for content in group[:size]], np.int32)
            embeddings += _encode(for_device(model), variables, canvases, sizes)
            group = group[size:]
    return embeddings


def decode(
    model: Sam, variables: Mapping[str, Any], embeddings: Sequence[jax.Array], prompts: Prompts
) -> tuple[jax.Array, jax.Array]:
    """Logits [R, P, 4, 4h, 4w] and predicted IoUs [R, P, 4] of prompts [R, P, ..] on R embeddings [1, h, w, D]."""
    return _decode(for_device(model), variables, embeddings, prompts)


def for_device(model: Sam) -> Sam:
    """The model, computed as is fastest on the device at hand: the same numbers but for rounding.

    On CPUs that is chunked attention where the model asks for plain "xla", and as many prompts at once as their
    upscaled embeddings fit into the cache. What else a model asks for it gets.
    """
    if jax.default_backend() != "cpu":
        return model
    upscaled = 4 * model.mask_side**2 * model.prompt_width // 8  # bytes a prompt
    return model.clone(
        attention="chunked" if model.attention == "xla" else model.attention,
        prompts_at_once=model.prompts_at_once or max(1, CACHE_BYTES // upscaled),
    )


@functools.partial(jax.jit, static_argnums=0)
def _encode(
    model: Sam, variables: Mapping[str, Any], images: jax.Array, sizes: jax.Array
) -> tuple[jax.Array, ...]:
    embeddings = model.apply(variables, images, sizes, method="encode_image")
    return tuple(jnp.split(embeddings, len(embeddings)))


@functools.partial(jax.jit, static_argnums=0)
def _decode(
    model: Sam, variables: Mapping[str, Any], embeddings: Sequence[jax.Array], prompts: Prompts
) -> tuple[jax.Array, jax.Array]:
    """In a group of prompts, rows come one after another: a row of one prompt would else be decoded with all others."""

    def row(embedding: jax.Array, prompts: Prompts) -> tuple[jax.Array, jax.Array]:
        return model.apply(variables, embedding, prompts, method="decode")

    rows, slots = prompts.batch
    if rows == 1 or not 0 < model.prompts_at_once < rows * slots:
        return row(jnp.concatenate(embeddings), prompts)
    each = jax.tree.map(lambda x: x[:, None], (jnp.concatenate(embeddings), prompts))
    return jax.tree.map(lambda x: x[:, 0], jax.lax.map(lambda inputs: row(*inputs), each))
