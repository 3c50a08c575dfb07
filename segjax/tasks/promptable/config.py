"""Settings of promptable segmentation with SAM's defaults, and the miniature for tests."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from segjax.data.examples.augmentation import Augmentation
from segjax.losses.promptable import PromptableLoss
from segjax.prompting.simulation import Rounds
from segjax.tasks.settings import RecordSettings
from segjax.training.defaults import LoopSettings, as_config


@dataclasses.dataclass(frozen=True)
class EmbeddingSettings:
    """Cached image embeddings for training with a frozen image encoder.

    Attributes:
      folder: Folder of the files, which several runs may share. "workdir": the run's own. "": none,
        the encoder runs in each step. Augmentation may flip and turn images, and nothing else.
      dtype: "float16" or "float32", as they are stored.
    """

    folder: str = ""
    dtype: str = "float16"


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """Text prompts: SAM learns them from CLIP's vectors of the objects (SAM, appendix D.5), and
    from those of their phrases if there are any.

    Attributes:
      clip: Checkpoint of the CLIP. "": no text prompts.
      folder: Folder of the training objects' vectors, which several runs may share. "workdir": the
        run's own.
      crops: Vectors of an object, of crops that differ at random. A step takes one of them.
      expand: (low, high) of the factor by which the square around an object's box is scaled.
      hide: Probability that everything but the object is hidden.
      masked_attention: In CLIP's last block, the class token sees the patches of the mask alone.
      min_side: Objects with fewer pixels than its square get no vector. The paper has 100.
      noise: Length of random noise that is added to a vector of length 1 in training (CapDec, arXiv
        2211.00575). CLIP's vectors of texts lie apart from those of images; noise makes a model
        accept both. The paper has none.
      drop: Probability that training takes a vector without a random half of its principal
        components, as seen among all objects. A phrase says less than an image: "the star" has no
        color. The paper has 0.
      phrases: Probability that training takes the vector of one of an object's phrases instead of
        one of its crops. The paper has 0: it needs no text to train.
    """

    clip: str = ""
    folder: str = "workdir"
    crops: int = 4
    expand: tuple[float, float] = (1.0, 2.0)
    hide: float = 0.5
    masked_attention: bool = True
    min_side: float = 100.0
    noise: float = 0.0
    drop: float = 0.0
    phrases: float = 0.0


@dataclasses.dataclass(frozen=True)
class PromptableData(RecordSettings):
    """Records, and the prompts and masks that are drawn from them.

    Attributes:
      max_prompts: Objects of an image that one step trains on. Each is one prompt.
      mask_stride: Canvas pixels per cell of the loss grid. A stride below patch / 4 upsamples the
        logits.
      min_area: Smallest mask that is trained on, in canvas pixels.
      max_area_fraction: Largest mask that is trained on, as a share of the image's area.
      augment: Random scale, crop, flips, turns and colors.
      embeddings: Cached image embeddings.
      text: Text prompts.
    """

    max_prompts: int = 64
    mask_stride: int = 4
    min_area: float = 10.0
    max_area_fraction: float = 0.9
    augment: Augmentation = Augmentation()
    embeddings: EmbeddingSettings = EmbeddingSettings()
    text: TextSettings = TextSettings()


@dataclasses.dataclass(frozen=True)
class PromptableEvaluation:
    """Interactive evaluation by simulated clicks.

    Attributes:
      batch_size: Images in one batch, over all devices.
      max_prompts: Objects of an image that are measured.
      min_area_fraction: Smallest object that is measured, as a share of its image.
      num_points: Clicks on each object.
      pictures: Example images in the log.
      limit: Number of images to measure. 0: all.
      tile: Cut images into fixed tiles of this side in pixels, at their own resolution. 0: whole
        images.
      overlap: Overlap of neighboring tiles in pixels.
    """

    batch_size: int = 8
    max_prompts: int = 32
    min_area_fraction: float = 0.0
    num_points: int = 9
    pictures: int = 6
    limit: int = 0
    tile: int = 0
    overlap: int = 0


@dataclasses.dataclass(frozen=True)
class PromptableSettings(LoopSettings):
    """All settings of the task.

    Attributes:
      task: Name of the task.
      model: Name of the model, and its attributes. Their defaults are those of that name.
      rounds: Simulated annotation rounds: first prompts and corrections.
      loss: Focal, dice and IoU loss.
      data: Records, prompts and masks.
      eval: Interactive evaluation.
    """

    task: str = "promptable"
    model: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "sam_vit_b"})
    rounds: Rounds = Rounds()
    loss: PromptableLoss = PromptableLoss()
    data: PromptableData = PromptableData()
    eval: PromptableEvaluation = PromptableEvaluation()


def promptable_config() -> ml_collections.ConfigDict:
    """Returns a fresh config of the task with the paper's choices. Experiments change fields of
    it.
    """
    return as_config(PromptableSettings())


def miniature(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks an experiment to two steps of the smallest model on synthetic scenes."""
    defaults = promptable_config()
    # All experiments of the task must shrink to one program, so nothing of them is kept here.
    groups = ("model", "rounds", "loss", "data", "eval", "optimizer", "checkpoint", "lora")
    for name in (*groups, "init_from", "trainable"):
        config[name] = defaults[name]
    config.update(
        total_steps=2, batch_size=2, microbatches=1, log_every=1, eval_every=0, ema_decay=0.0
    )
    # The smallest model, on a few small scenes
    config.model = dict(name="sam_debug", decoder_depth=1)
    config.rounds.update(count=3)
    config.data.update(max_prompts=2)
    config.data.scenes.update(train_count=4, eval_count=2, size=64)
    config.eval.update(batch_size=2, max_prompts=2, num_points=2, pictures=1)
    config.mesh.update(fsdp=defaults.mesh.fsdp, floor=2**10)
    return config
