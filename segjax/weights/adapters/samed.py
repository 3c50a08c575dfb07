"""Adapters as SAMed publishes them (Zhang and Liu 2023): w_a_000, w_b_000, ... beside the decoder.

Numbers count q and v of each block of the encoder in turn: 2 i is q and 2 i + 1 is v of block i.
The products are not scaled.
"""

import logging
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.names import OFFICIAL
from segjax.weights.state_dict import find_state_dict
from segjax.weights.tables.sam import SAM
from segjax.weights.torch_file import SUFFIXES, read_torch
from segjax.weights.tree import CheckpointError, flatten, unflatten

logger = logging.getLogger(__name__)

_KEY = re.compile(r"w_(a|b)_(\d+)")
_TARGETS = ("q", "v")


def is_samed_file(path: Any) -> bool:
    """Tells whether a path has the suffix of a file of torch."""
    return pathlib.Path(path).suffix in SUFFIXES


def read_samed(path: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """Reads adapters for a SAM, and its decoder where the shapes fit.

    SAMed's own files hold a decoder for 9 classes without prompts. SAM's has no place for it, so
    only the adapters are read then, with a warning.

    Args:
      path: file of torch.
      params: "params" of the SAM, of anything with a shape.

    Returns:
      {"params", "constants"} as in a file of `segjax convert --lora`.

    Raises:
      CheckpointError: no such keys, an incomplete series, or adapters of another size.
    """
    state = find_state_dict(read_torch(pathlib.Path(path)), source=str(path))
    found: dict[tuple[int, str], np.ndarray] = {}
    for key, array in state.items():
        if match := _KEY.fullmatch(key):
            found[int(match[2]), match[1]] = array
    if not found:
        raise CheckpointError(
            f"{path} holds no adapters; expected a file of `segjax convert RUN FILE --lora`, or "
            "one of SAMed with arrays w_a_000, w_b_000, ..."
        )
    shapes = {name: leaf.shape for name, leaf in flatten(params).items()}
    blocks = sum(bool(re.search(r"trunk/block_\d+/qkv/kernel$", name)) for name in shapes)
    expected = {(number, side) for number in range(2 * blocks) for side in "ab"}
    if set(found) != expected:
        raise CheckpointError(
            f"{path} has {len(found)} adapter arrays; a model of {blocks} blocks has "
            f"{len(expected)}: w_a_000 to w_b_{2 * blocks - 1:03d}"
        )
    flat = {}
    for (number, side), array in found.items():
        module = f"image_encoder/trunk/block_{number // 2}/qkv"
        flat[f"lora/{module}/{_TARGETS[number % 2]}/{side}"] = np.asarray(array, np.float32).T
    flat |= _read_decoder(state, shapes, path)
    return {"params": unflatten(flat), "constants": {"lora": {"scale": np.float32(1.0)}}}


def _read_decoder(
    state: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], path: Any
) -> dict[str, np.ndarray]:
    """Reads prompt encoder and mask decoder, or warns that they do not fit and returns {}."""
    flat = {}
    for name, shape in shapes.items():
        if name.startswith("image_encoder/"):
            continue
        keys, layout = SAM.published_keys(f"params/{name}", OFFICIAL)
        if any(key not in state for key in keys):
            reason = f"{keys[0]} is missing"
            break
        parts = [state[key] for key in keys]
        array = layout.to_ours(parts[0] if len(parts) == 1 else np.concatenate(parts))
        if array.shape != shape:
            reason = f"{keys[0]} has shape {parts[0].shape}"
            break
        flat[name] = array
    else:
        return flat
    logger.warning(
        "%s: only the adapters of the encoder are read; its decoder does not fit SAM's (%s)",
        *(path, reason),
    )
    return {}
