"""From a name or a path to a model and its variables."""

import difflib
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from segjax.models.attention import KERNEL_OF
from segjax.models.build import SIZES, build_model, kind_of, shapes_of
from segjax.models.classifier import Classifier
from segjax.models.detection.layers import numbered
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.mae import Mae
from segjax.models.sam.resize_positions import for_canvas
from segjax.weights.checkpoint import Checkpoint, read_checkpoint
from segjax.weights.download import fetch
from segjax.weights.registry import PUBLISHED
from segjax.weights.run_folder import Step
from segjax.weights.tree import CheckpointError

logger = logging.getLogger(__name__)

# By `Kind.title`: where such a model comes from, and what it is good for where another is wanted.
_FROM = {
    "MAE": " (experiments/mae trains one)",
    "Mask R-CNN": " (experiments/mask_rcnn trains one)",
}
_USES = {
    "SAM": "`segjax predict` and `segjax everything` take a SAM",
    "MAE": "`segjax reconstruct` shows what a MAE makes of a picture, and --config.init_from=mae:PATH trains a SAM or "
    "a detector from it",
    "ViT": "`segjax eval` measures a classifier",
    "Mask R-CNN": "`segjax detect` finds the objects of pictures with a Mask R-CNN",
}


def available_models() -> list[str]:
    """Names that `load` and the experiments' `config.model.name` understand."""
    return list(SIZES)


def load(
    model: str | os.PathLike,
    path: str | os.PathLike | None = None,
    *,
    step: Step = None,
    **overrides: Any,
) -> tuple[nn.Module, dict[str, Any]]:
    """A model and its variables, ready for `SamPredictor` (a SAM) or `model.apply`.

    load("runs/quickstart")                       whatever that run trained; its moving average where it kept one
    load("weights.safetensors")                   a file of ours, or transformers' SamModel: both tell what they hold
    load("sam_vit_b", "sam_vit_b_01ec64.pth")     the published weights; without the path, from the cache or its source
    load("sam_tiny", "runs/quickstart")           by name: an error unless every array fits
    load("sam_vit_b", "b.pth", canvas=512)        positions resized for pictures of 512 pixels
    load("mae_vit_b", "mae_visualize_vit_base.pth")    a masked autoencoder, encoder and decoder
    load("vit_b", "mae_finetuned_vit_base.pth")   a classifier, which gives the logits of pictures
    load("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")    a detector of torchvision's
    load("mask_rcnn_R_50_FPN", "model_final_f10217.pkl")    one of detectron2's model zoo

    `Detector.load` takes the same, and knows what the classes are called.

    Args:
      model: a name of `available_models()`, or, without `path`, a path.
      path: a run's workdir, its checkpoints folder, a .safetensors file (ours or transformers'), a file of torch.save
        (.pth, .pt, .bin, .ckpt) with the official names or transformers', or detectron2's .pkl, read without torch and
        without running anything in it. None with a published name: fetched once into the cache (`segjax models`
        lists what and whence).
      step: which checkpoint of a run; None: the newest that can be read; "best": the one that the run's
        config.checkpoint.best has kept.
      overrides: attributes of the model to replace, such as dtype="bfloat16" or attention="xla". With canvas=S the
        stored position tables are resized to that canvas, as the encoder itself would do for each picture; a MAE's
        are computed for it. A classifier, whose positions were trained together with the rest, keeps its canvas.

    Returns:
      The linen module, and {"params", "constants"}: nested dicts of float32 arrays on the default device.

    Raises:
      FileNotFoundError: nothing there, no checkpoint of that step, or none kept as the best.
      ConnectionError: published weights that are not in the cache and cannot be fetched.
      CheckpointError: what is there is no checkpoint, or is one of another architecture (missing, unexpected and
        misshapen arrays are counted and the first few listed, and the model they look like is named).
      ValueError: unknown model or attribute; names the nearest ones.
    """
    network, variables, _ = load_with_config(model, path, step=step, **overrides)
    return network, variables


def load_with_config(
    model: str | os.PathLike,
    path: str | os.PathLike | None = None,
    *,
    step: Step = None,
    only: str = "",
    **overrides: Any,
) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """`load`, and third what the checkpoint says of itself: a run's whole config, or a safetensors file's metadata.

    only: as `read_model`.
    """
    network, variables, checkpoint, _ = read_model(model, path, step=step, only=only, **overrides)
    return network, jax.device_put(variables), checkpoint.saved


