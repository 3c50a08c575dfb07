"""Naming pictures: a classifier trained whole (fine-tuning) or on frozen features (the linear probe), for the loop."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from segjax import viz
from segjax.data.examples.crop import CropExample
from segjax.data.examples.labeled import LabeledExample, check_labels
from segjax.data.splits import SpreadRecords, list_categories, open_split
from segjax.evaluation.classification import ClassificationScores
from segjax.evaluation.nearest_neighbors import compute_neighbor_votes
from segjax.models.classifier import Classifier, build_classifier
from segjax.models.flops import TRAINING, classifier_multiply_adds
from segjax.ops.mixing import mix, smooth_labels
from segjax.ops.resize_crops import resize_crops
from segjax.tasks.classification.config import ClassificationSettings, classification_config, miniature
from segjax.tasks.init_from import classifier_from_mae
from segjax.tasks.record_task import RecordTask, load, measured_batches
from segjax.training.sharding import place_batch, to_host

logger = logging.getLogger(__name__)


class Classification(RecordTask):
    """The task of `config` (see `classification_config`): all that the loop asks for."""

    settings = ClassificationSettings
    defaults = staticmethod(classification_config)
    miniature = staticmethod(miniature)
    build = staticmethod(build_classifier)
    model: Classifier

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self.mix = config.mix.to_dict()
        self._measure = jax.jit(self._measured)
        self._embed = jax.jit(lambda variables, batch: self._features(variables, batch["image"]))

    def load_pretrained(self, kind: str, path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
        """Kind "mae": the encoder, see `classifier_from_mae`. Raises ValueError for any other."""
        if kind != "mae":
            raise ValueError(
                f"a classifier starts from its own checkpoints or from a MAE, 'mae:PATH'; got '{kind}:{path}'"
            )
        return classifier_from_mae(path, self.model, expected)

    def measure_constants(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> dict[str, Any]:
        """Mean and variance of a frozen encoder's features over `data.statistics` training pictures; {} for others.

        The paper's batch norm takes them anew from every batch of 16,384 pictures.
        """
        if not self.model.frozen:
            return {}
        features, _ = self._embedded(
            variables, self._training_pictures(self.data["statistics"]), mesh
        )
        logger.info("frozen features are standardised over %d training pictures", len(features))
        wide = features.astype(np.float64)
        statistics = {"mean": wide.mean(axis=0), "variance": wide.var(axis=0)}
        return {
            "statistics": {name: values.astype(np.float32) for name, values in statistics.items()}
        }

    def loss(
        self,
        variables: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Cross-entropy of a batch of `LabeledExample`s, mixed as `config.mix` says: sums over pictures, their number.

        The metric "top1" counts the pictures of which the most visible class is named.
        """
        mix_key, drop_key = jax.random.split(key)
        options = dict(self.mix)
        smoothing = options.pop("smoothing")
        targets = smooth_labels(batch["label"], self.model.classes, smoothing if train else 0.0)
        images, weight = batch["image"], batch["weight"]
        if "window" in batch:
            images = resize_crops(images, batch["window"], self.model.canvas)
        if train and (options["mixup"] or options["cutmix"]):
            images, targets = mix(images, targets, weight, mix_key, **options)
        logits = self.model.apply(
            variables, images, train=train, rngs={"drop_path": drop_key} if train else {}
        )
        right = logits.argmax(axis=-1) == targets.argmax(axis=-1)
        losses = optax.softmax_cross_entropy(logits, targets)
        return jnp.sum(losses * weight), jnp.sum(weight), {"top1": jnp.sum(right * weight)}

    def flops(self) -> tuple[float, str]:
        """Encoder and head of one picture; a frozen encoder runs forward alone."""
        encoder, head = classifier_multiply_adds(self.model)
        return 2.0 * (
            encoder * (1 if self.model.frozen else TRAINING) + TRAINING * head
        ), jnp.dtype(self.model.dtype).name

    def example(self, *, train: bool) -> LabeledExample:
        """What is made of a record."""
        percentiles = tuple(self.data["percentiles"]) or None
        crop = CropExample(
            self.model.canvas, train=train, percentiles=percentiles, **self.data["crop"]
        )
        return LabeledExample(crop, self.data["label"], self.model.classes)

    def source(self, split: str) -> Sequence:
        """The records of a split. Raises ValueError for records without labels, or of more classes than the model's."""
        source = super().source(split)
        self._check(source, split)
        return source

    def _check(self, source: Sequence, split: str) -> None:
        name = f"{self.data['source']!r}, split {split!r}"
        check_labels(source, self.data["label"], name)
        known = len(list_categories(self.data))
        if known > self.model.classes:
            raise ValueError(
                f"{self.data['source']!r} has {known} classes, the model {self.model.classes}; set "
                f"config.model.classes={known}"
            )

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """`ClassificationScores.numbers` of the evaluation split, and a sheet of pictures with given and named class.

        With `config.eval.neighbours` = k also "knn@k", the share that the vote of the k nearest training pictures names
        rightly: of the features alone, the head has no say in it.

        Raises CheckpointError for variables of another model than the config's: flax would ignore a surplus of them.
        """
        scores, seen, shown = ClassificationScores(self.model.classes), [], []
        for batch in self.measured_batches(variables, mesh):
            rows = to_host(self._measure(variables, place_batch(batch, mesh)))
            scores.add(rows["logits"], rows["label"], rows["loss"], rows["weight"])
            kept = np.flatnonzero(rows["weight"])
            seen.append((rows["features"][kept], rows["label"][kept]))
            if (missing := self.eval["pictures"] - sum(len(images) for images, *_ in shown)) > 0:
                some = kept[kept < len(rows["image"])][:missing]
                shown.append(
                    (rows["image"][some], rows["label"][some], rows["logits"][some].argmax(axis=1))
                )
        if not scores.count:
            raise ValueError(
                f"nothing to measure: no picture of {self.data['eval_split']!r} could be read and has a class"
            )
        numbers = scores.summarize()
        if self.eval["neighbours"]:
            numbers |= self._neighbours(
                variables, *map(np.concatenate, zip(*seen, strict=True)), mesh
            )
        if not self.eval["pictures"]:
            return numbers, {}
        images, given, named = map(np.concatenate, zip(*shown, strict=True))
        return numbers, {
            "classes": viz.draw_classification_sheet(images, given, named, list_categories(self.data))
        }

    def _neighbours(self, variables, features, labels, mesh) -> dict[str, float]:
        bank, bank_labels = self._embedded(
            variables, self._training_pictures(self.eval["bank"]), mesh
        )
        k, temperature = self.eval["neighbours"], self.eval["temperature"]
        votes = compute_neighbor_votes(
            features, bank, bank_labels, classes=self.model.classes, k=k, temperature=temperature
        )
        return {f"knn@{k}": float(np.mean(votes.argmax(axis=1) == labels))}

    def _training_pictures(self, count: int) -> Sequence:
        source = open_split(self.data, "train")
        return SpreadRecords(source, count) if count else source

    def _embedded(self, variables, source, mesh) -> tuple[np.ndarray, np.ndarray]:
        """Features [N, width] and labels [N] of the middle of each picture that has a label."""
        self._check(source, "train")
        batches = lambda _, **place: load(
            source, self.example(train=False), self.data, train=False, **place
        )
        rows = []
        for batch in measured_batches(batches, self.eval["batch_size"], mesh):
            placed = place_batch(batch, mesh)
            features, label, weight = to_host(
                (self._embed(variables, placed), placed["label"], placed["weight"])
            )
            rows.append((features[weight > 0], label[weight > 0]))
        features, labels = map(np.concatenate, zip(*rows, strict=True))
        if not len(features):
            raise ValueError(
                f"none of the training pictures of {self.data['source']!r} could be read and has a class"
            )
        return features, labels

    def _features(self, variables, images):
        return self.model.apply(variables, images, method="features")

    def _measured(self, variables, batch):
        features = self._features(variables, batch["image"])
        logits = self.model.apply(variables, features, method="classify")
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        rows = {"features": features, "logits": logits, "loss": losses}
        some = batch["image"][
            : max(self.eval["pictures"], 1)
        ]  # to be shown; all of them would only be copied
        return rows | {"label": batch["label"], "weight": batch["weight"], "image": some}
