"""One record per model family: everything that `load`, `convert`, `train`, `eval` and `models` ask.

To add a family, write its module and a `Family` beside it, and register the record:

    FAMILY = Family(
        title="U-Net",
        module=UNet,
        sizes={"unet_small": {"width": 32}},
        build=build_unet,
        init=init_unet,
        task="binary",
    )
    segjax.register_family("unet", FAMILY)

Some fields are functions of other packages, such as `recognize`, which knows checkpoints. Models
import none of these, so such a field holds a reference "package.module:name" until it is used.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax


def keep_variables(
    variables: Mapping[str, Any], stored: nn.Module, model: nn.Module
) -> Mapping[str, Any]:
    """Returns the variables as they are: none of them depends on the canvas."""
    del stored, model
    return variables


@dataclasses.dataclass(frozen=True)
class Family:
    """A model family: its sizes, how to build one, and how its weights are recognized and moved.

    Attributes:
      title: name for messages, such as "Mask R-CNN".
      module: class of its models. They have an attribute `canvas`, a side in pixels, and a `dtype`.
      sizes: model name -> attributes of `module`. No two families share a name.
      build: called as build(name, **overrides), returns a model.
      init: called as init(model, key), returns fresh variables {"params", "constants"}. Traceable.
      task: registered name of the task that trains and measures such a model.
      name_tables: references to the `NameTable`s of the files that other libraries publish.
      usage: sentence that says which commands take such a model.
      origin: sentence that says where such a model comes from.
      encoder_path: path of the encoder among the parameters. Fine-tuning freezes it.
      describe_encoder: called with a model, returns the text that `segjax models` prints.
      encoder: called as encoder(model, variables), returns the arrays of a plain ViT encoder that
        other models can start from ("mae:PATH"). None for models without one.
      fit_encoder: called as fit_encoder(model, (height, width)), returns the model whose method
        `encode_image` runs a ViT over images of that size in pixels. None for models without.
      fit_canvas: called as fit_canvas(variables, stored, model), returns the variables of `stored`
        for `model`, the same model on another canvas. Raises ValueError if that is impossible.
      recognize: reference to a function of (family, checkpoint). It returns the options of
        `build_model` for the arrays of another library's file, and {} for none of the sizes.
      check_weights: reference to a function of (family, model, checkpoint, name, overrides). It
        raises CheckpointError for files whose arrays fit but mean something else.
      option_comments: option of `build` -> comment for `segjax config`. Empty if the options are
        the attributes of `module`, whose docstring describes them.
      library: called with a model, returns the only library whose files can hold it, and None
        where every format of the name tables can.
      conversion_note: called with a model, returns a warning about settings that files of other
        libraries cannot hold, and "" for none.
    """

    title: str
    module: type[nn.Module]
    sizes: Mapping[str, Mapping[str, Any]]
    build: Callable[..., nn.Module]
    init: Callable[[nn.Module, jax.Array], dict[str, Any]]
    task: str = ""
    name_tables: Sequence[str] = ()
    usage: str = ""
    origin: str = ""
    encoder_path: str = "encoder"
    describe_encoder: Callable[[nn.Module], str] = lambda model: type(model).__name__
    encoder: Callable[[nn.Module, Mapping[str, Any]], Mapping[str, Any]] | None = None
    fit_encoder: Callable[[nn.Module, tuple[int, int]], nn.Module] | None = None
    fit_canvas: Callable[..., Mapping[str, Any]] = keep_variables
    recognize: str | Callable[..., dict[str, Any]] | None = None
    check_weights: str | Callable[..., None] | None = None
    option_comments: Mapping[str, str] = dataclasses.field(default_factory=dict)
    library: Callable[[nn.Module], str | None] = lambda model: None
    conversion_note: Callable[[nn.Module], str] = lambda model: ""


def keep_model(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Returns the model as it is: it takes images of any size."""
    del size
    return model


def describe_vit(model: nn.Module) -> str:
    """Returns width, depth and patch of a model's ViT, as `segjax models` prints them."""
    return f"ViT {model.width} x {model.depth}, patch {model.patch}"
