"""Masked autoencoding: pictures of any source, MAE, and its loss on what was masked, bound together for the loop."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import viz
from segjax.data.examples.crop import CropExample
from segjax.losses.reconstruction import reconstruction_loss
from segjax.models.flops import TRAINING, mae_multiply_adds
from segjax.models.mae import Mae, build_mae
from segjax.ops.patches import predicted_images
from segjax.ops.resize_crops import resized_windows
from segjax.tasks.reconstruction.config import ReconstructionSettings, reconstruction_config, miniature
from segjax.tasks.record_task import RecordTask
from segjax.training.sharding import place_batch, to_host


class Reconstruction(RecordTask):
    """The task of `config` (see `reconstruction_config`): all that the loop asks for."""

    settings = ReconstructionSettings
    defaults = staticmethod(reconstruction_config)
    miniature = staticmethod(miniature)
    build = staticmethod(build_mae)
    model: Mae

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self._measure = jax.jit(self._measured)

    def pretrained(self, kind: str, path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing but checkpoints of its own kind, which need no name: raises ValueError."""
        raise ValueError(
            f"a MAE starts from its own checkpoints: config.init_from = {path!r}, without '{kind}:'"
        )

    def loss(
        self,
        variables: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Masks, predicts and scores a batch of `CropExample`s: a sum over masked patches, and their number."""
        if "window" in batch:
            batch = {
                **batch,
                "image": resized_windows(batch["image"], batch["window"], self.model.canvas),
            }
        mask_key, drop_key = jax.random.split(key)
        noise = self.model.noise(jax.random.split(mask_key, len(batch["image"])))
        loss, weight, _ = self._scored(variables, batch, noise, train, drop_key)
        return loss, weight, {}

    def _scored(self, variables, batch, noise, train=False, key=None):
        rngs = {"drop_path": key} if train else {}
        prediction, masked = self.model.apply(
            variables, batch["image"], noise, train=train, rngs=rngs
        )
        counted = masked * batch["weight"][:, None]
        kind = dict(patch=self.model.patch, norm_pix=self.model.norm_pix)
        return *reconstruction_loss(prediction, batch["image"], counted, **kind), (
            prediction,
            masked,
        )

    def operations(self) -> tuple[float, str]:
        """Encoder and decoder of one masked picture, see `mae_multiply_adds`."""
        return 2.0 * TRAINING * sum(mae_multiply_adds(self.model)), jnp.dtype(self.model.dtype).name

    def example(self, *, train: bool) -> CropExample:
        """What is made of a record."""
        percentiles = tuple(self.data["percentiles"]) or None
        return CropExample(
            self.model.canvas, train=train, percentiles=percentiles, **self.data["crop"]
        )

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The loss on the evaluation split, and a sheet of pictures: masked, reconstructed, original.

        Each picture is masked the same way every time, whatever the batch or the number of devices. With norm_pix, a
        loss of 1 is what predicting every patch's own mean would get.

        Raises CheckpointError for variables of another model than the config's: flax would ignore a surplus of them.
        """
        sums, weights, shown = [], [], None
        for batch in self.measured_batches(variables, mesh):
            placed = place_batch(batch | {"example": batch["index"].astype(np.int32)}, mesh)
            loss, weight, pictures = to_host(self._measure(variables, placed))
            sums.append(loss)
            weights.append(weight)
            shown = pictures if shown is None else shown
        if not (total := math.fsum(weights)):
            raise ValueError(
                f"nothing to measure: none of the pictures of {self.data['eval_split']!r} could be read"
            )
        numbers = {"eval_loss": math.fsum(sums) / total}
        if not self.eval["pictures"]:
            return numbers, {}
        kept = np.flatnonzero(shown.pop("weight"))[: self.eval["pictures"]]
        sheet = viz.reconstruction_sheet(**{name: rows[kept] for name, rows in shown.items()})
        return numbers, {"reconstruction": sheet}

    def _measured(self, variables, batch):
        keys = jax.vmap(lambda example: jax.random.fold_in(jax.random.key(0), example))(
            batch["example"]
        )
        loss, weight, (prediction, masked) = self._scored(variables, batch, self.model.noise(keys))
        first = slice(
            None, max(self.eval["pictures"], 1) * 2
        )  # twice as many, for some may be placeholders
        images = batch["image"][first]
        kind = dict(patch=self.model.patch, norm_pix=self.model.norm_pix)
        pictures = {
            "images": images,
            "predicted": predicted_images(prediction[first], images, **kind),
            "masked": jnp.reshape(masked[first], (-1, *self.model.grid)),
            "weight": batch["weight"][first],
        }
        return loss, weight, pictures
