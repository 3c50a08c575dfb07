"""Which CLIP another library's arrays are, and with which activation they were trained."""

from collections.abc import Mapping
from typing import Any

from segjax.models.clip.clip import ClipModel
from segjax.models.family import Family
from segjax.weights.checkpoint import Checkpoint
from segjax.weights.tree import CheckpointError

# Sizes by which a model is recognized. The canvas and the vocabulary are free.
_SIZES = ("width", "depth", "patch", "text_width", "text_depth", "embedding")
ACTIVATIONS = ("quick_gelu", "gelu")
_ADVICE = (
    "OpenAI's weights, and the tags of open_clip whose model ends in -quickgelu (openai, metaclip, "
    "dfn, laion400m of ViT-B-32), need activation='quick_gelu'; others of open_clip 'gelu'. The "
    "wrong one costs accuracy and raises no error"
)


def recognize_clip(family: Family, checkpoint: Checkpoint) -> dict[str, Any]:
    """Recognizes a CLIP by the sizes of its towers.

    Args:
      family: whose sizes are searched.
      checkpoint: another library's arrays.

    Returns:
      Options of `build_model`, {} for none of the sizes. They have the activation and the
      preprocessing if the file says them.
    """
    size = checkpoint.size
    wanted = {key: size.get(key) for key in _SIZES}
    stated = describe_stated(checkpoint)
    # Sizes of the same towers differ in the canvas; the canvas of the file decides.
    names = [
        name for name, attributes in family.sizes.items() if wanted.items() <= attributes.items()
    ]
    names.sort(key=lambda name: family.sizes[name]["canvas"] != size.get("canvas"))
    for name in names[:1]:
        free = {key: size[key] for key in ("canvas", "context", "vocabulary") if key in size}
        return {"name": name} | free | stated
    return {}


def describe_stated(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the activation and the preprocessing that another library's file states."""
    stated, options = checkpoint.stated, {}
    # TorchScript archives name the classes of their modules
    if "QuickGELU" in (kinds := stated.get("kinds", ())):
        options["activation"] = "quick_gelu"
    elif "GELU" in kinds:
        options["activation"] = "gelu"
    config = stated.get("open_clip_config", {})
    if isinstance(model := config.get("model_cfg"), Mapping):
        options["activation"] = "quick_gelu" if model.get("quick_gelu") else "gelu"
    if isinstance(images := config.get("preprocess_cfg"), Mapping):
        options |= _read_preprocessing(images)
    towers = [stated.get("config", {}).get(f"{tower}_config") for tower in ("vision", "text")]
    if all(isinstance(tower, Mapping) for tower in towers):
        # transformers leaves out what equals its default
        actions = {tower.get("hidden_act", "quick_gelu") for tower in towers}
        if len(actions) > 1 or not actions <= set(ACTIVATIONS):
            raise CheckpointError(
                f"{checkpoint.source}: config.json says hidden_act "
                f"{' and '.join(map(repr, sorted(actions)))}; expected one of "
                f"{', '.join(ACTIVATIONS)} for both towers"
            )
        options["activation"] = actions.pop()
    return options


def _read_preprocessing(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the attributes of `ClipModel` for open_clip's preprocess_cfg."""
    options: dict[str, Any] = {}
    for key in ("mean", "std"):
        if isinstance(value := config.get(key), (list, tuple)) and len(value) == 3:
            options[key] = tuple(float(x) for x in value)
    if config.get("interpolation") in ("bicubic", "bilinear"):
        options["interpolation"] = config["interpolation"]
    if mode := config.get("resize_mode"):
        if mode not in ("shortest", "squash"):
            raise CheckpointError(
                f"open_clip_config.json says resize_mode {mode!r}; expected 'shortest' or 'squash'"
            )
        options["resize"] = "crop" if mode == "shortest" else "squash"
    return options


def check_activation(
    family: Family,
    model: ClipModel,
    checkpoint: Checkpoint,
    name: str,
    overrides: Mapping[str, Any],
) -> None:
    """Raises CheckpointError unless the activation of another library's weights is known.

    Args:
      family: of the model.
      model: CLIP that the arrays are loaded into.
      checkpoint: arrays and what their file states.
      name: of the model.
      overrides: attributes that the caller chose.
    """
    del family
    if checkpoint.table is None:
        return
    stated = describe_stated(checkpoint).get("activation")
    if stated is None and "activation" not in overrides:
        raise CheckpointError(
            f"{checkpoint.source} does not say with which activation {name} was trained; pass it: "
            f"segjax.load({name!r}, path, activation=...). {_ADVICE}"
        )
    if stated is not None and model.activation != stated:
        raise CheckpointError(
            f"{checkpoint.source} was trained with {stated}, and the model has "
            f"{model.activation}. {_ADVICE}"
        )
