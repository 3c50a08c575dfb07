"""AdamW, Muon, LARS or SGD with masked weight decay, layer-wise learning rates, warm-up and a schedule.

Sources: decoupled weight decay, Loshchilov and Hutter 2019; layer-wise rate decay as in BEiT (Bao et al.
2022, appendix), used by MAE and SAM; schedules: Segment Anything appendix A (step), MAE appendix A (cosine), SAM 2
(arXiv 2408.00714) appendix (reciprocal square root with a cool-down, as Zhai et al. 2022 have it). Muon: Jordan 2024,
with updates of AdamW's size (Liu et al. 2025, arXiv 2502.16982). LARS: You et al. 2017, arXiv 1708.03888.
"""

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

Schedule = Callable[[Any], jax.Array]

OPTIMIZERS = ("adamw", "muon", "lars", "sgd")
SCHEDULES = ("constant", "cosine", "step", "rsqrt")
# Learned tables (positions, tokens, point and class embeddings) are not weights of a map: decay would only
# pull them to the origin. A module's kernel is one, whatever the module is called (patch_embed/kernel).
_NO_DECAY = re.compile(
    r"pos_embed|rel_pos|relative_pos|norm|(^|/)[^/]*(bias|scale|tokens?|embeds?|embeddings?)$"
)


