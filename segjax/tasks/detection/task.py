"""Detection: pictures with objects, Mask R-CNN, and its losses, bound together for the loop."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.data.aspect_batches import ByOrientation, OrientedExample
from segjax.data.examples.copy_paste import CopyPaste
from segjax.data.examples.detection import MASK_SIDE, DetectionExample
from segjax.data.examples.place_objects import left_right_pairs
from segjax.data.repeat_factor import RepeatRare
from segjax.data.splits import classes_of
from segjax.evaluation.detection_scores import DetectionScores
from segjax.inference.detection.canvases import usual_canvases
from segjax.inference.detection.postprocess import detected
from segjax.inference.detection.sam_refinement import refiner
from segjax.models.detection.build import build_mask_rcnn
from segjax.models.detection.flops import detector_multiply_adds
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.flops import TRAINING
from segjax.tasks.detection.config import detection_config
from segjax.tasks.detection.evaluation import Measurement
from segjax.tasks.detection.loss import Samples, loss_terms
from segjax.tasks.init_from import detector_from
from segjax.tasks.record_task import RecordTask, load
from segjax.training.sharding import place_batch, to_host

COUNTED = ("dropped", "proposals")  # metrics that are no terms of the loss
ANSWERED = ("image", "size", "original", "weight", "example")


class Detection(RecordTask):
    """The task of `config` (see `detection_config`): all that the loop asks for.

    A model of 0 classes gets those of the data, and the config says so from then on, as does the run's folder.
    """

    defaults = staticmethod(detection_config)
    build = staticmethod(build_mask_rcnn)
    model: MaskRcnn

    def __init__(self, config: ml_collections.ConfigDict):
        """Raises ValueError for samples of which none may show an object, and for settings that contradict each other;
        as `refiner`, for the SAM of `eval.refine`."""
        if config.model.get("classes") == 0:
            config.model.classes = len(classes_of(config.data.to_dict())["category_ids"])
        super().__init__(config)
        self.samples = Samples(**config.samples.to_dict())
        if not self.samples.objects:
            raise ValueError(
                f"config.samples has {self.samples.regions} regions, {self.samples.positive_regions} of which may show "
                "objects: that is none; expected one a picture at least"
            )
        if self.data["by_orientation"] and self.data["augment"]["quarter_turns"]:
            raise ValueError(
                "config.data.by_orientation gives lying and standing pictures canvases of their own, and "
                "config.data.augment.quarter_turns turns them afterwards: set one of the two to False"
            )
        self._refine = (
            refiner(self.eval["refine"], self.eval["refine_if"]) if self.eval["refine"] else None
        )
        self._sources: dict[str, Sequence] = {}
        self._detect, self._lost = jax.jit(self._detected), jax.jit(self._measured_loss)

    def pretrained(self, kind: str, path: str, expected: Mapping[str, Any]) -> dict[str, Any]:
        """The backbone, see `detector_from`."""
        return detector_from(kind, path, self.model, expected)

    def loss(
        self,
        variables: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        train: bool,
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
        counted = jnp.sum(batch["dropped"] * real), jnp.sum(proposals * real)
        metrics |= dict(zip(COUNTED, counted, strict=True))
        return sum(terms.values()) * pictures, pictures, metrics

    def canvas(self, split: str) -> tuple[int, int]:
        """(height, width) in pixels of the canvases of "train" or "eval": as config.data or config.eval says, else the
        model's square; of pictures by their orientation the model's widest, and those that stand have it upright."""
        own = (self.data if split == "train" else self.eval)["canvas"]
        if split == "train" and self.data["by_orientation"] and not own:
            return max(usual_canvases(self.model), key=lambda hw: hw[1] / hw[0])
        return tuple(own) or (self.model.canvas,) * 2

    def classes(self) -> dict[str, tuple]:
        """Names and numbers of the classes, and names of the keypoints, as the data has them."""
        return classes_of(self.data)

    @property
    def programs(self) -> int:
        """How many shapes batches have in training."""
        height, width = self.canvas("train")
        return 2 if self.data["by_orientation"] and height != width else 1

    def operations(self) -> tuple[float, str]:
        """Of one picture with all its samples, see `detector_multiply_adds`; frozen stages run forward alone."""
        count = detector_multiply_adds(self.model, self.canvas("train"))
        trained = (
            count.picture + self.samples.regions * count.region + self.samples.objects * count.shown
        )
        return 2.0 * (count.frozen + TRAINING * trained), jnp.dtype(self.model.dtype).name

    def example(
        self,
        *,
        train: bool,
        keypoint_pairs: tuple[tuple[int, int], ...] = (),
        standing: bool = False,
    ) -> DetectionExample:
        """What is made of a record. keypoint_pairs: those that a mirrored picture swaps. standing: on a canvas that is
        as high as the usual one is wide."""
        model, learnt = self.model, train or self.eval["loss"]
        return DetectionExample(
            self.canvas("train" if train else "eval")[:: -1 if standing else 1],
            self.data["max_objects"],
            short_side=model.short_side,
            long_side=model.long_side,
            resize=model.rules.resize,
            augment={name: value for name, value in self.data["augment"].items() if value},
            train=train,
            mask_side=MASK_SIDE if learnt and model.mask_convs else 0,
            min_visible=self.data["min_visible"],
            classes=model.classes if learnt else 0,  # what is measured may have others
            keypoints=model.keypoints if learnt else 0,
            keypoint_pairs=keypoint_pairs,
            percentiles=tuple(self.data["percentiles"]) or None,
        )

    def source(self, split: str) -> Sequence:
        """The records of a split, in training rare ones more often.

        Raises ValueError for a source of which a loss is wanted, with another number of classes than the model's.
        """
        if split not in self._sources:
            source, threshold = super().source(split), self.data["repeat_threshold"]
            self._check_classes(split)
            self._sources[split] = (
                RepeatRare(source, threshold) if split == "train" and threshold else source
            )
        return self._sources[split]

    def maker(self, split: str, *, standing: bool = False) -> DetectionExample | CopyPaste:
        """In training it knows which keypoints a mirrored picture swaps, and perhaps pastes objects of other pictures.

        Raises ValueError for a source with another number of keypoints than the model's.
        """
        train = split == "train"
        pairs = left_right_pairs(self._keypoint_names()) if train or self.eval["loss"] else ()
        example = self.example(train=train, keypoint_pairs=pairs, standing=standing)
        if not train or not self.data["copy_paste"]:
            return example
        return CopyPaste(example, self.source(split), probability=self.data["copy_paste"])

    def batches(
        self, split: str, *, batch_size: int, seed: int = 0, **place: Any
    ) -> Iterator[dict[str, np.ndarray]]:
        """As `RecordTask.batches`; with `data.by_orientation` each has pictures that lie, or that stand."""
        if split != "train" or not self.data["by_orientation"]:
            return super().batches(split, batch_size=batch_size, seed=seed, **place)
        source = self.source(split)
        order = ByOrientation(source, batch_size, seed)
        makers = (self.maker(split, standing=standing) for standing in (False, True))
        given = dict(train=True, order=order, batch_size=batch_size, seed=seed) | place
        return load(source, OrientedExample(*makers, order), self.data, **given)

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The short numbers of `detection_scores`, and a sheet of truth beside answers."""
        scores = self.detection_scores(variables, mesh=mesh)
        return scores.short(), {} if scores.sheet is None else {"detections": scores.sheet}

    def detection_scores(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> DetectionScores:
        """COCO's numbers of boxes ("bbox/AP"), masks ("segm/AP"), with `eval.boundary` their outlines
        ("boundary/AP") and keypoints ("keypoints/AP").

        Numbers are shares of 1, as measured in the original pictures. One that has no object to find is left out.
        "detections_full" is the share of pictures in which no place for another detection was left. Where there are
        any, "left_out" is the share of the answers whose classes the data does not have, which count for nothing, and
        "unread" that of the pictures which could not be read, whose objects count as missed. With `eval.loss`,
        "eval_loss" is the mean over the pictures of the loss that training has, of whole pictures with draws of its
        own, the same ones every time for one size of batches; and its terms. Masks are those of the SAM of
        `eval.refine`, if there is one.

        Raises CheckpointError for variables of another model than the config's: flax would ignore a surplus of them;
        ValueError where a loss is wanted and the data's classes are not the model's, in their order.
        """
        batches = self.measured_batches(variables, mesh)
        measurement, lost = Measurement(self.model, self.data, self.eval, self._refine), []
        if self.eval["loss"] and not measurement.in_order:
            raise ValueError(self._no_loss("the model's classes in another order"))
        for number, batch in enumerate(batches):
            batch["example"] = batch["index"].astype(np.int32)
            placed = place_batch(batch, mesh)
            measurement.add(
                to_host(self._detect(variables, {name: placed[name] for name in ANSWERED}))
            )
            if self.eval["loss"]:
                lost.append(to_host(self._lost(variables, placed, number)))
        scores = measurement.outcome()
        return (
            dataclasses.replace(scores, shares=scores.shares | _mean_loss(lost)) if lost else scores
        )

    def _keypoint_names(self) -> tuple[str, ...]:
        """Of the model's keypoints, if it has any. Raises ValueError where the data has others."""
        names = classes_of(self.data)["keypoint_names"]
        if self.model.keypoints and len(names) != self.model.keypoints:
            raise ValueError(
                f"{self.data['source']!r} has {len(names)} keypoints, the model {self.model.keypoints}; set "
                f"config.model.keypoints={len(names)} or prepare the data with its keypoints"
            )
        return names if self.model.keypoints else ()

    def _no_loss(self, what: str) -> str:
        return (
            f"{self.data['source']!r} has {what}, so that training's loss cannot be measured there; set "
            "config.eval.loss=False"
        )

    def _check_classes(self, split: str) -> None:
        """Raises ValueError where a loss is wanted, and the model has not just the data's classes."""
        classes = len(classes_of(self.data)["category_ids"])
        if classes == self.model.classes:
            return
        if split == "eval" and self.eval["loss"]:
            raise ValueError(self._no_loss(f"{classes} classes, the model {self.model.classes}"))
        if split == "train":
            raise ValueError(
                f"{self.data['source']!r} has {classes} classes, the model {self.model.classes}; set "
                f"config.model.classes={classes}, or 0 for what there is. Weights of a detector of other classes are "
                "a start all the same: config.init_from='detector:PATH', which draws the heads' last layers anew"
            )

    def _detected(self, variables, batch):
        rows = detected(self.model, variables, batch["image"], batch["size"])
        return rows | {name: batch[name] for name in ("size", "original", "weight", "example")}

    def _measured_loss(self, variables, batch, number):
        return self.loss(variables, batch, jax.random.fold_in(jax.random.key(0), number), False)


def _mean_loss(
    lost: Sequence[tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray]]],
) -> dict[str, float]:
    """The loss and its terms, over all pictures, from `Detection.loss` of each batch."""
    terms = [name for name in lost[0][2] if name not in COUNTED]
    sums = [
        {"eval_loss": loss} | {f"eval_loss/{name}": metrics[name] for name in terms}
        for loss, _, metrics in lost
    ]
    pictures = sum(float(weight) for _, weight, _ in lost)
    return {name: sum(float(batch[name]) for batch in sums) / pictures for name in sums[0]}
