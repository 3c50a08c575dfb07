"""SAM's arrays from our names and layouts to those of segment-anything and transformers, and back, strictly."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.sam_table import COPIES, FAMILIES, HUGGINGFACE, OFFICIAL, published_name
from segjax.weights.tree import CheckpointError, differences, flatten, unflatten

# Keys of models that began as SAM and are others now.
_RELATIVES = {
    "mask_decoder.hf_token": "HQ-SAM",
    "image_encoder.layers.": "MobileSAM",
    "image_encoder.trunk.": "SAM 2",
    "sam_mask_decoder.": "SAM 2",
}


def to_published(variables: Mapping[str, Any], family: str) -> dict[str, np.ndarray]:
    """The state dict of our variables {"params", "constants"}, by their key and in their layout.

    Args:
      variables: nested dicts of arrays, the canonical tree of `segjax.models.sam`.
      family: "official" (segment-anything) or "huggingface" (transformers).
    """
    state = {}
    for path, array in flatten(variables).items():
        key, layout = published_name(path, family)
        state[key] = layout.to_torch(np.asarray(array))
    return state | {copy: state[key] for copy, key in COPIES[family].items()}


def published_shapes(variables: Mapping[str, Any], family: str) -> dict[str, tuple[int, ...]]:
    """Shapes of `to_published`'s arrays, for a tree of anything with a shape; makes no array."""
    empty = {path: np.broadcast_to(np.int8(0), leaf.shape) for path, leaf in flatten(variables).items()}
    return {key: array.shape for key, array in to_published(unflatten(empty), family).items()}


def from_published(
    state: Mapping[str, np.ndarray], expected: Mapping[str, Any], *, family: str, source: str, hint: str = ""
) -> dict[str, Any]:
    """Our variables of a state dict, every key and shape of which must be that of the expected model.

    Args:
      state: arrays by their key (see `segjax.weights.state_dict.state_of` for what files wrap around them).
      expected: {"params", "constants"}, nested dicts of anything with a shape.
      family: whose names they are. source: how an error calls the file. hint: what the error says at its end.

    Raises:
      CheckpointError: arrays are missing, unexpected, misshapen (counted, the first few listed) or no numbers with a
        fraction, or the two copies of the Gaussian matrix differ.
    """
    want = {key: np.broadcast_to(np.int8(0), shape) for key, shape in published_shapes(expected, family).items()}
    state = dict(state)
    for copy, key in COPIES[family].items():
        for one, other in ((copy, key), (key, copy)):
            if one not in state and other in state:
                state[one] = state[other]
    if found := differences(want, state):
        raise CheckpointError(f"{source} ({FAMILIES[family]}) is of another architecture: {found}{hint}")
    whole = [f"{key} ({array.dtype})" for key, array in state.items() if array.dtype.kind in "biucOUS"]
    if whole:
        raise CheckpointError(f"{source} holds arrays that are no floating-point numbers: {', '.join(whole[:5])}")
    for copy, key in COPIES[family].items():
        if not np.array_equal(state[copy], state[key]):
            raise CheckpointError(f"{source} is damaged: {copy} and {key} are the same matrix and differ")
    flat = {}
    for path in flatten(expected):
        key, layout = published_name(path, family)
        flat[path] = layout.to_ours(state[key])
    return unflatten(flat)


def family_of(state: Mapping[str, Any]) -> str | None:
    """Whose names the keys of a state dict are: "official", "huggingface", or None for neither."""
    parts = {key.split(".")[0] for key in state}
    if "vision_encoder" in parts or "shared_image_embedding" in parts:
        return HUGGINGFACE
    return OFFICIAL if parts & {"image_encoder", "prompt_encoder", "mask_decoder"} else None


def encoder_size(state: Mapping[str, Any], family: str) -> dict[str, int]:
    """What the arrays say of the image encoder: "width", "depth" and "canvas" in pixels, as far as they are there."""
    size, encoder = {}, "params/image_encoder"
    positions, _ = published_name(f"{encoder}/pos_embed", family)
    patches, _ = published_name(f"{encoder}/patch_embed/kernel", family)
    block, _ = published_name(f"{encoder}/trunk/block_0/norm_1/scale", family)
    numbers = [re.fullmatch(re.escape(block).replace("0", r"(\d+)", 1), key) for key in state]
    if any(numbers):
        size["depth"] = 1 + max(int(match[1]) for match in numbers if match)
    if patches in state and np.ndim(state[patches]) == 4:
        size["width"] = state[patches].shape[0]
        if positions in state and np.ndim(state[positions]) == 4:
            size["canvas"] = state[positions].shape[1] * state[patches].shape[-1]
    return size


def relative_of(state: Mapping[str, Any]) -> str | None:
    """Which model of SAM's kin a state dict belongs to, None when nothing in it says so."""
    return next((name for start, name in _RELATIVES.items() if any(key.startswith(start) for key in state)), None)
