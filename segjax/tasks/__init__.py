"""Tasks bind a model, a loss, batches and an evaluation for the one training loop."""

import difflib

import ml_collections

from segjax.tasks.promptable import Promptable

TASKS = {"promptable": Promptable}


def make_task(config: ml_collections.ConfigDict):
    """The task that `config.task` names.

    Raises:
      ValueError: unknown task.
    """
    if config.task not in TASKS:
        near = difflib.get_close_matches(config.task, TASKS, cutoff=0)
        raise ValueError(f"config.task is {config.task!r}; nearest: {near}, all: {sorted(TASKS)}")
    return TASKS[config.task](config)
