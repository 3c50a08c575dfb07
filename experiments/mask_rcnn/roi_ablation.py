"""What exact sampling of regions is worth (Mask R-CNN, tables 2c, 2d and 6), in miniature: minutes on a laptop's CPU.

    for pooling in roi_align roi_pool quantised; do
      segjax train --config=experiments/mask_rcnn/roi_ablation.py:$pooling --workdir=runs/$pooling
      segjax train --config=experiments/mask_rcnn/roi_ablation.py:$pooling,keypoints --workdir=runs/$pooling-keypoints
    done

The quickstart's model on its scenes, or on stick figures with seven joints each; runs differ in how regions are taken
alone. As in the paper's tables 2c and 2d the regions come from coarse maps, where rounding to cells costs most: those
of 28 to 56 pixels from a map of stride 8, larger ones from one of 16; figures, of 56 pixels and more, from one of 8.
"""

import ml_collections

from segjax.tasks.detection.config import apply_cpu_recipe, as_variant, detection_config

POOLINGS = ("roi_align", "roi_pool", "quantised")
VARIANTS = (*POOLINGS, "keypoints", *(f"{pooling},keypoints" for pooling in POOLINGS))


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config, asked = detection_config(), variant.split(",")
    apply_cpu_recipe(config, figures="keypoints" in asked)
    config.update(total_steps=450, batch_size=4)
    config.model.canonical_size = 112.0 if "keypoints" in asked else 56.0
    config.model.pooling = next((pooling for pooling in POOLINGS if pooling in asked), "roi_align")
    config.data.scenes.eval_count = 200
    config.eval.boundary = True
    return as_variant(config, variant, known=VARIANTS)
