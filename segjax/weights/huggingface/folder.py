"""Reads the weights of a folder as Hugging Face publishes it.

A folder has model.safetensors, pytorch_model.bin, or shards that an index names. The config is
compared with the arrays, which alone decide.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.safetensors import read_arrays
from segjax.weights.torch_file import read_torch
from segjax.weights.tree import CheckpointError

# The first that is there is read, as in transformers
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
# File of a description -> its name in `Checkpoint.stated`
_CONFIGS = {"config.json": "config", "open_clip_config.json": "open_clip_config"}
_MAX_JSON = 64 << 20  # bytes
# Size of `NameTable.read_sizes` -> key of config.json
_CONFIG_KEYS = {
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "patch": "patch_size",
    "canvas": "image_size",
}


def find_weights(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the file of weights, or the index of the shards, in a folder. None without one."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def read_weights(path: pathlib.Path) -> dict[str, Any]:
    """Reads a file that `find_weights` has found, or all shards of an index.

    Raises:
      CheckpointError: a damaged file or index, a shard that is missing or outside of the folder, or
        shards that do not hold what the index says.
    """
    if not path.name.endswith(".index.json"):
        return _read_file(path)
    index = read_json(path)
    places = index.get("weight_map")
    if not isinstance(places, Mapping) or not all(isinstance(x, str) for x in places.values()):
        raise CheckpointError(f'{path} has no "weight_map" from names to files')
    arrays: dict[str, Any] = {}
    for name in sorted(set(places.values())):
        # A name from a file must not lead out of the folder
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise CheckpointError(f"{path} names a shard outside of its folder: {name[:100]!r}")
        if not (path.parent / name).is_file():
            raise CheckpointError(
                f"{path} names the shard {name}, which is missing; download the whole folder"
            )
        shard = _read_file(path.parent / name)
        if twice := sorted(arrays.keys() & shard.keys()):
            raise CheckpointError(f"{path.parent}: two shards hold {twice[0]}")
        arrays |= shard
    if absent := sorted(places.keys() - arrays.keys()):
        raise CheckpointError(
            f"{path} promises {len(absent)} arrays that no shard holds, such as {absent[0]}"
        )
    return arrays


def _read_file(path: pathlib.Path) -> dict[str, Any]:
    return read_arrays(path)[0] if path.suffix == ".safetensors" else dict(read_torch(path))


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object. Raises CheckpointError for anything else."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, expected an object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    return content


def read_configs(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the descriptions of a folder's model, {} for a folder without any.

    Raises:
      CheckpointError: a description is no JSON object.
    """
    return {
        name: read_json(folder / file)
        for file, name in _CONFIGS.items()
        if (folder / file).is_file()
    }


def check_config(folder: pathlib.Path, config: Mapping[str, Any], size: Mapping[str, Any]) -> None:
    """Compares config.json with the sizes that the arrays tell.

    Args:
      folder: folder of the weights, for messages.
      config: content of config.json.
      size: "width", "depth", "patch" and "canvas", as far as they are known.

    Raises:
      CheckpointError: they differ, so the files do not belong together.
    """
    vision = config.get("vision_config", config)
    vision = vision if isinstance(vision, Mapping) else config
    for name, key in _CONFIG_KEYS.items():
        stated, found = vision.get(key), size.get(name)
        if isinstance(stated, int) and isinstance(found, (int, np.integer)) and stated != found:
            raise CheckpointError(
                f"{folder / 'config.json'} says {key} {stated}, but the arrays have {found}; the "
                "files of this folder do not belong together"
            )