def parameter_path(path: Sequence[Any]) -> str:
    """'image_encoder/block_0/mlp/kernel' from a jax key path."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def make_schedule(
    peak_lr: float,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    boundaries: Sequence[int] = (),
    decay_factor: float = 0.1,
    final_lr: float = 0.0,
    timescale: int = 1000,
    cooldown_steps: int = 0,
) -> Schedule:
    """Learning rate as a function of the step (0-based): linear warm-up from 0, then the named schedule.

    "cosine" falls from peak_lr at the end of the warm-up to final_lr at total_steps; "step" multiplies by
    decay_factor at each boundary (the step at the boundary already has the lower rate); "constant" stays; "rsqrt" falls
    as 1 / sqrt(1 + steps since the warm-up / timescale). With cooldown_steps the rate also falls linearly to 0 over the
    last steps of the run.
    Raises ValueError for an unknown schedule, descending boundaries, or a warm-up longer than the run.
    """
    if schedule not in SCHEDULES:
        raise ValueError(
            f"optimizer.schedule is {schedule!r}; expected one of {', '.join(SCHEDULES)}"
        )
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"optimizer.warmup_steps is {warmup_steps}; expected 0 to total_steps ({total_steps})"
        )
    if not 0 <= cooldown_steps <= total_steps - warmup_steps:
        raise ValueError(
            f"optimizer.cooldown_steps is {cooldown_steps}; expected 0 to what the warm-up leaves of the run "
            f"({total_steps - warmup_steps})"
        )
    if timescale <= 0:
        raise ValueError(f"optimizer.timescale is {timescale}; expected a positive number of steps")
    boundaries = tuple(boundaries)
    if list(boundaries) != sorted(set(boundaries)):
        raise ValueError(f"optimizer.boundaries is {boundaries}; expected steps in ascending order")
    if (schedule == "step") != bool(boundaries):
        raise ValueError(
            f"optimizer.schedule is {schedule!r} with boundaries {boundaries}; "
            "boundaries go with schedule 'step', and with no other"
        )

    def rate(step: Any) -> jax.Array:
        """The learning rate of a step, which may be traced."""
        step = jnp.asarray(step, jnp.float32)
        scale = jnp.minimum(step / warmup_steps, 1.0) if warmup_steps else jnp.float32(1.0)
        if cooldown_steps:
            scale *= jnp.clip((total_steps - step) / cooldown_steps, 0.0, 1.0)
        since = jnp.maximum(step - warmup_steps, 0.0)
        if schedule == "rsqrt":
            return peak_lr * scale * jax.lax.rsqrt(1.0 + since / timescale)
        if schedule == "step":
            return (
                peak_lr
                * scale
                * decay_factor ** sum((step >= b).astype(jnp.float32) for b in boundaries)
            )
        if schedule == "cosine":
            done = jnp.clip(since / max(total_steps - warmup_steps, 1), 0.0, 1.0)
            return scale * (final_lr + (peak_lr - final_lr) * 0.5 * (1.0 + jnp.cos(jnp.pi * done)))
        return peak_lr * scale

    return rate


def decay_mask(params: Any) -> Any:
    """True for each parameter that weight decay applies to: more than one dimension, and no learned table."""
    return jax.tree_util.tree_map_with_path(
        lambda path, p: p.ndim > 1 and _NO_DECAY.search(parameter_path(path)) is None, params
    )


def layer_scales(params: Any, layer_decay: float, trunk: str) -> Any:
    """Factor on the learning rate of each parameter: layer_decay ** (depth + 1 - layer), 1 outside the trunk.

    `patch_embed`, `pos_embed` and `cls_token` in the trunk are layer 0, its `block_i` is layer i + 1; the
    depth is the number of blocks found. trunk is a regex; "" means that the blocks lie at the top of the tree. Raises
    ValueError when no block is found, naming the modules there are.
    """
    prefix = f"(?:^|/)(?:{trunk})/" if trunk else "^"
    stem, block = (
        re.compile(prefix + r"(?:patch_embed|pos_embed|cls_token)(?:/|$)"),
        re.compile(prefix + r"block_(?P<number>\d+)/"),
    )

    def layer(path: Sequence[Any]) -> int | None:
        name = parameter_path(path)
        found = block.search(name)
        return int(found["number"]) + 1 if found else (0 if stem.search(name) else None)

    layers = jax.tree_util.tree_map_with_path(lambda path, _: layer(path), params)
    depth = max((n for n in jax.tree.leaves(layers)), default=0)
    if depth == 0:
        raise ValueError(
            f"optimizer.layer_decay is {layer_decay}, but no parameter lies under {trunk!r}/block_0; "
            f"the modules at the top are {', '.join(sorted(params))}. Set optimizer.trunk, or layer_decay=1.0"
        )
    return jax.tree.map(
        lambda n: 1.0 if n is None else layer_decay ** (depth + 1 - n),
        layers,
        is_leaf=lambda n: n is None,
    )


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
) -> optax.GradientTransformation:
    """Clip by global norm (0: off), the optimizer, decoupled decay where `decay_mask` says, layer-wise scale, schedule.

    "muon" orthogonalises the momentum (of decay .95, b1 has no say in it) of the matrices that `muon_matrices` names,
    and is Adam with Nesterov's momentum for all else. Its updates are as large as Adam's, so a learning rate serves
    both. With muon_convolutions the kernels of convolutions are matrices too, which costs much where they are wide.
    "lars" is momentum (b1) on gradients scaled to a thousandth of the norm of their parameters, for very large batches;
    decay is part of the gradient, and what `decay_mask` leaves out is scaled as little as it is decayed. "sgd" is
    momentum (b1) on gradients with decay, as torch has it and as detectors are trained.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer.name is {name!r}; expected one of {', '.join(OPTIMIZERS)}")
    for option, value, low, high in (
        ("b1", b1, 0.0, 1.0),
        ("b2", b2, 0.0, 1.0),
        ("weight_decay", weight_decay, 0.0, float("inf")),
        ("clip_norm", clip_norm, 0.0, float("inf")),
    ):
        if not low <= value < high:
            raise ValueError(
                f"optimizer.{option} is {value}; expected a number in [{low:g}, {high:g})"
            )
    if not 0.0 < layer_decay <= 1.0:
        raise ValueError(f"optimizer.layer_decay is {layer_decay}; expected a number in (0, 1]")
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if name == "lars":
        parts.append(_scale_by_lars(b1, weight_decay))
    elif name == "sgd":
        parts += [optax.add_decayed_weights(weight_decay, mask=decay_mask), optax.trace(decay=b1)]
    else:
        parts.append(
            optax.scale_by_adam(b1=b1, b2=b2)
            if name == "adamw"
            else _scale_by_muon(b1, b2, muon_convolutions)
        )
    if weight_decay and name not in ("lars", "sgd"):
        parts.append(optax.add_decayed_weights(weight_decay, mask=decay_mask))
    if layer_decay < 1.0:
        # A constant tree times the updates: one transform, however deep the trunk is.
        def scale(updates: Any, params: Any) -> Any:
            return jax.tree.map(
                lambda u, s: u * s, updates, layer_scales(updates, layer_decay, trunk)
            )

        parts.append(optax.stateless(scale))
    parts.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*parts)


