"""Average precision as COCO and LVIS measure it, by pycocotools; and of boundaries, which it does not know.

AP is the mean over IoU thresholds .50, .55, ..., .95 of precision interpolated at 101 recalls (Lin et al. 2014;
cocodataset.org/#detection-eval). Boxes, masks and keypoints (by OKS, object keypoint similarity) differ only in what
takes the place of the IoU. Objects are small below 32 x 32 and large from 96 x 96 pixels of the original picture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from segjax.masks import decode_mask, encode_mask

KINDS = ("bbox", "segm", "boundary", "keypoints")
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


@dataclasses.dataclass(frozen=True)
class CocoScores:
    """What COCO's evaluation found of one kind of answer; -1 where a class has no object to find.

    precision: [T, R, K, A, M] over IoU thresholds, 101 recalls, classes, sizes and numbers of detections per picture;
    recall: [T, K, A, M]. thresholds, classes, sizes and detections name what T, K, A and M go through. frequencies: of
    the classes, of LVIS.
    """

    kind: str
    precision: np.ndarray
    recall: np.ndarray
    thresholds: tuple[float, ...]
    classes: tuple[str, ...]
    sizes: tuple[str, ...]
    detections: tuple[int, ...]
    frequencies: tuple[str, ...] = ()

    def numbers(self) -> dict[str, float]:
        """COCO's table in 0..1, as "bbox/AP": AP, AP50, AP75, APs, APm, APl, and AR with at most so many detections a
        picture, AR1, AR10, AR100, ARs, ARm, ARl; for LVIS APr, APc, APf too. A number with no object is left out."""
        values = {"AP": self.precision[..., 0, -1]}
        for threshold in (0.5, 0.75):
            near = np.isclose(self.thresholds, threshold)
            values[f"AP{100 * threshold:.0f}"] = self.precision[near][..., 0, -1]
        values |= {
            f"AP{size[0]}": self.precision[..., a, -1] for a, size in enumerate(self.sizes) if a
        }
        for letter in FREQUENCIES if self.frequencies else ():
            values[f"AP{letter}"] = self.precision[
                :, :, np.array(self.frequencies) == letter, 0, -1
            ]
        values |= {f"AR{most}": self.recall[..., 0, m] for m, most in enumerate(self.detections)}
        values |= {
            f"AR{size[0]}": self.recall[..., a, -1] for a, size in enumerate(self.sizes) if a
        }
        means = {name: _mean(value) for name, value in values.items()}
        return {f"{self.kind}/{name}": mean for name, mean in means.items() if mean is not None}

    def per_class(self) -> dict[str, float]:
        """AP of each class that has an object to find."""
        means = {name: _mean(self.precision[:, :, k, 0, -1]) for k, name in enumerate(self.classes)}
        return {name: mean for name, mean in means.items() if mean is not None}

    def curve(self, threshold: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(recall [101], precision [101]): the mean over classes that have an object, at an IoU or over all of them.

        Raises ValueError for a threshold that was not measured, or no object at all.
        """
        near = (
            np.isclose(self.thresholds, threshold)
            if threshold is not None
            else np.full(len(self.thresholds), True)
        )
        there = self.recall[0, :, 0, -1] > -1
        if not near.any() or not there.any():
            raise ValueError(
                f"no precision at IoU {threshold}; there is {self.thresholds} for {there.sum()} classes"
            )
        recalls = np.linspace(0, 1, self.precision.shape[1])
        return recalls, self.precision[near][:, :, there, 0, -1].mean((0, 2))


