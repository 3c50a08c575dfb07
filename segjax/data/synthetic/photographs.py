"""Photographs that come with installed packages, so that training and demonstrating need no download.

scikit-image's wheel ships most of them and matplotlib's one more. The split is by photograph: whatever is generated
from the held-out ones (backgrounds, textures) shows surfaces that no training scene has shown.
"""

from __future__ import annotations

import functools
import importlib.util
import pathlib

import numpy as np
from PIL import Image

# Motorcycle left and right are two views of one scene, so only the left one is used.
SPLITS = {
    "train": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "cell.png",
        "coins.png",
        "grace_hopper.jpg",
        "grass.png",
        "hubble_deep_field.jpg",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "heldout": ("chelsea.png", "coffee.png", "gravel.png", "ihc.png", "moon.png"),
}
_FOLDERS = {"grace_hopper.jpg": ("matplotlib", "mpl-data/sample_data")}

# Points (x, y) in pixels of the demonstration photograph, each on something with a name.
_DEMONSTRATION_POINTS = {
    "spoon": (365.0, 287.0),
    "espresso": (287.0, 155.0),
    "saucer": (437.0, 237.0),
    "handle": (223.0, 268.0),
}


@functools.cache
def load_photographs(split: str) -> dict[str, np.ndarray]:
    """Name -> RGB uint8 [H, W, 3] (read-only) of the photographs of ``split``, "train" or "heldout".

    Raises:
      ValueError: unknown split.
      FileNotFoundError: the installed package does not ship the file, with the package's name.
    """
    if split not in SPLITS:
        raise ValueError(
            f"unknown split {split!r} of the photographs; there are {', '.join(map(repr, SPLITS))}"
        )
    return {pathlib.PurePath(name).stem: _read(name) for name in SPLITS[split]}


def load_demonstration_photograph() -> np.ndarray:
    """A cup of coffee on a wooden table, RGB uint8 [400, 600, 3]; it is one of the held-out photographs."""
    return load_photographs("heldout")["coffee"].copy()


def get_demonstration_prompts() -> dict[str, tuple[float, float]]:
    """Name of a thing in the demonstration photograph -> a point (x, y) on it, in that photograph's pixels."""
    return dict(_DEMONSTRATION_POINTS)


def _read(name: str) -> np.ndarray:
    package, folder = _FOLDERS.get(name, ("skimage", "data"))
    spec = importlib.util.find_spec(package)
    roots = list(spec.submodule_search_locations) if spec is not None else []
    for root in roots:
        path = pathlib.Path(root) / folder / name
        if path.is_file():
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            pixels.flags.writeable = False
            return pixels
    wheel = {"skimage": "scikit-image"}.get(package, package)
    raise FileNotFoundError(
        f"photograph {name!r} is not in the installed {wheel} (looked in {[str(r) for r in roots]}); "
        f"install {wheel} from its wheel: pip install --force-reinstall {wheel}"
    )
