"""Average precision as COCO and LVIS measure it, by pycocotools, also for boundaries.

AP is the mean of the precision, interpolated at 101 recalls, over the IoU thresholds 0.50, 0.55,
..., 0.95 (Lin et al. 2014; cocodataset.org/#detection-eval). Boxes, masks and keypoints differ only
in the overlap measure: keypoints use OKS, object keypoint similarity, in place of the IoU. Objects
are small below 32 x 32 and large from 96 x 96 pixels of the original image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from segjax.evaluation.extended_eval import ExtendedEval
from segjax.evaluation.foreign_masks import check_masks

KINDS = ("bbox", "segm", "boundary", "keypoints")
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


@dataclasses.dataclass(frozen=True)
class CocoScores:
    """Precision and recall of one kind of prediction. -1 marks classes without objects.

    Attributes:
      kind: one of `KINDS`.
      precision: float [T, R, K, A, M] over IoU thresholds, 101 recalls, classes, object sizes and
        numbers of detections per image.
      recall: float [T, K, A, M].
      thresholds: the T IoU (or OKS) thresholds.
      classes: names of the K classes.
      sizes: names of the A object sizes, the first for all sizes.
      max_detections: the M largest numbers of detections per image.
      frequencies: "r", "c" or "f" of each class, for LVIS.
    """

    kind: str
    precision: np.ndarray
    recall: np.ndarray
    thresholds: tuple[float, ...]
    classes: tuple[str, ...]
    sizes: tuple[str, ...]
    max_detections: tuple[int, ...]
    frequencies: tuple[str, ...] = ()

    def summarize(self) -> dict[str, float]:
        """Returns COCO's table, in 0..1, with names such as "bbox/AP".

        Average precision: AP, AP50, AP75, and APs, APm, APl by size. Average recall: AR1, AR10,
        AR100 with at most so many detections per image, and ARs, ARm, ARl. LVIS adds APr, APc, APf.
        Numbers without an object are absent.
        """
        # Average precision
        values = {"AP": self.precision[..., 0, -1]}
        for threshold in (0.5, 0.75):
            near = np.isclose(self.thresholds, threshold)
            values[f"AP{100 * threshold:.0f}"] = self.precision[near][..., 0, -1]
        sizes = [(a, size[0]) for a, size in enumerate(self.sizes) if a]
        values |= {f"AP{letter}": self.precision[..., a, -1] for a, letter in sizes}
        for letter in FREQUENCIES if self.frequencies else ():
            members = np.array(self.frequencies) == letter
            values[f"AP{letter}"] = self.precision[:, :, members, 0, -1]

        # Average recall
        values |= {f"AR{n}": self.recall[..., 0, m] for m, n in enumerate(self.max_detections)}
        values |= {f"AR{letter}": self.recall[..., a, -1] for a, letter in sizes}

        means = {name: _mean(value) for name, value in values.items()}
        return {f"{self.kind}/{name}": mean for name, mean in means.items() if mean is not None}

    def per_class(self) -> dict[str, float]:
        """Returns the AP of each class that has objects, by name."""
        means = {name: _mean(self.precision[:, :, k, 0, -1]) for k, name in enumerate(self.classes)}
        return {name: mean for name, mean in means.items() if mean is not None}

    def curve(self, threshold: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the precision-recall curve, averaged over the classes that have objects.

        Args:
          threshold: IoU threshold. None: the mean over all thresholds.

        Returns:
          recall: float [101].
          precision: float [101].

        Raises:
          ValueError: The threshold was not measured, or no class has objects.
        """
        near = np.full(len(self.thresholds), True)
        if threshold is not None:
            near = np.isclose(self.thresholds, threshold)
        measured = self.recall[0, :, 0, -1] > -1
        if not near.any() or not measured.any():
            raise ValueError(
                f"no precision at IoU {threshold}; the thresholds are {self.thresholds}, and "
                f"{measured.sum()} classes have objects"
            )
        recalls = np.linspace(0, 1, self.precision.shape[1])
        return recalls, self.precision[near][:, :, measured, 0, -1].mean((0, 2))


