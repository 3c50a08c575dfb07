"""Tasks: each binds a model, a loss, batches and an evaluation for the training loop.

A task is chosen by `config.task`, its name in `segjax.registry.TASKS`.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from segjax.registry import TASKS


def make_task(config: ml_collections.ConfigDict) -> Any:
    """Returns the task that `config.task` names, a `segjax.training.task.Task`.

    Raises:
      ValueError: unknown task, naming the nearest ones.
    """
    return TASKS.get(config.get("task", ""))(config)


def complete_config(
    settings: Mapping[str, Any] | ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
    """Returns a new config: the settings, and the task's defaults for those that they leave out.

    Settings of older versions are mapped to today's.

    Raises:
      ValueError: unknown task, or a setting of another type than its default.
    """
    return TASKS.get(settings.get("task", "")).complete_config(settings)
