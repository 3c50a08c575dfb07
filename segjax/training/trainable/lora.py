"""Low-rank adapters of a run: where they lie and how they begin.

The math is in `segjax.weights.adapters.low_rank`.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from segjax.weights.adapters.low_rank import LORA, THIRDS, WHOLE, find_kernel

# target -> kernels of a transformer block, and the adapter's name
_TARGETS = {
    **{name: [("qkv", name)] for name in THIRDS},
    "proj": [("proj", WHOLE)],
    "mlp": [("mlp/layer_0", WHOLE), ("mlp/layer_1", WHOLE)],
}


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (LoRA) of the encoder's blocks, see `segjax.weights.adapters.low_rank`.

    Attributes:
      rank: Rank of the adapters. 0: none, but `trainable="lora"` then uses 4.
      alpha: The products are scaled by alpha / rank. 0: by 1, as SAMed does.
      targets: Which kernels: "q", "k", "v" and "proj" of the attention, "mlp" (both layers).
      blocks: "all", or "last:N" for the last N blocks of the encoder.
    """

    rank: int = 0
    alpha: float = 0.0
    targets: tuple[str, ...] = ("q", "v")
    blocks: str = "all"


@dataclasses.dataclass(frozen=True)
class Adapters:
    """The adapters of a model.

    Attributes:
      shapes: path below "lora" -> ((in, rank), (rank, out)).
      scale: factor of the products.
    """

    shapes: Mapping[str, tuple[tuple[int, int], tuple[int, int]]]
    scale: float

    @property
    def kernels(self) -> set[str]:
        """Paths of the adapted kernels."""
        return {find_kernel(f"{LORA}/{path}/a") for path in self.shapes}

    def init(self, key: jax.Array) -> dict[str, jax.Array]:
        """Draws adapters that change nothing: a is uniform in +-1 / sqrt(in), b is 0.

        Returns:
          path -> float32 array, "lora/<module>/<name>/a" and so on.
        """
        flat = {}
        for number, (path, (a, b)) in enumerate(self.shapes.items()):
            bound = 1.0 / math.sqrt(a[0])
            drawn = jax.random.uniform(jax.random.fold_in(key, number), a, minval=-1.0)
            flat[f"{LORA}/{path}/a"] = bound * drawn
            flat[f"{LORA}/{path}/b"] = jnp.zeros(b)
        return flat


def place_adapters(
    settings: Mapping[str, Any], kernels: Mapping[str, tuple[int, ...]], encoder: str
) -> Adapters:
    """Chooses the kernels that get adapters.

    Args:
      settings: `config.lora`, with a rank above 0.
      kernels: path -> shape of all parameters.
      encoder: path of the encoder, such as "image_encoder".

    Raises:
      ValueError: a setting is out of range, or the encoder has no transformer blocks.
    """
    rank, alpha = settings["rank"], settings["alpha"]
    if rank < 1 or not 0 <= alpha < math.inf:
        raise ValueError(
            f"config.lora has rank {rank} and alpha {alpha}; expected 1 or more, 0 or more"
        )
    targets = tuple(settings["targets"])
    unknown = [name for name in targets if name not in _TARGETS]
    if unknown or not targets:
        wrong = f", and {unknown[0]!r} is none" if unknown else ""
        raise ValueError(
            f"config.lora.targets is {targets}; expected some of {', '.join(_TARGETS)}{wrong}"
        )
    blocks = find_blocks(kernels, encoder)
    chosen = _choose_blocks(settings["blocks"], sorted(blocks))
    shapes = {}
    for number in chosen:
        for layer, name in (pair for target in targets for pair in _TARGETS[target]):
            path = f"{blocks[number]}/{layer}"
            fan_in, fan_out = kernels[f"{path}/kernel"]
            out = fan_out if name == WHOLE else fan_out // 3
            if rank > min(fan_in, out):
                raise ValueError(
                    f"config.lora.rank is {rank}, but {path}/kernel maps {fan_in} to {out} numbers"
                )
            shapes[f"{path}/{name}"] = ((fan_in, rank), (rank, out))
    return Adapters(shapes, alpha / rank if alpha else 1.0)


def find_blocks(paths: Sequence[str] | Mapping[str, Any], encoder: str) -> dict[int, str]:
    """Returns number -> path of the transformer blocks of the encoder.

    Raises:
      ValueError: there are none.
    """
    pattern = re.compile(rf"({re.escape(encoder)}/(?:trunk/)?block_(\d+))/") if encoder else None
    found = {}
    for path in paths:
        if pattern and (match := pattern.match(path)):
            found[int(match[2])] = match[1]
    if not found:
        raise ValueError(
            "the model's encoder has no transformer blocks, so trainable='late:N' and LoRA do not "
            "apply; name its parameters by regular expressions (a ResNet: model.freeze_at)"
        )
    return found


def _choose_blocks(setting: str, numbers: Sequence[int]) -> Sequence[int]:
    """Parses "all" or "last:N"."""
    if setting == "all":
        return numbers
    match = re.fullmatch(r"last:(\d+)", setting)
    if not match or not 1 <= int(match[1]) <= len(numbers):
        raise ValueError(
            f"config.lora.blocks is {setting!r}; expected 'all' or 'last:N' with N from 1 to "
            f"{len(numbers)}"
        )
    return numbers[-int(match[1]) :]
