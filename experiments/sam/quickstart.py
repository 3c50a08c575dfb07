"""A tiny SAM learns to segment from clicks, in minutes on a laptop's CPU, on scenes drawn over photographs.

    segjax train --config=experiments/sam/quickstart.py --workdir=runs/quickstart

7 minutes of training on 2 cores without an accelerator; on held-out scenes iou@1 .69, iou@5 .79, best of three masks
.76 (two more seeds: .70/.80/.77 and .71/.80/.77); untrained iou@1 .07. `bash tools/quickstart` does it all.
"""

import ml_collections

from segjax.tasks.promptable.config import apply_cpu_recipe, as_variant, promptable_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = promptable_config()
    apply_cpu_recipe(config)
    config.total_steps = 1600
    config.batch_size = 8
    config.log_every = 100
    config.model = ml_collections.ConfigDict(dict(name="sam_tiny"))
    config.data.update(max_prompts=4, mask_stride=2, cache_mb=500.0)
    config.data.scenes.update(train_count=2000, eval_count=64)
    config.data.augment = ml_collections.ConfigDict(
        dict(flip=True, vertical_flip=True, quarter_turns=True)
    )
    return as_variant(config, variant)
