"""Detector: the objects of pictures of any sizes (the answers of torchvision's detectors)."""

import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from segjax.images.transforms import decode_image, pad_to_canvas
from segjax.inference.detection.canvases import Canvas, check_canvases, placed, usual_canvases
from segjax.inference.detection.class_names import Classes, classes_of
from segjax.inference.detection.postprocess import Found, detected, found_in_picture
from segjax.inference.loading import load_with_config
from segjax.inference.sam.batching import one_ahead
from segjax.masks import decode_mask
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.weights.run_folder import Step
from segjax.weights.tree import flatten

OUTPUT_MODES = ("binary_mask", "coco_rle")
_detected = jax.jit(detected, static_argnums=0)


class Detector:
    """Boxes, classes, masks and keypoints of the objects in pictures.

    Pictures become as large as the model's rule says (`short_side`, `long_side`), and are padded to one of a few
    canvases, for each of which one program is compiled.

    Args:
      model, variables: as `segjax.load` returns them.
      classes: what they are called; see `classes_of`, and `Detector.load`, which finds out.
      score_threshold: objects have a higher score; None: the model's own, .05 of the published ones.
      max_detections: of a picture; None: the model's own, 100 of the published ones.
      output_mode: of "masks": "binary_mask" (bool [N, H, W]) or "coco_rle", a few kB a mask whatever the resolution.
      percentiles: (low, high): stretch each picture's intensities as in training (`config.data.percentiles`).
      canvases: (height, width) of those to choose from; None: `usual_canvases`. "tight": each picture has one of its
        own, as torchvision and detectron2 have it for single pictures, and each such size is compiled anew.
      images_per_batch: pictures in a call of the network. Calls are filled up, so more than 1 is for many pictures.

    Raises:
      ValueError: another kind of model, variables that are not finite, an unknown output mode, a canvas that the model
        does not take.
    """

    def __init__(
        self,
        model: MaskRcnn,
        variables: Mapping[str, Any],
        *,
        classes: Classes | None = None,
        score_threshold: float | None = None,
        max_detections: int | None = None,
        output_mode: str = "binary_mask",
        percentiles: tuple[float, float] | None = None,
        canvases: Sequence[Canvas] | Literal["tight"] | None = None,
        images_per_batch: int = 1,
    ) -> None:
        if not isinstance(model, MaskRcnn):
            raise ValueError(
                f"Detector takes a Mask R-CNN, got {type(model).__name__}; SamPredictor takes a SAM"
            )
        if output_mode not in OUTPUT_MODES:
            raise ValueError(
                f"output_mode {output_mode!r} is unknown; choose one of {', '.join(OUTPUT_MODES)}"
            )
        for name, value in (
            ("images_per_batch", images_per_batch),
            ("max_detections", max_detections),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        _check_finite(variables)
        self.score_threshold = model.score_threshold if score_threshold is None else score_threshold
        self.max_detections = max_detections or model.detections
        # The network's answers are cut here where that does: another threshold need not be another program.
        self.model = model.clone(
            score_threshold=min(model.score_threshold, self.score_threshold),
            detections=max(model.detections, self.max_detections),
        )
        self.variables = jax.device_put(dict(variables))
        self.classes = classes or classes_of(model)
        self.output_mode, self.percentiles, self.images_per_batch = (
            output_mode,
            percentiles,
            images_per_batch,
        )
        canvases = usual_canvases(model) if canvases is None else canvases
        self.canvases = canvases if canvases == "tight" else check_canvases(model, canvases)

    @classmethod
    def load(
        cls,
        model: str | os.PathLike,
        path: str | os.PathLike | None = None,
        *,
        step: Step = None,
        overrides: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> "Detector":
        """The detector of a run's folder or a file, with the names of its classes and the run's percentiles.

        Args:
          model, path, step: as `segjax.load` takes them. overrides: attributes of the model to replace, as there, for
            example {"candidates": 3000, "nms_threshold": .7} for crowds. options: of this class.

        Raises what `segjax.load` raises, and ValueError for a model of another kind, saying what takes it.
        """
        network, variables, saved = load_with_config(
            model, path, step=step, only="Mask R-CNN", **overrides or {}
        )
        percentiles = tuple(saved.get("data", {}).get("percentiles") or ()) or None
        known = {"classes": classes_of(network, saved), "percentiles": percentiles}
        return cls(network, variables, **known | options)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes; a label n is called names[n - 1]."""
        return self.classes.names

    def __call__(
        self, images: Sequence[np.ndarray], image_format: str = "RGB"
    ) -> list[dict[str, Any]]:
        """The objects of each image, the most certain first.

        Args:
          images: uint8 [H, W, 3] of any sizes; grey, RGBA and uint16 are taken as by `SamPredictor`.
          image_format: "RGB" or "BGR", the order of the channels.

        Returns:
          For each image a dict of arrays, empty ones where nothing is found, in pixels of the image:
            boxes: float32 [N, 4], x1 y1 x2 y2. labels: int64 [N], 1..K. scores: float32 [N].
            masks: bool [N, H, W], or with output_mode "coco_rle" N dicts {"size": [H, W], "counts": str}.
              (torchvision's are probabilities [N, 1, H, W]; these are cut at .5.)
            keypoints: float32 [N, J, 3], x, y, 1; keypoints_scores: float32 [N, J]: logits or probabilities, as the
              model's conventions have it.
          A model without masks or keypoints has no such entries.

        Raises:
          ValueError: one array where several are expected, another format. ImageError (a ValueError), which names the
            image: another dtype or shape, or no pixels.
        """
        return [self.as_dict(found) for found in self.find(images, image_format)]

    def find(self, images: Sequence[np.ndarray], image_format: str = "RGB") -> list[Found]:
        """The same as plain tuples, whose masks are run lengths whatever the output mode."""
        if isinstance(images, np.ndarray) and images.ndim < 4:
            raise ValueError(
                f"images is one array of shape {images.shape}; expected a list of images: [image]"
            )
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format is {image_format!r}; expected 'RGB' or 'BGR'")
        order = slice(None, None, 1 if image_format == "RGB" else -1)
        pictures = [
            decode_image(image, name=f"image {number}", percentiles=self.percentiles)[:, :, order]
            for number, image in enumerate(images)
        ]
        found: list[Any] = [None] * len(pictures)
        for numbers, placements, rows in one_ahead(self._calls(pictures)):
            rows = jax.device_get(rows)
            for place, (number, placement) in enumerate(zip(numbers, placements, strict=True)):
                row = {name: values[place] for name, values in rows.items()}
                first = row["valid"].cumsum() <= self.max_detections
                row["valid"] = row["valid"] & first & (row["scores"] > self.score_threshold)
                found[number] = found_in_picture(self.model, row, placement)
        return found

    def as_dict(self, found: Found) -> dict[str, Any]:
        """What `__call__` returns of an image, of what `find` returns of it."""
        answer: dict[str, Any] = {
            "boxes": found.boxes,
            "labels": found.labels,
            "scores": found.scores,
        }
        if found.masks is not None and self.output_mode == "coco_rle":
            answer["masks"] = [{"size": list(found.hw), "counts": counts} for counts in found.masks]
        elif found.masks is not None:
            answer["masks"] = np.zeros((len(found.masks), *found.hw), bool)
            for place, counts in enumerate(found.masks):
                answer["masks"][place] = decode_mask(counts, *found.hw)
        if found.keypoints is not None:
            xy, answer["keypoints_scores"] = found.keypoints[..., :2], found.keypoints[..., 2]
            answer["keypoints"] = np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1)
        return answer

    def _calls(self, pictures: Sequence[np.ndarray]) -> Iterator[tuple]:
        """(which pictures, their placements, the device's rows) of each call of the network, begun."""
        places = [placed(self.model, picture.shape[:2], self.canvases) for picture in pictures]
        by_canvas = functools.partial(sorted, key=lambda number: places[number][1])
        for canvas, group in itertools.groupby(
            by_canvas(range(len(pictures))), key=lambda number: places[number][1]
        ):
            group = list(group)
            for start in range(0, len(group), self.images_per_batch):
                numbers = group[start : start + self.images_per_batch]
                placements = [places[number][0] for number in numbers]
                images = np.zeros((self.images_per_batch, *canvas, 3), np.uint8)
                sizes = np.full((self.images_per_batch, 2), canvas, np.int32)
                for place, (number, placement) in enumerate(zip(numbers, placements, strict=True)):
                    images[place] = pad_to_canvas(placement.apply(pictures[number]), canvas)
                    sizes[place] = placement.size
                yield numbers, placements, _detected(self.model, self.variables, images, sizes)


def _check_finite(variables: Mapping[str, Any]) -> None:
    for path, array in flatten(dict(variables)).items():
        if not np.isfinite(np.asarray(array)).all():
            raise ValueError(
                f"variables: {path} holds NaN or infinity, with which nothing would be found; take an earlier "
                "checkpoint of the run (step=...)"
            )
