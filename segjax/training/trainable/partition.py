"""Which parameters a run trains: `config.trainable` and `config.lora`.

Frozen parameters are constants of the training step. They have no gradient, no optimizer state and
no moving average, and nothing below a frozen encoder has a backward pass.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.training.optimizer import STEM
from segjax.training.task import Variables
from segjax.training.trainable.lora import Adapters, find_blocks, place_adapters
from segjax.weights.adapters.low_rank import LORA, SCALE_PATH, merge_low_rank
from segjax.weights.tree import flatten, unflatten

PRESETS = ("full", "decoder", "late:N", "lora", "lora_only")
_DEFAULT_RANK = 4


@dataclasses.dataclass(frozen=True)
class Partition:
    """The split of a model's parameters into trained and frozen ones, perhaps with adapters.

    Attributes:
      frozen: paths of the frozen parameters.
      adapters: low-rank adapters of frozen kernels, or None.
      name: `config.trainable` for messages, "" if everything is trained.
    """

    frozen: Collection[str] = frozenset()
    adapters: Adapters | None = None
    name: str = ""

    def split(self, variables: Variables, key: jax.Array) -> Variables:
        """Moves frozen parameters to the constants and draws the adapters.

        Args:
          variables: {"params", "constants"} of the model.
          key: typed PRNG key of the adapters.

        Returns:
          {"params": trained, "constants": frozen and constant}.
        """
        if not self.frozen:
            return variables
        params, constants = flatten(variables["params"]), flatten(variables["constants"])
        trained = {path: array for path, array in params.items() if path not in self.frozen}
        constants |= {path: array for path, array in params.items() if path in self.frozen}
        if self.adapters:
            trained |= self.adapters.init(key)
            constants[SCALE_PATH] = jnp.float32(self.adapters.scale)
        return {"params": unflatten(trained), "constants": unflatten(constants)}

    def join(self, variables: Variables) -> Variables:
        """Returns the model's own variables: the inverse of `split`, with adapters merged."""
        if not self.frozen:
            return variables
        params, constants = flatten(variables["params"]), flatten(variables["constants"])
        params |= {path: constants.pop(path) for path in self.frozen}
        if self.adapters:
            product = functools.partial(jnp.matmul, precision="highest")
            params = merge_low_rank(params, constants.pop(SCALE_PATH), product)
        return {"params": unflatten(params), "constants": unflatten(constants)}

    def list_trained(self, params: Any) -> set[str]:
        """Returns the paths of the model's parameters that are trained or adapted.

        Args:
          params: `TrainState.params` of anything.
        """
        own = {path for path in flatten(params) if not path.startswith(f"{LORA}/")}
        return own | (self.adapters.kernels if self.adapters else set())

    def find(self, path: str) -> str:
        """Returns the path in the state's variables of an array of the model's variables."""
        collection, _, rest = path.partition("/")
        return f"constants/{rest}" if collection == "params" and rest in self.frozen else path


def make_partition(config: ml_collections.ConfigDict, shapes: Variables, encoder: str) -> Partition:
    """Makes the partition of `config.trainable` and `config.lora`.

    Args:
      config: complete config of a run.
      shapes: {"params", "constants"} of the model, of anything with a shape.
      encoder: path of the encoder, see `segjax.training.task.Task.encoder_path`. "": none.

    Raises:
      ValueError: a pattern matches nothing (names the nearest paths), everything is frozen, a
        kernel is both trained and adapted, or a setting is out of range.
    """
    chosen = config.trainable
    names = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    names = tuple(name for name in names if name)
    rank = config.lora.rank
    if rank < 0:
        raise ValueError(f"config.lora.rank is {rank}; expected 0 (no adapters) or more")
    if not names and not rank:
        return Partition()
    paths = {path: leaf.shape for path, leaf in flatten(shapes["params"]).items()}
    adapted = rank > 0 or any(name in ("lora", "lora_only") for name in names)
    trained = set().union(*(_select(name, paths, encoder) for name in names or ("full",)))
    adapters = None
    if adapted:
        settings = config.lora.to_dict() | {"rank": rank or _DEFAULT_RANK}
        adapters = place_adapters(settings, paths, encoder)
        if both := sorted(adapters.kernels & trained):
            raise ValueError(
                f"config.lora adapts {both[0]} and {len(both) - 1} other kernels that are trained "
                f"themselves; freeze them with config.trainable='lora', or set config.lora.rank=0"
            )
    if not trained and not adapters:
        raise ValueError(
            f"config.trainable={chosen!r} freezes all {len(paths)} parameter arrays; expected some "
            "to train"
        )
    frozen = frozenset(paths) - trained
    return Partition(frozen, adapters, ", ".join(names) or "lora") if frozen else Partition()


def _select(name: str, paths: Mapping[str, Any], encoder: str) -> set[str]:
    """Returns the paths that a preset or a regular expression trains."""
    if name == "full":
        return set(paths)
    if name == "lora_only":
        return set()
    if name in ("decoder", "lora"):
        return {path for path in paths if not path.startswith(f"{_known(encoder, name)}/")}
    if name.startswith("late:"):
        return _select_late(name, paths, _known(encoder, name))
    try:
        pattern = re.compile(name)
    except re.error as error:
        raise ValueError(
            f"config.trainable has {name!r}, which is no regular expression ({error})"
        ) from None
    if selected := {path for path in paths if pattern.search(path)}:
        return selected
    raise ValueError(
        f"config.trainable has {name!r}, which matches no parameter; nearest: "
        f"{', '.join(_find_nearest(name, paths))}. Presets: {', '.join(PRESETS)}"
    )


def _known(encoder: str, name: str) -> str:
    """Returns the path of the encoder. Raises ValueError if the task does not name one."""
    if encoder:
        return encoder
    raise ValueError(
        f"config.trainable={name!r} needs a model with an encoder; this task names none, so use "
        "regular expressions on parameter paths"
    )


def _select_late(name: str, paths: Mapping[str, Any], encoder: str) -> set[str]:
    """Selects the last N blocks of the encoder, and everything after them."""
    blocks = find_blocks(paths, encoder)
    count = name.removeprefix("late:")
    if not count.isdecimal() or not 1 <= int(count) <= len(blocks):
        raise ValueError(
            f"config.trainable has {name!r}; expected late:N with N from 1 to {len(blocks)}, the "
            "number of blocks of the encoder"
        )
    early = [blocks[number] for number in sorted(blocks)[: len(blocks) - int(count)]]
    stem = rf"{re.escape(encoder)}/(?:{STEM})(/|$)"
    return {
        path
        for path in paths
        if not re.match(stem, path) and not path.startswith(tuple(f"{block}/" for block in early))
    }


def _find_nearest(name: str, paths: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Returns the paths, or modules above them, that are most like a pattern."""
    known = set()
    for path in paths:
        parts = path.split("/")
        known |= {"/".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    return difflib.get_close_matches(name, sorted(known), 4, cutoff=0)


def count_arrays(tree: Any) -> int:
    """Returns the number of elements of a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def count_trained(params: Any, constants: Any, frozen: Collection[str]) -> tuple[int, int]:
    """Counts the trained parameters of a state, and all parameters of it.

    Adapters count as trained.

    Args:
      params: `TrainState.params` as shapes.
      constants: `TrainState.constants` as shapes.
      frozen: `Partition.frozen`.
    """
    trained = count_arrays(params)
    held = flatten(constants)
    return trained, trained + count_arrays({path: held[path] for path in frozen})
