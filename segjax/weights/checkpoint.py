"""One reader for every kind of checkpoint (a run's folder, our .safetensors, published files of either family), and
one writer for every kind of file.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.names import NameTable
from segjax.weights.pickle_file import SUFFIX, read_pickle
from segjax.weights.run_folder import Step, load_variables
from segjax.weights.safetensors import as_variables, read_arrays, save_variables, write_arrays
from segjax.weights.state_dict import state_of
from segjax.weights.tables.detectron2 import DETECTRON2_DETECTORS
from segjax.weights.tables.mae import MAE
from segjax.weights.tables.sam import SAM
from segjax.weights.tables.torchvision import TORCHVISION_DETECTORS, TORCHVISION_RESNETS
from segjax.weights.tables.vit import VIT
from segjax.weights.torch_file import SUFFIXES, read_torch
from segjax.weights.torch_writer import write_torch
from segjax.weights.tree import CheckpointError, check_variables, flatten, placed, unflatten

OURS = "segjax"
# In this order: a ViT with a head has all that marks a MAE.
TABLES = (SAM, VIT, MAE, TORCHVISION_DETECTORS, DETECTRON2_DETECTORS, TORCHVISION_RESNETS)
# What a file of one kind is good for when another kind is asked for.
_AS_ENCODER = "; an encoder starts from it with config.init_from='mae:PATH'"
_OTHER_USES = {
    MAE.model: _AS_ENCODER,
    VIT.model: _AS_ENCODER,
    TORCHVISION_RESNETS.model: "; a Mask R-CNN's backbone starts from it with config.init_from='resnet:PATH'",
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What was read, before it is held against a model.

    Attributes:
      source: how messages call it.
      family: "segjax", or for a state dict whose names it has, such as "official", "huggingface" or "detectron2".
      table: the model whose names a state dict has; None for our own checkpoints.
      arrays: our variables {"params", "constants"}, or a state dict.
      saved: what it says of itself: a run's config or our metadata, {} where it says nothing; "model" is the model's.
    """

    source: str
    family: str
    arrays: Mapping[str, Any]
    saved: dict[str, Any] = dataclasses.field(default_factory=dict)
    table: NameTable | None = None

    @property
    def size(self) -> dict[str, Any]:
        """What a state dict says of its model: "width", "depth", "patch", "canvas", ...; {} for our own checkpoints."""
        return self.table.encoder_size(self.arrays, self.family) if self.table else {}

    @property
    def relative(self) -> str | None:
        """Which other model of its table's kin it is, as far as its keys betray that."""
        return self.table.relative_of(self.arrays) if self.table else None

    def variables(self, expected: Mapping[str, Any], *, hint: str = "") -> dict[str, Any]:
        """Its arrays as our variables, strictly: every array of the expected model and no other, in its type.

        What was frozen and is trained now, or the other way round, is moved between "params" and "constants".

        Args:
          expected: {"params", "constants"}, nested dicts of anything with shape and dtype.
          hint: what an error about another architecture says at its end.

        Raises:
          CheckpointError: it is of another architecture (missing, unexpected and misshapen arrays are counted and
            listed) or no floats.
        """
        hint = hint or self._hint(expected)
        if self.table is None:
            found = placed(self.arrays, expected)
            check_variables(expected, found, source=self.source, hint=hint)
        else:
            self._check_model(expected)
            found = self.table.from_published(
                self.arrays, expected, family=self.family, source=self.source, hint=hint
            )
        types = {path: leaf.dtype for path, leaf in flatten(expected).items()}
        # Copies: what is mapped from a file must not change under a model when the file does.
        flat = {
            path: np.array(array, types[path], order="C") for path, array in flatten(found).items()
        }
        return {"params": {}, "constants": {}} | unflatten(flat)

    def _check_model(self, expected: Mapping[str, Any]) -> None:
        is_of = f"{self.source} holds a {self.table.model} of {self.table.families[self.family]}; expected "
        if not self.table.holds(expected):
            wanted = next(
                (table.model for table in TABLES if table.holds(expected)), "another model"
            )
            raise CheckpointError(is_of + wanted + _OTHER_USES.get(self.table.model, ""))
        if "encoder" in expected.get("constants", {}):
            raise CheckpointError(f"{is_of}one whose encoder is frozen{_AS_ENCODER}")

    def _hint(self, expected: Mapping[str, Any]) -> str:
        """How an error about another architecture may be mended."""
        if "head" in expected.get("params", {}):
            wanted, found = expected["params"]["head"]["kernel"].shape[-1], self._classes()
            other = (
                f"its head knows {found} classes, not {wanted}: set config.model.classes={found}; "
            )
            return f"; {other if found not in (None, wanted) else ''}config.init_from='mae:PATH' takes its encoder alone"
        if "rpn" in expected.get("params", {}):
            return "; of a detector of other classes config.init_from='detector:PATH' takes all but their last layers"
        wanted = next(
            (
                leaf.shape[1]
                for path, leaf in flatten(expected).items()
                if path.endswith("pos_embed")
            ),
            None,
        )
        found = (
            np.shape(self.arrays.get(self.table.positions.get(self.family), ()))
            if self.table
            else ()
        )
        if wanted is None or len(found) != 4 or found[1] == wanted:
            return ""
        return "; its positions are for another canvas: `segjax convert SRC DST --canvas PIXELS` resizes them"

    def _classes(self) -> int | None:
        if self.table:
            return self.size.get("classes")
        head = np.shape(self.arrays.get("params", {}).get("head", {}).get("kernel"))
        return head[-1] if head else None


