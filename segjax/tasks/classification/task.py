"""Image classification: fine-tuning of a whole ViT, or a linear probe on frozen features."""

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
from segjax.models.flops import TRAINING, count_classifier_multiply_adds
from segjax.ops.mixing import mix_images, smooth_labels
from segjax.ops.resize import resize_crops
from segjax.tasks.classification.config import (
    ClassificationSettings,
    miniature,
)
from segjax.tasks.init_from import load_classifier_encoder
from segjax.tasks.record_task import RecordTask, make_batches, open_evaluation_batches
from segjax.training.sharding import place_batch, to_host

logger = logging.getLogger(__name__)


class Classification(RecordTask):
    """Task that trains an image classifier. Its settings are `ClassificationSettings`."""

    settings = ClassificationSettings
    miniature = staticmethod(miniature)
    build = staticmethod(build_classifier)
    shown_metrics = ("loss", "top1", "eval_loss")
    model: Classifier

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        self.mix = config.mix.to_dict()
        self._score = jax.jit(self._score_batch)
        self._embed = jax.jit(
            lambda variables, batch: self._extract_features(variables, batch["image"])
        )

    def load_pretrained(self, kind: str, path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
        """Loads the encoder of a MAE ("mae:PATH"); see `load_classifier_encoder`.

        Raises:
          ValueError: another kind.
        """
        if kind != "mae":
            raise ValueError(
                "a classifier starts from its own checkpoints or from a MAE, 'mae:PATH'; got "
                f"'{kind}:{path}'"
            )
        return load_classifier_encoder(path, self.model, expected)

    def measure_constants(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> dict[str, Any]:
        """Returns mean and variance of a frozen encoder's features, {} for a trained encoder.

        They are measured once, on `config.data.statistics` training images. The paper's batch norm
        takes them from every batch of 16,384 images instead (MAE, appendix A.1).
        """
        if not self.model.frozen:
            return {}
        images = self._open_training_images(self.data["statistics"])
        features, _ = self._embed_records(variables, images, mesh)
        logger.info("frozen features are standardized over %d training images", len(features))
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
        """Computes the cross-entropy of a batch, with mixup, CutMix and label smoothing.

        Args:
          variables: {"params", "constants"}.
          batch: `LabeledExample`s: image uint8 [B, canvas, canvas, 3], label int32 [B] and weight
            [B]. With "window", the images are frames that are cropped and resized here.
          key: typed PRNG key, for mixing and drop path.
          train: True in training. Otherwise images are not mixed and labels not smoothed.

        Returns:
          (sum over images, number of images, {"top1": number of images whose most probable class is
          right; of a mixed image, the class of its larger part}).
        """
        mix_key, drop_key = jax.random.split(key)
        options = dict(self.mix)
        smoothing = options.pop("smoothing")
        targets = smooth_labels(batch["label"], self.model.classes, smoothing if train else 0.0)
        images, weight = batch["image"], batch["weight"]
        if "window" in batch:
            images = resize_crops(images, batch["window"], self.model.canvas)
        # Mixup and CutMix
        if train and (options["mixup"] or options["cutmix"]):
            images, targets = mix_images(images, targets, weight, mix_key, **options)
        # Cross-entropy with soft targets
        logits = self.model.apply(
            variables, images, train=train, rngs={"drop_path": drop_key} if train else {}
        )
        correct = logits.argmax(axis=-1) == targets.argmax(axis=-1)
        losses = optax.softmax_cross_entropy(logits, targets)
        return jnp.sum(losses * weight), jnp.sum(weight), {"top1": jnp.sum(correct * weight)}

    def flops(self) -> tuple[float, str]:
        """Returns the FLOPs of one image in training, and their dtype.

        A frozen encoder runs forward alone.
        """
        encoder, head = count_classifier_multiply_adds(self.model)
        encoder_passes = 1 if self.model.frozen else TRAINING
        multiply_adds = encoder * encoder_passes + TRAINING * head
        return 2.0 * multiply_adds, jnp.dtype(self.model.dtype).name

    def build_example(self, *, train: bool) -> LabeledExample:
        """Returns the function from a record to an example."""
        crop = CropExample(
            self.model.canvas,
            train=train,
            percentiles=tuple(self.data["percentiles"]) or None,
            **self.data["crop"],
        )
        return LabeledExample(crop, self.data["label"], self.model.classes)

    def open_source(self, split: str) -> Sequence:
        """Opens the records of a split.

        Raises:
          ValueError: records without labels, or with more classes than the model has.
        """
        source = super().open_source(split)
        self._check_classes(source, split)
        return source

    def _check_classes(self, source: Sequence, split: str) -> None:
        name = f"{self.data['source']!r}, split {split!r}"
        check_labels(source, self.data["label"], name)
        count = len(list_categories(self.data))
        if count > self.model.classes:
            raise ValueError(
                f"{self.data['source']!r} has {count} classes, the model {self.model.classes}; set "
                f"config.model.classes={count}"
            )

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Measures accuracy on the evaluation split and draws a sheet of classified images.

        Args:
          variables: to be evaluated.
          mesh: to evaluate on.

        Returns:
          `ClassificationScores.summarize`, with `config.eval.neighbours` = k also "knn@k": the
          accuracy of a vote of the k nearest training images, by the features without the head.
          And {"classes": uint8 [H, W, 3]}, images with their true and their predicted class.

        Raises:
          CheckpointError: variables of another model than the config's.
          ValueError: no image of the split can be read and has a class.
        """
        scores, embedded, shown = ClassificationScores(self.model.classes), [], []
        for batch in self.evaluation_batches(variables, mesh):
            rows = to_host(self._score(variables, place_batch(batch, mesh)))
            scores.add(rows["logits"], rows["label"], rows["loss"], rows["weight"])
            real = np.flatnonzero(rows["weight"])
            embedded.append((rows["features"][real], rows["label"][real]))
            # Images for the sheet, until there are enough
            missing = self.eval["pictures"] - sum(len(images) for images, *_ in shown)
            if missing > 0:
                some = real[real < len(rows["image"])][:missing]
                predicted = rows["logits"][some].argmax(axis=1)
                shown.append((rows["image"][some], rows["label"][some], predicted))
        if not scores.count:
            raise ValueError(
                f"nothing to measure: no image of {self.data['eval_split']!r} could be read and "
                "has a class"
            )
        # Metrics and sheet
        metrics = scores.summarize()
        if self.eval["neighbours"]:
            features, labels = map(np.concatenate, zip(*embedded, strict=True))
            metrics |= self._score_neighbors(variables, features, labels, mesh)
        if not self.eval["pictures"]:
            return metrics, {}
        images, labels, predicted = map(np.concatenate, zip(*shown, strict=True))
        categories = list_categories(self.data)
        sheet = viz.draw_classification_sheet(images, labels, predicted, categories)
        return metrics, {"classes": sheet}

    def _score_neighbors(
        self,
        variables: Mapping[str, Any],
        features: np.ndarray,
        labels: np.ndarray,
        mesh: jax.sharding.Mesh,
    ) -> dict[str, float]:
        """Returns {"knn@k"}, the accuracy of a vote of the k nearest training images."""
        bank, bank_labels = self._embed_records(
            variables, self._open_training_images(self.eval["bank"]), mesh
        )
        k = self.eval["neighbours"]
        votes = compute_neighbor_votes(
            features,
            bank,
            bank_labels,
            classes=self.model.classes,
            k=k,
            temperature=self.eval["temperature"],
        )
        return {f"knn@{k}": float(np.mean(votes.argmax(axis=1) == labels))}

    def _open_training_images(self, count: int) -> Sequence:
        """Opens `count` training records, spread evenly over the split, or all for 0."""
        source = open_split(self.data, "train")
        return SpreadRecords(source, count) if count else source

    def _embed_records(
        self, variables: Mapping[str, Any], source: Sequence, mesh: jax.sharding.Mesh
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns features [N, width] and labels [N] of the center crops of labeled images."""
        self._check_classes(source, "train")

        def batches(_: str, **position: int):
            example = self.build_example(train=False)
            return make_batches(source, example, self.data, train=False, **position)

        rows = []
        for batch in open_evaluation_batches(batches, self.eval["batch_size"], mesh):
            placed = place_batch(batch, mesh)
            features, label, weight = to_host(
                (self._embed(variables, placed), placed["label"], placed["weight"])
            )
            rows.append((features[weight > 0], label[weight > 0]))
        features, labels = map(np.concatenate, zip(*rows, strict=True))
        if not len(features):
            raise ValueError(
                f"no training image of {self.data['source']!r} could be read and has a class"
            )
        return features, labels

    def _extract_features(self, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        return self.model.apply(variables, images, method="features")

    def _score_batch(
        self, variables: Mapping[str, Any], batch: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Returns features, logits and losses of a batch, and images for the sheet."""
        features = self._extract_features(variables, batch["image"])
        logits = self.model.apply(variables, features, method="classify")
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        # Only as many images as the sheet shows are copied to the host.
        images = batch["image"][: max(self.eval["pictures"], 1)]
        rows = {"features": features, "logits": logits, "loss": losses, "image": images}
        return rows | {"label": batch["label"], "weight": batch["weight"]}
