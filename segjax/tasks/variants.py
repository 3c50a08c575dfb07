"""The variants of an experiment, among them "debug", its miniature."""

from collections.abc import Sequence

import ml_collections

from segjax.registry import TASKS


def as_variant(
    config: ml_collections.ConfigDict, variant: str, known: Sequence[str] = ()
) -> ml_collections.ConfigDict:
    """Returns the config itself, or for "debug" the experiment in miniature.

    The miniature takes two steps on synthetic scenes, within seconds on a CPU. All experiments of a
    task shrink to one geometry (see the task's `miniature`), so that they share one compiled
    program. Every `get_config` ends with this function.

    Args:
      config: The experiment, to which the variants in `known` have been applied.
      variant: The part of `--config=FILE:VARIANT` behind the colon, or "".
      known: Names of the variants that the experiment has, besides "debug".

    Returns:
      The config to train.

    Raises:
      ValueError: The experiment has no such variant.
    """
    if variant not in ("", "debug", *known):
        raise ValueError(
            f"the experiment has no variant {variant!r}; it has {'; '.join(('debug', *known))}"
        )
    return TASKS.get(config.task).miniature(config) if variant == "debug" else config
