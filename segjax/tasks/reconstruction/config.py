"""What a pretraining experiment may set, with MAE's choices, and how any of them shrinks for a test."""

import ml_collections

from segjax.tasks.record_task import record_settings, variant_of
from segjax.training.defaults import base_config

IMAGENET = 1_281_167  # pictures in its training set, for recipes that count in epochs


def reconstruction_config() -> ml_collections.ConfigDict:
    """The loop's fields and this task's, with the paper's choices (appendix A.1); experiments change what they need."""
    config = base_config()
    config.task = "reconstruction"
    config.model = ml_collections.ConfigDict({"name": "mae_vit_b"}, convert_dict=True)
    config.batch_size = 4096
    config.total_steps = 800 * IMAGENET // 4096
    config.optimizer.update(base_lr=1.5e-4, b1=0.9, b2=0.95, weight_decay=0.05, clip_norm=0.0)
    config.optimizer.update(
        warmup_steps=40 * IMAGENET // 4096, schedule="cosine", trunk="encoder(/trunk)?"
    )
    config.data = ml_collections.ConfigDict(
        record_settings()
        | dict(
            # What a training example shows: a share of the picture's area, of a width over height, perhaps mirrored.
            # frame: above 0, the devices resize it, for pictures that were prepared with --short-side of this.
            crop=dict(scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), flip=True, frame=0),
        )
    )
    config.eval = ml_collections.ConfigDict(
        dict(
            batch_size=64,
            pictures=6,
            limit=0,  # pictures to measure on; 0 = all
        )
    )
    return config


def imagenet_config(epochs: int) -> ml_collections.ConfigDict:
    """The paper's pretraining on ImageNet-1k (appendix A.1) for so many epochs, with what a run of that size needs.

    The recipe is `reconstruction_config`'s. Here is how it is loaded, measured and saved: pictures prepared with
    --short-side 256 are resized by the devices (`crop.frame`), and 4096 of those held out are measured on.
    """
    config = reconstruction_config()
    config.total_steps = epochs * IMAGENET // config.batch_size
    config.log_every = 50
    config.eval_every = 3000  # about ten epochs
    config.checkpoint.every = 1000
    config.data.update(
        source="data/imagenet", train_split="train", eval_split="val", workers=16, threads=2
    )
    config.data.crop.frame = 256
    config.eval.update(batch_size=512, limit=4096)
    return config


def as_variant(
    config: ml_collections.ConfigDict, variant: str, known: tuple[str, ...] = ()
) -> ml_collections.ConfigDict:
    """The config itself, or for "debug" the experiment in miniature: two steps on synthetic scenes, seconds on a CPU.

    All experiments shrink to one geometry, so that they share one compiled program.

    Raises:
      ValueError: a variant that is neither "", "debug" nor one of `known`, which the experiment has applied itself.
    """
    return variant_of(config, variant, known, _miniature)


def _miniature(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    defaults = reconstruction_config()
    for name in ("model", "data", "eval", "optimizer", "mesh", "checkpoint"):
        config[name] = defaults[name]
    config.update(
        total_steps=2, batch_size=4, microbatches=1, log_every=1, eval_every=0, ema_decay=0.0
    )
    config.model = ml_collections.ConfigDict(dict(name="mae_debug", decoder_depth=1))
    config.optimizer.update(warmup_steps=1)
    config.data.scenes.update(train_count=8, eval_count=3, size=64)
    config.eval.update(batch_size=2, pictures=2)
    config.mesh.update(floor=2**10)
    return config
