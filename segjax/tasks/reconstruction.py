"""Masked autoencoding: pictures of any source, MAE, and its loss on what was masked, bound together for the loop."""

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import viz
from segjax.data.crops import CropExample
from segjax.losses.reconstruction import reconstruction_loss
from segjax.models.mae import Mae, build_mae, init_mae
from segjax.models.operations import TRAINING, mae_multiply_adds
from segjax.ops.patches import predicted_images
from segjax.ops.windows import resized_windows
from segjax.tasks.reconstruction_config import completed
from segjax.tasks.records import batch_shapes, load, measured_batches, records_of
from segjax.training.sharding import place_batch, to_host
from segjax.weights.tree import check_variables


class Reconstruction:
    """The task of `config` (see `reconstruction_config`): all that the loop asks for."""

    def __init__(self, config: ml_collections.ConfigDict):
        options = config.model.to_dict()
        self.model: Mae = build_mae(options.pop("name"), **options)
        self.data = config.data.to_dict()
        self.eval = config.eval.to_dict()
        self._measure = jax.jit(self._measured)

    @staticmethod
    def completed(settings: Mapping[str, Any] | ml_collections.ConfigDict) -> ml_collections.ConfigDict:
        """A config of this task with the defaults of what it leaves out; see `reconstruction_config.completed`."""
        return completed(settings)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh variables."""
        return init_mae(self.model, key)

    def pretrained(self, kind: str, path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing but checkpoints of its own kind, which need no name: raises ValueError."""
        raise ValueError(f"a MAE starts from its own checkpoints: config.init_from = {path!r}, without '{kind}:'")

    def loss(
        self, variables: Mapping[str, Any], batch: Mapping[str, jax.Array], key: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Masks, predicts and scores a batch of `CropExample`s: a sum over masked patches, and their number."""
        if "window" in batch:
            batch = {**batch, "image": resized_windows(batch["image"], batch["window"], self.model.canvas)}
        mask_key, drop_key = jax.random.split(key)
        noise = self.model.noise(jax.random.split(mask_key, len(batch["image"])))
        loss, weight, _ = self._scored(variables, batch, noise, train, drop_key)
        return loss, weight, {}

    def _scored(self, variables, batch, noise, train=False, key=None):
        rngs = {"drop_path": key} if train else {}
        prediction, masked = self.model.apply(variables, batch["image"], noise, train=train, rngs=rngs)
        counted = masked * batch["weight"][:, None]
        kind = dict(patch=self.model.patch, norm_pix=self.model.norm_pix)
        return *reconstruction_loss(prediction, batch["image"], counted, **kind), (prediction, masked)

    def operations(self) -> tuple[float, str]:
        """Encoder and decoder of one masked picture, see `mae_multiply_adds`."""
        return 2.0 * TRAINING * sum(mae_multiply_adds(self.model)), jnp.dtype(self.model.dtype).name

    def example(self, *, train: bool) -> CropExample:
        """What is made of a record."""
        percentiles = tuple(self.data["percentiles"]) or None
        return CropExample(self.model.canvas, train=train, percentiles=percentiles, **self.data["crop"])

    def batch_shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch; reads no data."""
        return batch_shapes(self.example(train=True), batch_size)

    def batches(
        self,
        split: str,
        *,
        batch_size: int,
        start: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        seed: int = 0,
        workdir: pathlib.Path | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of `CropExample`s: "train" endless, shuffled and cropped at random, "eval" once."""
        train = split == "train"
        source = records_of(self.data, split, limit=self.eval["limit"])
        return load(
            source,
            self.example(train=train),
            self.data,
            train=train,
            batch_size=batch_size,
            start=start,
            process_index=process_index,
            process_count=process_count,
            seed=seed,
            workdir=workdir,
        )

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The loss on the evaluation split, and a sheet of pictures: masked, reconstructed, original.

        Each picture is masked the same way every time, whatever the batch or the number of devices. With norm_pix, a
        loss of 1 is what predicting every patch's own mean would get.

        Raises CheckpointError for variables of another model than the config's: flax would ignore a surplus of them.
        """
        check_variables(jax.eval_shape(self.init, jax.random.key(0)), variables, source="what is to be measured")
        sums, weights, shown = [], [], None
        for batch in measured_batches(self.batches, self.eval["batch_size"], mesh):
            placed = place_batch(batch | {"example": batch["index"].astype(np.int32)}, mesh)
            loss, weight, pictures = to_host(self._measure(variables, placed))
            sums.append(loss)
            weights.append(weight)
            shown = pictures if shown is None else shown
        if not (total := math.fsum(weights)):
            raise ValueError(f"nothing to measure: none of the pictures of {self.data['eval_split']!r} could be read")
        numbers = {"eval_loss": math.fsum(sums) / total}
        if not self.eval["pictures"]:
            return numbers, {}
        kept = np.flatnonzero(shown.pop("weight"))[: self.eval["pictures"]]
        sheet = viz.reconstruction_sheet(**{name: rows[kept] for name, rows in shown.items()})
        return numbers, {"reconstruction": sheet}

    def _measured(self, variables, batch):
        keys = jax.vmap(lambda example: jax.random.fold_in(jax.random.key(0), example))(batch["example"])
        loss, weight, (prediction, masked) = self._scored(variables, batch, self.model.noise(keys))
        first = slice(None, max(self.eval["pictures"], 1) * 2)  # twice as many, for some may be placeholders
        images = batch["image"][first]
        kind = dict(patch=self.model.patch, norm_pix=self.model.norm_pix)
        pictures = {
            "images": images,
            "predicted": predicted_images(prediction[first], images, **kind),
            "masked": jnp.reshape(masked[first], (-1, *self.model.grid)),
            "weight": batch["weight"][first],
        }
        return loss, weight, pictures
