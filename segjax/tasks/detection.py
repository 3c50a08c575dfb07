"""Detection: pictures with objects, Mask R-CNN, and its losses, bound together for the loop."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import viz
from segjax.data.detection import MASK_SIDE, DetectionExample, shown_whole
from segjax.data.placed import left_right_pairs, record_pixels
from segjax.data.records import decode_mask
from segjax.data.repeats import RepeatRare
from segjax.data.splits import categories_of, classes_of, keypoint_sigmas_of
from segjax.evaluation.coco import evaluate_coco
from segjax.evaluation.coco_format import CocoResults, coco_truth
from segjax.inference.found import detected, found_in_picture
from segjax.models.detection.build import build_mask_rcnn, init_mask_rcnn
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.detection.operations import detector_multiply_adds
from segjax.models.operations import TRAINING
from segjax.tasks.detection_config import completed
from segjax.tasks.detection_terms import Samples, loss_terms
from segjax.tasks.pretrained import detector_from
from segjax.tasks.records import batch_shapes, load, measured_batches, records_of
from segjax.training.sharding import place_batch, to_host
from segjax.weights.tree import check_variables

MEASURED = ("AP", "AP50", "AP75")


class Detection:
    """The task of `config` (see `detection_config`): all that the loop asks for."""

    def __init__(self, config: ml_collections.ConfigDict):
        """Raises ValueError for samples of which none may show an object."""
        options = config.model.to_dict()
        name = options.pop("name")
        self.model: MaskRcnn = build_mask_rcnn(name, **options)
        self.samples = Samples(**config.samples.to_dict())
        if not self.samples.objects:
            raise ValueError(
                f"config.samples has {self.samples.regions} regions, {self.samples.positive_regions} of which may show "
                "objects: that is none; expected one a picture at least"
            )
        self.data = config.data.to_dict()
        self.eval = config.eval.to_dict()
        self._detect = jax.jit(self._detected)

    @staticmethod
    def completed(settings: Mapping[str, Any] | ml_collections.ConfigDict) -> ml_collections.ConfigDict:
        """A config of this task with the defaults of what it leaves out; see `detection_config.completed`."""
        return completed(settings)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh variables."""
        return init_mask_rcnn(self.model, key)

    def pretrained(self, kind: str, path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
        """The backbone, see `detector_from`."""
        return detector_from(kind, path, self.model, expected)

    def loss(
        self, variables: Mapping[str, Any], batch: Mapping[str, jax.Array], key: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """The sum of `loss_terms` of a batch of `DetectionExample`s, times its real pictures; the number of these.

        The step divides by that number, which leaves the sum of the terms. Each term has a count of its own, so a batch
        in several microbatches is not quite the same as in one. Metrics are the terms, the objects of a picture that
        there was no room for ("dropped"), and the share of the places for proposals that are filled ("proposals").
        """
        draw_key, drop_key = jax.random.split(key)
        rngs = {"drop_path": drop_key} if train else {}
        arguments = (batch, draw_key, self.samples, train)
        terms, proposals = self.model.apply(variables, *arguments, method=loss_terms, rngs=rngs)
        real = (batch["weight"] > 0).astype(jnp.float32)
        pictures = jnp.sum(real)
        metrics = {name: term * pictures for name, term in terms.items()}
        metrics |= {"dropped": jnp.sum(batch["dropped"] * real), "proposals": jnp.sum(proposals * real)}
        return sum(terms.values()) * pictures, pictures, metrics

    def canvas(self, split: str) -> tuple[int, int]:
        """(height, width) in pixels of the canvases of "train" or "eval": as config.data or config.eval says, else the
        model's own."""
        own = (self.data if split == "train" else self.eval)["canvas"]
        return tuple(own) or (self.model.canvas,) * 2

    def classes(self) -> dict[str, tuple]:
        """Names and numbers of the classes, and names of the keypoints, as the data has them."""
        return classes_of(self.data)

    def operations(self) -> tuple[float, str]:
        """Of one picture with all its samples, see `detector_multiply_adds`; frozen stages run forward alone."""
        count = detector_multiply_adds(self.model, self.canvas("train"))
        trained = count.picture + self.samples.regions * count.region + self.samples.objects * count.shown
        return 2.0 * (count.frozen + TRAINING * trained), jnp.dtype(self.model.dtype).name

    def example(self, *, train: bool, keypoint_pairs: tuple[tuple[int, int], ...] = ()) -> DetectionExample:
        """What is made of a record. keypoint_pairs: those that a mirrored picture swaps."""
        model = self.model
        return DetectionExample(
            self.canvas("train" if train else "eval"),
            self.data["max_objects"],
            short_side=model.short_side,
            long_side=model.long_side,
            resize=model.rules.resize,
            augment={name: value for name, value in self.data["augment"].items() if value},
            train=train,
            mask_side=MASK_SIDE if train and model.mask_convs else 0,
            min_visible=self.data["min_visible"],
            classes=model.classes,
            keypoints=model.keypoints if train else 0,
            keypoint_pairs=keypoint_pairs,
            percentiles=tuple(self.data["percentiles"]) or None,
        )

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
        """Batches of `DetectionExample`s: "train" endless, shuffled and augmented, "eval" once, without masks.

        Raises ValueError for a source with another number of classes or keypoints than the model's.
        """
        train = split == "train"
        source = records_of(self.data, split, limit=self.eval["limit"])
        if train and self.data["repeat_threshold"]:
            source = RepeatRare(source, self.data["repeat_threshold"])
        self._class_of_label(train)
        pairs = left_right_pairs(self._keypoint_names()) if train else ()
        place = dict(process_index=process_index, process_count=process_count, workdir=workdir)
        place |= dict(batch_size=batch_size, start=start, seed=seed)
        return load(source, self.example(train=train, keypoint_pairs=pairs), self.data, train=train, **place)

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """COCO's AP, AP50 and AP75 of boxes ("bbox/AP"), masks ("segm/AP"), with `eval.boundary` their outlines
        ("boundary/AP") and keypoints ("keypoints/AP"), and a sheet of truth beside answers.

        Numbers are shares of 1, as measured in the original pictures. One that has no object to find is left out.
        "detections_full" is the share of pictures in which no place for another detection was left.

        Raises CheckpointError for variables of another model than the config's: flax would ignore a surplus of them.
        """
        check_variables(jax.eval_shape(self.init, jax.random.key(0)), variables, source="what is to be measured")
        source = records_of(self.data, "eval", limit=self.eval["limit"])
        truth = coco_truth((source[index] for index in range(len(source))), **classes_of(self.data))
        results, full, classes = CocoResults(truth), {}, self._class_of_label()
        for batch in measured_batches(self.batches, self.eval["batch_size"], mesh):
            batch["example"] = batch["index"].astype(np.int32)
            rows = to_host(self._detect(variables, place_batch(batch, mesh)))
            for row in np.flatnonzero(rows["weight"]):
                full[int(rows["example"][row])] = bool(rows["valid"][row].all())
                # Every process sees all answers; each pastes the masks of its share.
                if rows["example"][row] % jax.process_count() == jax.process_index():
                    self._add(results, {name: values[row] for name, values in rows.items()}, classes)
        results = results.gather()
        if not results.pictures():
            raise ValueError(f"nothing to measure: none of the pictures of {self.data['eval_split']!r} could be read")
        numbers = self._numbers(truth, results) | {"detections_full": sum(full.values()) / len(full)}
        if not self.eval["pictures"]:
            return numbers, {}
        return numbers, {"detections": self._sheet(source, truth, results)}

    def _keypoint_names(self) -> tuple[str, ...]:
        """Of the model's keypoints, if it has any. Raises ValueError where the data has others."""
        names = classes_of(self.data)["keypoint_names"]
        if self.model.keypoints and len(names) != self.model.keypoints:
            raise ValueError(
                f"{self.data['source']!r} has {len(names)} keypoints, the model {self.model.keypoints}; set "
                f"config.model.keypoints={len(names)} or prepare the data with its keypoints"
            )
        return names if self.model.keypoints else ()

    def _numbers(self, truth: Mapping[str, Any], results: CocoResults) -> dict[str, float]:
        """COCO's of all kinds of answers."""
        masks = ("segm", "boundary") if self.eval["boundary"] else ("segm",)
        kinds = ("bbox", *(masks if self.model.mask_convs else ()), *(("keypoints",) if self.model.keypoints else ()))
        numbers = {}
        for kind in kinds:
            options: dict[str, Any] = {"sigmas": keypoint_sigmas_of(self.data)} if kind == "keypoints" else {}
            if kind != "keypoints" and self.model.detections > 100 and "neg_category_ids" not in truth["images"][0]:
                options["detections"] = (1, 10, 100, self.model.detections)  # COCO looks at 100 a picture, we at all
            found = evaluate_coco(truth, results.rows(), kind, **options).numbers()
            numbers |= {f"{kind}/{name}": found[f"{kind}/{name}"] for name in MEASURED if f"{kind}/{name}" in found}
        return numbers

    def _class_of_label(self, train: bool = False) -> dict[int, int]:
        """By label, 1..K, the data's class that the model means by it, 0..

        A model that comes from elsewhere may have the categories' own numbers for labels, gaps included, as
        torchvision's of COCO; it can be measured. What is trained here has no gaps.
        """
        ids = classes_of(self.data)["category_ids"]
        if len(ids) == self.model.classes:
            return {place + 1: place for place in range(len(ids))}
        if not train and ids and min(ids) > 0 and max(ids) == self.model.classes:
            return {number: place for place, number in enumerate(ids)}
        raise ValueError(
            f"{self.data['source']!r} has {len(ids)} classes, the model {self.model.classes}; set "
            f"config.model.classes={len(ids)}"
        )

    def _detected(self, variables, batch):
        rows = detected(self.model, variables, batch["image"], batch["size"])
        return rows | {name: batch[name] for name in ("size", "original", "weight", "example")}

    def _add(self, results: CocoResults, row: Mapping[str, np.ndarray], classes: Mapping[int, int]) -> None:
        """The answers for a picture, carried back into it; those of labels that the data does not have are left out."""
        found = found_in_picture(self.model, row, shown_whole(row["size"], row["original"]))
        found = found.where(np.isin(found.labels, list(classes)))
        categories = [classes[label] for label in found.labels.tolist()]
        keypoints = None if found.keypoints is None else found.keypoints[..., :2]
        results.add(int(row["example"]), found.boxes, found.scores, categories, found.masks, keypoints)

    def _sheet(self, source: Sequence, truth: Mapping[str, Any], results: CocoResults) -> np.ndarray:
        """The first pictures, what is there and what was found."""
        count = min(self.eval["pictures"], len(source))
        groups = {image["id"]: ([], []) for image in truth["images"][:count]}
        for which, rows in enumerate((truth["annotations"], results.rows())):
            for row in rows:
                if row["image_id"] in groups:
                    groups[row["image_id"]][which].append(row)
        number = {category["id"]: k for k, category in enumerate(truth["categories"])}
        given, found = zip(*([_drawn(rows, number) for rows in pair] for pair in groups.values()), strict=True)
        images = [record_pixels(source[index], tuple(self.data["percentiles"]) or None) for index in range(count)]
        names = categories_of(self.data)
        return viz.detection_sheet(images, given, found, names, threshold=self.eval["shown_score"])


def _drawn(rows: Sequence[Mapping[str, Any]], number: Mapping[int, int]) -> dict[str, np.ndarray]:
    """What `detection_sheet` draws of COCO's rows of one picture."""
    corners = np.array([row["bbox"] for row in rows], float).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    drawn = {"boxes": corners, "labels": np.array([number[row["category_id"]] for row in rows], int)}
    if rows and "score" in rows[0]:
        drawn["scores"] = np.array([row["score"] for row in rows])
    if rows and "segmentation" in rows[0]:
        masks = [decode_mask(row["segmentation"]["counts"], *row["segmentation"]["size"]) for row in rows]
        drawn["masks"] = np.array(masks)
    if rows and "keypoints" in rows[0]:
        keypoints = np.array([row["keypoints"] for row in rows], float).reshape(len(rows), -1, 3)
        keypoints[..., :2] += 0.5  # COCO's lie at the index of their pixel
        keypoints[..., 2] = 2 if "scores" in drawn else keypoints[..., 2]
        drawn["keypoints"] = keypoints
    return drawn
