"""The detection task: Mask R-CNN, its examples, its loss and its evaluation for the training loop.

The terms of the loss are in `segjax.tasks.detection.loss`.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.data.aspect_batches import AspectGroupedExample, AspectGroupedOrder
from segjax.data.examples.copy_paste import CopyPaste
from segjax.data.examples.detection import DetectionExample
from segjax.data.examples.place_objects import find_left_right_pairs
from segjax.data.repeat_factor import RepeatFactorSource
from segjax.data.splits import describe_categories
from segjax.evaluation.detection_scores import DetectionScores
from segjax.inference.detection.canvases import list_default_canvases
from segjax.inference.detection.class_names import resolve_classes
from segjax.inference.detection.postprocess import detect_on_canvas
from segjax.inference.detection.sam_refinement import make_mask_refiner
from segjax.models.detection.build import build_mask_rcnn, mask_rcnn_options
from segjax.models.detection.flops import count_detector_multiply_adds
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.flops import TRAINING
from segjax.tasks.detection.config import DetectionSettings, detection_config, miniature
from segjax.tasks.detection.data_checks import (
    check_classes,
    check_settings,
    describe_missing_loss,
    get_keypoint_names,
)
from segjax.tasks.detection.evaluation import DetectionEvaluator, compute_mean_loss
from segjax.tasks.detection.example import build_detection_example
from segjax.tasks.detection.init_from import load_detector_start
from segjax.tasks.detection.loss import SampleCounts, compute_loss_terms
from segjax.tasks.detection.report import print_skipped, write_report
from segjax.tasks.record_task import RecordTask, make_batches
from segjax.training.sharding import place_batch, to_host

NOT_TERMS = ("dropped", "proposals")  # metrics that are not terms of the loss
DETECTION_INPUTS = ("image", "size", "original", "weight", "example")


class Detection(RecordTask):
    """Detection task.

    If `config.model.classes` is 0, the number of categories of the data replaces it in the config,
    and so in the run's folder.

    Args:
      config: see `detection_config`.

    Raises:
      ValueError: No sampled region could be positive, two settings contradict each other, or the
        SAM of `config.eval.refine` cannot be loaded.
    """

    settings = DetectionSettings
    defaults = staticmethod(detection_config)
    miniature = staticmethod(miniature)
    build = staticmethod(build_mask_rcnn)
    model_options = staticmethod(mask_rcnn_options)
    model: MaskRcnn

    def __init__(self, config: ml_collections.ConfigDict):
        if config.model.get("classes") == 0:
            config.model.classes = len(describe_categories(config.data.to_dict())["category_ids"])
        super().__init__(config)
        self.samples = SampleCounts(**config.samples.to_dict())
        check_settings(self.data, self.samples)
        self._refine = None
        if self.eval["refine"]:
            self._refine = make_mask_refiner(self.eval["refine"], self.eval["refine_if"])
        self._sources: dict[str, Sequence] = {}
        self._detect = jax.jit(self._detect_on_canvas)
        self._eval_loss = jax.jit(self._compute_eval_loss)

    def load_pretrained(self, kind: str, path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
        """Loads a pretrained backbone or detector, see `load_detector_start`."""
        return load_detector_start(kind, path, self.model, expected)

    def loss(
        self,
        variables: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Computes the sum of the loss terms, times the number of images.

        The step divides by the number of images, which leaves the sum of the terms. Each term has
        its own count, so several microbatches differ slightly from one batch.

        Returns:
          loss: float32 scalar, see `compute_loss_terms`.
          images: float32 scalar, number of images that are not placeholders.
          metrics: the terms times `images`, "dropped" (objects beyond `config.data.max_objects`),
            and "proposals" (share of filled proposal slots).
        """
        draw_key, drop_key = jax.random.split(key)
        rngs = {"drop_path": drop_key} if train else {}
        arguments = (batch, draw_key, self.samples, train)
        terms, filled = self.model.apply(
            variables, *arguments, method=compute_loss_terms, rngs=rngs
        )
        real = (batch["weight"] > 0).astype(jnp.float32)
        images = jnp.sum(real)
        metrics = {name: term * images for name, term in terms.items()}
        counted = jnp.sum(batch["dropped"] * real), jnp.sum(filled * real)
        metrics |= dict(zip(NOT_TERMS, counted, strict=True))
        return sum(terms.values()) * images, images, metrics

    def canvas(self, split: str) -> tuple[int, int]:
        """Returns (height, width) in pixels of the canvases of "train" or "eval".

        The setting `canvas` of the split comes first. Otherwise, images grouped by orientation get
        the widest default canvas (upright for portrait images), and all others the model's square.
        """
        own = (self.data if split == "train" else self.eval)["canvas"]
        if split == "train" and self.data["by_orientation"] and not own:
            return max(list_default_canvases(self.model), key=lambda hw: hw[1] / hw[0])
        return tuple(own) or (self.model.canvas,) * 2

    def describe_classes(self) -> dict[str, tuple]:
        """Returns the names and ids of the categories and the keypoint names of the data."""
        return describe_categories(self.data)

    @property
    def batch_shape_count(self) -> int:
        """Number of batch shapes in training: 2 if images are grouped by orientation."""
        height, width = self.canvas("train")
        return 2 if self.data["by_orientation"] and height != width else 1

    def flops(self) -> tuple[float, str]:
        """Returns the training FLOPs of one image with all its samples, and the compute dtype.

        Frozen stages count their forward pass alone. See `count_detector_multiply_adds`.
        """
        count = count_detector_multiply_adds(self.model, self.canvas("train"))
        trained = (
            count.image
            + self.samples.regions * count.region
            + self.samples.objects * count.foreground
        )
        return 2.0 * (count.frozen + TRAINING * trained), jnp.dtype(self.model.dtype).name

    def build_example(
        self,
        *,
        train: bool,
        keypoint_pairs: tuple[tuple[int, int], ...] = (),
        portrait: bool = False,
    ) -> DetectionExample:
        """Returns the function that makes an example of a record.

        Args:
          train: True for training, False for evaluation.
          keypoint_pairs: indices of the keypoints that a mirrored image swaps.
          portrait: True for the canvas upright, for portrait images.
        """
        canvas = self.canvas("train" if train else "eval")
        return build_detection_example(
            self.model,
            self.data,
            canvas[::-1] if portrait else canvas,
            train=train,
            needs_loss=train or self.eval["loss"],
            keypoint_pairs=keypoint_pairs,
        )

    def open_source(self, split: str) -> Sequence:
        """Returns the records of a split, in training with repeat factor sampling if it is set.

        Raises:
          ValueError: A loss is needed, and the data has another number of classes than the model.
        """
        if split not in self._sources:
            source, threshold = super().open_source(split), self.data["repeat_threshold"]
            check_classes(self.data, self.model, split=split, needs_loss=self.eval["loss"])
            if split == "train" and threshold:
                source = RepeatFactorSource(source, threshold)
            self._sources[split] = source
        return self._sources[split]

    def build_split_example(
        self, split: str, *, portrait: bool = False
    ) -> DetectionExample | CopyPaste:
        """Returns the function that makes the examples of a split, with copy-paste if it is set.

        Raises:
          ValueError: The data has another number of keypoints than the model.
        """
        train, pairs = split == "train", ()
        if train or self.eval["loss"]:
            pairs = find_left_right_pairs(get_keypoint_names(self.data, self.model))
        example = self.build_example(train=train, keypoint_pairs=pairs, portrait=portrait)
        if not train or not self.data["copy_paste"]:
            return example
        return CopyPaste(example, self.open_source(split), probability=self.data["copy_paste"])

    def batches(
        self, split: str, *, batch_size: int, seed: int = 0, **place: Any
    ) -> Iterator[dict[str, np.ndarray]]:
        """Opens a split, see `RecordTask.batches`.

        With `config.data.by_orientation`, the images of a training batch are all landscape or all
        portrait.
        """
        if split != "train" or not self.data["by_orientation"]:
            return super().batches(split, batch_size=batch_size, seed=seed, **place)
        source = self.open_source(split)
        order = AspectGroupedOrder(source, batch_size, seed)
        makers = (self.build_split_example(split, portrait=portrait) for portrait in (False, True))
        options = dict(train=True, order=order, batch_size=batch_size, seed=seed) | place
        return make_batches(source, AspectGroupedExample(*makers, order), self.data, **options)

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Returns the metrics of the log, and a sheet of ground truth beside detections."""
        scores = self.detection_scores(variables, mesh=mesh)
        images = {} if scores.sheet is None else {"detections": scores.sheet}
        return scores.summarize_for_log(), images

    def detection_scores(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> DetectionScores:
        """Computes COCO's scores of the evaluation split, in pixels of the original images.

        Kinds: boxes ("bbox"), masks ("segm"), boundaries ("boundary", with `config.eval.boundary`)
        and keypoints. If `config.eval.refine` names a SAM, its masks are the ones that count.

        `DetectionScores.shares` holds further numbers:
          "detections_full": share of images in which every detection slot was filled.
          "left_out", "unread": see `DetectionEvaluator`, present where they are not 0.
          "eval_loss" and its terms, with `config.eval.loss`: mean training loss on whole images,
            with the same random samples each time.

        Raises:
          CheckpointError: The variables belong to another model than the config's.
          ValueError: The loss is wanted, and the data's classes are not the model's, in order.
        """
        batches = self.evaluation_batches(variables, mesh)
        evaluator, losses = DetectionEvaluator(self.model, self.data, self.eval, self._refine), []
        if self.eval["loss"] and not evaluator.has_same_classes:
            reason = "the model's classes in another order"
            raise ValueError(describe_missing_loss(self.data, reason))
        for number, batch in enumerate(batches):
            batch["example"] = batch["index"].astype(np.int32)
            placed = place_batch(batch, mesh)
            inputs = {name: placed[name] for name in DETECTION_INPUTS}
            evaluator.add(to_host(self._detect(variables, inputs)))
            if self.eval["loss"]:
                losses.append(to_host(self._eval_loss(variables, placed, number)))
        scores = evaluator.compute_scores()
        if not losses:
            return scores
        shares = scores.shares | compute_mean_loss(losses, NOT_TERMS)
        return dataclasses.replace(scores, shares=shares)

    @classmethod
    def prepare_evaluation(
        cls, config: ml_collections.ConfigDict, model: MaskRcnn, saved: Mapping[str, Any]
    ) -> None:
        """Sets the label names for `segjax eval` from the checkpoint, and reports skipped images."""
        if not config.eval.label_names:
            config.eval.label_names = resolve_classes(model, saved).names
            print_skipped(config.data.source, config.data.eval_split)

    def write_evaluation(
        self,
        measured: Mapping[str, Mapping[str, Any]],
        out: pathlib.Path | None,
        *,
        title: str,
        mesh: jax.sharding.Mesh,
    ) -> str:
        """Evaluates variables for `segjax eval`, see `write_report`."""
        scores = {
            name: self.detection_scores(variables, mesh=mesh)
            for name, variables in measured.items()
        }
        return write_report(scores, out, title=title, min_score=self.eval["shown_score"])

    def _detect_on_canvas(self, variables, batch):
        """Returns the detections of a batch, and the fields that identify its images."""
        rows = detect_on_canvas(self.model, variables, batch["image"], batch["size"])
        return rows | {name: batch[name] for name in ("size", "original", "weight", "example")}

    def _compute_eval_loss(self, variables, batch, number):
        """Computes the loss of one evaluation batch, with samples that depend on its number."""
        return self.loss(variables, batch, jax.random.fold_in(jax.random.key(0), number), False)
