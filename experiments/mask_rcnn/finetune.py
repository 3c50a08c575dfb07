"""Trains a detector on your own images, annotated in COCO's format.

    segjax prepare coco path/to/mine --out data/mine
    segjax train --config=experiments/mask_rcnn/finetune.py --workdir=runs/mine \\
      --config.data.source=data/mine
    segjax train --config=experiments/mask_rcnn/finetune.py:tiny --workdir=runs/mine \\
      --config.data.source=data/mine

The default starts from torchvision's Mask R-CNN of COCO, which is downloaded once,
with the rates of torchvision's tutorial. The last layers of its heads are initialized anew. It
needs an accelerator, or patience. `tiny` starts from scratch, on images of 256 pixels, and takes
minutes to an hour on a CPU.

The classes are the data's. Set splits other than "train" and "val" with
--config.data.train_split=... and --config.data.eval_split=...
"""

import ml_collections

from segjax.tasks.detection.config import detection_config
from segjax.tasks.variants import as_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or its variant "tiny"."""
    config = detection_config()
    config.update(total_steps=2000, eval_every=500, log_every=50)
    config.optimizer.warmup_steps = 100
    config.data.update(source="data/mine", cache_mb=1000.0)
    config.data.augment.flip = True
    if variant == "tiny":
        config.batch_size = 4
        # classes=0: as many as the data has.
        config.model = dict(
            name="maskrcnn_tiny", classes=0, backbone="resnet18_narrow", mask_convs=2
        )
        config.optimizer.update(name="muon", muon_convolutions=True, peak_lr=6e-3, b2=0.99)
        config.optimizer.weight_decay = 0.05
        config.samples.update(anchors=128, regions=64)
        config.data.augment.scale = (0.5, 2.0)
    else:
        config.batch_size = 2
        # From the published detector, without the layers that predict classes
        config.init_from = "detector:maskrcnn_resnet50_fpn"
        config.model = dict(name="maskrcnn_resnet50_fpn", classes=0, freeze_at=2)
        config.optimizer.update(name="sgd", peak_lr=0.005, b1=0.9, weight_decay=5e-4, clip_norm=0.0)
        config.data.by_orientation = True
        config.eval.batch_size = 2
    return as_variant(config, variant, known=("tiny",))
