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

from segjax.tasks.classification_config import as_variant, classification_config, fine_tuning

IMAGENET = ("imagenet_b", "imagenet_l", "imagenet_h")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = classification_config()
    config.init_from = "mae:runs/mae"
    if variant in IMAGENET:
        fine_tuning(config, variant[-1])
        config.data.update(source="data/imagenet", workers=16)
        config.data.crop.frame = 256  # pictures prepared with --short-side 256 are resized by the devices
        config.eval.update(batch_size=512)
        return config
    config.model = ml_collections.ConfigDict(dict(name="vit_tiny", pool="mean"))
    config.update(total_steps=600, batch_size=64, log_every=100)
    config.optimizer.update(base_lr=0.0, peak_lr=1e-3, warmup_steps=40, layer_decay=0.75)
    config.mix.update(mixup=0.0, cutmix=0.0)
    config.data.update(label="largest", cache_mb=500.0)
    config.data.crop.update(scale=(0.6, 1.0), margin=1.0)
    config.data.scenes.update(train_count=2000, eval_count=500, difficulty="lone")
    if variant == "digits":
        config.init_from = "mae:runs/digits"
        config.model.update(canvas=28, patch=4, classes=10)
        config.data.update(label="record", source="data/few")
        config.data.crop.flip = False
    return as_variant(config, variant, known=("digits", *IMAGENET))
