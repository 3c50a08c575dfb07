"""A detector's answers for the pictures of an evaluation split against what is there, in the pictures' own pixels."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segjax import viz
from segjax.data.examples.detection import shown_whole
from segjax.data.examples.place_objects import record_pixels
from segjax.data.splits import classes_of, keypoint_sigmas_of
from segjax.evaluation.coco import CocoScores, evaluate_coco
from segjax.evaluation.coco_format import CocoResults, coco_truth
from segjax.evaluation.detection_scores import DetectionScores
from segjax.inference.detection.postprocess import Found, found_in_picture
from segjax.masks import decode_mask
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.tasks.record_task import records_of

logger = logging.getLogger(__name__)


class Measurement:
    """Takes answers picture by picture, then says how good they are.

    Args:
      model: the detector. data, settings: config.data and config.eval, as dicts.
      refine: what is done to the answers for a picture before they are measured, see `refinement.refiner`.

    Raises:
      ValueError: data whose classes or keypoints are not the model's, see `classes_by_label`.
    """

    def __init__(
        self,
        model: MaskRcnn,
        data: Mapping[str, Any],
        settings: Mapping[str, Any],
        refine: Callable[[np.ndarray, Found], Found] | None = None,
    ):
        self.model, self.data, self.settings = model, data, settings
        known = classes_of(data)
        self.names, keypoints = known["categories"], len(known["keypoint_names"])
        if model.keypoints and keypoints not in (0, model.keypoints):
            raise ValueError(
                f"{data['source']!r} has {keypoints} keypoints, the model {model.keypoints}; expected as many or none; "
                "data prepared without keypoints measures the rest"
            )
        self._keypoints = bool(model.keypoints and keypoints)
        self._classes = classes_by_label(
            model.classes,
            settings["label_names"],
            self.names,
            known["category_ids"],
            source=data["source"],
        )
        self._refine = refine
        self.source = records_of(data, "eval", limit=settings["limit"])
        self.truth = coco_truth((self.source[index] for index in range(len(self.source))), **known)
        self.results = CocoResults(self.truth)
        self._full: dict[int, bool] = {}  # by picture
        self._answers: dict[
            int, np.ndarray
        ] = {}  # whether the data has such a class, of each answer

    @property
    def in_order(self) -> bool:
        """Whether label k is the data's class k - 1, for all."""
        return self._classes == {place + 1: place for place in range(self.model.classes)}

    def add(self, rows: Mapping[str, np.ndarray]) -> None:
        """The answers for a batch: `detected`'s rows of all processes, with `size`, `original`, `weight` and `example`,
        the number of the picture. Each process pastes the masks of its share."""
        for place in np.flatnonzero(rows["weight"]):
            row = {name: values[place] for name, values in rows.items()}
            number, known = int(row["example"]), np.isin(row["labels"], list(self._classes))
            self._full[number], self._answers[number] = (
                bool(row["valid"].all()),
                known[row["valid"]],
            )
            if number % jax.process_count() == jax.process_index():
                row["valid"] = row["valid"] & known
                found = found_in_picture(self.model, row, shown_whole(row["size"], row["original"]))
                found = found if self._refine is None else self._refine(self._pixels(number), found)
                categories = [self._classes[label] for label in found.labels.tolist()]
                keypoints = None if found.keypoints is None else found.keypoints[..., :2]
                self.results.add(
                    number, found.boxes, found.scores, categories, found.masks, keypoints
                )

    def outcome(self) -> DetectionScores:
        """What the answers are worth, the same in every process; each must call it.

        Raises ValueError where no picture could be read.
        """
        results = self.results.gather()
        if not results.pictures():
            raise ValueError(
                f"nothing to measure: none of the pictures of {self.data['eval_split']!r} could be read"
            )
        shares = {"detections_full": sum(self._full.values()) / len(self._full)}
        shares |= {name: share for name, share in self._left_out(results).items() if share}
        sheet = self._sheet(results) if self.settings["pictures"] else None
        return DetectionScores(self._scores(results), shares, self.truth, results, sheet)

    def _left_out(self, results: CocoResults) -> dict[str, float]:
        """Shares of 1: of the answers, those of classes that the data does not have; of the pictures, those that could
        not be read. Their objects count as missed."""
        answers = np.concatenate(list(self._answers.values()))
        return {
            "left_out": 1 - float(answers.mean()) if len(answers) else 0.0,
            "unread": 1 - results.pictures() / len(self.source),
        }

    def _scores(self, results: CocoResults) -> dict[str, CocoScores]:
        """COCO's of all kinds of answers."""
        masks = ("segm", "boundary") if self.settings["boundary"] else ("segm",)
        kinds = (
            "bbox",
            *(masks if self.model.mask_convs or self._refine else ()),
            *(("keypoints",) if self._keypoints else ()),
        )
        found, federated = {}, "neg_category_ids" in self.truth["images"][0]
        for kind in kinds:
            options: dict[str, Any] = (
                {"sigmas": keypoint_sigmas_of(self.data)} if kind == "keypoints" else {}
            )
            if kind != "keypoints" and self.model.detections > 100 and not federated:
                options["detections"] = (
                    1,
                    10,
                    100,
                    self.model.detections,
                )  # COCO looks at 100 a picture, we at all
            found[kind] = evaluate_coco(self.truth, results.rows(), kind, **options)
        return found

    def _sheet(self, results: CocoResults) -> np.ndarray:
        """The first pictures that could be read, what is there and what was found."""
        shown = sorted(self._full)[: self.settings["pictures"]]
        groups = {self.truth["images"][number]["id"]: ([], []) for number in shown}
        for which, rows in enumerate((self.truth["annotations"], results.rows())):
            for row in rows:
                if row["image_id"] in groups:
                    groups[row["image_id"]][which].append(row)
        number = {category["id"]: k for k, category in enumerate(self.truth["categories"])}
        given, found = zip(
            *([_drawn(rows, number) for rows in pair] for pair in groups.values()), strict=True
        )
        images = [self._pixels(index) for index in shown]
        return viz.detection_sheet(
            images, given, found, self.names, threshold=self.settings["shown_score"]
        )

    def _pixels(self, number: int) -> np.ndarray:
        """uint8 [H, W, 3] of a picture, as the model was shown it."""
        return record_pixels(self.source[number], tuple(self.data["percentiles"]) or None)


