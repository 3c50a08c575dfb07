"""Differences of lower precision and of the fused attention from float32, stage by stage."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from golden.drawn_weights import drawn_variables

from accelerator.batches import draw_images
from accelerator.inference import draw_clicks, list_attentions
from accelerator.timing import attempt_each
from segjax.models.build import init_model
from segjax.models.detection.build import build_mask_rcnn
from segjax.models.mae import build_mae
from segjax.models.sam.build import build_sam
from segjax.models.sam.prompt_encoder import Prompts

Stage = Callable[[Any, Any], dict[str, jax.Array]]


def measure(sizes: str) -> Iterator[dict[str, Any]]:
    """Yields the errors of SAM, a MAE and a detector.

    Args:
      sizes: "vit_b", or "debug".
    """
    small = sizes == "debug"
    detector = "maskrcnn_debug" if small else "mask_rcnn_R_50_FPN"
    canvas = (64, 64) if small else (800, 1344)
    yield from compare(build_sam, f"sam_{sizes}", {"encoder": _embed, "decoder": _decode})
    yield from compare(build_mae, f"mae_{sizes}", {"prediction": _reconstruct})
    stages = {"pyramid": functools.partial(_extract, canvas=canvas), "proposals": _propose}
    yield from compare(build_mask_rcnn, detector, stages, attention=False)


def compare(
    build: Callable, name: str, stages: dict[str, Stage], *, attention: bool = True
) -> Iterator[dict[str, Any]]:
    """Yields the errors of every stage of a model, for each precision and attention.

    Args:
      build: Builds the model by name and options.
      name: Name of the model.
      stages: Stages in order. Each gets the exact results of the one before.
      attention: Whether the model has attention.
    """
    exact = build(name, dtype="float32")
    variables = jax.device_put(drawn_variables(exact, init_model))
    kinds = {"float32, default": {}}
    for impl in list_attentions() if attention else ("",):
        options = {"attention": impl} if impl else {}
        kinds[f"bfloat16, {impl}".removesuffix(", ")] = options | {"dtype": "bfloat16"}
    given: Any = None
    for stage, run in stages.items():
        with jax.default_matmul_precision("highest"):
            expected = jax.jit(functools.partial(run, exact))(variables, given)

        def find_error(kind: str, run: Stage = run, given: Any = given, expected: Any = expected):
            model = build(name, **{"dtype": "float32"} | kinds[kind])
            return compute_errors(
                jax.jit(functools.partial(run, model))(variables, given), expected
            )

        rows = {kind: dict(model=name, stage=stage, computed_in=kind) for kind in kinds}
        yield from attempt_each(rows, find_error)
        given = expected


def compute_errors(actual: Any, expected: Any) -> dict[str, float]:
    """Computes the relative and the largest error of all arrays of a stage together.

    Raises:
      ValueError: A result is not finite.
    """
    flat = lambda tree: np.concatenate(
        [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    )
    a, b = flat(actual), flat(expected)
    if not np.isfinite(a).all():
        raise ValueError(f"{np.sum(~np.isfinite(a))} of {a.size} results are not finite")
    difference = a - b
    relative = np.sqrt(np.mean(difference**2) / np.mean(b**2))
    return {"relative_error": float(relative), "largest_error": float(np.abs(difference).max())}


def _embed(model, variables, _):
    images = draw_images(1, model.canvas, model.canvas)
    return model.apply(variables, images, method="encode_image")


def _decode(model, variables, embedding):
    points = jnp.asarray(draw_clicks(4, model.canvas)[None, :, None])
    prompts = Prompts(points=points, labels=jnp.ones((1, 4, 1), jnp.int32))
    return model.apply(variables, embedding.astype(model.dtype), prompts, method="decode")


def _reconstruct(model, variables, _):
    images = draw_images(2, model.canvas, model.canvas)
    return model.apply(variables, images, rngs={"mask": jax.random.key(0)})[0]


def _extract(model, variables, _, *, canvas):
    sizes = jnp.asarray([canvas], jnp.int32)
    return model.apply(variables, draw_images(1, *canvas), sizes, method="encode_image")


def _propose(model, variables, levels):
    levels = jax.tree.map(lambda level: level.astype(model.dtype), levels)
    return model.apply(variables, levels, method="propose")
