"""Which of our models a state dict of others holds, as far as its arrays tell."""

from typing import Any

from segjax.models.build import SIZES, build_model, kind_of, shapes_of
from segjax.models.detection.convolution import numbered
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.weights.checkpoint import Checkpoint
from segjax.weights.tree import CheckpointError


def recognised(checkpoint: Checkpoint) -> dict[str, Any]:
    """Options of `build_model` for what a state dict holds; {} for our own checkpoints and for none of our sizes.

    Models with a ViT are known by the width and depth of their encoders; canvas, patch and what else the arrays say are
    read off too. A detector is known by the names of its arrays, and how many classes it has is read off.
    """
    if checkpoint.table is None:
        return {}
    kin = [name for name in SIZES if kind_of(name).title == checkpoint.table.model]
    if kin and kind_of(kin[0]).module is MaskRcnn:
        name = next((name for name in kin if _same_arrays(name, checkpoint)), None)
        return {"name": name, "classes": _classes(name, checkpoint)} if name else {}
    size = checkpoint.size
    fits = (name for name in kin if all(SIZES[name][key] == size.get(key) for key in ("width", "depth")))
    if not {"width", "depth", "patch", "canvas"} <= size.keys() or (name := next(fits, None)) is None:
        return {}
    return {"name": name} | {key: value for key, value in size.items() if key not in ("width", "depth")}


def check_conventions(network: MaskRcnn, checkpoint: Checkpoint, name: str) -> None:
    """Raises CheckpointError for a file of one library and a model, of that name, with the other one's rules."""
    if checkpoint.table is None or checkpoint.family == network.published_as:
        return
    detectors = (size for size in SIZES if kind_of(size).module is MaskRcnn)
    fit = [size for size in detectors if build_model(size).published_as == checkpoint.family]
    if fit:
        raise CheckpointError(
            f"{checkpoint.source} has the names of {checkpoint.family}, and {name} follows {network.published_as}'s "
            f"conventions, under which such weights find little; name one of {', '.join(fit)}"
        )


def _same_arrays(name: str, checkpoint: Checkpoint) -> bool:
    network, family = build_model(name), checkpoint.family
    if network.published_as != family:
        return False
    shapes = checkpoint.table.published_shapes(shapes_of(network), family)
    return shapes.keys() == checkpoint.table.respelt(checkpoint.arrays, family).keys()


def _classes(name: str, checkpoint: Checkpoint) -> int:
    """Without the background. name: of a detector with the same arrays."""
    head = numbered("box_head", build_model(name).box_stages)[0]
    (scores,), _ = checkpoint.table.published_names(f"params/{head}/scores/bias", checkpoint.family)
    return len(checkpoint.arrays[scores]) - 1
