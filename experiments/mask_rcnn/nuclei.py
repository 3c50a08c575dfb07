"""Nuclei of the 2018 Data Science Bowl, each with its mask, by a small Mask R-CNN from nothing.

    segjax prepare nuclei path/to/dsb2018_nuclei --out data/nuclei
    segjax train --config=experiments/mask_rcnn/nuclei.py --workdir=runs/nuclei

Trained on random windows of stage1_train's pictures, enlarged one and a half times, as most nuclei are but 10 to 30
pixels wide; measured on the whole pictures of stage1_test, enlarged to 384 pixels.
"""

import ml_collections

from segjax.tasks.detection.config import as_variant, detection_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = detection_config()
    config.total_steps = 4000
    config.batch_size = 4
    config.log_every = 50
    config.eval_every = 2000
    # Group norms see what padding there is, so the canvas is one that most pictures fill. Some show 150 nuclei.
    config.model = ml_collections.ConfigDict(
        dict(name="maskrcnn_tiny", classes=1, canvas=384, short_side=384, long_side=384)
        | dict(anchor_sizes=(12, 22, 36, 60, 96), detections=300, candidates=600)
        | dict(mask_convs=2)  # outlines are simple, and four cost a quarter of a step
        | dict(proposals_before=(200, 600), proposals_after=(100, 400))
    )
    config.optimizer.update(peak_lr=1e-3, weight_decay=0.05, warmup_steps=100)
    config.samples.update(anchors=128, regions=48, positive_regions=1 / 3)
    config.data.update(source="data/nuclei", train_split="stage1_train", eval_split="stage1_test")
    config.data.update(
        canvas=(128, 128), max_objects=40, min_visible=0.1, cache_mb=500.0, percentiles=(1.0, 99.0)
    )
    # Of the window's side: pictures of 256 pixels become 256 to 512, some more than that.
    config.data.augment.update(scale=(2.0, 4.0), flip=True, vertical_flip=True, quarter_turns=True)
    config.data.augment.update(brightness=0.2, contrast=0.2)
    config.eval.batch_size = 1
    return as_variant(config, variant)
