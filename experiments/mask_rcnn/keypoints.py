"""Keypoints of people on COCO (Mask R-CNN, section 5), by detectron2's schedule "1x"; for accelerators.

    segjax prepare coco path/to/coco --out data/people --option keypoints=True
    segjax train --config=experiments/mask_rcnn/keypoints.py --workdir=runs/people
    segjax train --config=experiments/mask_rcnn/keypoints.py:figures --workdir=runs/figures    # minutes on a CPU

detectron2's model zoo has box AP 53.6 and keypoint AP 64.0 on val2017 for it (COCO-Keypoints, R50-FPN). There pictures
in which no keypoint is seen are left out, here those in which nobody is. Nobody has trained this here; the figures are
synthetic, and their box and joints are learnt by a tiny model from nothing.
"""

import ml_collections

from segjax.tasks.detection.config import (
    apply_1x_recipe,
    apply_cpu_recipe,
    as_variant,
    detection_config,
)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = detection_config()
    config.model = ml_collections.ConfigDict(
        # Of the boxes more than without keypoints are kept in training (configs/COCO-Keypoints/Base-Keypoint-RCNN-FPN).
        dict(name="keypoint_rcnn_R_50_FPN", proposals_after=(1500, 1000))
    )
    config.data.source = "data/people"
    config.init_from = "resnet:resnet50-0676ba61.pth"
    apply_1x_recipe(config)
    if variant == "figures":
        config = detection_config()
        apply_cpu_recipe(config, figures=True)
        config.update(total_steps=1500, eval_every=500)
        config.data.scenes.eval_count = 200
    return as_variant(config, variant, known=("figures",))
