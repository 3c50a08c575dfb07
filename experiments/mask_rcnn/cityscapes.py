"""This is coco_r50_fpn_1x.py, but on the eight classes of Cityscapes, from a detector of COCO.

Needs accelerators.

    segjax prepare cityscapes path/to/cityscapes --out data/cityscapes
    segjax train --config=experiments/mask_rcnn/cityscapes.py --workdir=runs/cityscapes

Starts from the run of coco_r50_fpn_1x.py, without the layers that predict classes. All images, and
so the canvas, are 1024 x 2048 pixels.

Published in detectron2's model zoo (configs/Cityscapes/mask_rcnn_R_50_FPN.yaml): mask AP 36.5 on
val by Cityscapes' own measure. segjax reports COCO's. This recipe has not been run here.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import coco_r50_fpn_1x


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment."""
    config = coco_r50_fpn_1x.get_config()
    config.update(total_steps=24_000, batch_size=8, eval_every=4000)
    # All weights of the run but those of the layers that predict classes
    config.init_from = "detector:runs/coco"
    config.model.update(classes=8, canvas=2048, short_side=1024, long_side=2048)
    config.optimizer.update(peak_lr=0.01, boundaries=(18_000,))
    config.data.update(source="data/cityscapes", train_split="train", eval_split="val")
    config.data.update(canvas=(1024, 2048), by_orientation=False)  # all images are landscape
    config.data.augment.short_sides = (800, 832, 864, 896, 928, 960, 992, 1024)
    config.eval.update(batch_size=8, canvas=(1024, 2048))
    return as_variant(config, variant)
