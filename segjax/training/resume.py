"""The resolved config of a run, and what a resumed run may change of it."""

import json
import logging
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections

from segjax.files import write_json
from segjax.training.defaults import flat_keys

logger = logging.getLogger(__name__)

# How long, how often, on which devices, how loaded and how measured: the run stays the same experiment. (A schedule
# that spans total_steps is stretched by a change of it; microbatches change which prompts are drawn. Both are logged.)
MAY_CHANGE = (
    r"total_steps",
    r"log_every",
    r"eval_every",
    r"profile_steps",
    r"peak_tflops",
    r"microbatches",
    r"checkpoint\..*",
    r"mesh\..*",
    r"eval\..*",
    r"data\.(eval_split|workers|threads|cache_mb|max_broken)",
)


def plain(config: ml_collections.ConfigDict) -> dict:
    """The config as JSON would give it back: plain dicts, lists for tuples."""
    return json.loads(config.to_json())


def record_config(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    completed: Callable[[Mapping[str, Any]], ml_collections.ConfigDict],
    *,
    resuming: bool,
) -> None:
    """Writes workdir/config.json; first, when resuming, holds the config against the one that is there.

    completed: gives a config the defaults of what it leaves out (`Task.completed`). Both are compared that way: a
    setting that did not exist when the run began, or that was not spelt out, counts as its default.

    Raises ValueError that names each key whose change would make the resumed run another experiment; the changes that
    would not are logged.
    """
    path = workdir / "config.json"
    new = plain(config)
    if resuming and path.exists():
        old, now = (
            flat_keys(plain(completed(settings)))
            for settings in (json.loads(path.read_text()), new)
        )
        absent = "(absent)"
        changed = {k for k in {*old, *now} if old.get(k, absent) != now.get(k, absent)}
        allowed = re.compile(
            "|".join(f"(?:{p})" for p in (*MAY_CHANGE, *config.checkpoint.may_change))
        )
        said = lambda keys: "; ".join(
            f"{k}: {old.get(k, absent)!r} -> {now.get(k, absent)!r}" for k in sorted(keys)
        )
        if barred := {k for k in changed if not allowed.fullmatch(k)}:
            raise ValueError(
                f"{workdir} holds a run with another config ({said(barred)}). Use another workdir, restore these "
                "values, or allow the change by naming the keys in config.checkpoint.may_change (regexes)"
            )
        if changed:
            logger.warning("resuming %s with a changed config: %s", workdir, said(changed))
    if jax.process_index() == 0:
        write_json(path, new)
