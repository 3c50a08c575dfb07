"""The detection task: Mask R-CNN, its loss and its evaluation, for the training loop.

The terms of the loss are in `segjax.tasks.detection.loss`, the batches in
`segjax.tasks.detection.batches`.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.data.mixture import parse_mixture
from segjax.data.splits import describe_categories
from segjax.evaluation.detection_scores import DetectionScores
from segjax.inference.detection.class_names import resolve_classes
from segjax.inference.detection.postprocess import detect_on_canvas
from segjax.inference.detection.sam_refinement import make_mask_refiner
from segjax.models.detection.build import build_mask_rcnn, mask_rcnn_options
from segjax.models.detection.flops import count_detector_multiply_adds
from segjax.models.detection.fpn import VitBackbone
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.detection.resnet import ResNet
from segjax.models.flops import TRAINING
from segjax.tasks.detection.batches import DetectionBatches
from segjax.tasks.detection.config import DetectionSettings, miniature
from segjax.tasks.detection.data_checks import (
    check_settings,
    describe_missing_loss,
)
from segjax.tasks.detection.evaluation import NOT_TERMS, DetectionEvaluator, score_batches
from segjax.tasks.detection.init_from import load_detector_start
from segjax.tasks.detection.loss import SampleCounts, compute_loss_terms
from segjax.tasks.detection.report import print_skipped, write_report


class Detection(DetectionBatches):
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
    shown_metrics = (
        "loss",
        "classes",
        "masks",
        "dropped",
        "bbox/AP",
        "segm/AP",
        "segm/AP50",
        "panoptic/PQ",
    )
    miniature = staticmethod(miniature)
    build = staticmethod(build_mask_rcnn)
    model_options = staticmethod(mask_rcnn_options)

    def __init__(self, config: ml_collections.ConfigDict):
        # The config is saved with the run, so the number of classes must be final here.
        if config.model.get("classes") == 0:
            config.model.classes = len(describe_categories(config.data.to_dict())["category_ids"])
        super().__init__(config)
        self.samples = SampleCounts(**config.samples.to_dict())
        check_settings(self.data, self.samples)
        self._refine = None
        if self.eval["refine"]:
            self._refine = make_mask_refiner(self.eval["refine"], self.eval["refine_if"])
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
        # One key samples anchors and regions, the other one drops paths.
        draw_key, drop_key = jax.random.split(key)
        rngs = {"drop_path": drop_key} if train else {}
        arguments = (batch, draw_key, self.samples, train)
        terms, filled = self.model.apply(
            variables, *arguments, method=compute_loss_terms, rngs=rngs
        )
        real = (batch["weight"] > 0).astype(jnp.float32)
        images = jnp.sum(real)
        # The step sums metrics over microbatches and divides by the number of images.
        metrics = {name: term * images for name, term in terms.items()}
        counted = jnp.sum(batch["dropped"] * real), jnp.sum(filled * real)
        metrics |= dict(zip(NOT_TERMS, counted, strict=True))
        return sum(terms.values()) * images, images, metrics

    def flops(self) -> tuple[float, str]:
        """Returns the training FLOPs of one image with all its samples, and the compute dtype.

        Frozen stages count their forward pass alone. See `count_detector_multiply_adds`. The count
        is 0, which means unknown, for a backbone of a user's own.
        """
        if not isinstance(self.model.backbone, (ResNet, VitBackbone)):
            return 0.0, jnp.dtype(self.model.dtype).name
        count = count_detector_multiply_adds(self.model, self.canvas("train"))
        trained = (
            count.image
            + self.samples.regions * count.region
            + self.samples.objects * count.foreground
        )
        return 2.0 * (count.frozen + TRAINING * trained), jnp.dtype(self.model.dtype).name

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
          "panoptic/PQ", "panoptic/SQ", "panoptic/RQ" and others, see `PanopticEvaluator`.
          "left_out", "unread": see `DetectionEvaluator`, present where they are not 0.
          "eval_loss" and its terms, with `config.eval.loss`: mean training loss on whole images,
            with the same random samples each time.

        Raises:
          CheckpointError: The variables belong to another model than the config's.
          ValueError: The loss is wanted, and the data's classes are not the model's, in order.
        """
        batches = self.evaluation_batches(variables, mesh)
        evaluator = DetectionEvaluator(self.model, self.data, self.eval, self._refine)
        if self.eval["loss"] and not evaluator.has_same_classes:
            reason = "the model's classes in another order"
            raise ValueError(describe_missing_loss(self.data, reason))
        return score_batches(
            evaluator,
            batches,
            detect=functools.partial(self._detect, variables),
            measure_loss=functools.partial(self._eval_loss, variables)
            if self.eval["loss"]
            else None,
            mesh=mesh,
        )

    @classmethod
    def prepare_evaluation(
        cls, config: ml_collections.ConfigDict, model: MaskRcnn, saved: Mapping[str, Any]
    ) -> None:
        """Sets the label names from the checkpoint, and reports the images that were skipped."""
        if not config.eval.label_names:
            config.eval.label_names = resolve_classes(model, saved).names
            for entry in parse_mixture(config.data.to_dict()):
                print_skipped(entry.source, entry.eval_split)

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
