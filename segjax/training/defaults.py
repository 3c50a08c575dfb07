"""Settings of the training loop: their defaults, their meaning and their check.

Every group of settings is a frozen dataclass. Its fields hold the defaults and its docstring says
what each field means: `segjax config` prints both. A task extends `LoopSettings` by its own groups,
and `as_config` turns an instance into the `ConfigDict` that experiments change.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from segjax.messages import make_printable
from segjax.training.trainable.lora import LoraSettings


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Optimizer and learning-rate schedule.

    Attributes:
      name: "adamw"; "muon", which learns faster from scratch but whose steps take a third longer on
        tiny models; "lars", for the very large batches of a linear probe; or "sgd" with momentum.
      muon_convolutions: Orthogonalize the kernels of convolutions too ("muon"). Expensive for wide
        ones.
      peak_lr: Highest learning rate.
      base_lr: If above 0, the peak is base_lr * batch_size / 256 and peak_lr is ignored.
      b1: Decay of the first moment, and the momentum of "lars" and "sgd".
      b2: Decay of the second moment.
      weight_decay: Weight decay of kernels: decoupled for "adamw" and "muon", added to the gradient
        for "sgd" and "lars".
      clip_norm: Gradients are scaled down to this global norm. 0 turns clipping off.
      warmup_steps: Steps over which the rate grows linearly from 0.
      schedule: "cosine", "step", "rsqrt" or "constant", after the warm-up.
      boundaries: "step": the steps at which the rate is multiplied by decay_factor.
      decay_factor: "step": factor at each boundary.
      final_lr: "cosine": the rate at the last step.
      timescale: "rsqrt": steps after which the rate has fallen by a factor of sqrt(2).
      cooldown_steps: The rate falls linearly to 0 over this many last steps.
      layer_decay: Layer-wise learning-rate decay: rate of block i relative to block i + 1. 1 turns
        it off.
      trunk: Regular expression of the module whose patch_embed, pos_embed and block_{i} the layer
        decay applies to.
    """

    name: str = "adamw"
    muon_convolutions: bool = False
    peak_lr: float = 1e-3
    base_lr: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    warmup_steps: int = 0
    schedule: str = "cosine"
    boundaries: tuple[int, ...] = ()
    decay_factor: float = 0.1
    final_lr: float = 0.0
    timescale: int = 1000
    cooldown_steps: int = 0
    layer_decay: float = 1.0
    trunk: str = "image_encoder(/trunk)?"


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Device mesh, and how arrays are split over it.

    Attributes:
      data: Size of the axis that splits the batch alone. -1: all devices that `fsdp` leaves.
      fsdp: Parameters and optimizer state are split into this many parts (FSDP).
      floor: Arrays with fewer elements are replicated.
      overrides: Pairs of a regular expression on a parameter's path and one axis name, or None, per
        dimension.
      reduce_dtype: "float32": gradients of linear layers are summed over devices in float32 instead
        of the dtype of the computation. With bfloat16 this moves twice the bytes and rounds nothing
        on the way.
      unsharded_tolerance: Largest share of the state's bytes that may be replicated when fsdp > 1.
    """

    data: int = -1
    fsdp: int = 1
    floor: int = 2**18
    overrides: tuple = ()
    reduce_dtype: str = ""
    unsharded_tolerance: float = 0.1


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """Checkpoints of a run.

    Attributes:
      every: Steps between checkpoints. 0: only at the end and when the run is interrupted.
      keep: Number of newest checkpoints that stay.
      best: A metric of the evaluation. The checkpoint with its best value stays too.
      best_mode: "max" or "min": which value of `best` is better.
      may_change: Regular expressions of config keys that a resumed run may change.
    """

    every: int = 500
    keep: int = 2
    best: str = ""
    best_mode: str = "max"
    may_change: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """Settings that the loop reads for every task.

    Attributes:
      seed: Seed of parameters, data order and everything drawn at random.
      total_steps: Optimizer steps of the run.
      batch_size: Images in one optimizer step, over all processes and devices.
      microbatches: Gradient accumulation: the batch is computed in this many parts, to save memory.
      log_every: Steps between lines of the log.
      eval_every: Steps between evaluations. 0: only at the end.
      profile_steps: (first, last): a profiler trace of these steps is written to workdir/profile.
      peak_tflops: Peak TFLOP/s of one chip, for the model FLOPs utilization ("mfu") in the log. 0:
        the known value of the chip; none is known for CPUs.
      ema_decay: Decay of the exponential moving average of the parameters. 0 turns it off.
      init_from: Weights to start from: another run's workdir, a file of weights, or KIND:PATH such
        as "mae:PATH". The run's own checkpoints take precedence.
      trainable: Parameters to train: "" or "full" (all), "decoder" (all but the encoder), "late:N"
        (the last N blocks of the encoder and everything after it), "lora" (the decoder, and
        adapters in the encoder), "lora_only", a regular expression on parameter paths, or a list
        of these. All others are frozen.
      lora: Low-rank adapters of frozen kernels.
      optimizer: Optimizer and learning-rate schedule.
      mesh: Device mesh, and how arrays are split over it.
      checkpoint: Checkpoints of the run.
    """

    seed: int = 0
    total_steps: int = 1000
    batch_size: int = 8
    microbatches: int = 1
    log_every: int = 50
    eval_every: int = 0
    profile_steps: tuple[int, ...] = ()
    peak_tflops: float = 0.0
    ema_decay: float = 0.0
    init_from: str = ""
    trainable: Any = ""
    lora: LoraSettings = LoraSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    mesh: MeshSettings = MeshSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()


def base_config() -> ml_collections.ConfigDict:
    """Returns a fresh config with every field that the loop reads. Tasks add their own fields."""
    return as_config(LoopSettings())


def as_config(settings: Any) -> ml_collections.ConfigDict:
    """Converts a dataclass of settings, nested ones included, to a config.

    None becomes (), because a field of a config keeps the type of its default.
    """
    return ml_collections.ConfigDict(_as_dict(settings), convert_dict=True)


def is_group(value: Any) -> bool:
    """Tells whether a value is a dataclass or named tuple, so a group of settings and not one
    setting.
    """
    return dataclasses.is_dataclass(value) or hasattr(value, "_asdict")


def get_settings(group: Any) -> dict[str, Any]:
    """Returns the settings of one group by name. Nested groups stay as they are."""
    if hasattr(group, "_asdict"):
        return group._asdict()
    return {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}


def _as_dict(value: Any) -> Any:
    if not is_group(value):
        return () if value is None else value
    types = (
        {field.name: field.type for field in dataclasses.fields(value)}
        if (dataclasses.is_dataclass(value))
        else {}
    )
    settings = {name: _as_dict(setting) for name, setting in get_settings(value).items()}
    # A setting annotated as Any may change its type. A config allows that for references only.
    return {
        name: ml_collections.FieldReference(setting, field_type=object)
        if types.get(name) is Any
        else setting
        for name, setting in settings.items()
    }


def check_config(config: ml_collections.ConfigDict) -> None:
    """Checks the settings of the loop.

    A missing setting is an error too: a default that is filled in here would hide from the run's
    config.json.

    Raises:
      ValueError: A setting is missing or out of range. The message names it.
    """
    missing = sorted(set(flatten_config(base_config())) - set(flatten_config(config)))
    if missing:
        raise ValueError(
            f"config lacks {', '.join(missing)}; start it from "
            "segjax.training.defaults.base_config() and change fields"
        )
    for name in ("total_steps", "batch_size", "microbatches", "log_every"):
        _expect(config[name] >= 1, name, config[name], "at least 1")
    for name in ("eval_every", "checkpoint.every"):
        value = flatten_config(config)[name]
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


def fill_defaults(
    settings: Mapping[str, Any] | ml_collections.ConfigDict, defaults: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """Returns a new config: the settings, and the defaults of those that are missing.

    Args:
      settings: A config or nested dict, perhaps read from JSON.
      defaults: Config with every setting.

    Raises:
      ValueError: A setting has another type than its default.
    """
    config = copy.deepcopy(defaults)  # with references, see `_as_dict`
    settings = (
        settings.to_dict() if isinstance(settings, ml_collections.ConfigDict) else dict(settings)
    )
    try:
        with config.unlocked():
            config.update(settings)
    except TypeError as error:
        reason = make_printable(str(error), 300)
        raise ValueError(f"a setting is of another type than its default: {reason}") from error
    return config


def flatten_config(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, object]:
    """Returns the settings of a config by dotted name: {"optimizer.peak_lr": 1e-3, ...}."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, (ml_collections.ConfigDict, dict)):
            flat.update(flatten_config(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _expect(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"config.{name} is {found!r}; expected {expected}")
