"""What a MAE is worth: a classifier that starts from its encoder, all of it trained.

    segjax train --config=experiments/mae/quickstart.py --workdir=runs/mae
    segjax train --config=experiments/mae/finetune.py --workdir=runs/finetune                    # from runs/mae
    segjax train --config=experiments/mae/finetune.py --workdir=runs/scratch --config.init_from=""

    segjax train --config=experiments/mae/finetune.py:digits --workdir=runs/few_digits           # from runs/digits

    segjax train --config=experiments/mae/finetune.py:imagenet_b --workdir=runs/ft_b --config.init_from=mae:FILE.pth

The default names the one shape of each synthetic scene, of five; digits a hundred of tools/digit_folders.py.
imagenet_b, imagenet_l and imagenet_h are the paper's recipes (appendix A.1) but for RandAugment and random erasing, for
accelerators; they have not been run here.
"""

import ml_collections

from segjax.tasks.classification.config import (
    apply_imagenet,
    apply_small_data,
    as_variant,
    classification_config,
    fine_tuning,
)

IMAGENET = ("imagenet_b", "imagenet_l", "imagenet_h")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = classification_config()
    config.init_from = "mae:runs/mae"
    if variant in IMAGENET:
        fine_tuning(config, variant[-1])
        apply_imagenet(config)
        return config
    config.model = ml_collections.ConfigDict(dict(name="vit_tiny", pool="mean"))
    config.update(total_steps=600, batch_size=64, log_every=100)
    config.optimizer.update(base_lr=0.0, peak_lr=1e-3, warmup_steps=40, layer_decay=0.75)
    config.mix.update(mixup=0.0, cutmix=0.0)
    apply_small_data(config, digits="data/few" if variant == "digits" else "")
    return as_variant(config, variant, known=("digits", *IMAGENET))
