"""Settings of image classification with the defaults of MAE's fine-tuning, and the miniature."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from segjax.evaluation.nearest_neighbors import TEMPERATURE
from segjax.tasks.settings import IMAGENET_IMAGES, CropSettings, RecordSettings
from segjax.training.defaults import LoopSettings, OptimizerSettings, as_config


@dataclasses.dataclass(frozen=True)
class MixSettings:
    """Mixup, CutMix and label smoothing.

    Attributes:
      mixup: Alpha of mixup's beta distribution. 0 is off.
      cutmix: Alpha of CutMix's beta distribution. 0 is off.
      switch: Probability of CutMix where both are on.
      smoothing: Label smoothing: probability spread evenly over all classes.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5
    smoothing: float = 0.1


@dataclasses.dataclass(frozen=True)
class ClassificationCrop(CropSettings):
    """Random resized crops of training images, and the center crop of evaluation.

    Attributes:
      margin: In evaluation, the image's shorter side is resized to this many canvas sides, and
        its center is shown.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    margin: float = 256 / 224


@dataclasses.dataclass(frozen=True)
class ClassificationData(RecordSettings):
    """Records, their labels and crops.

    Attributes:
      label: "record" for the record's own label, "largest" for the category of its largest object.
      crop: Random resized crops, and the center crop of evaluation.
      statistics: Training images over which a frozen encoder's features are standardized. 0: all.
    """

    label: str = "record"
    crop: ClassificationCrop = ClassificationCrop()
    statistics: int = 16_384


@dataclasses.dataclass(frozen=True)
class ClassificationEvaluation:
    """Top-1 accuracy, and the vote of nearest neighbors.

    Attributes:
      batch_size: Images in one batch, over all devices.
      pictures: Example images in the log.
      limit: Number of images to measure. 0: all.
      neighbours: k of a vote among the nearest training images, by the encoder's features. 0: no
        vote.
      temperature: Temperature of that vote.
      bank: Training images, spread over the split, that may be neighbors. 0: all.
    """

    batch_size: int = 64
    pictures: int = 12
    limit: int = 0
    neighbours: int = 0
    temperature: float = TEMPERATURE
    bank: int = 0


@dataclasses.dataclass(frozen=True)
class ClassificationSettings(LoopSettings):
    """All settings of the task. The recipe fine-tunes ViT-B for 100 epochs of ImageNet-1k (MAE,
    appendix A.1).

    Attributes:
      task: Name of the task.
      model: Name of the model, and its attributes. Their defaults are those of that name.
      mix: Mixup, CutMix and label smoothing.
      data: Records, labels and crops.
      eval: Accuracy and nearest neighbors.
    """

    task: str = "classification"
    total_steps: int = 100 * IMAGENET_IMAGES // 1024
    batch_size: int = 1024
    model: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: dict(name="vit_b", classes=1000, pool="mean", drop_path=0.1)
    )
    optimizer: OptimizerSettings = OptimizerSettings(
        base_lr=5e-4,
        b1=0.9,
        b2=0.999,
        weight_decay=0.05,
        clip_norm=0.0,
        warmup_steps=5 * IMAGENET_IMAGES // 1024,
        schedule="cosine",
        final_lr=1e-6,
        layer_decay=0.65,
        trunk="encoder(/trunk)?",
    )
    mix: MixSettings = MixSettings()
    data: ClassificationData = ClassificationData()
    eval: ClassificationEvaluation = ClassificationEvaluation()


def classification_config() -> ml_collections.ConfigDict:
    """Returns a fresh config of the task with the paper's choices. Experiments change fields of
    it.
    """
    return as_config(ClassificationSettings())


def miniature(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks an experiment to two steps of the smallest model on synthetic scenes.

    Experiments with a frozen encoder shrink to another geometry than those without.
    """
    defaults, frozen = classification_config(), bool(config.model.get("frozen", False))
    # Experiments must shrink to two programs at most, so little of them is kept here.
    for name in ("data", "eval", "optimizer", "mix"):
        config[name] = defaults[name]
    config.update(
        total_steps=2,
        batch_size=4,
        microbatches=1,
        log_every=1,
        eval_every=0,
        ema_decay=0.0,
        init_from="",
    )
    # The smallest model, on a few small scenes
    config.model = dict(name="vit_debug", frozen=frozen)
    config.optimizer.update(warmup_steps=1, layer_decay=1.0 if frozen else 0.65)
    config.data.update(label="largest")
    config.data.scenes.update(train_count=8, eval_count=3, size=64)
    config.eval.update(batch_size=2, pictures=2, neighbours=3)
    config.mesh.update(floor=2**10)
    return config
