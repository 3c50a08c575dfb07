"""Trains the demo model that segjax ships: a tiny SAM for scenes, photographs and nuclei.

    segjax prepare coco path/to/coco --out data/coco
    segjax prepare nuclei path/to/dsb2018_nuclei --out data/nuclei
    segjax train --config=experiments/sam/demo.py:scenes --workdir=runs/demo-scenes
    segjax train --config=experiments/sam/demo.py --workdir=runs/demo \\
      --config.init_from=runs/demo-scenes

`scenes` is the first stage: quickstart.py for longer, on synthetic scenes at 128 pixels. The
default is the second stage, a mixture at 256 pixels. docs/results/demo.md has the scores and the
data of the shipped model.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import quickstart


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the second stage, or its variant "scenes", the first one."""
    config = scenes() if variant == "scenes" else mixture()
    return as_variant(config, variant, known=("scenes",))


def scenes() -> ml_collections.ConfigDict:
    """Returns the first stage: synthetic scenes at a low resolution, 64 tokens an image."""
    config = quickstart.get_config()
    config.update(total_steps=4000)
    # Every image of the first epochs is new.
    config.data.scenes.train_count = 20_000
    config.data.cache_mb = 0.0
    # The rate never falls to 0: the second stage goes on.
    config.optimizer.update(schedule="rsqrt", timescale=1500)
    return config


def mixture() -> ml_collections.ConfigDict:
    """Returns the second stage: scenes, photographs and nuclei, 256 tokens an image."""
    config = quickstart.get_config()
    config.update(total_steps=3000)
    config.model.canvas = 256
    config.optimizer.update(peak_lr=3e-3, schedule="rsqrt", timescale=1000, cooldown_steps=1400)
    config.data.source = [
        ("synthetic", 2),
        ("data/coco", 2, "train2017", "val2017"),
        ("data/nuclei", 1, "stage1_train", "stage1_test"),
    ]
    config.data.scenes.train_count = 20_000
    config.data.update(mask_stride=4, min_area=40.0, cache_mb=0.0)
    config.data.augment = dict(scale=(0.8, 2.0), flip=True, brightness=0.3, contrast=0.3)
    config.eval.limit = 64
    return config