def muon_matrices(params: Any, convolutions: bool = False) -> Any:
    """For each parameter whether Muon orthogonalises it; Adam serves the others.

    It does so with matrices between features. Learned tables and vectors are none; maps from or to less than 16 numbers
    are stems and heads, for which Adam is the better choice (Jordan 2024). With `convolutions` a kernel [h, w, in, out]
    is the matrix [h * w * in, out], as Jordan's own runs of CIFAR-10 have it.
    """
    ranks = (2, 4) if convolutions else (2,)
    return jax.tree.map(
        lambda p, is_map: bool(is_map and p.ndim in ranks and min(p.shape[-2:]) >= 16),
        params,
        decay_mask(params),
    )


def _scale_by_muon(b1: float, b2: float, convolutions: bool) -> optax.GradientTransformation:
    def orthogonal(updates: Any, params: Any) -> Any:
        return jax.tree.map(_step_of_matrix, updates)

    def labels(params: Any) -> Any:
        return jax.tree.map(
            lambda is_one: "matrix" if is_one else "other", muon_matrices(params, convolutions)
        )

    matrix = optax.chain(optax.trace(0.95, nesterov=True), optax.stateless(orthogonal))
    return optax.partition(
        {"matrix": matrix, "other": optax.scale_by_adam(b1=b1, b2=b2, nesterov=True)}, labels
    )


def _step_of_matrix(momentum: jax.Array) -> jax.Array:
    """Roughly the nearest orthogonal matrix, with entries as large as AdamW's updates (root mean square .2)."""
    matrix = momentum.reshape(-1, momentum.shape[-1])
    tall = matrix.shape[0] > matrix.shape[1]
    scale = 0.2 * max(matrix.shape) ** 0.5
    matrix = orthogonal_factor(matrix.T if tall else matrix)
    return scale * (matrix.T if tall else matrix).reshape(momentum.shape)


def orthogonal_factor(matrix: jax.Array) -> jax.Array:
    """U V^T of a matrix float32 [m, n], m <= n, with singular values of .7 to 1.2 instead of 1: Jordan's (2024) five
    Newton-Schulz iterations.

    They only ever multiply the matrix by polynomials of its Gram matrix [m, m]. Gathered there, and multiplied once,
    they take a quarter of the time of optax's for the kernel of a convolution. That asks for float32's precision.
    """
    product = functools.partial(jnp.matmul, precision="highest")
    matrix = matrix / (jnp.linalg.norm(matrix) + 1e-8)
    gram, gathered = product(matrix, matrix.T), jnp.eye(len(matrix))
    for _ in range(5):
        step = 3.4445 * jnp.eye(len(matrix)) - 4.775 * gram + 2.0315 * product(gram, gram)
        gathered, gram = product(step, gathered), product(product(step, gram), step)
    return product(gathered, matrix)


def _scale_by_lars(momentum: float, weight_decay: float) -> optax.GradientTransformation:
    # The rate is applied behind the momentum, as in MoCo v3's LARS, which MAE's probe was trained with.
    lars = optax.lars(
        1.0,
        weight_decay,
        weight_decay_mask=decay_mask,
        trust_ratio_mask=decay_mask,
        momentum=momentum,
    )
    return optax.chain(lars, optax.scale(-1.0))


def from_config(config: ml_collections.ConfigDict) -> tuple[Schedule, optax.GradientTransformation]:
    """(schedule, optimizer) that config.optimizer describes, for a run of config.total_steps.

    Each setting is an argument of `make_schedule` or, if that has none of its name, of `make_optimizer`; but base_lr,
    which scales the peak with the batch (Goyal et al. 2017, arXiv 1706.02677).
    """
    options = config.optimizer.to_dict()
    if base_lr := options.pop("base_lr"):
        options["peak_lr"] = base_lr * config.batch_size / 256
    timing = {
        name: options.pop(name)
        for name in inspect.signature(make_schedule).parameters
        if name in options
    }
    schedule = make_schedule(total_steps=config.total_steps, **timing)
    return schedule, make_optimizer(schedule, **options)
