"""A detector for your own pictures, annotated in COCO's format.

    segjax prepare coco path/to/mine --out data/mine
    segjax train --config=experiments/mask_rcnn/finetune.py --workdir=runs/mine --config.data.source=data/mine
    segjax train --config=experiments/mask_rcnn/finetune.py:tiny --workdir=runs/mine --config.data.source=data/mine

The first starts from torchvision's Mask R-CNN of COCO, maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth, with the rates of
torchvision's tutorial; the heads' last layers are drawn anew. It is for an accelerator, or patience. `tiny` starts from
nothing, on pictures of 256 pixels, in minutes to an hour on a CPU. The classes are the data's. Splits other than
"train" and "val": --config.data.train_split=... and --config.data.eval_split=...
"""

import ml_collections

from segjax.tasks.detection.config import apply_tiny_model, as_variant, detection_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = detection_config()
    config.update(total_steps=2000, eval_every=500, log_every=50)
    config.data.update(source="data/mine", cache_mb=1000.0)
    config.data.augment.flip = True
    if variant == "tiny":
        config.batch_size = 4
        apply_tiny_model(config, dict(classes=0))
        config.samples.update(anchors=128, regions=64)
        config.data.augment.scale = (0.5, 2.0)
    else:
        config.batch_size = 2
        config.data.by_orientation = True
        config.model = ml_collections.ConfigDict(
            dict(name="maskrcnn_resnet50_fpn", classes=0, freeze_at=2)
        )
        config.init_from = "detector:maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
        config.optimizer.update(name="sgd", b1=0.9, peak_lr=0.005, weight_decay=5e-4, clip_norm=0.0)
        config.eval.batch_size = 2
    config.optimizer.warmup_steps = 100
    return as_variant(config, variant, known=("tiny",))
