"""ViTDet: Mask R-CNN on a plain ViT-B that a MAE has trained (arXiv 2203.16527), on COCO; for accelerators.

    segjax prepare coco path/to/coco --out data/coco
    segjax train --config=experiments/mask_rcnn/coco_vitdet_b.py --workdir=runs/vitdet
    segjax train --config=experiments/mask_rcnn/coco_vitdet_b.py --workdir=runs/vitdet --config.init_from=mae:runs/mae
    segjax train --config=experiments/mask_rcnn/coco_vitdet_b.py:cascade --workdir=runs/vitdet-cascade

Starts from the MAE's authors' file, mae_pretrain_vit_base.pth, or from a run of experiments/mae/imagenet_b.py. The
box AP is 51.6 and the mask AP 45.9 in projects/ViTDet of detectron2 (100 epochs), 54.0 and 46.7 with a cascade of three
box heads. Nobody has trained this here.
"""

import ml_collections

from segjax.tasks.detection.config import apply_lsj_recipe, as_variant, detection_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = detection_config()
    name = "cascade_vitdet_vit_b" if variant == "cascade" else "vitdet_vit_b"
    config.model = ml_collections.ConfigDict(
        dict(name=name, drop_path=0.1, remat="full", scan=True, dtype="bfloat16")
    )
    config.data.source = "data/coco"
    config.init_from = "mae:mae_pretrain_vit_base.pth"
    config.optimizer.update(
        peak_lr=1e-4, b2=0.999, weight_decay=0.1, clip_norm=1.0, warmup_steps=250, layer_decay=0.7
    )
    apply_lsj_recipe(config)
    return as_variant(config, variant, known=("cascade",))