def evaluate_coco(
    truth: Mapping[str, Any],
    results: Iterable[Mapping[str, Any]],
    kind: str = "bbox",
    *,
    detections: Sequence[int] = (),
    sigmas: Sequence[float] | None = None,
    dilation_ratio: float = 0.02,
) -> CocoScores:
    """Measures results against the truth.

    Where the truth says of its pictures what was looked for ("neg_category_ids"), it is measured as LVIS does: answers
    of a class that was neither found nor ruled out in a picture are passed over, and so are wrong ones of a class whose
    objects are not all listed.

    Args:
      truth: content of a COCO or LVIS annotation file, as `coco_format.coco_truth` makes it.
      results: content of a results file, as `coco_format.CocoResults.rows` has it.
      kind: "bbox", "segm", "keypoints", or "boundary": AP of the smaller of mask IoU and Boundary IoU (Cheng et al.
        2021), which sees the error in the outlines of large objects too.
      detections: how many of a picture and class count for recall; the last also for precision. COCO's are 1, 10, 100,
        of keypoints 20; LVIS's is 300, of a picture.
      sigmas: of OKS, one a keypoint; COCO's of its 17 by default.
      dilation_ratio: width of a boundary as a share of the picture's diagonal.

    Raises:
      ValueError: an unknown kind, results of other pictures or classes, or without what is measured.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    federated = any("neg_category_ids" in image for image in truth["images"])
    detections = tuple(detections) or (
        (300,) if federated else (20,) if kind == "keypoints" else (1, 10, 100)
    )
    found = _checked(truth, results, kind)
    if federated:
        found = _most_confident(found, max(detections))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks of its progress
        evaluation = _Evaluation(
            _indexed(truth, truth["annotations"]), _loaded(truth, found, kind), kind
        )
        evaluation.params.maxDets = sorted(detections)
        evaluation.dilation_ratio, evaluation.federated = dilation_ratio, federated
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = _sigmas(
                truth, sigmas, evaluation.params.kpt_oks_sigmas
            )
        evaluation.evaluate()
        evaluation.accumulate()
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    frequencies = tuple(category.get("frequency", "") for category in categories)
    return CocoScores(
        kind=kind,
        precision=evaluation.eval["precision"],
        recall=evaluation.eval["recall"],
        thresholds=tuple(evaluation.params.iouThrs.tolist()),
        classes=tuple(category["name"] for category in categories),
        sizes=tuple(evaluation.params.areaRngLbl),
        detections=tuple(evaluation.params.maxDets),
        frequencies=frequencies if any(frequencies) else (),
    )


class _Evaluation(COCOeval):
    """pycocotools' evaluation, and where it says so with boundaries, and of pictures that were not searched wholly."""

    def __init__(self, truth: COCO, found: COCO, kind: str):
        super().__init__(truth, found, "segm" if kind == "boundary" else kind)
        self.boundary, self.federated, self.dilation_ratio = kind == "boundary", False, 0.0

    def _prepare(self) -> None:
        super()._prepare()
        if self.federated:
            absent = {
                image: set(entry["neg_category_ids"]) for image, entry in self.cocoGt.imgs.items()
            }
            listed = {key for key, rows in self._gts.items() if rows}
            for image, category in list(self._dts):
                if (image, category) not in listed and category not in absent[image]:
                    del self._dts[image, category]

    def computeIoU(self, imgId, catId):
        """IoU [D, G]; of boundaries the smaller of both, but crowds, whose outline means nothing, by their masks."""
        whole = super().computeIoU(imgId, catId)
        if not self.boundary or len(whole) == 0:
            return whole
        gts, rows = self._gts[imgId, catId], self._gts[imgId, catId] + self._dts[imgId, catId]
        masks = [row["segmentation"] for row in rows]
        for row in rows:
            row["segmentation"] = boundary_of(row["segmentation"], self.dilation_ratio)
        edges = super().computeIoU(imgId, catId)
        for row, mask in zip(rows, masks, strict=True):
            row["segmentation"] = mask
        return np.where([bool(gt["iscrowd"]) for gt in gts], whole, np.minimum(whole, edges))

    def evaluateImg(self, imgId, catId, aRng, maxDet):
        """One picture and class; where not all objects are listed, what matches none may be right."""
        found = super().evaluateImg(imgId, catId, aRng, maxDet)
        if (
            found is not None
            and self.federated
            and catId in self.cocoGt.imgs[imgId]["not_exhaustive_category_ids"]
        ):
            found["dtIgnore"] = found["dtIgnore"] | (found["dtMatches"] == 0)
        return found


