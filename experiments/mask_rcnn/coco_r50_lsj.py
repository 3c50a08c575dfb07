"""Trains Mask R-CNN from scratch on COCO, with large-scale jitter (LSJ) and norms everywhere.

Needs accelerators.

    segjax prepare coco path/to/coco --out data/coco
    segjax train --config=experiments/mask_rcnn/coco_r50_lsj.py --workdir=runs/lsj
    segjax train --config=experiments/mask_rcnn/coco_r50_lsj.py:copy_paste --workdir=runs/copy-paste

100 epochs, as detectron2's new baselines (configs/new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py),
but with group norms: detectron2 normalizes over the batches of all devices, which no model of
segjax does. With `copy_paste` each image gets objects of another one (Simple Copy-Paste, arXiv
2012.07177).

Published by detectron2: box AP 44.6, mask AP 40.3. This recipe has not been run here.
"""

import ml_collections

from segjax.tasks.detection.config import detection_config
from segjax.tasks.variants import as_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or its variant "copy_paste"."""
    config = detection_config()
    config.update(total_steps=184_375, batch_size=64, log_every=100, eval_every=18_000)
    config.model = dict(
        name="mask_rcnn_R_50_FPN",
        conventions="detectron2_rgb",
        canvas=1024,
        short_side=1024,
        long_side=1024,
        # Group norms everywhere, as nothing is pretrained
        norm="gn",
        pyramid_norm="gn",
        head_norm="gn",
        rpn_convs=2,
        box_convs=4,
        box_fcs=1,
        dtype="bfloat16",
    )
    config.optimizer.update(name="sgd", peak_lr=0.1, b1=0.9, weight_decay=4e-5, clip_norm=0.0)
    config.optimizer.update(warmup_steps=500, schedule="step", boundaries=(163_889, 177_546))
    config.data.update(source="data/coco", train_split="train2017", eval_split="val2017")
    config.data.workers = 8
    # Large-scale jitter (LSJ)
    config.data.augment.update(scale=(0.1, 2.0), flip=True)
    config.eval.batch_size = 64
    if variant == "copy_paste":
        config.data.copy_paste = 1.0
    return as_variant(config, variant, known=("copy_paste",))
