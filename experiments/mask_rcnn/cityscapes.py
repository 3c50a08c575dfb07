"""Cityscapes' eight classes of things, from a detector of COCO's; for accelerators.

    segjax prepare cityscapes path/to/cityscapes --out data/cityscapes
    segjax train --config=experiments/mask_rcnn/cityscapes.py --workdir=runs/cityscapes

detectron2's numbers (configs/Cityscapes/mask_rcnn_R_50_FPN.yaml: mask AP 36.5 on val, by Cityscapes' own measure; here
COCO's is taken). All pictures are 1024 x 2048, and so is the canvas. Nobody has trained this here.
"""

import ml_collections

from segjax.tasks.detection.config import apply_1x_recipe, as_variant, detection_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = detection_config()
    config.model = ml_collections.ConfigDict(
        dict(name="mask_rcnn_R_50_FPN", classes=8, canvas=2048, short_side=1024, long_side=2048)
    )
    apply_1x_recipe(config)
    config.update(total_steps=24_000, batch_size=8, eval_every=4000)
    config.init_from = "detector:runs/coco"  # of coco_r50_fpn_1x.py, all but what names its classes
    config.optimizer.update(peak_lr=0.01, boundaries=(18_000,))
    config.data.update(
        source="data/cityscapes", train_split="train", eval_split="val", canvas=(1024, 2048)
    )
    config.data.by_orientation = False  # all of them lie
    config.data.augment.short_sides = (800, 832, 864, 896, 928, 960, 992, 1024)
    config.eval.update(batch_size=8, canvas=(1024, 2048))
    return as_variant(config, variant)
