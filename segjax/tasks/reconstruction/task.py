"""Masked autoencoding (arXiv 2111.06377): images, a MAE, and its loss on the masked patches."""

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
from segjax.models.flops import TRAINING, count_mae_multiply_adds
from segjax.models.mae import Mae, build_mae
from segjax.ops.patches import render_prediction
from segjax.ops.resize import resize_crops
from segjax.tasks.reconstruction.config import (
    ReconstructionSettings,
    miniature,
)
from segjax.tasks.record_task import RecordTask
from segjax.training.sharding import place_batch, to_host


class Reconstruction(RecordTask):
    """Task that trains a masked autoencoder. Its settings are `ReconstructionSettings`."""

    settings = ReconstructionSettings
    miniature = staticmethod(miniature)
    build = staticmethod(build_mae)
    shown_metrics = ("loss", "eval_loss")
    model: Mae

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self._score = jax.jit(self._score_batch)

    def load_pretrained(self, kind: str, path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
        """Raises ValueError: a MAE starts from checkpoints of its own kind, which need no name."""
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
        """Computes the reconstruction loss; see `segjax.losses.reconstruction`.

        Args:
          variables: {"params", "constants"}.
          batch: `CropExample`s: image uint8 [B, canvas, canvas, 3] and weight [B]. With "window",
            the images are frames that are cropped and resized here.
          key: typed PRNG key, for the random masking and drop path.
          train: True in training.

        Returns:
          (sum over masked patches, number of masked patches, {}).
        """
        if "window" in batch:
            image = resize_crops(batch["image"], batch["window"], self.model.canvas)
            batch = {**batch, "image": image}
        # Random masking
        mask_key, drop_key = jax.random.split(key)
        noise = self.model.draw_noise(jax.random.split(mask_key, len(batch["image"])))
        loss, weight, _ = self._apply(variables, batch, noise, train, drop_key)
        return loss, weight, {}

    def _apply(
        self,
        variables: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        noise: jax.Array,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
        """Returns the loss sum, the number of masked patches, and (prediction, masked)."""
        prediction, masked = self.model.apply(
            variables,
            batch["image"],
            noise,
            train=train,
            rngs={"drop_path": key} if train else {},
        )
        loss, weight = reconstruction_loss(
            prediction,
            batch["image"],
            masked * batch["weight"][:, None],
            patch=self.model.patch,
            norm_pix=self.model.norm_pix,
        )
        return loss, weight, (prediction, masked)

    def flops(self) -> tuple[float, str]:
        """Returns the FLOPs of one masked image in training, and their dtype."""
        multiply_adds = sum(count_mae_multiply_adds(self.model))
        return 2.0 * TRAINING * multiply_adds, jnp.dtype(self.model.dtype).name

    def build_example(self, *, train: bool) -> CropExample:
        """Returns the function from a record to an example."""
        return CropExample(
            self.model.canvas,
            train=train,
            percentiles=tuple(self.data["percentiles"]) or None,
            **self.data["crop"],
        )

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Computes the loss on the evaluation split and draws a sheet of reconstructions.

        An image is masked the same way every time, on any number of devices. With norm_pix, a
        model that predicts each patch's mean has a loss of 1.

        Args:
          variables: to be evaluated.
          mesh: to evaluate on.

        Returns:
          {"eval_loss"}, and {"reconstruction": uint8 [H, W, 3]} with masked, reconstructed and
          original images.

        Raises:
          CheckpointError: variables of another model than the config's.
          ValueError: no image of the split can be read.
        """
        sums, weights, first = [], [], None
        for batch in self.evaluation_batches(variables, mesh):
            placed = place_batch(batch | {"example": batch["index"].astype(np.int32)}, mesh)
            loss, weight, images = to_host(self._score(variables, placed))
            sums.append(loss)
            weights.append(weight)
            first = images if first is None else first
        if not (total := math.fsum(weights)):
            raise ValueError(
                f"nothing to measure: no image of {self.data['eval_split']!r} could be read"
            )
        metrics = {"eval_loss": math.fsum(sums) / total}
        # Sheet of the first images, without placeholders
        count = self.eval["pictures"]
        if not count:
            return metrics, {}
        real = np.flatnonzero(first.pop("weight"))[:count]
        rows = {name: rows[real] for name, rows in first.items()}
        sheet = viz.draw_reconstruction_sheet(**rows, colors_from_original=self.model.norm_pix)
        return metrics, {"reconstruction": sheet}

    def _score_batch(
        self, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Returns the loss sum, the number of masked patches, and images for the sheet."""
        # A key per image: its mask depends neither on the batch nor on the number of devices.
        keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.key(0), index))(
            batch["example"]
        )
        noise = self.model.draw_noise(keys)
        loss, weight, (prediction, masked) = self._apply(variables, batch, noise)
        # Twice as many images as the sheet shows, because some may be placeholders.
        first = slice(None, max(self.eval["pictures"], 1) * 2)
        images = batch["image"][first]
        shown = {
            "images": images,
            "predicted": render_prediction(
                prediction[first], images, patch=self.model.patch, norm_pix=self.model.norm_pix
            ),
            "masked": jnp.reshape(masked[first], (-1, *self.model.grid)),
            "weight": batch["weight"][first],
        }
        return loss, weight, shown
