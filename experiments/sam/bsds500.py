"""This is quickstart.py, but on BSDS500, where ambiguity is real.

    segjax prepare bsds500 path/to/bsds500 --out data/bsds500
    segjax train --config=experiments/sam/bsds500.py --workdir=runs/bsds500

Trains on the 200 training photographs, with the regions of every annotator as masks, whole and in
part, and measures on the 100 of val. The data is for research, not for commercial use.

Expected on 3,032 regions of val: iou@1 0.30, iou@5 0.48, iou@9 0.58, best of three masks 0.42.
Training takes 32 minutes on one CPU core.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import quickstart


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment."""
    config = quickstart.get_config()
    config.batch_size = 4
    config.model = dict(name="sam_tiny", canvas=128, patch=8)
    config.data.update(source="data/bsds500", train_split="train", eval_split="val")
    config.data.update(max_prompts=8, min_area=40.0)
    config.data.augment = dict(scale=(0.8, 2.0), flip=True, brightness=0.2, contrast=0.2)
    config.eval.update(batch_size=4, max_prompts=32)
    return as_variant(config, variant)
