"""Loads a model and its variables by a name or a path.

Everything that differs between model families is in their `segjax.models.family.Family` records.
"""

import difflib
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from segjax.inference.recognize import check_family, explain_mismatch, recognize_model
from segjax.inference.saved_options import BUILD_ERRORS, check_saved_options, explain_build_error
from segjax.models.attention import KERNEL_PLATFORM
from segjax.models.build import build_model, find_family, model_sizes, variable_shapes
from segjax.models.family import Family
from segjax.models.parameter_counts import count_parameters
from segjax.registry import resolve
from segjax.weights.adapters.files import apply_adapter, read_adapter
from segjax.weights.adapters.samed import is_samed_file, read_samed
from segjax.weights.checkpoint import Checkpoint, read_checkpoint
from segjax.weights.download import fetch_named
from segjax.weights.registry import describe_missing, find_published
from segjax.weights.run_folder import Step
from segjax.weights.tree import CheckpointError

logger = logging.getLogger(__name__)


def available_models(*, details: bool = False) -> list[str] | dict[str, dict[str, Any]]:
    """Returns the names that `load` and `config.model.name` accept, of all registered families.

    Example:
      >>> available_models(details=True)["sam_tiny"]["parameters"]
      1141960

    Args:
      details: return name -> {"family", "canvas", "encoder", "parameters", "weights"} instead of
        a list. "weights" is True for published weights that `load` downloads by this name.
    """
    names = list(model_sizes())
    if not details:
        return names
    found = {}
    for name in names:
        family, model = find_family(name), build_model(name)
        found[name] = {
            "family": family.title,
            "canvas": model.canvas,
            "encoder": family.describe_encoder(model),
            "parameters": count_parameters(name),
            "weights": find_published(name) is not None,
        }
    return found


def load(
    model: str | os.PathLike,
    path: str | os.PathLike | None = None,
    *,
    step: Step = None,
    lora: str | os.PathLike | None = None,
    **overrides: Any,
) -> tuple[nn.Module, dict[str, Any]]:
    """Loads a model and its variables, ready for `SamPredictor` (a SAM) or `model.apply`.

    `Detector.load` takes the same arguments and knows the names of the classes.

    Example:
      load("runs/quickstart")                     # a run; its moving average if it has one
      load("weights.safetensors")                 # a file of ours, or of transformers' SamModel
      load("sam_tiny_demo")                       # the demo model, which comes with segjax
      load("sam_vit_b")                           # published weights, downloaded once
      load("sam_vit_b", "sam_vit_b_01ec64.pth")   # the same from a file
      load("downloads/sam-vit-base")              # a folder as Hugging Face publishes it
      load("sam_tiny", "runs/quickstart")         # by name: an error unless every array fits
      load("sam_vit_b", "b.pth", canvas=512)      # positions resized to images of 512 pixels
      load("mae_vit_b", "mae_visualize_vit_base.pth")    # a MAE, encoder and decoder
      load("vit_b", "mae_finetuned_vit_base.pth")        # a classifier
      load("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")   # torchvision's
      load("mask_rcnn_R_50_FPN", "model_final_f10217.pkl")                       # detectron2's

    Args:
      model: a name of `available_models()`, or, without `path`, a path.
      path: a run's workdir, its checkpoints folder, a .safetensors file (ours or transformers'), a
        file of torch.save (.pth, .pt, .bin, .ckpt) with the official names or transformers', or
        detectron2's .pkl. Files are read without torch, and no code in them is run. None for a
        published name: the file is downloaded once into the cache (see `segjax models`).
      step: checkpoint of a run: a number of steps, None for the newest that can be read, or "best"
        for the one that config.checkpoint.best keeps.
      lora: file of adapters that were trained on these weights: of `segjax convert RUN FILE
        --lora`, or of SAMed (.pth).
      overrides: attributes of the model to replace, such as dtype="bfloat16" or attention="xla".
        canvas=S resizes the position tables, as the encoder itself does for an image of that size.
        A MAE's are computed. A classifier keeps its canvas.

    Returns:
      The linen module, and its variables {"params", "constants"}: nested dicts of float32 arrays
      on the default device.

    Raises:
      FileNotFoundError: nothing there, no checkpoint of that step, or no best one.
      ConnectionError: published weights are not in the cache and cannot be downloaded.
      CheckpointError: no checkpoint, or another architecture. The message counts missing,
        unexpected and misshapen arrays, lists the first few, and names the model they look like.
      ValueError: unknown model or attribute, naming the nearest ones.
    """
    network, variables, _ = load_with_config(model, path, step=step, lora=lora, **overrides)
    return network, variables


def load_with_config(
    model: str | os.PathLike,
    path: str | os.PathLike | None = None,
    *,
    step: Step = None,
    family: str = "",
    lora: str | os.PathLike | None = None,
    **overrides: Any,
) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """Loads as `load`, and returns the run's config or the file's metadata as a third value.

    Args:
      model: as for `load`.
      path: as for `load`.
      step: as for `load`.
      family: as for `read_model`.
      lora: as for `load`.
      overrides: as for `load`.
    """
    network, variables, checkpoint, _ = read_model(
        model, path, step=step, family=family, lora=lora, **overrides
    )
    return network, jax.device_put(variables), checkpoint.saved


