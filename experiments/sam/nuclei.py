"""This is quickstart.py, but on the nuclei of the 2018 Data Science Bowl.

    segjax prepare nuclei path/to/dsb2018_nuclei --out data/nuclei
    segjax train --config=experiments/sam/nuclei.py --workdir=runs/nuclei

Trains on random windows of the images of stage1_train, near their own resolution. Measures on fixed
tiles of 128 pixels of stage1_test: each tile is embedded once, and all of its nuclei are prompted.

Expected on stage1_test: iou@1 0.64, iou@5 0.71, iou@9 0.73, best of three masks 0.72. Training
takes 55 minutes on one CPU core.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import quickstart


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment."""
    config = quickstart.get_config()
    config.update(total_steps=3600, batch_size=4)
    config.model = dict(name="sam_tiny", canvas=128, patch=8)
    config.rounds.update(count=8, empty_random=True, empty_last=True, correction_weight=1 / 7)
    config.data.update(source="data/nuclei", train_split="stage1_train", eval_split="stage1_test")
    config.data.update(max_prompts=8, percentiles=(1.0, 99.0))
    config.data.augment.update(scale=(1.6, 2.5), brightness=0.2, contrast=0.2)
    # Most nuclei are 10 to 30 pixels wide, so each is whole in one of the tiles.
    config.eval.update(tile=128, overlap=32, batch_size=8, max_prompts=24)
    return as_variant(config, variant)