def classes_by_label(
    labels: int,
    label_names: Sequence[str],
    categories: Sequence[str],
    ids: Sequence[int],
    *,
    source: str = "the data",
) -> dict[int, int]:
    """By label, 1..K, the data's class that the model means by it, 0..; what a label has no class for is not in it.

    Labels are the data's classes in their order, where there are as many, as of all that is trained here; or the
    categories' own numbers, where the largest is the number of labels, as of torchvision's models of COCO with its
    gaps; but where names that both know say otherwise, or neither is so, the classes of equal names.

    Args:
      labels: K. label_names: what the checkpoint calls them, or nothing. categories, ids: names and numbers of the
        data's classes, in the order of the numbers. source: what the data is called in errors.

    Raises:
      ValueError: none of that gives a class to a label.
    """
    once = {
        name: label
        for label, name in enumerate(label_names, 1)
        if list(label_names).count(name) == 1
    }
    by_name = {place: once[name] for place, name in enumerate(categories) if name in once}
    in_order = {place: place + 1 for place in range(len(ids))} if len(ids) == labels else {}
    by_number = dict(enumerate(ids)) if ids and min(ids) > 0 and max(ids) == labels else {}
    chosen = next(
        (rule for rule in (in_order, by_number) if rule and by_name.items() <= rule.items()),
        by_name,
    )
    if not chosen:
        raise ValueError(
            f"{source!r} has {len(ids)} classes ({_some(categories)}), the model {labels}"
            f"{f' ({_some(label_names)})' if label_names else ''}, and no name is in both. A label is taken for the "
            "class of the same name; or, without such names, for the class at its place if there are as many, or for "
            f"the category of its own number if the largest is {labels}. Prepare the data under the names or the "
            "numbers that the model was trained with"
        )
    if absent := [name for place, name in enumerate(categories) if place not in chosen]:
        logger.warning(
            "the model has no label for %d of the %d classes of %r (%s): what there is of them counts as missed",
            *(len(absent), len(ids), source, _some(absent)),
        )
    return {label: place for place, label in chosen.items()}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


def _drawn(rows: Sequence[Mapping[str, Any]], number: Mapping[int, int]) -> dict[str, np.ndarray]:
    """What `detection_sheet` draws of COCO's rows of one picture."""
    corners = np.array([row["bbox"] for row in rows], float).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    drawn = {
        "boxes": corners,
        "labels": np.array([number[row["category_id"]] for row in rows], int),
    }
    if rows and "score" in rows[0]:
        drawn["scores"] = np.array([row["score"] for row in rows])
    if rows and "segmentation" in rows[0]:
        masks = [
            decode_mask(row["segmentation"]["counts"], *row["segmentation"]["size"]) for row in rows
        ]
        drawn["masks"] = np.array(masks)
    if rows and "keypoints" in rows[0]:
        keypoints = np.array([row["keypoints"] for row in rows], float).reshape(len(rows), -1, 3)
        keypoints[..., :2] += 0.5  # COCO's lie at the index of their pixel
        keypoints[..., 2] = 2 if "scores" in drawn else keypoints[..., 2]
        drawn["keypoints"] = keypoints
    return drawn
