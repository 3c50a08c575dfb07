"""Text prompts of the promptable task: vectors for training, phrases for evaluation."""

import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from segjax.data.examples.promptable import PromptableExample
from segjax.inference.clip.clip import Clip
from segjax.inference.sam.predictor import SamPredictor
from segjax.tasks.promptable.text_evaluation import evaluate_texts
from segjax.tasks.promptable.text_vectors import (
    TextExample,
    VectorStore,
    encode_record,
    fill_vectors,
)


class TextPrompts:
    """Text prompts of a run.

    Args:
      settings: config.data.text.
      width: `text_width` of the SAM.

    Attributes:
      used: whether the SAM has text prompts.

    Raises:
      ValueError: a CLIP for a SAM without text prompts, or the other way round.
    """

    def __init__(self, settings: Mapping[str, Any], width: int):
        self.settings, self.width = settings, width
        self.used = bool(width)
        self._store: VectorStore | None = None
        self._clip: Clip | None = None
        if bool(settings["clip"]) != self.used:
            raise ValueError(
                f"config.data.text.clip is {settings['clip']!r} and config.model.text_width {width}"
                "; text prompts need both, the checkpoint of a CLIP and the width of its vectors"
            )

    def load_clip(self) -> Clip:
        """Loads the CLIP of `config.data.text.clip`, once.

        Raises:
          ValueError: its vectors are of another width than the model takes.
        """
        if self._clip is None:
            clip, path = Clip.load(self.settings["clip"]), self.settings["clip"]
            if clip.model.embedding != self.width:
                raise ValueError(
                    f"the CLIP {path} has vectors of {clip.model.embedding} channels, and "
                    f"config.model.text_width is {self.width}; set it to {clip.model.embedding}"
                )
            self._clip = clip
        return self._clip

    def prepare(
        self, data: Mapping[str, Any], source: Sequence[Mapping], workdir: pathlib.Path
    ) -> None:
        """Computes the vectors of the training objects that are missing.

        The first process computes them, and all wait for it.

        Args:
          data: config.data.
          source: training records.
          workdir: the run's folder.

        Raises:
          OSError: the disk is full.
        """
        folder = pathlib.Path(self.settings["folder"])
        folder = workdir / "vectors" if self.settings["folder"] == "workdir" else folder
        if jax.process_index() == 0:
            name = f"{data['source']}, split {data['train_split']}"
            if data["source"] == "synthetic":
                name = f"synthetic, {data['scenes']}"
            options = self._vector_options() | {"phrases": self.settings["phrases"] > 0}
            fill_vectors(folder, self.load_clip(), source, name=name, **options)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("vectors of CLIP are written")
        self._store = VectorStore(folder)

    def add_vectors(self, example: PromptableExample) -> TextExample:
        """Returns the function from a training record to an example with vectors.

        Raises:
          ValueError: `prepare` was not called.
        """
        if self._store is None:
            raise ValueError("the vectors of CLIP are not computed; call prepare_training first")
        options = {name: self.settings[name] for name in ("noise", "phrases", "drop")}
        return TextExample(example, self._store, **options)

    def evaluate(self, predictor: SamPredictor, source: Sequence[Mapping]) -> dict[str, float]:
        """Measures phrases on the evaluation records, see `evaluate_texts`.

        Every process measures all of them.
        """
        clip, options = self.load_clip(), self._vector_options() | {"crops": 1}

        def encode_objects(record: Mapping) -> np.ndarray:
            rng = np.random.default_rng(zlib.crc32(record["image_id"].encode()))
            return encode_record(clip, record, rng, **options)[:, 0].astype(np.float32)

        return evaluate_texts(predictor, clip, source, encode_objects)

    def _vector_options(self) -> dict[str, Any]:
        """Returns the settings of the vectors of objects, see `encode_record`."""
        names = ("crops", "hide", "masked_attention", "min_side")
        options = {name: self.settings[name] for name in names}
        return options | {"expand": tuple(self.settings["expand"])}
