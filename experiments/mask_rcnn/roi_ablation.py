"""This is quickstart.py, but with RoIAlign, RoIPool or quantized RoIAlign.

An ablation in miniature of tables 2c, 2d and 6 of Mask R-CNN.

    for pooling in roi_align roi_pool quantised; do
      segjax train --config=experiments/mask_rcnn/roi_ablation.py:$pooling --workdir=runs/$pooling
      segjax train --config=experiments/mask_rcnn/roi_ablation.py:$pooling,keypoints \\
      --workdir=runs/$pooling-keypoints
    done

Runs differ in the pooling alone. `keypoints` is keypoints.py:figures, stick figures with seven
joints, instead of the shapes. As in tables 2c and 2d, regions are pooled from coarse feature maps,
where rounding to cells costs most: regions of 28 to 56 pixels from a map of stride 8, larger ones
from stride 16. Figures, of 56 pixels and more, are pooled from stride 8.

Training takes minutes on a laptop's CPU.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import keypoints, quickstart

POOLINGS = ("roi_align", "roi_pool", "quantised")
VARIANTS = (*POOLINGS, "keypoints", *(f"{pooling},keypoints" for pooling in POOLINGS))


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment: one of `POOLINGS`, perhaps followed by ",keypoints"."""
    chosen = variant.split(",")
    if "keypoints" in chosen:
        config = keypoints.get_config("figures")
        config.model.canonical_size = 112.0
    else:
        config = quickstart.get_config()
        config.model.canonical_size = 56.0
        config.data.augment.update(vertical_flip=False, quarter_turns=False)
    config.update(total_steps=450, batch_size=4, eval_every=0)
    # The runs differ in this alone.
    config.model.pooling = next((pooling for pooling in POOLINGS if pooling in chosen), "roi_align")
    config.data.scenes.eval_count = 200
    config.eval.boundary = True
    return as_variant(config, variant, known=VARIANTS)
