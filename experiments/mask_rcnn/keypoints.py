"""This is coco_r50_fpn_1x.py, but with keypoints of people (Mask R-CNN, section 5).

Needs accelerators.

    segjax prepare coco path/to/coco --out data/people --option keypoints=True
    segjax train --config=experiments/mask_rcnn/keypoints.py --workdir=runs/people
    segjax train --config=experiments/mask_rcnn/keypoints.py:figures --workdir=runs/figures

`figures` is quickstart.py, but with synthetic stick figures, their boxes and joints: minutes on a
CPU.

Published in detectron2's model zoo on val2017 (COCO-Keypoints, R50-FPN): box AP 53.6, keypoint AP
64.0. detectron2 leaves out images without a visible keypoint, segjax those without a person. This
recipe has not been run here.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import coco_r50_fpn_1x, quickstart


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or its variant "figures"."""
    config = figures() if variant == "figures" else people()
    return as_variant(config, variant, known=("figures",))


def people() -> ml_collections.ConfigDict:
    """Returns the default: people of COCO."""
    config = coco_r50_fpn_1x.get_config()
    config.model.update(
        name="keypoint_rcnn_R_50_FPN",
        # More proposals stay in training than without keypoints
        # (configs/COCO-Keypoints/Base-Keypoint-RCNN-FPN).
        proposals_after=(1500, 1000),
    )
    config.data.source = "data/people"
    return config


def figures() -> ml_collections.ConfigDict:
    """Returns the variant for a CPU: stick figures of 56 pixels and more."""
    config = quickstart.get_config()
    config.update(total_steps=1500, eval_every=500)
    # Boxes and seven joints instead of classes and masks
    config.model.update(classes=1, mask_convs=0)
    config.model.update(keypoints=7, keypoint_convs=4, keypoint_width=64)
    config.data.scenes.update(eval_count=200, kind="figures")
    config.data.augment.update(vertical_flip=False, quarter_turns=False)
    return config
