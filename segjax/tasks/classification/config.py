"""What an experiment with labelled pictures may set, with MAE's choices, and how any of them shrinks for a test."""

import ml_collections

from segjax.evaluation.nearest_neighbours import TEMPERATURE
from segjax.tasks.reconstruction.config import IMAGENET
from segjax.tasks.record_task import record_settings, variant_of
from segjax.training.defaults import base_config

# MAE, appendix A.1, and the published code. Fine-tuning: epochs, base_lr, layer_decay, drop_path.
FINE_TUNING = {"b": (100, 5e-4, 0.65, 0.1), "l": (50, 1e-3, 0.75, 0.2), "h": (50, 1e-3, 0.75, 0.3)}
PROBE_EPOCHS = {"b": 90, "l": 50, "h": 50}


def classification_config() -> ml_collections.ConfigDict:
    """The loop's fields and this task's, for fine-tuning ViT-B as the paper does; experiments change what they need."""
    config = base_config()
    config.task = "classification"
    config.model = ml_collections.ConfigDict({"name": "vit_b"}, convert_dict=True)
    config.optimizer.update(trunk="encoder(/trunk)?")
    # Pictures of a batch are blended pairwise, half of the time with a box of the other; 0 is off.
    config.mix = ml_collections.ConfigDict(dict(mixup=0.8, cutmix=1.0, switch=0.5, smoothing=0.1))
    config.data = ml_collections.ConfigDict(
        record_settings()
        | dict(
            label="record",  # the record's own, or "largest": the category of its largest object
            # As in pretraining; and in evaluation the picture's shorter side, in canvases.
            crop=dict(
                scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=True, frame=0, margin=256 / 224
            ),
            statistics=16_384,  # training pictures over which a frozen encoder's features are standardised; 0: all
        )
    )
    config.eval = ml_collections.ConfigDict(
        dict(
            batch_size=64,
            pictures=12,
            limit=0,  # pictures to measure on; 0 = all
            neighbours=0,  # k of a vote of the nearest training pictures, by the features; 0: none
            temperature=TEMPERATURE,  # of that vote
            bank=0,  # training pictures, spread over the split, that may be neighbours; 0: all
        )
    )
    return fine_tuning(config, "b")


def fine_tuning(config: ml_collections.ConfigDict, size: str) -> ml_collections.ConfigDict:
    """Sets model and optimizer as the paper's fine-tuning on ImageNet has them, for "b", "l" or "h"; returns config."""
    epochs, base_lr, layer_decay, drop_path = FINE_TUNING[size]
    options = dict(name=f"vit_{size}", classes=1000, pool="mean", drop_path=drop_path)
    config.model = ml_collections.ConfigDict(options)
    config.batch_size = 1024
    config.total_steps = epochs * IMAGENET // 1024
    config.optimizer.update(
        base_lr=base_lr, b1=0.9, b2=0.999, weight_decay=0.05, clip_norm=0.0, final_lr=1e-6
    )
    config.optimizer.update(
        warmup_steps=5 * IMAGENET // 1024, schedule="cosine", layer_decay=layer_decay
    )
    return config


def probe(config: ml_collections.ConfigDict, size: str) -> ml_collections.ConfigDict:
    """Sets model, optimizer and mixing as the paper's linear probe on ImageNet has them; returns config."""
    options = dict(name=f"vit_{size}", classes=1000, pool="token", head_std=0.01, frozen=True)
    config.model = ml_collections.ConfigDict(options)
    config.batch_size = 16_384
    config.total_steps = PROBE_EPOCHS[size] * IMAGENET // 16_384
    config.optimizer.update(
        name="lars", base_lr=0.1, b1=0.9, weight_decay=0.0, clip_norm=0.0, final_lr=0.0
    )
    config.optimizer.update(
        warmup_steps=10 * IMAGENET // 16_384, schedule="cosine", layer_decay=1.0
    )
    config.mix.update(mixup=0.0, cutmix=0.0, smoothing=0.0)
    config.eval.update(neighbours=20)
    return config


def apply_imagenet(config: ml_collections.ConfigDict) -> None:
    """Sets ImageNet for its data, in place: prepared with --short-side 256, pictures are resized by the devices."""
    config.data.update(source="data/imagenet", workers=16)
    config.data.crop.frame = 256
    config.eval.update(batch_size=512)


def apply_small_data(config: ml_collections.ConfigDict, digits: str = "") -> None:
    """Sets data that a tiny ViT learns in minutes on a CPU, in place: synthetic scenes of one shape, of five.

    Or, with `digits`, a folder of tools/digit_folders.py prepared, and an encoder that has been pretrained on such.
    """
    config.data.update(label="largest", cache_mb=500.0)
    config.data.crop.update(scale=(0.6, 1.0), margin=1.0)
    config.data.scenes.update(train_count=2000, eval_count=500, difficulty="lone")
    if digits:
        config.init_from = "mae:runs/digits"
        config.model.update(canvas=28, patch=4, classes=10)
        config.data.update(label="record", source=digits)
        config.data.crop.flip = False  # a mirrored digit is none


def as_variant(
    config: ml_collections.ConfigDict, variant: str, known: tuple[str, ...] = ()
) -> ml_collections.ConfigDict:
    """The config itself, or for "debug" the experiment in miniature: two steps on synthetic scenes, seconds on a CPU.

    Experiments shrink to two geometries: with a frozen encoder, and without.

    Raises:
      ValueError: a variant that is neither "", "debug" nor one of `known`, which the experiment has applied itself.
    """
    return variant_of(config, variant, known, _miniature)


def _miniature(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    defaults, frozen = classification_config(), bool(config.model.get("frozen", False))
    for name in ("data", "eval", "optimizer", "mix"):
        config[name] = defaults[name]
    config.update(
        total_steps=2,
        batch_size=4,
        microbatches=1,
        log_every=1,
        eval_every=0,
        ema_decay=0.0,
        init_from="",
    )
    config.model = ml_collections.ConfigDict(dict(name="vit_debug", frozen=frozen))
    config.optimizer.update(warmup_steps=1, layer_decay=1.0 if frozen else 0.65)
    config.data.update(label="largest")
    config.data.scenes.update(train_count=8, eval_count=3, size=64)
    config.eval.update(batch_size=2, pictures=2, neighbours=3)
    config.mesh.update(floor=2**10)
    return config
