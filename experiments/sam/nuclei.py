"""Nuclei of the 2018 Data Science Bowl, segmented by clicks; mask cells of 2 pixels.

    segjax prepare nuclei path/to/dsb2018_nuclei --out data/nuclei
    segjax train --config=experiments/sam/nuclei.py --workdir=runs/nuclei

Trained on random windows of stage1_train's pictures, near their own resolution; measured on fixed tiles of 128 pixels
of stage1_test's, each embedded once, all its nuclei prompted.

55 minutes on one CPU core; stage1_test: iou@1 .64, iou@5 .71, iou@9 .73, best of three masks .72.
"""

import ml_collections

from segjax.tasks.promptable.config import apply_cpu_recipe, as_variant, promptable_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = promptable_config()
    apply_cpu_recipe(config)
    config.total_steps = 3600
    config.batch_size = 4
    config.log_every = 100
    config.model = ml_collections.ConfigDict(dict(name="sam_tiny", canvas=128, patch=8))
    config.rounds.update(count=8, empty_random=True, empty_last=True, correction_weight=1 / 7)
    config.data.update(source="data/nuclei", train_split="stage1_train", eval_split="stage1_test")
    config.data.update(max_prompts=8, mask_stride=2, cache_mb=500.0, percentiles=(1.0, 99.0))
    config.data.augment = ml_collections.ConfigDict(
        dict(
            scale=(1.6, 2.5),
            flip=True,
            vertical_flip=True,
            quarter_turns=True,
            brightness=0.2,
            contrast=0.2,
        )
    )
    config.eval.update(tile=128, overlap=32, batch_size=8, max_prompts=24)
    return as_variant(config, variant)
