"""Mask R-CNN from nothing on COCO, with large-scale jitter and norms everywhere; for accelerators.

    segjax prepare coco path/to/coco --out data/coco
    segjax train --config=experiments/mask_rcnn/coco_r50_lsj.py --workdir=runs/lsj
    segjax train --config=experiments/mask_rcnn/coco_r50_lsj.py:copy_paste --workdir=runs/copy-paste

As detectron2's new baselines (configs/new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py: box AP 44.6, mask AP 40.3), but
with group norms where these have norms over the batches of all devices, which no model here has. With `copy_paste` each
picture gets objects of another one (Simple Copy-Paste, arXiv 2012.07177). Nobody has trained this here.
"""

import ml_collections

from segjax.tasks.detection.config import apply_lsj_recipe, as_variant, detection_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = detection_config()
    config.model = ml_collections.ConfigDict(
        dict(
            name="mask_rcnn_R_50_FPN",
            conventions="detectron2_rgb",
            canvas=1024,
            short_side=1024,
            long_side=1024,
        )
        | dict(
            norm="gn",
            pyramid_norm="gn",
            head_norm="gn",
            rpn_convs=2,
            box_convs=4,
            box_fcs=1,
            dtype="bfloat16",
        )
    )
    config.data.source = "data/coco"
    config.optimizer.update(
        name="sgd", peak_lr=0.1, b1=0.9, weight_decay=4e-5, clip_norm=0.0, warmup_steps=500
    )
    apply_lsj_recipe(config)
    if variant == "copy_paste":
        config.data.copy_paste = 1.0
    return as_variant(config, variant, known=("copy_paste",))
