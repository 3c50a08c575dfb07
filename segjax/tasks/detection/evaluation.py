"""Evaluates a detector on the evaluation split, in pixels of the original images."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segjax.data.examples.detection import place_evaluated_image
from segjax.data.examples.place_objects import decode_record_image
from segjax.data.splits import describe_categories, get_keypoint_sigmas, list_stuff
from segjax.evaluation.coco import CocoScores, evaluate_coco
from segjax.evaluation.coco_format import build_coco_ground_truth
from segjax.evaluation.coco_results import CocoResults
from segjax.evaluation.detection_scores import DetectionScores
from segjax.inference.detection.postprocess import ImageDetections, to_image_frame
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.tasks.detection.label_classes import match_labels_to_classes
from segjax.tasks.detection.panoptic import PanopticEvaluator
from segjax.tasks.detection.sheet import draw_sheet
from segjax.tasks.record_task import open_records
from segjax.training.sharding import place_batch, to_host

NOT_TERMS = ("dropped", "proposals")  # metrics that are not terms of the loss
DETECTION_INPUTS = ("image", "size", "original", "weight", "example")


class DetectionEvaluator:
    """Collects detections batch by batch and scores them against the ground truth.

    Args:
      model: the detector.
      data: `config.data` as a dict.
      settings: `config.eval` as a dict.
      refine: function of (image uint8 [H, W, 3], detections) that returns the detections to score,
        for example from `make_mask_refiner`. None scores the detector's own.

    Raises:
      ValueError: The categories or keypoints of the data do not fit the model, see
        `match_labels_to_classes`.
    """

    def __init__(
        self,
        model: MaskRcnn,
        data: Mapping[str, Any],
        settings: Mapping[str, Any],
        refine: Callable[[np.ndarray, ImageDetections], ImageDetections] | None = None,
    ):
        self.model, self.data, self.settings = model, data, settings
        # Categories and keypoints of the data, which may differ from the model's
        known = describe_categories(data)
        self.names, keypoints = known["categories"], len(known["keypoint_names"])
        if model.keypoints and keypoints not in (0, model.keypoints):
            raise ValueError(
                f"{data['source']!r} has {keypoints} keypoints, the model {model.keypoints}; "
                "expected as many or none; without keypoints, boxes and masks are evaluated"
            )
        self._keypoints = bool(model.keypoints and keypoints)
        self._classes = match_labels_to_classes(
            model.classes,
            settings["label_names"],
            self.names,
            known["category_ids"],
            source=data["source"],
        )
        self._refine = refine
        # Ground truth of the split. No image is decoded for it.
        self.source = open_records(data, "eval", limit=settings["limit"])
        records = (self.source[index] for index in range(len(self.source)))
        self.ground_truth = build_coco_ground_truth(records, **known)
        self.results = CocoResults(self.ground_truth)
        # Data without the stuff of the model gets no panoptic scores.
        stuff, head = list_stuff(data), model.semantic_head
        self._panoptic = None
        if head is not None and model.mask_head is not None and len(stuff) == head.classes:
            self._panoptic = PanopticEvaluator(self.names, stuff)
        self._full: dict[int, bool] = {}  # by image: no detection slot was left
        self._known: dict[int, np.ndarray] = {}  # by image: detections of a category of the data

    @property
    def has_same_classes(self) -> bool:
        """Returns True if every label k means category k - 1 of the data."""
        return self._classes == {index + 1: index for index in range(self.model.classes)}

    def add(self, rows: Mapping[str, np.ndarray]) -> None:
        """Adds the detections of one global batch.

        Every process receives the rows of all processes and pastes the masks of its own share.

        Args:
          rows: outputs of `detect_on_canvas` [B, D, ...] on the host, together with "size" and
            "original" int [B, 2], "weight" float [B] (0 on placeholders), and "example" int [B],
            the index of the image in the split.
        """
        for slot in np.flatnonzero(rows["weight"]):
            row = {name: values[slot] for name, values in rows.items()}
            index, known = int(row["example"]), np.isin(row["labels"], list(self._classes))
            self._full[index] = bool(row["valid"].all())
            self._known[index] = known[row["valid"]]
            # Pasting masks is the slow part, so the processes share it.
            if index % jax.process_count() == jax.process_index():
                row["valid"] = row["valid"] & known
                placement = place_evaluated_image(row["size"], row["original"])
                self._add_image(index, to_image_frame(self.model, row, placement))

    def compute_scores(self) -> DetectionScores:
        """Computes the scores of all images.

        Every process must call it and gets the same result.

        Raises:
          ValueError: No image could be read.
        """
        results = self.results.gather()
        if not results.count_images():
            raise ValueError(
                f"nothing to evaluate: no image of {self.data['eval_split']!r} could be read"
            )
        shares = {"detections_full": sum(self._full.values()) / len(self._full)}
        if self._panoptic is not None:
            shares |= self._panoptic.compute_scores()
        shares |= {name: share for name, share in self._compute_shares(results).items() if share}
        sheet = self._draw_sheet(results) if self.settings["pictures"] else None
        scores = self._evaluate_kinds(results)
        return DetectionScores(scores, shares, self.ground_truth, results, sheet)

    def _add_image(self, index: int, detections: ImageDetections) -> None:
        """Adds the detections of one image, refined if `refine` is given."""
        if self._refine is not None:
            detections = self._refine(self._decode_image(index), detections)
        categories = [self._classes[label] for label in detections.labels.tolist()]
        keypoints = None if detections.keypoints is None else detections.keypoints[..., :2]
        self.results.add(
            index, detections.boxes, detections.scores, categories, detections.masks, keypoints
        )
        if self._panoptic is not None:
            self._panoptic.add(index, self.source[index], detections, categories)

    def _compute_shares(self, results: CocoResults) -> dict[str, float]:
        """Computes the shares (0..1) of ignored detections and of unreadable images.

        "left_out" counts detections of classes that the data does not have. "unread" counts images
        that could not be read. Their objects count as missed.
        """
        # Counts cover the images of all processes, because every process sees all rows.
        known = np.concatenate(list(self._known.values()))
        return {
            "left_out": 1 - float(known.mean()) if len(known) else 0.0,
            "unread": 1 - results.count_images() / len(self.source),
        }

    def _evaluate_kinds(self, results: CocoResults) -> dict[str, CocoScores]:
        """Computes COCO's scores of boxes, masks, boundaries and keypoints where they exist."""
        masks = ("segm", "boundary") if self.settings["boundary"] else ("segm",)
        rows = self.ground_truth["annotations"]
        if rows and all(row.get("box_only") for row in rows):
            masks = ()
        kinds = (
            "bbox",
            *(masks if self.model.mask_head or self._refine else ()),
            *(("keypoints",) if self._keypoints else ()),
        )
        scores, federated = {}, "neg_category_ids" in self.ground_truth["images"][0]
        for kind in kinds:
            options: dict[str, Any] = {}
            if kind == "keypoints":
                options["sigmas"] = get_keypoint_sigmas(self.data)
            elif self.model.detection_selection.count > 100 and not federated:
                # COCO counts 100 detections per image. A model that makes more is scored on all.
                options["max_detections"] = (1, 10, 100, self.model.detection_selection.count)
            scores[kind] = evaluate_coco(self.ground_truth, results.rows(), kind, **options)
        return scores

    def _draw_sheet(self, results: CocoResults) -> np.ndarray:
        """Draws the first readable images with their ground truth and their detections."""
        shown = sorted(self._full)[: self.settings["pictures"]]
        return draw_sheet(
            {index: self._decode_image(index) for index in shown},
            self.ground_truth,
            results.rows(),
            threshold=self.settings["shown_score"],
        )

    def _decode_image(self, index: int) -> np.ndarray:
        """Decodes an image to uint8 [H, W, 3], as the model sees it."""
        return decode_record_image(self.source[index], tuple(self.data["percentiles"]) or None)


