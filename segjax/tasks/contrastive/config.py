"""Settings of contrastive training with CLIP's defaults, and the miniature."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from segjax.tasks.settings import RecordSettings, SceneSettings
from segjax.training.defaults import LoopSettings, OptimizerSettings, as_config


@dataclasses.dataclass(frozen=True)
class ContrastiveData(RecordSettings):
    """Records whose objects have phrases, and the crops around them.

    Attributes:
      scenes: Synthetic scenes, for source "synthetic". Their kind is "captions".
      per_image: Objects of an image in one example.
      expand: (low, high) of the factor by which the square around an object's box is scaled.
        Evaluation takes the middle.
      hide: Probability that everything but the object is hidden (SAM, appendix D.5).
      longest: Number of words of the longest phrase. Longer ones, such as those about other
        objects, are left out: a crop does not show what they say.
    """

    scenes: SceneSettings = SceneSettings(kind="captions")
    per_image: int = 4
    expand: tuple[float, float] = (1.0, 2.0)
    hide: float = 0.5
    longest: int = 5


@dataclasses.dataclass(frozen=True)
class ContrastiveEvaluation:
    """Retrieval among a few captions.

    Attributes:
      batch_size: Images in one batch, over all devices.
      pictures: Example crops in the log.
      limit: Number of images to measure. 0: all.
      choices: Captions among which the right one is searched.
    """

    batch_size: int = 32
    pictures: int = 12
    limit: int = 0
    choices: int = 32


@dataclasses.dataclass(frozen=True)
class ContrastiveSettings(LoopSettings):
    """All settings of the task. The optimizer is CLIP's (arXiv 2103.00020, tables 18 and 19).

    Attributes:
      task: Name of the task.
      model: Name of the model, and its attributes. Their defaults are those of that name.
      same_texts: Phrases of a batch that are equal are no negatives of each other.
      implied_texts: A phrase is no negative of an object if all its words occur in the object's own
        phrases: "the star" is true of a red star too.
      largest_scale: Upper bound of the factor of cosines.
      data: Records and crops.
      eval: Retrieval among a few captions.
    """

    task: str = "contrastive"
    total_steps: int = 390_625  # 32 epochs of 400 million pairs
    batch_size: int = 32_768
    model: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "clip_vit_b_32"})
    optimizer: OptimizerSettings = OptimizerSettings(
        peak_lr=5e-4,
        b1=0.9,
        b2=0.98,
        weight_decay=0.2,
        clip_norm=0.0,
        warmup_steps=2000,
        schedule="cosine",
        trunk="image/encoder(/trunk)?",
    )
    same_texts: bool = True
    implied_texts: bool = False
    largest_scale: float = 100.0
    data: ContrastiveData = ContrastiveData()
    eval: ContrastiveEvaluation = ContrastiveEvaluation()


def contrastive_config() -> ml_collections.ConfigDict:
    """Returns a fresh config of the task with the paper's choices."""
    return as_config(ContrastiveSettings())


def miniature(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks an experiment to two steps of the smallest model on synthetic scenes."""
    defaults = contrastive_config()
    for name in ("data", "eval", "optimizer"):
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
    config.model = dict(name="clip_debug")
    config.optimizer.update(warmup_steps=1)
    config.data.update(per_image=2)
    config.data.scenes.update(train_count=8, eval_count=6, size=64)
    config.eval.update(batch_size=2, pictures=2, choices=3)
    config.mesh.update(floor=2**10)
    return config
