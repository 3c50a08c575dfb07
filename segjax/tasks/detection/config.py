"""Settings of object detection with Mask R-CNN's defaults, and the miniature for tests."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from segjax.tasks.detection.loss import SampleCounts
from segjax.tasks.settings import RecordSettings
from segjax.training.defaults import LoopSettings, OptimizerSettings, as_config


@dataclasses.dataclass(frozen=True)
class DetectionAugmentation:
    """Random scale, crop, flips, turns and colors, as in `Augmentation`.

    Attributes:
      scale: (low, high) of large-scale jitter (LSJ): the longest side becomes s * canvas. (): the
        model's own size.
      short_sides: The shorter side becomes one of these, in pixels, as far as the model's long_side
        allows. (): the model's own size.
      flip: Mirror left-right half of the time.
      vertical_flip: Mirror top-bottom half of the time.
      quarter_turns: Turn by 0, 90, 180 or 270 degrees.
      brightness: A shift uniform in +-brightness, as a fraction of full intensity.
      contrast: A factor on the intensities around mid-gray, uniform in 1 +- contrast.
    """

    scale: tuple[float, ...] = ()
    short_sides: tuple[int, ...] = ()
    flip: bool = True
    vertical_flip: bool = False
    quarter_turns: bool = False
    brightness: float = 0.0
    contrast: float = 0.0


@dataclasses.dataclass(frozen=True)
class DetectionData(RecordSettings):
    """Records, and the objects that are drawn from them.

    Attributes:
      canvas: (height, width) of the training canvas in pixels, such as that of random crops. ():
        the model's.
      max_objects: Maximum number of objects per image. The smallest surplus objects are dropped and
        logged as `dropped`.
      by_orientation: Batches hold landscape images or portrait images only, on a canvas that fits
        them.
      copy_paste: Share of images that get objects of another image (arXiv 2012.07177).
      repeat_threshold: Repeat factor sampling: images with classes in less than this share of
        images come more often. 0 is off.
      min_visible: Share of an object's area that a crop must leave. Objects with less are dropped.
      augment: Random scale, crop, flips, turns and colors.
    """

    canvas: tuple[int, ...] = ()
    max_objects: int = 100
    by_orientation: bool = False
    copy_paste: float = 0.0
    repeat_threshold: float = 0.0
    min_visible: float = 0.0
    augment: DetectionAugmentation = DetectionAugmentation()


@dataclasses.dataclass(frozen=True)
class DetectionEvaluation:
    """COCO's average precision.

    Attributes:
      batch_size: Images in one batch, over all devices.
      canvas: (height, width) of the evaluation canvas in pixels. (): the model's.
      loss: Measure the training loss too, as "eval_loss" and its terms. The data must have the
        model's own classes.
      boundary: Measure AP by Boundary IoU too, which large objects do not hide.
      pictures: Example images in the log.
      limit: Number of images to measure. 0: all.
      label_names: Class names of the labels 1.., to measure a model on data of other classes. ():
        the data's own.
      refine: A SAM's run or file, which draws the masks from the boxes before they are measured.
      refine_if: "always", or "surer": only where the SAM expects a higher IoU than the detector's
        probabilities do.
      shown_score: Detections from this score on are drawn. All are measured.
    """

    batch_size: int = 8
    canvas: tuple[int, ...] = ()
    loss: bool = False
    boundary: bool = False
    pictures: int = 6
    limit: int = 0
    label_names: tuple[str, ...] = ()
    refine: str = ""
    refine_if: str = "always"
    shown_score: float = 0.5


@dataclasses.dataclass(frozen=True)
class DetectionSettings(LoopSettings):
    """All settings of the task.

    Attributes:
      task: Name of the task.
      model: Name of the model, and its attributes. Their defaults are those of that name.
      samples: Anchors and regions of an image that one step trains on.
      data: Records and objects.
      eval: COCO's average precision.
    """

    task: str = "detection"
    model: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"name": "maskrcnn_resnet50_fpn"}
    )
    optimizer: OptimizerSettings = OptimizerSettings(trunk="backbone(/trunk)?")
    samples: SampleCounts = SampleCounts()
    data: DetectionData = DetectionData()
    eval: DetectionEvaluation = DetectionEvaluation()


def detection_config() -> ml_collections.ConfigDict:
    """Returns a fresh config of the task with the paper's choices. Experiments change fields of
    it.
    """
    return as_config(DetectionSettings())


def miniature(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks an experiment to two steps of the smallest model on synthetic scenes."""
    defaults = detection_config()
    # All experiments of the task must shrink to one program, so nothing of them is kept here.
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
    # The smallest model, on a few small scenes
    config.model = dict(name="maskrcnn_debug", keypoints=0, classes=5, score_threshold=0.0)
    config.optimizer.update(warmup_steps=1)
    config.samples.update(anchors=16, regions=8)
    config.data.update(max_objects=4)
    config.data.scenes.update(train_count=4, eval_count=3, size=64)
    config.eval.update(batch_size=2, pictures=2, shown_score=0.0)
    config.mesh.update(floor=2**10)
    return config