def evaluate_coco(
    ground_truth: Mapping[str, Any],
    results: Iterable[Mapping[str, Any]],
    kind: str = "bbox",
    *,
    max_detections: Sequence[int] = (),
    sigmas: Sequence[float] | None = None,
    dilation_ratio: float = 0.02,
) -> CocoScores:
    """Evaluates COCO results against the ground truth.

    If the images of the ground truth list their negative categories ("neg_category_ids"), LVIS's
    federated evaluation applies. It ignores results of categories that an image neither lists nor
    rules out, and wrong results of categories that an image does not list exhaustively.

    Objects that have a box alone ("box_only") are measured as boxes. To masks they are regions to
    ignore, like crowds.

    Args:
      ground_truth: content of a COCO or LVIS annotation file, see `build_coco_ground_truth`.
      results: content of a results file, see `CocoResults.rows`.
      kind: "bbox", "segm", "keypoints", or "boundary": AP of the smaller of mask IoU and Boundary
        IoU (Cheng et al. 2021), which also sees errors in the outlines of large objects.
      max_detections: numbers of detections per image and class that count for recall. The last one
        also counts for precision. Default: COCO's 1, 10, 100, for keypoints 20, for LVIS 300 per
        image.
      sigmas: OKS sigma of each keypoint. Default: those of COCO's 17 keypoints.
      dilation_ratio: width of a boundary as a share of the image diagonal.

    Returns:
      The scores, see `CocoScores.summarize`.

    Raises:
      ValueError: Unknown kind, or results of other images or categories, or without the field that
        the kind needs, or masks that do not fit their image.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    federated = any("neg_category_ids" in image for image in ground_truth["images"])
    defaults = (300,) if federated else (20,) if kind == "keypoints" else (1, 10, 100)
    max_detections = tuple(max_detections) or defaults
    # Check the results
    rows = _check_results(ground_truth, results, kind)
    if federated:
        rows = _keep_most_confident(rows, max(max_detections))
    if kind in ("segm", "boundary"):
        check_masks(ground_truth["images"], [*ground_truth["annotations"], *rows])
    # Evaluate, without the progress that pycocotools prints
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = ExtendedEval(
            index_annotations(
                ground_truth, _ignore_without_mask(ground_truth["annotations"], kind)
            ),
            load_results(ground_truth, rows),
            kind,
        )
        evaluation.params.maxDets = sorted(max_detections)
        evaluation.dilation_ratio, evaluation.federated = dilation_ratio, federated
        if kind == "keypoints":
            defaults = evaluation.params.kpt_oks_sigmas
            evaluation.params.kpt_oks_sigmas = _check_sigmas(ground_truth, sigmas, defaults)
        evaluation.evaluate()
        evaluation.accumulate()
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    frequencies = tuple(category.get("frequency", "") for category in categories)
    return CocoScores(
        kind=kind,
        precision=evaluation.eval["precision"],
        recall=evaluation.eval["recall"],
        thresholds=tuple(evaluation.params.iouThrs.tolist()),
        classes=tuple(category["name"] for category in categories),
        sizes=tuple(evaluation.params.areaRngLbl),
        max_detections=tuple(evaluation.params.maxDets),
        frequencies=frequencies if any(frequencies) else (),
    )


def _mean(values: np.ndarray) -> float | None:
    """Averages the measured values, or returns None if there are none."""
    values = values[values > -1]
    return float(values.mean()) if values.size else None


def _check_results(
    ground_truth: Mapping, results: Iterable[Mapping], kind: str
) -> list[dict[str, Any]]:
    """Copies the results with the field of this kind alone.

    With boxes beside masks, pycocotools would take the areas of the boxes.
    """
    field = {"boundary": "segmentation", "segm": "segmentation"}.get(kind, kind)
    images = {image["id"] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    checked = []
    for row in results:
        if row["image_id"] not in images or row["category_id"] not in categories:
            raise ValueError(
                f"a result has image {row['image_id']!r} and category {row['category_id']!r}, "
                f"which the ground truth with its {len(images)} images and {len(categories)} "
                "categories does not have; category ids are those of the raw files"
            )
        if field not in row:
            raise ValueError(
                f"results without {field!r} cannot be evaluated as {kind!r}; they have "
                f"{sorted(row)}"
            )
        checked.append({name: row[name] for name in ("image_id", "category_id", "score", field)})
    return checked


def _keep_most_confident(rows: Sequence[dict], count: int) -> list[dict[str, Any]]:
    """Keeps the `count` most confident results of each image, over all categories."""
    by_image: dict[Any, list[dict]] = {}
    for row in rows:
        by_image.setdefault(row["image_id"], []).append(row)
    return [
        row
        for group in by_image.values()
        for row in sorted(group, key=lambda each: -each["score"])[:count]
    ]


def _ignore_without_mask(
    annotations: Sequence[Mapping[str, Any]], kind: str
) -> Sequence[Mapping[str, Any]]:
    """Turns objects without a mask into crowds where masks are measured."""
    if kind not in ("segm", "boundary"):
        return annotations
    return [dict(row, iscrowd=1) if row.get("box_only") else row for row in annotations]


def index_annotations(ground_truth: Mapping, annotations: Sequence[Mapping]) -> COCO:
    """Builds pycocotools' object from copies of the annotations, because it writes into them."""
    coco = COCO()
    coco.dataset = {name: ground_truth[name] for name in ("images", "categories")}
    coco.dataset["annotations"] = [{"iscrowd": 0} | dict(annotation) for annotation in annotations]
    coco.createIndex()
    return coco


def load_results(ground_truth: Mapping, rows: list[dict]) -> COCO:
    """Builds pycocotools' object of results, also of none."""
    # loadRes looks at the first result to see its kind, and fails without any result.
    return (
        index_annotations(ground_truth, []).loadRes(rows)
        if rows
        else index_annotations(ground_truth, [])
    )


def _check_sigmas(
    ground_truth: Mapping, sigmas: Sequence[float] | None, default: np.ndarray
) -> np.ndarray:
    """Returns one OKS sigma per keypoint of the ground truth."""
    counts = (len(row.get("keypoints", ())) // 3 for row in ground_truth["annotations"])
    count = max(counts, default=len(default))
    if not count:
        raise ValueError(
            "the ground truth has no keypoints; were its records prepared with keypoints=True?"
        )
    chosen = default if sigmas is None else np.asarray(sigmas, np.float64)
    if len(chosen) != count:
        raise ValueError(
            f"{len(chosen)} sigmas for {count} keypoints per object; give one each: the "
            "annotators' standard deviation in units of the square root of the object's area "
            "(COCO's are from 0.025 for an eye to 0.107 for a hip)"
        )
    return chosen
