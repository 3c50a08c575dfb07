"""Settings that the tasks share: records, synthetic scenes and random crops."""

import dataclasses
from typing import Any

IMAGENET_IMAGES = 1_281_167  # in the training set of ImageNet-1k, for recipes that count in epochs


@dataclasses.dataclass(frozen=True)
class SceneSettings:
    """Synthetic scenes, for `data.source` "synthetic".

    Attributes:
      train_count: Number of training scenes.
      eval_count: Number of evaluation scenes. They show photographs that no training scene shows.
      size: Side of a scene in pixels.
      difficulty: "lone" (one object), "easy" or "medium".
      seed: Seed of the scenes.
      kind: "shapes", "figures" (stick figures with keypoints), "captions" (objects with phrases) or
        "panoptic" (shapes on regions of stuff).
    """

    train_count: int = 2000
    eval_count: int = 64
    size: int = 128
    difficulty: str = "easy"
    seed: int = 0
    kind: str = "shapes"


@dataclasses.dataclass(frozen=True)
class RecordSettings:
    """Records, and how they are read, whatever the task makes of them.

    Attributes:
      source: "synthetic", a folder written by `segjax prepare`, "tfds:NAME", or a list of these
        with weights: [("data/a", 10), ("data/b", 1, "train2017", "val2017")].
      tfds_dir: Folder of prepared TFDS data sets. "": $TFDS_DATA_DIR or ~/tensorflow_datasets.
      train_split: Name of the training split.
      eval_split: Name of the evaluation split.
      scenes: Synthetic scenes, for source "synthetic".
      percentiles: (low, high): stretch each image's intensities between these percentiles
        (microscopes). () is off.
      workers: Processes that load training data. 0: threads of this process load it.
      threads: Threads of this process, or of each worker.
      cache_mb: Memory for records that stay loaded, in MB over all workers. 0 is off.
      max_broken: Largest share of unreadable examples. Above it the run stops.
    """

    source: Any = "synthetic"
    tfds_dir: str = ""
    train_split: str = "train"
    eval_split: str = "val"
    scenes: SceneSettings = SceneSettings()
    percentiles: tuple[float, ...] = ()
    workers: int = 0
    threads: int = 1
    cache_mb: float = 0.0
    max_broken: float = 0.01


@dataclasses.dataclass(frozen=True)
class CropSettings:
    """Random resized crops of training images.

    Attributes:
      scale: (low, high) of the crop's area, as a share of the image's area.
      ratio: (low, high) of the crop's width over its height.
      flip: Mirror left-right half of the time.
      frame: Above 0, the devices resize the crops of images that were prepared with --short-side
        FRAME (in pixels). 0: the host resizes them.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    frame: int = 0
