"""Trains Mask R-CNN with ResNet-50 and a feature pyramid on COCO, by detectron2's schedule "1x".

Needs accelerators.

    segjax prepare coco path/to/coco --out data/coco
    segjax train --config=experiments/mask_rcnn/coco_r50_fpn_1x.py --workdir=runs/coco
    segjax train --config=experiments/mask_rcnn/coco_r50_fpn_1x.py:3x --workdir=runs/coco-3x
    segjax train --config=experiments/mask_rcnn/coco_r50_fpn_1x.py:cascade \\
      --workdir=runs/coco-cascade

The backbone starts from torchvision's classifier, resnet50-0676ba61.pth. The schedule is
configs/Base-RCNN-FPN.yaml, 12 epochs of COCO. There the warm-up begins at a thousandth of the rate,
and biases decay too.

Published in detectron2's model zoo on val2017, from other weights of the same network: box AP 38.6
and mask AP 35.2 for 1x, 41.0 and 37.2 for 3x. With a cascade of three box heads
(configs/Misc/cascade_mask_rcnn_R_50_FPN) 42.1 and 36.4, or 44.3 and 38.5. This recipe has not been
run here.
"""

import ml_collections

from segjax.tasks.detection.config import detection_config
from segjax.tasks.variants import as_variant

VARIANTS = ("3x", "cascade", "3x,cascade", "cascade,3x")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, with "3x", "cascade" or both."""
    chosen = variant.split(",")
    config = detection_config()
    config.update(total_steps=90_000, batch_size=16, log_every=100, eval_every=10_000)
    config.init_from = "resnet:resnet50-0676ba61.pth"
    name = "cascade_mask_rcnn_R_50_FPN" if "cascade" in chosen else "mask_rcnn_R_50_FPN"
    # torchvision's backbone: its pixel normalization, frozen norms, the first two stages frozen.
    config.model = dict(name=name, conventions="detectron2_rgb", freeze_at=2)
    config.optimizer.update(name="sgd", peak_lr=0.02, b1=0.9, weight_decay=1e-4, clip_norm=0.0)
    config.optimizer.update(warmup_steps=1000, schedule="step", boundaries=(60_000, 80_000))
    config.data.update(source="data/coco", train_split="train2017", eval_split="val2017")
    config.data.update(workers=8, by_orientation=True)
    # Multi-scale training
    config.data.augment.update(short_sides=(640, 672, 704, 736, 768, 800), flip=True)
    config.eval.batch_size = 16
    if "3x" in chosen:
        config.total_steps = 270_000
        config.optimizer.boundaries = (210_000, 250_000)
    return as_variant(config, variant, known=VARIANTS)
