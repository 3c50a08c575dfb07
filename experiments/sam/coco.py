"""Trains SAM on any data in COCO's format, with the paper's losses and all 11 rounds.

Needs accelerators.

    segjax prepare coco path/to/coco --out data/coco
    segjax train --config=experiments/sam/coco.py --workdir=runs/coco
    segjax train --config=experiments/sam/coco.py:small --workdir=runs/coco-small

The default is a ViT-B at 1024 pixels, with flips and the large-scale jitter that the paper uses for
its manually annotated stages (appendix A). `small` is quickstart.py, but on this data: a tiny model
at 128 pixels, for a CPU.

A COCO folder holds images next to annotations/instances_<split>.json. Splits are named as in these
files. Neither variant has been trained to the end, so no result is claimed.
"""

import ml_collections

from segjax.tasks.promptable.config import promptable_config
from segjax.tasks.variants import as_variant

from . import quickstart


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or its variant "small"."""
    return as_variant(small() if variant == "small" else vit_b(), variant, known=("small",))


def vit_b() -> ml_collections.ConfigDict:
    """Returns the default: ViT-B at 1024 pixels."""
    config = promptable_config()
    config.update(total_steps=90_000, batch_size=64, eval_every=5000)
    config.model = dict(name="sam_vit_b", drop_path=0.6, remat="full", scan=True, dtype="bfloat16")
    # Blocks and rounds are recomputed in the backward pass, to save memory.
    config.rounds.remat = True
    # The paper's schedule: the rate drops twice.
    config.optimizer.update(peak_lr=4e-4, weight_decay=0.1, warmup_steps=250, layer_decay=0.6)
    config.optimizer.update(schedule="step", boundaries=(60_000, 86_666))
    config.data.update(source="data/coco", train_split="train2017", eval_split="val2017")
    config.data.update(max_prompts=32, workers=8)
    # Large-scale jitter (LSJ)
    config.data.augment = dict(scale=(0.1, 2.0), flip=True)
    config.eval.update(batch_size=64, max_prompts=16, limit=500)
    return config


def small() -> ml_collections.ConfigDict:
    """Returns the quickstart's tiny SAM, on COCO."""
    config = quickstart.get_config()
    config.update(total_steps=3000, batch_size=4, log_every=50)
    config.data.update(source="data/coco", train_split="train2017", eval_split="val2017")
    config.data.update(max_prompts=8, min_area=40.0)
    config.data.augment = dict(scale=(0.8, 2.0), flip=True)
    config.eval.update(batch_size=8, max_prompts=16)
    return config
