"""What exact sampling of regions is worth (Mask R-CNN, tables 2c, 2d and 6), in miniature: minutes on a laptop's CPU.

    for pooling in roi_align roi_pool quantised; do
      segjax train --config=experiments/mask_rcnn/roi_ablation.py:$pooling --workdir=runs/$pooling
      segjax train --config=experiments/mask_rcnn/roi_ablation.py:$pooling,keypoints --workdir=runs/$pooling-keypoints
    done

The quickstart's model on its scenes, or on stick figures with seven joints each; runs differ in how regions are taken
alone. As in the paper's tables 2c and 2d the regions come from coarse maps, where rounding to cells costs most: those
of 28 to 56 pixels from a map of stride 8, larger ones from one of 16; figures, of 56 pixels and more, from one of 8.
"""

import ml_collections

from segjax.tasks.detection_config import as_variant, detection_config

POOLINGS = ("roi_align", "roi_pool", "quantised")
VARIANTS = (*POOLINGS, "keypoints", *(f"{pooling},keypoints" for pooling in POOLINGS))


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = detection_config()
    config.total_steps = 700
    config.batch_size = 4
    config.log_every = 50
    config.model = ml_collections.ConfigDict(
        dict(name="maskrcnn_tiny", classes=5, canvas=128, short_side=128, long_side=128, pooling="roi_align")
        | dict(anchor_sizes=(20, 32, 48, 64, 96), detections=20, candidates=100)
        | dict(proposals_before=(64, 64), proposals_after=(64, 32))
        | dict(canonical_size=56.0)
    )
    config.optimizer.update(peak_lr=1e-3, weight_decay=0.05, warmup_steps=50)
    config.samples.update(anchors=64, regions=32)
    config.data.update(max_objects=12, cache_mb=500.0)
    config.data.scenes.update(train_count=2000, eval_count=200, size=128)
    config.data.augment.update(flip=True)
    config.eval.boundary = True
    asked = variant.split(",")
    if "keypoints" in asked:
        config.model.update(classes=1, keypoints=7, keypoint_convs=4, keypoint_width=64, mask_convs=0)
        config.model.canonical_size = 112.0
        config.data.scenes.kind = "figures"
    for pooling in set(asked) & set(POOLINGS):
        config.model.pooling = pooling
    return as_variant(config, variant, known=VARIANTS)
