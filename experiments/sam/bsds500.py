"""BSDS500: every annotator's regions are masks, whole and part, so that ambiguity is real.

    segjax prepare bsds500 path/to/bsds500 --out data/bsds500
    segjax train --config=experiments/sam/bsds500.py --workdir=runs/bsds500

Trained on the 200 training photographs, measured on the 100 of val. The data is for research, not for commerce.
32 minutes on one CPU core beside other work; 3,032 regions of val: iou@1 .30, iou@5 .48, iou@9 .58, best of three .42.
"""

import ml_collections

from segjax.tasks.promptable.config import apply_cpu_recipe, as_variant, promptable_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = promptable_config()
    apply_cpu_recipe(config)
    config.total_steps = 1600
    config.batch_size = 4
    config.log_every = 100
    config.model = ml_collections.ConfigDict(dict(name="sam_tiny", canvas=128, patch=8))
    config.data.update(source="data/bsds500", train_split="train", eval_split="val")
    config.data.update(max_prompts=8, mask_stride=2, cache_mb=500.0, min_area=40.0)
    config.data.augment = ml_collections.ConfigDict(
        dict(scale=(0.8, 2.0), flip=True, brightness=0.2, contrast=0.2)
    )
    config.eval.update(batch_size=4, max_prompts=32)
    return as_variant(config, variant)