def score_batches(
    evaluator: DetectionEvaluator,
    batches: Iterable[dict[str, np.ndarray]],
    *,
    detect: Callable[[Mapping[str, jax.Array]], Mapping[str, jax.Array]],
    measure_loss: Callable[[Mapping[str, jax.Array], int], tuple] | None,
    mesh: jax.sharding.Mesh,
) -> DetectionScores:
    """Evaluates all batches of the evaluation split.

    Args:
      evaluator: an evaluator without detections.
      batches: this process's rows of each global batch.
      detect: compiled function from the `DETECTION_INPUTS` of a batch to `detect_on_canvas`'s
        outputs and the inputs but the images.
      measure_loss: compiled function of (batch, number of the batch), see `Detection.loss`. None:
        the loss is not measured.
      mesh: mesh to evaluate on.

    Returns:
      The scores, with the mean loss and its terms among the shares.
    """
    losses = []
    for number, batch in enumerate(batches):
        batch["example"] = batch["index"].astype(np.int32)
        placed = place_batch(batch, mesh)
        evaluator.add(to_host(detect({name: placed[name] for name in DETECTION_INPUTS})))
        if measure_loss is not None:
            losses.append(to_host(measure_loss(placed, number)))
    scores = evaluator.compute_scores()
    if not losses:
        return scores
    return dataclasses.replace(scores, shares=scores.shares | _average_losses(losses))


def _average_losses(
    batches: Sequence[tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray]]],
) -> dict[str, float]:
    """Averages the loss and its terms over all images.

    Args:
      batches: outputs of `Detection.loss`, one per batch: loss sum, number of images, metric sums.

    Returns:
      "eval_loss", and "eval_loss/NAME" of each term.
    """
    terms = [name for name in batches[0][2] if name not in NOT_TERMS]
    sums = [
        {"eval_loss": loss} | {f"eval_loss/{name}": metrics[name] for name in terms}
        for loss, _, metrics in batches
    ]
    images = sum(float(weight) for _, weight, _ in batches)
    return {name: sum(float(batch[name]) for batch in sums) / images for name in sums[0]}
