"""Kinds of synthetic scenes by name."""

from segjax.data.synthetic.captions import CaptionedScenes
from segjax.data.synthetic.figures import FigureScenes
from segjax.data.synthetic.panoptic import PanopticScenes
from segjax.data.synthetic.scenes import SyntheticScenes

KINDS: dict[str, type[SyntheticScenes]] = {
    "shapes": SyntheticScenes,
    "figures": FigureScenes,
    "captions": CaptionedScenes,
    "panoptic": PanopticScenes,
}


def get_scene_class(kind: str) -> type[SyntheticScenes]:
    """Returns the class of scenes of a kind. Raises ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r} of synthetic scenes; there are {', '.join(KINDS)}")
    return KINDS[kind]
