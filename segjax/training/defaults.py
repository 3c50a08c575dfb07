"""The settings the training loop reads, each with its default, and the check that they make sense together."""

from collections.abc import Mapping
from typing import Any

import ml_collections


def base_config() -> ml_collections.ConfigDict:
    """A fresh config with every field the loop reads. Experiments start from it and add their task's fields."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total_steps = 1000
    config.batch_size = 8  # images in one optimizer step, over all processes and devices
    config.microbatches = 1  # the batch is worked through in this many pieces, to save memory
    config.log_every = 50
    config.eval_every = 0  # 0: only at the end
    config.profile_steps = ()  # (first, last): a profiler trace of these steps goes to workdir/profile
    config.peak_tflops = (
        0.0  # of one chip, for "mfu" in the log; 0: what is known of it, which of CPUs is nothing
    )
    config.ema_decay = 0.0  # 0: no moving average of the parameters
    config.init_from = ""  # another run's workdir or a file of weights, "mae:PATH" for a MAE's; own checkpoints come first

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = (
        "adamw"  # or "muon", which learns faster from scratch; tiny models pay a third more a step;
    )
    # or "lars", for the linear probe's very large batches, or "sgd" (the momentum of both is b1)
    config.optimizer.muon_convolutions = (
        False  # orthogonalise the kernels of convolutions too: dear for wide ones
    )
    config.optimizer.peak_lr = 1e-3
    config.optimizer.base_lr = (
        0.0  # above 0: the peak is base_lr * batch_size / 256, and peak_lr is not looked at
    )
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0  # 0: off
    config.optimizer.warmup_steps = 0
    config.optimizer.schedule = "cosine"  # or "step", "rsqrt", "constant"
    config.optimizer.boundaries = ()  # "step": the steps at which the rate drops by decay_factor
    config.optimizer.decay_factor = 0.1
    config.optimizer.final_lr = 0.0  # "cosine": the rate it ends at
    config.optimizer.timescale = (
        1000  # "rsqrt": the steps after which the rate has fallen by sqrt(2)
    )
    config.optimizer.cooldown_steps = 0  # the rate falls linearly to 0 over the last steps
    config.optimizer.layer_decay = 1.0  # rate of block i relative to block i + 1
    config.optimizer.trunk = (
        "image_encoder(/trunk)?"  # module whose patch_embed, pos_embed and block_{i} decay
    )

    config.mesh = ml_collections.ConfigDict()
    config.mesh.data = -1  # -1: whatever the device count leaves
    config.mesh.fsdp = 1  # parameters and optimizer state are split this many ways
    config.mesh.floor = 2**18  # arrays with fewer elements stay whole on every device
    config.mesh.overrides = ()  # (regex on the parameter's path, axis name or None per dimension)
    config.mesh.reduce_dtype = (
        ""  # "float32": of linear layers, gradients are added up over devices in that type, not
    )
    # in the one that they are computed in; with bfloat16 twice the bytes, and no rounding on the way
    config.mesh.unsharded_tolerance = (
        0.1  # share of the state's bytes that may stay whole when fsdp > 1
    )

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every = 500  # steps; 0: only at the end and when interrupted
    config.checkpoint.keep = 2
    config.checkpoint.best = ""  # a metric of the evaluation; its best checkpoint is kept as well
    config.checkpoint.best_mode = "max"
    config.checkpoint.may_change = ()  # regexes of config keys that a resumed run may change
    return config


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError that names the field, what it is and what it should be.

    A field that `base_config` has and `config` lacks is an error too: a default that hides would be a guess.
    """
    missing = sorted(set(flat_keys(base_config())) - set(flat_keys(config)))
    if missing:
        raise ValueError(
            f"config lacks {', '.join(missing)}; start it from segjax.training.defaults.base_config() and change fields"
        )
    for name in ("total_steps", "batch_size", "microbatches", "log_every"):
        _expect(config[name] >= 1, name, config[name], "at least 1")
    for name in ("eval_every", "checkpoint.every"):
        value = flat_keys(config)[name]
        _expect(value >= 0, name, value, "0 or more (0: only at the end)")
    _expect(config.checkpoint.keep >= 1, "checkpoint.keep", config.checkpoint.keep, "at least 1")
    _expect(
        config.checkpoint.best_mode in ("min", "max"),
        "checkpoint.best_mode",
        config.checkpoint.best_mode,
        "'min' or 'max'",
    )
    _expect(
        config.mesh.reduce_dtype in ("", "float32"),
        "mesh.reduce_dtype",
        config.mesh.reduce_dtype,
        "'' or 'float32'",
    )
    _expect(0.0 <= config.ema_decay < 1.0, "ema_decay", config.ema_decay, "in [0, 1)")
    profile = tuple(config.profile_steps)
    if profile:
        _expect(
            len(profile) == 2 and profile[0] <= profile[1],
            "profile_steps",
            profile,
            "(first, last) or ()",
        )


def with_defaults(
    settings: Mapping[str, Any] | ml_collections.ConfigDict, defaults: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """A new config: `settings`, perhaps read from JSON, and the defaults of those that they leave out.

    Raises ValueError for a setting of another type than its default.
    """
    config = defaults.copy_and_resolve_references()
    settings = (
        settings.to_dict() if isinstance(settings, ml_collections.ConfigDict) else dict(settings)
    )
    try:
        with config.unlocked():
            config.update(settings)
    except TypeError as error:
        raise ValueError(f"a setting is of another type than its default: {error}") from error
    return config


def flat_keys(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, object]:
    """Leaves of a config by dotted name: {"optimizer.peak_lr": 1e-3, ...}."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, (ml_collections.ConfigDict, dict)):
            flat.update(flat_keys(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _expect(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"config.{name} is {found!r}; expected {expected}")
