"""From another library's arrays to the options of the model that they belong to."""

from collections.abc import Mapping
from typing import Any

from segjax.models.build import find_family
from segjax.models.family import Family
from segjax.registry import FAMILIES, resolve
from segjax.weights.checkpoint import Checkpoint


def recognize_model(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the options of `build_model` for the arrays of another library's file.

    Returns:
      {"name": ..., and attributes that the arrays tell}. {} for segjax's own checkpoints, which say
      it themselves, and for arrays of none of the sizes.
    """
    family = family_of_checkpoint(checkpoint)
    if family is None or family.recognize is None:
        return {}
    return resolve(family.recognize)(family, checkpoint)


def family_of_checkpoint(checkpoint: Checkpoint) -> Family | None:
    """Returns the family whose names the arrays have, None for segjax's own checkpoints."""
    if checkpoint.table is None:
        return None
    for _, family in FAMILIES.items():
        if any(resolve(table) is checkpoint.table for table in family.name_tables):
            return family
    return None


def recognize_vit(family: Family, checkpoint: Checkpoint) -> dict[str, Any]:
    """Recognizes a model by the width and depth of its ViT encoder.

    The canvas, the patch and all else that the arrays tell become options too.

    Args:
      family: whose sizes are searched.
      checkpoint: another library's arrays.

    Returns:
      Options of `build_model`, {} for none of the sizes.
    """
    size = checkpoint.size
    if not {"width", "depth", "patch", "canvas"} <= size.keys():
        return {}
    encoder = {key: size[key] for key in ("width", "depth")}
    for name, attributes in family.sizes.items():
        if encoder.items() <= attributes.items():
            return {"name": name} | {key: size[key] for key in size if key not in encoder}
    return {}


def recognize_dino(family: Family, checkpoint: Checkpoint) -> dict[str, Any]:
    """Recognizes a DINO by its size, its patch and its registers.

    Args:
      family: whose sizes are searched.
      checkpoint: another library's arrays.

    Returns:
      Options of `build_model`, {} for none of the sizes. The rule that resizes positions is that of
      the library, which differs where the arrays do not.
    """
    size = checkpoint.size
    keys = ("width", "depth", "patch", "registers", "gated", "layer_scale")
    for name, attributes in family.sizes.items():
        has = {"registers": 0, "gated": False} | attributes
        has["layer_scale"] = "layer_scale" in attributes
        rotary = attributes.get("position_rule") == "rotary"
        if all(has.get(key) == size.get(key) for key in keys) and rotary == size["rotary"]:
            free = {key: size[key] for key in ("canvas", "position_rule") if key in size}
            return {"name": name} | free
    return {}


def explain_mismatch(checkpoint: Checkpoint, name: str) -> str:
    """Returns the end of an error: the model that the arrays look like, if it is not `name`.

    Args:
      checkpoint: arrays that may not be those of the model.
      name: model that they are loaded into, "" if none was named.
    """
    if checkpoint.derived_model:
        return f"; its names are those of {checkpoint.derived_model}, another model"
    stated = checkpoint.saved.get("model")
    if checkpoint.table is None and isinstance(stated, Mapping):
        holds = stated.get("name")
        return f"; it says that it holds {holds}" if name and holds not in (None, name) else ""
    size, guess = checkpoint.size, recognize_model(checkpoint).get("name")
    has_vit = {"width", "depth"} <= size.keys()
    if guess == name or not (guess or has_vit):
        return ""
    if not has_vit:
        return f"; its arrays are those of {guess}"
    encoder = f"its encoder of width {size['width']} and depth {size['depth']}"
    return f"; {encoder} is that of {guess or 'no size known here'}"


def check_family(name: str, wanted: str, source: object) -> None:
    """Raises ValueError for a model of another family than a command can use.

    Args:
      name: model that the source holds.
      wanted: registered name of the family, such as "sam".
      source: path, for the message.
    """
    family, expected = find_family(name), FAMILIES.get(wanted)
    if family is not expected:
        origin = f" ({expected.origin})" if expected.origin else ""
        raise ValueError(
            f"{source} holds {name}; this command takes a {expected.title}{origin}. {family.usage}"
        )
