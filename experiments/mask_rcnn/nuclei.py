"""Trains a small Mask R-CNN from scratch on the nuclei of the 2018 Data Science Bowl.

    segjax prepare nuclei path/to/dsb2018_nuclei --out data/nuclei
    segjax train --config=experiments/mask_rcnn/nuclei.py --workdir=runs/nuclei

Trains on random windows of the images of stage1_train, enlarged 1.5 times, because most nuclei are
only 10 to 30 pixels wide. Measures on the whole images of stage1_test, enlarged to 384 pixels.
docs/results has the results.
"""

import ml_collections

from segjax.tasks.detection.config import detection_config
from segjax.tasks.variants import as_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment."""
    config = detection_config()
    config.update(total_steps=4000, batch_size=4, log_every=50, eval_every=2000)
    config.model = dict(
        name="maskrcnn_tiny",
        classes=1,
        mask_convs=2,  # outlines are simple, and four convolutions cost a quarter of a step
        # Group norms see the padding, so the canvas is one that most images fill.
        canvas=384,
        short_side=384,
        long_side=384,
        anchor_sizes=(12, 22, 36, 60, 96),
        proposals_before=(200, 600),
        proposals_after=(100, 400),
        detections=300,  # some images show 150 nuclei
        candidates=600,
    )
    config.optimizer.update(peak_lr=1e-3, weight_decay=0.05, warmup_steps=100)
    config.samples.update(anchors=128, regions=48, positive_regions=1 / 3)
    config.data.update(source="data/nuclei", train_split="stage1_train", eval_split="stage1_test")
    config.data.update(canvas=(128, 128), max_objects=40, min_visible=0.1)
    config.data.update(cache_mb=500.0, percentiles=(1.0, 99.0))
    # Relative to the window's side: images of 256 pixels become 256 to 512, some larger.
    config.data.augment.update(scale=(2.0, 4.0), flip=True, vertical_flip=True, quarter_turns=True)
    config.data.augment.update(brightness=0.2, contrast=0.2)
    config.eval.batch_size = 1
    return as_variant(config, variant)
