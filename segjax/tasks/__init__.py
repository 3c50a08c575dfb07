"""Tasks bind a model, a loss, batches and an evaluation for the one training loop."""

import difflib
from collections.abc import Mapping
from typing import Any

import ml_collections

from segjax.tasks.classification.task import Classification
from segjax.tasks.detection.task import Detection
from segjax.tasks.promptable.task import Promptable
from segjax.tasks.reconstruction.task import Reconstruction

TASKS = {
    "promptable": Promptable,
    "reconstruction": Reconstruction,
    "classification": Classification,
    "detection": Detection,
}
# By `segjax.models.build.Kind.title`.
FOR_MODELS = {
    "SAM": "promptable",
    "MAE": "reconstruction",
    "ViT": "classification",
    "Mask R-CNN": "detection",
}


def make_task(config: ml_collections.ConfigDict):
    """The task that `config.task` names.

    Raises:
      ValueError: unknown task.
    """
    return _task_of(config)(config)


def completed(settings: Mapping[str, Any] | ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A new config: the settings, perhaps of an older version, and the task's defaults of those that they leave out.

    Raises:
      ValueError: unknown task, or a setting of another type than its default.
    """
    return _task_of(settings).completed(settings)


def _task_of(settings: Mapping[str, Any] | ml_collections.ConfigDict) -> type:
    name = settings.get("task", "")
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, cutoff=0)
        raise ValueError(f"config.task is {name!r}; nearest: {near}, all: {sorted(TASKS)}")
    return TASKS[name]
