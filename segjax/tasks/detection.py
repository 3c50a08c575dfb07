"""Detection: pictures with objects, Mask R-CNN, and its losses, bound together for the loop."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.data.detection import MASK_SIDE, DetectionExample
from segjax.data.placed import left_right_pairs
from segjax.data.repeats import RepeatRare
from segjax.data.splits import classes_of
from segjax.inference.found import detected
from segjax.models.detection.build import build_mask_rcnn
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.detection.operations import detector_multiply_adds
from segjax.models.operations import TRAINING
from segjax.tasks.detection_config import detection_config
from segjax.tasks.detection_evaluation import Measurement
from segjax.tasks.detection_terms import Samples, loss_terms
from segjax.tasks.pretrained import detector_from
from segjax.tasks.record_task import RecordTask
from segjax.training.sharding import place_batch, to_host


class Detection(RecordTask):
    """The task of `config` (see `detection_config`): all that the loop asks for.

    A model of 0 classes gets those of the data, and the config says so from then on, as does the run's folder.
    """

    defaults = staticmethod(detection_config)
    build = staticmethod(build_mask_rcnn)
    model: MaskRcnn

    def __init__(self, config: ml_collections.ConfigDict):
        """Raises ValueError for samples of which none may show an object."""
        if config.model.get("classes") == 0:
            config.model.classes = len(classes_of(config.data.to_dict())["category_ids"])
        super().__init__(config)
        self.samples = Samples(**config.samples.to_dict())
        if not self.samples.objects:
            raise ValueError(
                f"config.samples has {self.samples.regions} regions, {self.samples.positive_regions} of which may show "
                "objects: that is none; expected one a picture at least"
            )
        self._detect = jax.jit(self._detected)

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
            classes=model.classes if train else 0,  # what is measured may have others
            keypoints=model.keypoints if train else 0,
            keypoint_pairs=keypoint_pairs,
            percentiles=tuple(self.data["percentiles"]) or None,
        )

    def source(self, split: str) -> Sequence:
        """The records of a split, in training rare ones more often.

        Raises ValueError for a source to train on with another number of classes than the model's.
        """
        source, train = super().source(split), split == "train"
        if train:
            self._check_classes()
        return RepeatRare(source, self.data["repeat_threshold"]) if train and self.data["repeat_threshold"] else source

    def maker(self, split: str) -> DetectionExample:
        """In training it knows which keypoints a mirrored picture swaps.

        Raises ValueError for a source with another number of keypoints than the model's.
        """
        pairs = left_right_pairs(self._keypoint_names()) if split == "train" else ()
        return self.example(train=split == "train", keypoint_pairs=pairs)

    def evaluate(
        self, variables: Mapping[str, Any], *, mesh: jax.sharding.Mesh
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """COCO's AP, AP50 and AP75 of boxes ("bbox/AP"), masks ("segm/AP"), with `eval.boundary` their outlines
        ("boundary/AP") and keypoints ("keypoints/AP"), and a sheet of truth beside answers.

        Numbers are shares of 1, as measured in the original pictures. One that has no object to find is left out.
        "detections_full" is the share of pictures in which no place for another detection was left. Where there are
        any, "left_out" is the share of the answers whose classes the data does not have, which count for nothing, and
        "unread" that of the pictures which could not be read, whose objects count as missed.

        Raises CheckpointError for variables of another model than the config's: flax would ignore a surplus of them.
        """
        batches = self.measured_batches(variables, mesh)
        measurement = Measurement(self.model, self.data, self.eval)
        for batch in batches:
            batch["example"] = batch["index"].astype(np.int32)
            measurement.add(to_host(self._detect(variables, place_batch(batch, mesh))))
        return measurement.outcome()

    def _keypoint_names(self) -> tuple[str, ...]:
        """Of the model's keypoints, if it has any. Raises ValueError where the data has others."""
        names = classes_of(self.data)["keypoint_names"]
        if self.model.keypoints and len(names) != self.model.keypoints:
            raise ValueError(
                f"{self.data['source']!r} has {len(names)} keypoints, the model {self.model.keypoints}; set "
                f"config.model.keypoints={len(names)} or prepare the data with its keypoints"
            )
        return names if self.model.keypoints else ()

    def _check_classes(self) -> None:
        """Raises ValueError where the model has not just the data's classes."""
        classes = len(classes_of(self.data)["category_ids"])
        if classes != self.model.classes:
            raise ValueError(
                f"{self.data['source']!r} has {classes} classes, the model {self.model.classes}; set "
                f"config.model.classes={classes}, or 0 for what there is. Weights of a detector of other classes are "
                "a start all the same: config.init_from='detector:PATH', which draws the heads' last layers anew"
            )

    def _detected(self, variables, batch):
        rows = detected(self.model, variables, batch["image"], batch["size"])
        return rows | {name: batch[name] for name in ("size", "original", "weight", "example")}