def read_model(
    model: str | os.PathLike,
    path: str | os.PathLike | None = None,
    *,
    step: Step = None,
    family: str = "",
    lora: str | os.PathLike | None = None,
    **overrides: Any,
) -> tuple[nn.Module, dict[str, Any], Checkpoint, dict[str, Any]]:
    """Reads a model and its variables into host memory.

    Args:
      model: as for `load`.
      path: as for `load`.
      step: as for `load`.
      family: registered name of the only model family that the caller can use, such as "sam".
        A model of another family raises ValueError and says which command takes it.
      lora: as for `load`.
      overrides: as for `load`.

    Returns:
      The module, its variables, the checkpoint they come from, and the options of `build_model`.
    """
    # Read the checkpoint, and find out which model it holds
    source = _find_source(os.fspath(model), path)
    name = os.fspath(model)
    if path is None:
        names = {size.lower(): size for size in model_sizes()}
        published = find_published(name)
        overrides = {**(published.options if published else {}), **overrides}
        name = names.get(name.lower()) if published else None
    checkpoint = read_checkpoint(source, step)
    saved = _select_attention(_saved_options(name, checkpoint, source))
    if family:
        check_family(saved["name"], family, source)
    record = find_family(saved["name"])

    # The arrays must fit the canvas that they were written for. They are resized afterwards.
    other_overrides = {key: value for key, value in overrides.items() if key != "canvas"}
    network = build_model(**saved | other_overrides)
    if record.check_weights:
        resolve(record.check_weights)(record, network, checkpoint, saved["name"], overrides)
    hint = explain_mismatch(checkpoint, saved["name"])
    try:
        shapes = variable_shapes(network)
    except BUILD_ERRORS as error:
        if other_overrides:
            raise
        raise explain_build_error(error, checkpoint) from error
    variables = checkpoint.variables(shapes, hint=hint)

    # Adapters, which fit the canvas that they were trained on
    if lora is not None:
        network, variables, saved = _add_adapter(record, network, variables, saved, lora)
    # Another canvas
    if "canvas" in overrides:
        stored, network = network, build_model(**saved | overrides)
        variables = record.fit_canvas(variables, stored, network)
    return network, variables, checkpoint, saved | overrides


def _add_adapter(
    record: Family,
    network: nn.Module,
    variables: dict[str, Any],
    saved: dict[str, Any],
    path: str | os.PathLike,
) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """Returns the model with the adapters of a file merged, on the canvas of the file.

    Raises:
      CheckpointError: adapters of another model, or trained on other weights.
    """
    if is_samed_file(path):
        adapter = read_samed(path, variables["params"])
        logger.warning("%s does not say which weights it was trained on", path)
        return network, apply_adapter(variables, adapter, {}, source=str(path)), saved
    adapter, metadata = read_adapter(path)
    wanted = metadata["model"]
    if wanted.get("name") != saved["name"]:
        raise CheckpointError(
            f"{path} has adapters of {wanted.get('name')!r}; the weights are of {saved['name']!r}"
        )
    canvas = wanted.get("canvas", network.canvas)
    if canvas != network.canvas:
        stored, saved = network, saved | {"canvas": canvas}
        network = build_model(**saved)
        variables = record.fit_canvas(variables, stored, network)
    return network, apply_adapter(variables, adapter, metadata, source=str(path)), saved


def _find_source(name: str, path: str | os.PathLike | None) -> pathlib.Path:
    """Returns the path to read.

    Raises:
      ValueError: an unknown model, or the name of an architecture without weights.
      FileNotFoundError: neither a path nor a model.
      ConnectionError: published weights that cannot be downloaded.
    """
    if path is not None:
        find_family(name)  # an unknown name is an error that names the nearest
        return pathlib.Path(path)
    if file := fetch_named(name):
        return file
    # Neither a path nor published weights: explain
    sizes = {size.lower(): size for size in model_sizes()}
    if not os.path.exists(name) and name.lower() in sizes:
        name = sizes[name.lower()]
        raise ValueError(
            f"{name!r} is the name of an architecture; say which weights: segjax.load({name!r}, "
            "path) with a run's workdir, a .safetensors or a .pth file. For untrained variables "
            "use build_model and init_model of segjax.models.build"
        )
    if not os.path.exists(name):
        # A name with a suffix or a slash is meant to be a path
        if pathlib.Path(name).suffix or "/" in name or "\\" in name:
            raise FileNotFoundError(describe_missing(name))
        near = difflib.get_close_matches(name.lower(), sizes, 5, cutoff=0)
        raise FileNotFoundError(
            f"unknown model {name!r}, and no file or folder of that name; nearest: "
            f"{', '.join(sizes[size] for size in near)}; `segjax models` lists all"
        )
    return pathlib.Path(name)


def _saved_options(name: str | None, checkpoint: Checkpoint, path: pathlib.Path) -> dict[str, Any]:
    """Returns the options of the model that was saved.

    They are those that the checkpoint states or that its arrays show. If `name` is another model,
    only the name is left, and the comparison of the arrays will say what differs.
    """
    stated = checkpoint.saved.get("model")
    stated = dict(stated) if isinstance(stated, Mapping) else {}
    options = recognize_model(checkpoint) or stated
    if name is None and "name" not in options:
        explanation = explain_mismatch(checkpoint, "")
        if checkpoint.derived_model:
            raise CheckpointError(
                f"{path} holds no {checkpoint.table.model} that segjax has{explanation}"
            )
        raise CheckpointError(
            f"{path} does not say which model it holds{explanation}; name it: "
            f"segjax.load(name, {str(path)!r}) with one of {', '.join(model_sizes())}"
        )
    if name not in (None, options.get("name")):
        return {"name": name}
    check_saved_options(options, checkpoint)
    return options


def _select_attention(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options, with plain attention if theirs is a kernel for other devices."""
    platform = KERNEL_PLATFORM.get(options.get("attention"))
    if platform in (None, jax.default_backend()):
        return options
    return options | {"attention": "xla"}
