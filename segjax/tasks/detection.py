"""Detection: pictures with objects, Mask R-CNN, and its losses, bound together for the loop.

Keypoints are not trained yet.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import viz
from segjax.data.detection import MASK_SIDE, DetectionExample, shown_whole
from segjax.data.placed import record_pixels
from segjax.data.records import decode_mask, encode_part
from segjax.data.splits import categories_of, classes_of
from segjax.evaluation.coco import evaluate_coco
from segjax.evaluation.coco_format import CocoResults, coco_truth
from segjax.models.detection.build import build_mask_rcnn, init_mask_rcnn
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.ops.paste import paste_mask_on_host
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
        """Raises ValueError for a model with keypoints, or samples of which none may show an object."""
        options = config.model.to_dict()
        name = options.pop("name")
        self.model: MaskRcnn = build_mask_rcnn(name, **options)
        if self.model.keypoints:
            raise ValueError(
                f"{name} has {self.model.keypoints} keypoints, which this task does not train yet; set "
                "config.model.keypoints=0 to train its boxes and masks"
            )
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
        in several microbatches is not quite the same as in one. Metrics are the terms, and the objects of a picture
        that there was no room for ("dropped").
        """
        draw_key, drop_key = jax.random.split(key)
        rngs = {"drop_path": drop_key} if train else {}
        arguments = (batch, draw_key, self.samples, train)
        terms = self.model.apply(variables, *arguments, method=loss_terms, rngs=rngs)
        pictures = jnp.sum(batch["weight"] > 0, dtype=jnp.float32)
        metrics = {name: term * pictures for name, term in terms.items()}
        dropped = jnp.sum(batch["dropped"] * (batch["weight"] > 0), dtype=jnp.float32)
        return sum(terms.values()) * pictures, pictures, metrics | {"dropped": dropped}

    def operations(self) -> tuple[float, str]:
        """(0, dtype): nobody has counted a detector's operations yet, and the log then says nothing of them."""
        return 0.0, jnp.dtype(self.model.dtype).name

    def example(self, *, train: bool) -> DetectionExample:
        """What is made of a record."""
        model = self.model
        return DetectionExample(
            (model.canvas, model.canvas),
            self.data["max_objects"],
            short_side=model.short_side,
            long_side=model.long_side,
            resize="pillow" if model.rules.antialias else "torchvision",
            augment={name: value for name, value in self.data["augment"].items() if value},
            train=train,
            mask_side=MASK_SIDE if train and model.mask_convs else 0,
            min_visible=self.data["min_visible"],
            classes=model.classes,
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

        Raises ValueError for a source with another number of classes than the model's.
        """
        train, model = split == "train", self.model
        source = records_of(self.data, split, limit=self.eval["limit"])
        if (known := len(categories_of(self.data))) != model.classes:
            raise ValueError(
                f"{self.data['source']!r} has {known} classes, the model {model.classes}; set "
                f"config.model.classes={known}"
            )
        place = dict(process_index=process_index, process_count=process_count, workdir=workdir)
        place |= dict(batch_size=batch_size, start=start, seed=seed)
        return load(source, self.example(train=train), self.data, train=train, **place)

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """COCO's AP, AP50 and AP75 of boxes ("bbox/AP") and masks ("segm/AP"), and a sheet of truth beside answers.

        Numbers are shares of 1, as measured in the original pictures. One that has no object to find is left out.

        Raises CheckpointError for variables of another model than the config's: flax would ignore a surplus of them.
        """
        check_variables(jax.eval_shape(self.init, jax.random.key(0)), variables, source="what is to be measured")
        source = records_of(self.data, "eval", limit=self.eval["limit"])
        truth = coco_truth((source[index] for index in range(len(source))), **classes_of(self.data))
        results = CocoResults(truth)
        for batch in measured_batches(self.batches, self.eval["batch_size"], mesh):
            batch["example"] = batch["index"].astype(np.int32)
            rows = to_host(self._detect(variables, place_batch(batch, mesh)))
            for row in np.flatnonzero(rows["weight"]):
                # Every process sees all answers; each pastes the masks of its share.
                if rows["example"][row] % jax.process_count() == jax.process_index():
                    self._add(results, {name: values[row] for name, values in rows.items()})
        results = results.gather()
        if not results.pictures():
            raise ValueError(f"nothing to measure: none of the pictures of {self.data['eval_split']!r} could be read")
        numbers: dict[str, float] = {}
        for kind in ("bbox", "segm") if self.model.mask_convs else ("bbox",):
            found = evaluate_coco(truth, results.rows(), kind).numbers()
            numbers |= {f"{kind}/{name}": found[f"{kind}/{name}"] for name in MEASURED if f"{kind}/{name}" in found}
        if not self.eval["pictures"]:
            return numbers, {}
        return numbers, {"detections": self._sheet(source, truth, results)}

    def _detected(self, variables, batch):
        found, masks, _ = self.model.apply(variables, batch["image"], batch["size"], method="detect")
        rows = found._asdict() | {name: batch[name] for name in ("size", "original", "weight", "example")}
        return rows if masks is None else rows | {"masks": masks}

    def _add(self, results: CocoResults, row: Mapping[str, np.ndarray]) -> None:
        """The answers for a picture, carried back into it."""
        found, hw = row["valid"], tuple(row["original"].tolist())
        boxes = shown_whole(row["size"], row["original"]).boxes_back(row["boxes"][found])
        masks = None
        if "masks" in row:
            rule = "integer" if self.model.rules.integer_paste else "grid"
            pairs = zip(row["masks"][found], boxes, strict=True)
            masks = [_run_lengths(mask, box, hw, rule) for mask, box in pairs]
        results.add(int(row["example"]), boxes, row["scores"][found], row["labels"][found] - 1, masks)

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


def _run_lengths(mask: np.ndarray, box: np.ndarray, hw: tuple[int, int], rule: str) -> str:
    part, corner = paste_mask_on_host(mask, box, hw, rule=rule, threshold=0.5)
    return encode_part(part if part.size else np.zeros((1, 1), bool), corner if part.size else (0, 0), hw)


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
    return drawn
