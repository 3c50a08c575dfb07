"""Photographs from installed packages, so that training and examples need no download.

Most are in the wheel of scikit-image, and one is in matplotlib's. The split is by photograph.
Scenes made from held-out photographs show backgrounds and textures that training never shows.
"""

from __future__ import annotations

import functools
import importlib.util
import pathlib

import numpy as np

from segjax.images.decoding import decode_image

# The left and right motorcycle are two views of one scene, so only the left one is used.
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

# Points (x, y) in pixels of the demonstration photograph, by the object they lie on
_DEMONSTRATION_POINTS = {
    "spoon": (365.0, 287.0),
    "espresso": (287.0, 155.0),
    "saucer": (437.0, 237.0),
    "handle": (223.0, 268.0),
}


@functools.cache
def load_photographs(split: str) -> dict[str, np.ndarray]:
    """Loads the photographs of a split.

    Args:
      split: "train" or "heldout".

    Returns:
      Name -> RGB uint8 [H, W, 3], read-only.

    Raises:
      ValueError: unknown split.
      FileNotFoundError: the installed package does not contain the file.
    """
    if split not in SPLITS:
        raise ValueError(
            f"unknown split {split!r} of the photographs; there are {', '.join(map(repr, SPLITS))}"
        )
    return {pathlib.PurePath(name).stem: _read_photograph(name) for name in SPLITS[split]}


def load_demonstration_photograph() -> np.ndarray:
    """Returns a photograph of a cup of coffee, RGB uint8 [400, 600, 3].

    It is one of the held-out photographs.
    """
    return load_photographs("heldout")["coffee"].copy()


def get_demonstration_prompts() -> dict[str, tuple[float, float]]:
    """Maps objects in the demonstration photograph to a point (x, y) on each, in pixels."""
    return dict(_DEMONSTRATION_POINTS)


def _read_photograph(name: str) -> np.ndarray:
    package, folder = _FOLDERS.get(name, ("skimage", "data"))
    spec = importlib.util.find_spec(package)
    roots = list(spec.submodule_search_locations) if spec is not None else []
    for root in roots:
        path = pathlib.Path(root) / folder / name
        if path.is_file():
            pixels = decode_image(path.read_bytes(), name=str(path))
            pixels.flags.writeable = False
            return pixels
    wheel = {"skimage": "scikit-image"}.get(package, package)
    raise FileNotFoundError(
        f"photograph {name!r} is not in the installed {wheel} (searched "
        f"{[str(root) for root in roots]}); install {wheel} from its wheel: "
        f"pip install --force-reinstall {wheel}"
    )
