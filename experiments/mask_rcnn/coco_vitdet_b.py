"""ViTDet: Mask R-CNN on a plain ViT-B that a MAE has trained (arXiv 2203.16527), on COCO; for accelerators.

    segjax prepare coco path/to/coco --out data/coco
    segjax train --config=experiments/mask_rcnn/coco_vitdet_b.py --workdir=runs/vitdet
    segjax train --config=experiments/mask_rcnn/coco_vitdet_b.py --workdir=runs/vitdet --config.init_from=mae:runs/mae

Starts from the MAE's authors' file, mae_pretrain_vit_base.pth, or from a run of experiments/mae/imagenet_b.py. The
paper's box AP is 51.6, its mask AP 45.9 (100 epochs, projects/ViTDet of detectron2). Nobody has trained this here.
"""

import ml_collections

from segjax.tasks.detection_config import apply_lsj_recipe, as_variant, detection_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = detection_config()
    config.model = ml_collections.ConfigDict(
        dict(name="vitdet_vit_b", drop_path=0.1, remat="full", scan=True, dtype="bfloat16")
    )
    config.data.source = "data/coco"
    config.init_from = "mae:mae_pretrain_vit_base.pth"
    config.optimizer.update(peak_lr=1e-4, b2=0.999, weight_decay=0.1, clip_norm=1.0, warmup_steps=250, layer_decay=0.7)
    apply_lsj_recipe(config)
    return as_variant(config, variant)
