"""AdamW, Muon, LARS or SGD with masked weight decay, layer-wise learning rates and a schedule.

Sources: decoupled weight decay (AdamW): Loshchilov and Hutter 2019. Layer-wise learning-rate decay:
BEiT, Bao et al. 2022, appendix, also used by MAE and SAM. Muon: Jordan 2024, with updates as large
as AdamW's (Liu et al. 2025, arXiv 2502.16982). LARS: You et al. 2017, arXiv 1708.03888.
"""

import functools
import inspect
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from segjax.training.schedules import Schedule, make_schedule

# Modules of an encoder before its blocks, a regular expression
STEM = "patch_embed|pos_embed|cls_token|registers|norm_pre"
OPTIMIZERS = ("adamw", "muon", "lars", "sgd")
# Learned tables (positions, tokens, point and class embeddings) are not weights of a linear map:
# decay would only pull them to the origin. A kernel is one, whatever its module is called
# (patch_embed/kernel).
_NO_DECAY = re.compile(
    r"pos_embed|rel_pos|relative_pos|norm|(^|/)[^/]*(bias|scale|tokens?|embeds?|embeddings?)$"
)


def parameter_path(path: Sequence[Any]) -> str:
    """Joins a jax key path, for example to "image_encoder/block_0/mlp/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def select_decayed(params: Any) -> Any:
    """Selects the parameters with weight decay: matrices and kernels, no learned tables."""
    return jax.tree_util.tree_map_with_path(
        lambda path, p: p.ndim > 1 and _NO_DECAY.search(parameter_path(path)) is None, params
    )


def compute_layer_scales(
    params: Any, layer_decay: float, trunk: str, depth: int | None = None
) -> Any:
    """Computes the factors of layer-wise learning-rate decay.

        factor = layer_decay ** (depth + 1 - layer)

    In the trunk, `patch_embed`, `pos_embed` and `cls_token` are layer 0, and `block_i` is layer
    i + 1. The depth is the number of blocks. Parameters outside the trunk have factor 1.

    Args:
      params: Tree of parameters.
      layer_decay: Factor from one layer to the layer before it.
      trunk: Regex on the path of the trunk. "": the blocks lie at the top of the tree.
      depth: Number of blocks, for a tree that lacks frozen ones. None: those of `params`.

    Returns:
      Tree of factors.

    Raises:
      ValueError: No block is found. Names the modules at the top of the tree.
    """
    layers = _find_layers(params, trunk)
    if depth is None:
        depth = count_blocks(params, layer_decay, trunk)
    return jax.tree.map(
        lambda n: 1.0 if n is None else layer_decay ** (depth + 1 - n),
        layers,
        is_leaf=lambda n: n is None,
    )


def count_blocks(params: Any, layer_decay: float, trunk: str) -> int:
    """Counts the blocks of the trunk, for `compute_layer_scales`.

    Args:
      params: Tree of parameters.
      layer_decay: For the error message.
      trunk: Regex on the path of the trunk.

    Raises:
      ValueError: No block is found. Names the modules at the top of the tree.
    """
    depth = max((n for n in jax.tree.leaves(_find_layers(params, trunk))), default=0)
    if depth == 0:
        raise ValueError(
            f"optimizer.layer_decay is {layer_decay}, but no parameter lies under "
            f"{trunk!r}/block_0; the modules at the top are {', '.join(sorted(params))}. Set "
            "optimizer.trunk, or layer_decay=1.0"
        )
    return depth


def _find_layers(params: Any, trunk: str) -> Any:
    """Returns the layer of each parameter, None outside of the trunk."""
    prefix = f"(?:^|/)(?:{trunk})/" if trunk else "^"
    # Layer 0, and the blocks
    stem, block = (
        re.compile(prefix + rf"(?:{STEM})(?:/|$)"),
        re.compile(prefix + r"block_(?P<number>\d+)/"),
    )

    def layer(path: Sequence[Any], _: Any) -> int | None:
        name = parameter_path(path)
        match = block.search(name)
        return int(match["number"]) + 1 if match else (0 if stem.search(name) else None)

    return jax.tree_util.tree_map_with_path(layer, params)


def make_optimizer(
    schedule: Schedule,
    *,
    name: str = "adamw",
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    layer_decay: float = 1.0,
    trunk: str = "image_encoder(/trunk)?",
    muon_convolutions: bool = False,
    depth: int | None = None,
) -> optax.GradientTransformation:
    """Makes an optimizer: gradient clipping, the named update, weight decay and the schedule.

        schedule = make_schedule(1e-3, total_steps=100)
        optimizer = make_optimizer(schedule, weight_decay=0.1, clip_norm=1.0)
        state = optimizer.init({"kernel": jnp.ones((3, 4))})

    Args:
      schedule: Learning rate as a function of the step, see `make_schedule`.
      name: "adamw", "muon", "lars" or "sgd".
        "muon" orthogonalizes the momentum (decay 0.95) of matrices (`select_muon_matrices`)
        and is Adam with Nesterov momentum for the rest. Its updates are as large as Adam's, so that
        one learning rate serves both.
        "lars" is momentum on gradients scaled to a thousandth of the norm of their parameters, for
        very large batches. Decay is part of the gradient. Parameters without decay are not scaled.
        "sgd" is momentum on gradients with decay, as in PyTorch.
      b1: Decay of the first moment, or of the momentum of "lars" and "sgd". Not used by the
        matrices of "muon".
      b2: Decay of the second moment of "adamw" and "muon".
      weight_decay: Decay of the parameters that `select_decayed` selects, decoupled for "adamw" and
        "muon".
      clip_norm: Largest global norm of the gradient. 0: no clipping.
      layer_decay: Layer-wise learning-rate decay, see `compute_layer_scales`. 1: none.
      trunk: Regex on the path of the trunk, see `compute_layer_scales`.
      muon_convolutions: Whether "muon" orthogonalizes kernels of convolutions too, which is
        expensive for wide ones.
      depth: Number of blocks of the trunk, see `compute_layer_scales`.

    Raises:
      ValueError: Unknown name, or a number out of its range.
    """
    numbers = dict(b1=b1, b2=b2, weight_decay=weight_decay, clip_norm=clip_norm)
    _check_optimizer(name, **numbers, layer_decay=layer_decay)

    # Update rule
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if name == "lars":
        parts.append(_scale_by_lars(b1, weight_decay))
    elif name == "sgd":
        parts += [
            optax.add_decayed_weights(weight_decay, mask=select_decayed),
            optax.trace(decay=b1),
        ]
    else:
        parts.append(
            optax.scale_by_adam(b1=b1, b2=b2)
            if name == "adamw"
            else _scale_by_muon(b1, b2, muon_convolutions)
        )
    # Decoupled weight decay, layer-wise decay and the schedule
    if weight_decay and name not in ("lars", "sgd"):
        parts.append(optax.add_decayed_weights(weight_decay, mask=select_decayed))
    if layer_decay < 1.0:
        parts.append(_scale_by_layer(layer_decay, trunk, depth))
    parts.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*parts)


def _check_optimizer(name: str, **numbers: float) -> None:
    """Raises ValueError for an unknown optimizer, or a number out of its range."""
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer.name is {name!r}; expected one of {', '.join(OPTIMIZERS)}")
    highest = {"b1": 1.0, "b2": 1.0, "weight_decay": float("inf"), "clip_norm": float("inf")}
    for option, high in highest.items():
        if not 0.0 <= numbers[option] < high:
            raise ValueError(
                f"optimizer.{option} is {numbers[option]}; expected a number in [0, {high:g})"
            )
    layer_decay = numbers["layer_decay"]
    if not 0.0 < layer_decay <= 1.0:
        raise ValueError(f"optimizer.layer_decay is {layer_decay}; expected a number in (0, 1]")


def _scale_by_layer(
    layer_decay: float, trunk: str, depth: int | None
) -> optax.GradientTransformation:
    """Scales updates by layer-wise learning-rate decay, see `compute_layer_scales`."""

    # A constant tree times the updates: one transform for trunks of any depth
    def scale(updates: Any, params: Any) -> Any:
        return jax.tree.map(
            lambda u, s: u * s, updates, compute_layer_scales(updates, layer_decay, trunk, depth)
        )

    return optax.stateless(scale)


def select_muon_matrices(params: Any, convolutions: bool = False) -> Any:
    """Selects the parameters that Muon orthogonalizes. Adam updates the others.

    Selected are matrices between features, but no learned tables. Maps from or to fewer than 16
    numbers are stems and heads, for which Adam is better (Jordan 2024).

    Args:
      params: Tree of parameters.
      convolutions: Whether a kernel [h, w, in, out] counts as the matrix [h * w * in, out], as in
        Jordan's runs on CIFAR-10.
    """
    ranks = (2, 4) if convolutions else (2,)
    return jax.tree.map(
        lambda p, is_map: bool(is_map and p.ndim in ranks and min(p.shape[-2:]) >= 16),
        params,
        select_decayed(params),
    )


def _scale_by_muon(b1: float, b2: float, convolutions: bool) -> optax.GradientTransformation:
    """Scales updates by Muon for matrices and by Adam for the other parameters."""

    def orthogonalize(updates: Any, params: Any) -> Any:
        return jax.tree.map(_orthogonalize, updates)

    def labels(params: Any) -> Any:
        return jax.tree.map(
            lambda is_one: "matrix" if is_one else "other",
            select_muon_matrices(params, convolutions),
        )

    # Jordan's momentum, whatever b1 is
    matrix = optax.chain(optax.trace(0.95, nesterov=True), optax.stateless(orthogonalize))
    return optax.partition(
        {"matrix": matrix, "other": optax.scale_by_adam(b1=b1, b2=b2, nesterov=True)}, labels
    )


def _orthogonalize(momentum: jax.Array) -> jax.Array:
    """Returns roughly the nearest orthogonal matrix, scaled to AdamW's updates (RMS 0.2)."""
    # The iteration works on the smaller side
    matrix = momentum.reshape(-1, momentum.shape[-1])
    tall = matrix.shape[0] > matrix.shape[1]
    scale = 0.2 * max(matrix.shape) ** 0.5
    matrix = compute_orthogonal_factor(matrix.T if tall else matrix)
    return scale * (matrix.T if tall else matrix).reshape(momentum.shape)