def read_checkpoint(path: str | pathlib.Path, step: Step = None) -> Checkpoint:
    """Whatever kind of checkpoint is at a path; the kind is found from what is there, not from who says what.

    Args:
      path: a run's workdir, its checkpoints folder, a .safetensors file (ours or transformers'), a file of torch.save
        (.pth, .pt, .bin, .ckpt) or of detectron2's zoo (.pkl).
      step: which checkpoint of a run.

    Raises:
      FileNotFoundError: nothing there, or no checkpoint of that step.
      ValueError: a step of a single file.
      CheckpointError: what is there is no checkpoint of a model that we know, or is damaged.
    """
    path = pathlib.Path(path)
    file = path.suffix in (".safetensors", SUFFIX, *SUFFIXES)
    if file and step is not None:
        raise ValueError(f"{path} is a single file, it has no step {step}; leave step out")
    source = f"checkpoint {path}"
    if path.suffix == ".safetensors":
        arrays, header = read_arrays(path)
        if found := _recognised(state := _unprefixed(arrays, source), source):
            return found
        return Checkpoint(source, OURS, *as_variables(arrays, header, source=str(path)))
    if file:
        content = read_pickle(path) if path.suffix == SUFFIX else read_torch(path)
        state = state_of(content, source=source)
        if (found := _recognised(state, source)) is None:
            some = ", ".join(sorted(state)[:3])
            known = " and no ".join(
                f"{table.model} of {' or '.join(table.families.values())}" for table in TABLES
            )
            raise CheckpointError(
                f"{source} holds no {known}: its {len(state)} arrays are named {some}, ..."
            )
        return found
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file of an unknown kind; expected a training workdir, its checkpoints folder, a "
            f".safetensors file, or one of torch.save's ({', '.join(SUFFIXES)})"
        )
    if not path.is_dir():
        raise FileNotFoundError(
            f"no checkpoint at {path}: there is no such file or folder; expected a training workdir, its checkpoints "
            f"folder, a .safetensors file, or one of torch.save's ({', '.join(SUFFIXES)})"
        )
    return Checkpoint(source, OURS, *load_variables(path, step))


def _recognised(state: Mapping[str, np.ndarray], source: str) -> Checkpoint | None:
    known = ((table, family) for table in TABLES if (family := table.family_of(state)))
    return next((Checkpoint(source, family, state, table=table) for table, family in known), None)


def _unprefixed(arrays: Mapping[str, np.ndarray], source: str) -> Mapping[str, np.ndarray]:
    return state_of(arrays, source=source) if arrays else arrays


def write_checkpoint(
    path: str | pathlib.Path,
    variables: Mapping[str, Any],
    *,
    family: str | None = None,
    metadata: Mapping[str, Any],
    canvas: int | None = None,
) -> tuple[str, int]:
    """Writes variables in one file, whole or not at all, in the format that its suffix names.

    Args:
      path: .safetensors, or .pth, .pt, .bin or .ckpt for torch.
      variables: {"params", "constants"} of a model.
      family: whose names: "segjax" or one of the families that the model's `NameTable`s have; None: ours in
        .safetensors, the first of those else.
      metadata: what our own format says of the model: {"model": {"name": ...}}; the others have no place for it.
      canvas: the model's, in pixels; a MAE's files of the other families hold position tables for it.

    Returns:
      (family, how many arrays were written).

    Raises:
      ValueError: an unknown suffix, a family that the model has no names in, or our names in a file for torch.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".safetensors", *SUFFIXES):
        raise ValueError(
            f"{path} is of an unknown kind; expected .safetensors or, for torch, {', '.join(SUFFIXES)}"
        )
    for_torch = path.suffix in SUFFIXES
    tables = {
        family: table for table in TABLES if table.holds(variables) for family in table.families
    }
    family = family or (next(iter(tables)) if for_torch else OURS)
    if family != OURS and family not in tables:
        raise ValueError(
            f"format {family!r} has no names for this model; choose one of {', '.join((OURS, *tables))}"
        )
    if for_torch and family == OURS:
        raise ValueError(
            f"{path} is a file for torch, which segjax's own names do not go into; write a .safetensors"
        )
    if family == OURS:
        save_variables(path, variables, metadata)
        return family, len(flatten(variables))
    state = tables[family].to_published(variables, family, canvas=canvas)
    if for_torch:
        write_torch(path, state)
    else:
        write_arrays(path, state, {"format": "pt"})  # transformers insists on this header
    return family, len(state)
