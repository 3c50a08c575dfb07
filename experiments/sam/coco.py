"""SAM on any data in COCO's format, with the paper's losses and all 11 rounds; ViT-B at 1024 pixels, for accelerators.

    segjax prepare coco path/to/coco --out data/coco
    segjax train --config=experiments/sam/coco.py --workdir=runs/coco
    segjax train --config=experiments/sam/coco.py:small --workdir=runs/coco-small     # a tiny model at 128 pixels

COCO folders hold images next to annotations/instances_<split>.json; the splits are called as in the files' names.
Large-scale jitter as the paper used for its manually annotated stages (appendix A), and flips. Neither
variant has been trained to the end by us: the default needs accelerators, and no result is claimed for it.
"""

import ml_collections

from segjax.tasks.promptable.config import apply_cpu_recipe, as_variant, promptable_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = promptable_config()
    config.total_steps = 90_000
    config.batch_size = 64
    config.eval_every = 5000
    config.model = ml_collections.ConfigDict(
        dict(name="sam_vit_b", drop_path=0.6, remat="full", scan=True, dtype="bfloat16")
    )
    config.rounds.update(remat=True)
    config.data.update(
        source="data/coco", train_split="train2017", eval_split="val2017", max_prompts=32, workers=8
    )
    config.data.augment = ml_collections.ConfigDict(dict(scale=(0.1, 2.0), flip=True))
    config.eval.update(batch_size=64, max_prompts=16, limit=500)
    config.optimizer.update(peak_lr=4e-4, weight_decay=0.1, warmup_steps=250, layer_decay=0.6)
    config.optimizer.update(schedule="step", boundaries=(60_000, 86_666))
    if variant == "small":
        apply_cpu_recipe(config)
        config.update(total_steps=3000, batch_size=4, eval_every=0)
        config.model = ml_collections.ConfigDict(dict(name="sam_tiny"))
        config.rounds.remat = False
        config.data.update(max_prompts=8, mask_stride=2, workers=0, cache_mb=500.0, min_area=40.0)
        config.data.augment.update(scale=(0.8, 2.0))
        config.eval.update(batch_size=8, limit=0)
        config.optimizer.update(layer_decay=1.0, schedule="cosine", boundaries=())
    return as_variant(config, variant, known=("small",))
