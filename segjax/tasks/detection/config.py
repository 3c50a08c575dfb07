"""What an experiment with a detector may set, with Mask R-CNN's choices, and how any of them shrinks for a test."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from segjax.tasks.detection.loss import Samples
from segjax.tasks.record_task import record_settings, variant_of
from segjax.training.defaults import base_config


def detection_config() -> ml_collections.ConfigDict:
    """The loop's fields and this task's, with the paper's numbers of samples; experiments change what they need."""
    config = base_config()
    config.task = "detection"
    config.model = ml_collections.ConfigDict({"name": "maskrcnn_resnet50_fpn"}, convert_dict=True)
    config.optimizer.update(trunk="backbone(/trunk)?")
    config.samples = ml_collections.ConfigDict(
        Samples()._asdict()
    )  # of a picture and step, see `Samples`
    config.data = ml_collections.ConfigDict(
        record_settings()
        | dict(
            canvas=(),  # (height, width) of training's canvas, such as that of random crops; (): the model's
            max_objects=100,  # of a picture; what there is no room for is dropped, the smallest first
            by_orientation=False,  # batches whose pictures all lie or all stand, on a canvas that they fill
            copy_paste=0.0,  # share of the pictures that get objects of another one (arXiv 2012.07177)
            repeat_threshold=0.0,  # classes in a smaller share of pictures come more often, see `RepeatRare`; 0: off
            min_visible=0.0,  # share of an object that must be left after a crop
            # See `Augmentation`; () and 0 draw nothing, and pictures become as large as the model says.
            augment=dict(
                scale=(), short_sides=(), flip=True, vertical_flip=False, quarter_turns=False
            )
            | dict(brightness=0.0, contrast=0.0),
        )
    )
    config.eval = ml_collections.ConfigDict(
        dict(
            batch_size=8,
            canvas=(),  # (height, width) to measure on; (): the model's
            loss=False,  # measure training's loss too, on data of the model's own classes: "eval_loss" and its terms
            boundary=False,  # measure outlines too: AP by Boundary IoU, which large objects do not hide
            pictures=6,
            limit=0,  # pictures to measure on; 0 = all
            label_names=(),  # of the labels 1.., to measure a model on data of other classes; (): as the data has them
            refine="",  # a SAM's run or file, which draws the masks from the boxes before they are measured
            refine_if="always",  # or "surer": where it expects a higher IoU than the detector's probabilities promise
            shown_score=0.5,  # detections from this score on are drawn; all are measured
        )
    )
    return config


def apply_cpu_recipe(config: ml_collections.ConfigDict, figures: bool = False) -> None:
    """Sets what a CPU learns in minutes from synthetic scenes of 128 pixels, in place.

    Objects are 31 to 72 pixels wide, parts and what is half hidden smaller; classes are the shapes. Or, with `figures`,
    stick figures of 56 pixels and more, their boxes and joints.
    """
    config.update(batch_size=8, log_every=50)
    apply_tiny_model(
        config,
        dict(classes=5, canvas=128, short_side=128, long_side=128)
        | dict(anchor_sizes=(20, 32, 48, 64, 96), detections=50, candidates=100)
        | dict(proposals_before=(64, 64), proposals_after=(64, 32))
        | (
            dict(classes=1, keypoints=7, keypoint_convs=4, keypoint_width=64, mask_convs=0)
            if figures
            else {}
        ),
    )
    config.optimizer.warmup_steps = 50
    config.samples.update(anchors=64, regions=32)
    config.data.update(max_objects=12, cache_mb=500.0)
    config.data.scenes.update(train_count=2000, size=128, kind="figures" if figures else "shapes")


def apply_tiny_model(config: ml_collections.ConfigDict, attributes: Mapping[str, Any]) -> None:
    """Sets the detector that a CPU trains from nothing, with these attributes, and its optimizer, in place.

    Muon on all kernels, which a backbone of half the width can afford, learns more of the quickstart in 400 steps of 8
    pictures than AdamW and the full width did in 1,500 of 4.
    """
    config.model = ml_collections.ConfigDict(
        dict(name="maskrcnn_tiny", backbone="resnet18_narrow", mask_convs=2) | attributes
    )
    config.optimizer.update(
        name="muon", muon_convolutions=True, b2=0.99, peak_lr=6e-3, weight_decay=0.05
    )


def apply_1x_recipe(config: ml_collections.ConfigDict) -> None:
    """Sets detectron2's schedule "1x" (configs/Base-RCNN-FPN.yaml, 12 epochs of COCO), in place.

    Momentum on 16 pictures, the rate divided by 10 twice; short sides of 640 to 800 pixels, at most 1333 long. The
    backbone is torchvision's with frozen norms, its first two stages frozen. (There the warm-up begins at a thousandth
    of the rate, and biases decay too.)
    """
    config.update(total_steps=90_000, batch_size=16, log_every=100, eval_every=10_000)
    config.model.update(conventions="detectron2_rgb", freeze_at=2)
    config.optimizer.update(
        name="sgd", peak_lr=0.02, b1=0.9, weight_decay=1e-4, clip_norm=0.0, warmup_steps=1000
    )
    config.optimizer.update(schedule="step", boundaries=(60_000, 80_000))
    config.data.update(
        train_split="train2017", eval_split="val2017", workers=8, by_orientation=True
    )
    config.data.augment.update(short_sides=(640, 672, 704, 736, 768, 800), flip=True)
    config.eval.update(batch_size=16)


def apply_lsj_recipe(config: ml_collections.ConfigDict) -> None:
    """Sets the schedule of large-scale jitter (arXiv 2012.07177), 100 epochs of COCO as in detectron2, in place."""
    config.update(total_steps=184_375, batch_size=64, log_every=100, eval_every=18_000)
    config.optimizer.update(schedule="step", boundaries=(163_889, 177_546))
    config.data.update(train_split="train2017", eval_split="val2017", workers=8)
    config.data.augment.update(scale=(0.1, 2.0), flip=True)
    config.eval.update(batch_size=64)


def as_variant(
    config: ml_collections.ConfigDict, variant: str, known: tuple[str, ...] = ()
) -> ml_collections.ConfigDict:
    """The config itself, or for "debug" the experiment in miniature: two steps on synthetic scenes, seconds on a CPU.

    All experiments shrink to one geometry, so that they share one compiled program.

    Raises:
      ValueError: a variant that is neither "", "debug" nor one of `known`, which the experiment has applied itself.
    """
    return variant_of(config, variant, known, _miniature)


def _miniature(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    defaults = detection_config()
    for name in ("samples", "data", "eval", "optimizer"):
        config[name] = defaults[name]
    config.update(
        total_steps=2,
        batch_size=2,
        microbatches=1,
        log_every=1,
        eval_every=0,
        ema_decay=0.0,
        init_from="",
    )
    config.model = ml_collections.ConfigDict(
        dict(name="maskrcnn_debug", keypoints=0, classes=5, score_threshold=0.0)
    )
    config.optimizer.update(warmup_steps=1)
    config.samples.update(anchors=16, regions=8)
    config.data.update(max_objects=4)
    config.data.scenes.update(train_count=4, eval_count=3, size=64)
    config.eval.update(batch_size=2, pictures=2, shown_score=0.0)
    config.mesh.update(floor=2**10)
    return config
