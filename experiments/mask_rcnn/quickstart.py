"""A tiny Mask R-CNN learns to find five shapes, with boxes and masks, on a laptop's CPU.

    segjax train --config=experiments/mask_rcnn/quickstart.py --workdir=runs/mask_rcnn

Scenes of 128 pixels drawn over photographs; it is measured on scenes over photographs that it has never seen.
"""

import ml_collections

from segjax.tasks.detection.config import apply_cpu_recipe, as_variant, detection_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = detection_config()
    apply_cpu_recipe(config)
    config.total_steps = 1200
    config.eval_every = 400
    config.data.scenes.eval_count = 64
    config.data.augment.update(flip=True, vertical_flip=True, quarter_turns=True)
    return as_variant(config, variant)