def compute_orthogonal_factor(matrix: jax.Array) -> jax.Array:
    """Approximates U V^T of a matrix U S V^T by five Newton-Schulz iterations (Jordan 2024).

    Singular values become 0.7 to 1.2 instead of 1. The iterations only multiply the matrix by
    polynomials of its Gram matrix [m, m]. Accumulated there and multiplied once, they take a
    quarter of the time of optax's for the kernel of a convolution. This needs float32 precision.

    Args:
      matrix: float32 [m, n], m <= n.

    Returns:
      float32 [m, n].
    """
    product = functools.partial(jnp.matmul, precision="highest")
    matrix = matrix / (jnp.linalg.norm(matrix) + 1e-8)
    gram, polynomial = product(matrix, matrix.T), jnp.eye(len(matrix))
    for _ in range(5):
        step = 3.4445 * jnp.eye(len(matrix)) - 4.775 * gram + 2.0315 * product(gram, gram)
        polynomial, gram = product(step, polynomial), product(product(step, gram), step)
    return product(polynomial, matrix)


def _scale_by_lars(momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """Scales updates by LARS, without a learning rate."""
    # The learning rate is applied after the momentum, as in MoCo v3's LARS, which trained MAE's
    # linear probe.
    lars = optax.lars(
        1.0,
        weight_decay,
        weight_decay_mask=select_decayed,
        trust_ratio_mask=select_decayed,
        momentum=momentum,
    )
    return optax.chain(lars, optax.scale(-1.0))


def build_optimizer(
    config: ml_collections.ConfigDict, params: Any = None
) -> tuple[Schedule, optax.GradientTransformation]:
    """Makes the schedule and the optimizer of `config.optimizer`.

    Each setting is an argument of `make_schedule` or, if that has none of this name, of
    `make_optimizer`. The exception is `base_lr`, which scales the peak with the batch size (Goyal
    et al. 2017, arXiv 1706.02677).

    Args:
      config: Complete config of a run.
      params: All parameters of the model as shapes, from which layer-wise decay counts the blocks.
        Only needed if some are frozen.

    Returns:
      (schedule, optimizer).
    """
    # Linear scaling rule
    options = config.optimizer.to_dict()
    if base_lr := options.pop("base_lr"):
        options["peak_lr"] = base_lr * config.batch_size / 256
    timing = {
        name: options.pop(name)
        for name in inspect.signature(make_schedule).parameters
        if name in options
    }
    schedule = make_schedule(total_steps=config.total_steps, **timing)
    if params is not None and options["layer_decay"] < 1.0:
        options["depth"] = count_blocks(params, options["layer_decay"], options["trunk"])
    return schedule, make_optimizer(schedule, **options)