def read_model(
    model: str | os.PathLike,
    path: str | os.PathLike | None = None,
    *,
    step: Step = None,
    only: str = "",
    **overrides: Any,
) -> tuple[nn.Module, dict[str, Any], Checkpoint, dict[str, Any]]:
    """(module, variables on the host, the checkpoint they are from, the options that `build_model` got); as `load`.

    only: the one kind of model (`segjax.models.build.Kind.title`) that the caller can use; another is a ValueError that
    says who can.
    """
    source = _source(os.fspath(model), path)
    name = os.fspath(model) if path is not None or os.fspath(model) in SIZES else None
    checkpoint = read_checkpoint(source, step)
    written = _runnable(_options(name, checkpoint, source))
    if only and (held := kind_of(written["name"]).title) != only:
        raise ValueError(
            f"{source} holds {written['name']}; this command takes a {only}{_FROM.get(only, '')}. {_USES[held]}"
        )
    # Hold the arrays against the canvas they were written for, then resize.
    others = {key: value for key, value in overrides.items() if key != "canvas"}
    network = build_model(**written | others)
    if isinstance(network, MaskRcnn):
        check_conventions(network, checkpoint, written["name"])
    expected = shapes_of(network)
    variables = checkpoint.variables(expected, hint=_hint(checkpoint, written["name"]))
    if "canvas" in overrides:
        stored, network = network, build_model(**written | overrides)
        variables = _on_canvas(variables, stored, network)
    return network, variables, checkpoint, written | overrides


def _on_canvas(variables: dict[str, Any], stored: nn.Module, network: nn.Module) -> dict[str, Any]:
    """The variables of `stored`, on the canvas of `network`, which is the same model otherwise."""
    if isinstance(network, Classifier):
        raise ValueError(
            "a classifier stays on the canvas that it was trained for; config.init_from='mae:PATH' brings a MAE's "
            "encoder to a classifier of any canvas"
        )
    expected = shapes_of(network)  # refuses a canvas that the patch does not divide
    if isinstance(network, Mae):
        sides = [" x ".join(map(str, model.grid)) for model in (stored, network)]
        logger.info("MAE of %d pixels on a canvas of %d: positions computed for %s patches instead of %s",
                    stored.canvas, network.canvas, *reversed(sides))  # fmt: skip
        return variables
    return for_canvas(variables, expected)


def _source(name: str, path: str | os.PathLike | None) -> pathlib.Path:
    """The path to read. Raises ValueError, FileNotFoundError or ConnectionError that says what is missing."""
    if path is not None:
        if name not in SIZES:
            build_model(name)  # its error names the nearest
        return pathlib.Path(path)
    if name in PUBLISHED:
        return fetch(PUBLISHED[name])
    if name in SIZES:
        raise ValueError(
            f"{name!r} is the name of an architecture; say which weights: segjax.load({name!r}, path) with a run's "
            "workdir, a .safetensors or a .pth file. For untrained variables use build_model and init_model of "
            "segjax.models.build"
        )
    if not os.path.exists(name):
        near = difflib.get_close_matches(name, SIZES, 1)
        raise FileNotFoundError(
            f"{name!r} is neither a file or folder nor a known model"
            + (f" (nearest: {near[0]})" if near else "")
            + f"; models: {', '.join(SIZES)}"
        )
    return pathlib.Path(name)


def _options(name: str | None, checkpoint: Checkpoint, path: pathlib.Path) -> dict[str, Any]:
    """What to build: what the checkpoint says or its arrays show where the names agree, else the named model's own."""
    described = checkpoint.saved.get("model")
    described = dict(described) if isinstance(described, Mapping) else {}
    described = recognised(checkpoint) or described
    if name is None and "name" not in described:
        if checkpoint.relative:
            kind = checkpoint.table.model
            raise CheckpointError(f"{path} holds no {kind} that segjax has{_hint(checkpoint, '')}")
        raise CheckpointError(
            f"{path} does not say which model it holds{_hint(checkpoint, '')}; name it: "
            f"segjax.load(name, {str(path)!r}) with one of {', '.join(SIZES)}"
        )
    return described if name in (None, described.get("name")) else {"name": name}


def _runnable(options: dict[str, Any]) -> dict[str, Any]:
    """The options as they are, but plain attention for one that a run was trained with on devices of another kind."""
    kernel_of = KERNEL_OF.get(options.get("attention"))
    return options | (
        {"attention": "xla"} if kernel_of not in (None, jax.default_backend()) else {}
    )


def _hint(checkpoint: Checkpoint, name: str) -> str:
    """What a state dict is, when it is not the model of that name."""
    if checkpoint.relative:
        return f"; its names are those of {checkpoint.relative}, another model"
    size, guess = checkpoint.size, recognised(checkpoint).get("name")
    if guess == name or not (guess or {"width", "depth"} <= size.keys()):
        return ""
    if not {"width", "depth"} <= size.keys():
        return f"; its arrays are those of {guess}"
    return f"; its encoder of width {size['width']} and depth {size['depth']} is that of {guess or 'no size known here'}"


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
    fits = (
        name for name in kin if all(SIZES[name][key] == size.get(key) for key in ("width", "depth"))
    )
    if (
        not {"width", "depth", "patch", "canvas"} <= size.keys()
        or (name := next(fits, None)) is None
    ):
        return {}
    return {"name": name} | {
        key: value for key, value in size.items() if key not in ("width", "depth")
    }


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