def boundary_of(rle: Mapping[str, Any], dilation_ratio: float) -> dict[str, Any]:
    """Run lengths of the pixels of a mask that lie within a distance of its outline (Boundary IoU, section 3).

    The distance is a share of the picture's diagonal, rounded, at least 1 pixel, and counts steps to any of the eight
    neighbours; the picture's edge is an outline.
    """
    mask = decode_mask(as_text(rle["counts"]), *rle["size"]).view(np.uint8)
    distance = max(1, round(dilation_ratio * math.hypot(*mask.shape)))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows):
        part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part -= ndimage.minimum_filter(part, 2 * distance + 1, mode="constant", cval=0)
    return {"size": list(rle["size"]), "counts": encode_mask(mask)}


def as_text(counts: str | bytes) -> str:
    """Compressed run lengths as str; pycocotools makes bytes of them."""
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def _mean(values: np.ndarray) -> float | None:
    values = values[values > -1]
    return float(values.mean()) if values.size else None


def _checked(truth: Mapping, results: Iterable[Mapping], kind: str) -> list[dict[str, Any]]:
    """Copies of the results, with what is measured alone: of boxes beside masks pycocotools would take the areas."""
    field = {"boundary": "segmentation", "segm": "segmentation"}.get(kind, kind)
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    kept = []
    for row in results:
        if row["image_id"] not in images or row["category_id"] not in categories:
            raise ValueError(
                f"a result is of picture {row['image_id']!r} and category {row['category_id']!r}, which the truth with "
                f"its {len(images)} pictures and {len(categories)} categories does not have; category ids are the raw "
                "files' own"
            )
        if field not in row:
            raise ValueError(
                f"results without {field!r} cannot be measured by {kind!r}; they have {sorted(row)}"
            )
        kept.append({name: row[name] for name in ("image_id", "category_id", "score", field)})
    return kept


def _most_confident(rows: Sequence[dict], most: int) -> list[dict[str, Any]]:
    """At most so many results of a picture, over all classes."""
    by_image: dict[Any, list[dict]] = {}
    for row in rows:
        by_image.setdefault(row["image_id"], []).append(row)
    return [
        row
        for group in by_image.values()
        for row in sorted(group, key=lambda each: -each["score"])[:most]
    ]


def _indexed(truth: Mapping, annotations: Sequence[Mapping]) -> COCO:
    """pycocotools' object of copies of annotations, which it writes into."""
    coco = COCO()
    coco.dataset = {name: truth[name] for name in ("images", "categories")}
    coco.dataset["annotations"] = [{"iscrowd": 0} | dict(annotation) for annotation in annotations]
    coco.createIndex()
    return coco


def _loaded(truth: Mapping, found: list[dict], kind: str) -> COCO:
    # loadRes looks at the first result to see what they are, and fails where there is none.
    return _indexed(truth, []).loadRes(found) if found else _indexed(truth, [])


def _sigmas(truth: Mapping, sigmas: Sequence[float] | None, default: np.ndarray) -> np.ndarray:
    count = max(
        (len(row.get("keypoints", ())) // 3 for row in truth["annotations"]), default=len(default)
    )
    if not count:
        raise ValueError(
            "the truth has no keypoints; were its records prepared with keypoints=True?"
        )
    chosen = default if sigmas is None else np.asarray(sigmas, np.float64)
    if len(chosen) != count:
        raise ValueError(
            f"{len(chosen)} sigmas for {count} keypoints an object; give one each, how far off annotators are in units "
            "of the square root of the object's area (COCO's are .025 for an eye to .107 for a hip)"
        )
    return chosen
