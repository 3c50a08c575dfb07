"""This is coco_r50_fpn_1x.py, but on LVIS: 1,203 classes, most of them rare. Needs accelerators.

    segjax prepare lvis path/to/lvis --out data/lvis
    segjax train --config=experiments/mask_rcnn/lvis.py --workdir=runs/lvis

As in detectron2 (configs/LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml): 300 detections
per image however low their scores, twice as many steps as on COCO, and repeat factor sampling of
images with rare classes. LVIS annotates only some classes in each image. Training treats the others
as background. Evaluation follows LVIS and does not judge them. This recipe has not been run here.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import coco_r50_fpn_1x


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment."""
    config = coco_r50_fpn_1x.get_config()
    config.total_steps = 180_000
    config.model.update(classes=1203, score_threshold=1e-4, detections=300, candidates=3000)
    config.optimizer.boundaries = (120_000, 160_000)
    config.data.update(source="data/lvis", train_split="train", eval_split="val", max_objects=300)
    # Repeat factor sampling, of classes in less than 0.1 % of the images
    config.data.repeat_threshold = 1e-3
    return as_variant(config, variant)
