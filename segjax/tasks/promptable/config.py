"""What a promptable experiment may set, with the SAM paper's choices, and how any of them shrinks for a test."""

import dataclasses

import ml_collections

from segjax.data.examples.augmentation import Augmentation
from segjax.losses.promptable import PromptableLoss
from segjax.prompting.simulation import Rounds
from segjax.tasks.record_task import record_settings, variant_of
from segjax.training.defaults import base_config


def promptable_config() -> ml_collections.ConfigDict:
    """The loop's fields and this task's, with the paper's choices; experiments change what they need."""
    config = base_config()
    config.task = "promptable"
    config.model = ml_collections.ConfigDict({"name": "sam_vit_b"}, convert_dict=True)
    config.rounds = ml_collections.ConfigDict(dataclasses.asdict(Rounds()))
    config.loss = ml_collections.ConfigDict(dataclasses.asdict(PromptableLoss()))
    config.data = ml_collections.ConfigDict(
        record_settings()
        | dict(
            max_prompts=64,  # objects of an image that one step trains on
            mask_stride=4,  # canvas pixels per cell of the loss grid; finer than patch / 4 upsamples the logits
            min_area=10.0,
            max_area_fraction=0.9,
            augment=dataclasses.asdict(Augmentation())
            | {"scale": ()},  # (): pictures fill the canvas
        )
    )
    config.eval = ml_collections.ConfigDict(
        dict(
            batch_size=8,
            max_prompts=32,
            num_points=9,
            pictures=6,
            limit=0,  # images to measure on; 0 = all
            tile=0,  # pixels: cut pictures into fixed tiles of this side, at their own resolution; 0 = whole
            overlap=0,  # of tiles, in pixels
        )
    )
    return config


def sa1b_config(
    size: str,
    *,
    steps: int,
    batch_size: int,
    peak_lr: float,
    layer_decay: float,
    drop_path: float,
    fsdp: int,
) -> ml_collections.ConfigDict:
    """The paper's training on SA-1B (appendix A) of ViT-`size`, with what a run of that size needs.

    AdamW with the rate a tenth after two thirds and again near the end, 11 rounds, up to 64 masks a picture, no
    augmentation, as `promptable_config` has it. Blocks are computed again for their gradients, and prompts decoded in
    groups that are too, so that a chip of 16 GiB holds a picture with all of its masks. To compute whole rounds again
    on top (`rounds.remat`) would take longer and, compiled for v5e-256, not one byte less.
    """
    config = promptable_config()
    config.total_steps, config.batch_size = steps, batch_size
    config.eval_every = 5000
    config.checkpoint.every = 1000
    memory = dict(remat="full", scan=True, dtype="bfloat16", prompts_at_once=16)
    config.model = ml_collections.ConfigDict(
        dict(name=f"sam_vit_{size}", drop_path=drop_path, **memory)
    )
    config.data.update(
        source="data/sa1b", train_split="train", eval_split="val", workers=16, threads=2
    )
    config.eval.update(batch_size=batch_size, max_prompts=16, limit=2000)
    config.optimizer.update(
        peak_lr=peak_lr, warmup_steps=250, layer_decay=layer_decay, schedule="step"
    )
    config.optimizer.boundaries = (steps * 60_000 // 90_000, steps * 86_666 // 90_000)
    config.mesh.update(
        fsdp=fsdp, floor=2**20
    )  # the decoder's matrices are small, and used in every round: whole
    return config


def apply_cpu_recipe(config: ml_collections.ConfigDict) -> None:
    """Sets what a tiny SAM learns fastest with from scratch on a CPU; the paper's choices are made for longer runs.

    One random later round instead of all of them, weighing as much as the first; focal loss by object area, so that
    small objects count; Muon, which needs a third of AdamW's steps here; the IoU head pushed, since it has to choose
    among three masks early.
    """
    count = 6
    config.rounds.update(count=count, empty_random=False, empty_last=False, sampled=True)
    config.rounds.correction_weight = 1 / (count - 1)
    config.loss.update(focal_normalise="area", focal_weight=4.0, iou_weight=3.0)
    config.optimizer.update(name="muon", peak_lr=6e-3, b1=0.9, b2=0.99, weight_decay=0.05)
    config.optimizer.update(clip_norm=1.0, warmup_steps=40)


def as_variant(
    config: ml_collections.ConfigDict, variant: str, known: tuple[str, ...] = ()
) -> ml_collections.ConfigDict:
    """The config itself, or for "debug" the experiment in miniature: two steps on synthetic scenes, seconds on a CPU.

    All experiments shrink to one geometry, model and loss, so that they share one compiled program.

    Raises:
      ValueError: a variant that is neither "", "debug" nor one of `known`, which the experiment has applied itself.
    """
    return variant_of(config, variant, known, _miniature)


def _miniature(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    defaults = promptable_config()
    for name in ("model", "rounds", "loss", "data", "eval", "optimizer"):
        config[name] = defaults[name]
    config.update(
        total_steps=2, batch_size=2, microbatches=1, log_every=1, eval_every=0, ema_decay=0.0
    )
    config.model = ml_collections.ConfigDict(dict(name="sam_debug", decoder_depth=1))
    config.rounds.update(count=3)
    config.data.update(max_prompts=2)
    config.data.scenes.update(train_count=4, eval_count=2, size=64)
    config.eval.update(batch_size=2, max_prompts=2, num_points=2, pictures=1)
    config.mesh.update(fsdp=defaults.mesh.fsdp, floor=2**10)
    config.checkpoint = defaults.checkpoint
    return config
