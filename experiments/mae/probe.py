"""This is finetune.py, but the encoder is frozen: a linear probe and nearest neighbors.

    segjax train --config=experiments/mae/quickstart.py --workdir=runs/mae
    segjax train --config=experiments/mae/probe.py --workdir=runs/probe  # from runs/mae
    # a random encoder
    segjax train --config=experiments/mae/probe.py --workdir=runs/control --config.init_from=""

    # from runs/digits
    segjax train --config=experiments/mae/probe.py:digits --workdir=runs/probe_digits

    segjax train --config=experiments/mae/probe.py:imagenet_b --workdir=runs/probe_b \\
      --config.init_from=mae:FILE.pth

`digits` trains on all digits of tools/digit_folders.py. `imagenet_b`, `imagenet_l` and `imagenet_h`
are the paper's recipes (appendix A.1), for accelerators. They have not been run, so no result is
claimed.
"""

import ml_collections

from segjax.tasks.settings import IMAGENET_IMAGES
from segjax.tasks.variants import as_variant

from . import finetune

EPOCHS = {"imagenet_b": 90, "imagenet_l": 50, "imagenet_h": 50}  # MAE, appendix A.1


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or its variant "digits", "imagenet_b", "..._l" or "..._h"."""
    config = imagenet(variant) if variant in EPOCHS else tiny(digits=variant == "digits")
    config.optimizer.update(b1=0.9, weight_decay=0.0, final_lr=0.0, layer_decay=1.0)
    # A linear probe is trained without regularization.
    config.mix.update(mixup=0.0, cutmix=0.0, smoothing=0.0)
    config.eval.neighbours = 20
    return as_variant(config, variant, known=("digits", *EPOCHS))


def tiny(digits: bool) -> ml_collections.ConfigDict:
    """Returns the settings for a CPU that `get_config` does not share with ImageNet's."""
    config = finetune.tiny(digits)
    config.total_steps = 1000
    config.model = dict(name="vit_tiny", head_std=0.01, frozen=True)
    config.optimizer.update(peak_lr=3e-3, warmup_steps=50)
    if digits:
        config.model.update(canvas=28, patch=4, classes=10)
        config.data.source = "data/digits"
    return config


def imagenet(variant: str) -> ml_collections.ConfigDict:
    """Returns the settings of a size on ImageNet: LARS on very large batches."""
    config = finetune.imagenet(variant)
    config.batch_size = 16_384
    config.total_steps = EPOCHS[variant] * IMAGENET_IMAGES // 16_384
    size = variant[-1]
    config.model = dict(name=f"vit_{size}", classes=1000, pool="token", head_std=0.01, frozen=True)
    # Scaled by the batch size: 0.1 * 16384 / 256 = 6.4
    config.optimizer.update(name="lars", base_lr=0.1)
    config.optimizer.warmup_steps = 10 * IMAGENET_IMAGES // 16_384
    return config
