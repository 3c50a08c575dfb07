"""Fine-tunes a classifier from a MAE's encoder, to measure what the MAE is worth.

    segjax train --config=experiments/mae/quickstart.py --workdir=runs/mae
    segjax train --config=experiments/mae/finetune.py --workdir=runs/finetune  # from runs/mae
    segjax train --config=experiments/mae/finetune.py --workdir=runs/scratch --config.init_from=""

    # from runs/digits
    segjax train --config=experiments/mae/finetune.py:digits --workdir=runs/few_digits

    segjax train --config=experiments/mae/finetune.py:imagenet_b --workdir=runs/ft_b \\
      --config.init_from=mae:FILE.pth

The default classifies the one shape of each synthetic scene, out of five. `digits` uses a hundred
digits of tools/digit_folders.py. Both run in minutes on a CPU.

`imagenet_b`, `imagenet_l` and `imagenet_h` are the paper's recipes (appendix A.1) without
RandAugment and random erasing, for accelerators. They have not been run, so no result is claimed.
"""

import ml_collections

from segjax.tasks.classification.config import classification_config
from segjax.tasks.settings import IMAGENET_IMAGES
from segjax.tasks.variants import as_variant

# MAE, appendix A.1, and the published code: epochs, base_lr, layer_decay, drop_path.
IMAGENET = {
    "imagenet_b": (100, 5e-4, 0.65, 0.1),
    "imagenet_l": (50, 1e-3, 0.75, 0.2),
    "imagenet_h": (50, 1e-3, 0.75, 0.3),
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or its variant "digits", "imagenet_b", "..._l" or "..._h"."""
    config = imagenet(variant) if variant in IMAGENET else tiny(digits=variant == "digits")
    return as_variant(config, variant, known=("digits", *IMAGENET))


def tiny(digits: bool) -> ml_collections.ConfigDict:
    """Returns the experiment for a CPU."""
    config = classification_config()
    config.init_from = "mae:runs/mae"
    config.update(total_steps=600, batch_size=64, log_every=100)
    config.model = dict(name="vit_tiny", pool="mean")
    config.optimizer.update(base_lr=0.0, peak_lr=1e-3, warmup_steps=40, layer_decay=0.75)
    # Without the mixing of the paper
    config.mix.update(mixup=0.0, cutmix=0.0)
    config.data.update(label="largest", cache_mb=500.0)
    config.data.crop.update(scale=(0.6, 1.0), margin=1.0)
    config.data.scenes.update(train_count=2000, eval_count=500, difficulty="lone")
    if digits:
        config.init_from = "mae:runs/digits"
        config.model.update(canvas=28, patch=4, classes=10)
        config.data.update(label="record", source="data/few")
        config.data.crop.flip = False  # a mirrored digit is not a digit
    return config


def imagenet(variant: str) -> ml_collections.ConfigDict:
    """Returns the paper's recipe of a size."""
    epochs, base_lr, layer_decay, drop_path = IMAGENET[variant]
    size = variant[-1]
    config = classification_config()
    config.init_from = "mae:runs/mae"
    config.batch_size = 1024
    config.total_steps = epochs * IMAGENET_IMAGES // 1024
    config.model = dict(name=f"vit_{size}", classes=1000, pool="mean", drop_path=drop_path)
    config.optimizer.update(name="adamw", base_lr=base_lr, layer_decay=layer_decay, b2=0.999)
    config.optimizer.update(weight_decay=0.05, clip_norm=0.0, final_lr=1e-6)
    config.optimizer.warmup_steps = 5 * IMAGENET_IMAGES // 1024
    config.mix.update(mixup=0.8, cutmix=1.0, smoothing=0.1)
    # Prepared with --short-side 256: the devices resize the crops.
    config.data.update(source="data/imagenet", workers=16)
    config.data.crop.frame = 256
    config.eval.batch_size = 512
    return config
