"""Settings of masked autoencoding with MAE's defaults, and the miniature for tests."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from segjax.tasks.settings import IMAGENET_IMAGES, CropSettings, RecordSettings
from segjax.training.defaults import LoopSettings, OptimizerSettings, as_config


@dataclasses.dataclass(frozen=True)
class ReconstructionData(RecordSettings):
    """Records, and the crops that the autoencoder sees.

    Attributes:
      crop: Random resized crops.
    """

    crop: CropSettings = CropSettings()


@dataclasses.dataclass(frozen=True)
class ReconstructionEvaluation:
    """Reconstruction loss on held-out images.

    Attributes:
      batch_size: Images in one batch, over all devices.
      pictures: Example images in the log.
      limit: Number of images to measure. 0: all.
    """

    batch_size: int = 64
    pictures: int = 6
    limit: int = 0


@dataclasses.dataclass(frozen=True)
class ReconstructionSettings(LoopSettings):
    """All settings of the task. The recipe is that of the paper's appendix A.1: 800 epochs of
    ImageNet-1k.

    Attributes:
      task: Name of the task.
      model: Name of the model, and its attributes. Their defaults are those of that name.
      data: Records and crops.
      eval: Reconstruction loss on held-out images.
    """

    task: str = "reconstruction"
    total_steps: int = 800 * IMAGENET_IMAGES // 4096
    batch_size: int = 4096
    model: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "mae_vit_b"})
    optimizer: OptimizerSettings = OptimizerSettings(
        base_lr=1.5e-4,
        b1=0.9,
        b2=0.95,
        weight_decay=0.05,
        clip_norm=0.0,
        warmup_steps=40 * IMAGENET_IMAGES // 4096,
        schedule="cosine",
        trunk="encoder(/trunk)?",
    )
    data: ReconstructionData = ReconstructionData()
    eval: ReconstructionEvaluation = ReconstructionEvaluation()


def reconstruction_config() -> ml_collections.ConfigDict:
    """Returns a fresh config of the task with the paper's choices. Experiments change fields of
    it.
    """
    return as_config(ReconstructionSettings())


def miniature(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks an experiment to two steps of the smallest model on synthetic scenes."""
    defaults = reconstruction_config()
    # All experiments of the task must shrink to one program, so nothing of them is kept here.
    for name in ("model", "data", "eval", "optimizer", "mesh", "checkpoint"):
        config[name] = defaults[name]
    config.update(
        total_steps=2, batch_size=4, microbatches=1, log_every=1, eval_every=0, ema_decay=0.0
    )
    # The smallest model, on a few small scenes
    config.model = dict(name="mae_debug", decoder_depth=1)
    config.optimizer.update(warmup_steps=1)
    config.data.scenes.update(train_count=8, eval_count=3, size=64)
    config.eval.update(batch_size=2, pictures=2)
    config.mesh.update(floor=2**10)
    return config
