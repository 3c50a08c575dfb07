"""LVIS: some 1,200 classes, most of them rare, not all looked for in every picture; for accelerators.

    segjax prepare lvis path/to/lvis --out data/lvis
    segjax train --config=experiments/mask_rcnn/lvis.py --workdir=runs/lvis

detectron2's numbers (configs/LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml): 300 detections a picture, however
low their scores, twice as many steps as on COCO, pictures with rare classes more often. In training, what a picture
does not list is background; it is measured as LVIS does. Nobody has trained this here.
"""

import ml_collections

from segjax.tasks.detection.config import apply_1x_recipe, as_variant, detection_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = detection_config()
    config.model = ml_collections.ConfigDict(
        dict(
            name="mask_rcnn_R_50_FPN",
            classes=1203,
            score_threshold=1e-4,
            detections=300,
            candidates=3000,
        )
    )
    config.init_from = "resnet:resnet50-0676ba61.pth"
    apply_1x_recipe(config)
    config.total_steps = 180_000
    config.optimizer.boundaries = (120_000, 160_000)
    config.data.update(source="data/lvis", train_split="train", eval_split="val", max_objects=300)
    config.data.repeat_threshold = 1e-3
    return as_variant(config, variant)
