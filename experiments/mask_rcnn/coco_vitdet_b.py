"""This is coco_r50_lsj.py, but ViTDet: a plain ViT-B that a MAE has pretrained (arXiv 2203.16527).

Needs accelerators.

    segjax prepare coco path/to/coco --out data/coco
    segjax train --config=experiments/mask_rcnn/coco_vitdet_b.py --workdir=runs/vitdet
    segjax train --config=experiments/mask_rcnn/coco_vitdet_b.py --workdir=runs/vitdet \\
      --config.init_from=mae:runs/mae
    segjax train --config=experiments/mask_rcnn/coco_vitdet_b.py:cascade \\
      --workdir=runs/vitdet-cascade

Starts from the MAE authors' file, mae_pretrain_vit_base.pth, or from a run of
experiments/mae/imagenet_b.py.

Published in projects/ViTDet of detectron2 (100 epochs): box AP 51.6 and mask AP 45.9, or 54.0 and
46.7 with a cascade of three box heads. This recipe has not been run here.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import coco_r50_lsj


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or its variant "cascade"."""
    config = coco_r50_lsj.get_config()
    config.init_from = "mae:mae_pretrain_vit_base.pth"
    name = "cascade_vitdet_vit_b" if variant == "cascade" else "vitdet_vit_b"
    config.model = dict(name=name, drop_path=0.1, remat="full", scan=True, dtype="bfloat16")
    # ViTDet trains with AdamW and layer-wise learning-rate decay.
    config.optimizer.update(name="adamw", peak_lr=1e-4, b2=0.999, weight_decay=0.1)
    config.optimizer.update(clip_norm=1.0, warmup_steps=250, layer_decay=0.7)
    return as_variant(config, variant, known=("cascade",))
