"""Detector: objects in images of any size, in the output format of torchvision's detectors."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from segjax.images.decoding import decode_image
from segjax.images.resizing import RESIZES
from segjax.images.transforms import pad_to_canvas
from segjax.inference.detection.canvases import (
    Canvas,
    check_canvases,
    choose_canvas,
    list_default_canvases,
)
from segjax.inference.detection.class_names import DetectorClasses, resolve_classes
from segjax.inference.detection.postprocess import (
    ImageDetections,
    detect_on_canvas,
    to_image_frame,
)
from segjax.inference.loading import load_with_config
from segjax.inference.numbers import check_finite, check_numbers
from segjax.inference.sam.batching import iterate_one_ahead
from segjax.inference.saved_options import read_saved_percentiles
from segjax.masks import decode_mask
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.weights.run_folder import Step

OUTPUT_MODES = ("binary_mask", "coco_rle")
_detect_on_canvas = jax.jit(detect_on_canvas, static_argnums=0)


class Detector:
    """Predictor of boxes, classes, masks and keypoints.

    Images are resized as the model requires (`short_side`, `long_side`) and padded to one of a few
    canvases. One program is compiled per canvas.

    Args:
      model: a Mask R-CNN, as `segjax.load` returns it.
      variables: its variables.
      classes: names of the classes. None: see `resolve_classes`. `Detector.load` reads them from
        the checkpoint.
      score_threshold: detections have a higher score, 0..1. None: the model's own, 0.05 for the
        published ones.
      max_detections: detections per image. None: the model's own, 100 for the published ones.
      output_mode: format of "masks". "binary_mask": bool [N, H, W]. "coco_rle": run-length
        encodings, a few kB per mask at any resolution.
      percentiles: (low, high) in 0..100. Stretches the intensities of each image, as
        `config.data.percentiles` does in training.
      canvases: (height, width) of the canvases to choose from. None: `list_default_canvases`.
        "tight": each image gets a canvas of its own, as in torchvision and detectron2 for single
        images, and each new size is compiled.
      images_per_batch: images per call of the network. Incomplete batches are padded, so more than
        1 pays off for many images.

    Raises:
      ValueError: Another kind of model, variables that are not finite, an unknown output mode, or
        a canvas that the model does not take.

    Example:
      >>> model = build_model("maskrcnn_debug")
      >>> detector = Detector(model, init_model(model, jax.random.key(0)))
      >>> detections = detector([np.zeros((48, 64, 3), np.uint8)])[0]
      >>> names = [detector.names[label - 1] for label in detections["labels"]]
      >>> detections["masks"].shape[1:]
      (48, 64)
    """

    def __init__(
        self,
        model: MaskRcnn,
        variables: Mapping[str, Any],
        *,
        classes: DetectorClasses | None = None,
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
        check_numbers(score_threshold=score_threshold)
        counts = {"images_per_batch": images_per_batch, "max_detections": max_detections}
        for name, value in counts.items():
            if value is not None and not value >= 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        # A run that diverged would look like a detector that finds nothing.
        check_finite(variables, "so the model would detect nothing")
        selection = model.detection_selection
        self.score_threshold = (
            selection.score_threshold if score_threshold is None else score_threshold
        )
        self.max_detections = max_detections or selection.count
        # The host applies stricter thresholds, so that they do not need another compiled program.
        self.model = model.replace_selection(
            score_threshold=min(selection.score_threshold, self.score_threshold),
            count=max(selection.count, self.max_detections),
        )
        self.variables = jax.device_put(dict(variables))
        self.classes = classes or resolve_classes(model)
        self.output_mode, self.percentiles = output_mode, percentiles
        self.images_per_batch = images_per_batch
        canvases = list_default_canvases(model) if canvases is None else canvases
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
        """Loads a detector with its class names and the percentiles of its run.

        Args:
          model: as for `segjax.load`.
          path: as for `segjax.load`.
          step: as for `segjax.load`.
          overrides: attributes of the model to replace, for example
            {"candidates": 3000, "nms_threshold": 0.7} for crowds.
          options: further arguments of this class.

        Raises:
          ValueError: The model is of another kind. The message says what takes it.
          CheckpointError: The checkpoint cannot be read or does not fit, see `segjax.load`.
        """
        network, variables, saved = load_with_config(
            model, path, step=step, family="mask_rcnn", **overrides or {}
        )
        known = {
            "classes": resolve_classes(network, saved),
            "percentiles": read_saved_percentiles(saved),
        }
        return cls(network, variables, **known | options)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, indexed by label - 1."""
        return self.classes.names

    def __call__(
        self, images: Sequence[np.ndarray], image_format: str = "RGB"
    ) -> list[dict[str, Any]]:
        """Detects the objects of each image.

        Args:
          images: uint8 [H, W, 3] of any sizes. Gray, RGBA and uint16 images are converted as in
            `SamPredictor`.
          image_format: order of the channels, "RGB" or "BGR".

        Returns:
          For each image a dict of N detections by falling score, in pixels of the image:
            boxes: float32 [N, 4], x1 y1 x2 y2.
            labels: int64 [N], 1..K.
            scores: float32 [N], probabilities.
            masks: bool [N, H, W]. With output_mode "coco_rle" N dicts
              {"size": [H, W], "counts": str}. torchvision returns probabilities [N, 1, H, W], these
              masks are thresholded at 0.5.
            keypoints: float32 [N, J, 3], x, y, 1.
            keypoints_scores: float32 [N, J], logits or probabilities, as the model's conventions
              define them.
            stuff: uint8 [H, W], class 1..S of each pixel, 0 on things.
          A model without masks, keypoints or a semantic branch has no such entries.

        Raises:
          ValueError: A single array instead of a list, or an unknown format.
          ImageError: An image of another dtype or shape, or without pixels. The message names it.
        """
        return [self.to_dict(detections) for detections in self.detect(images, image_format)]

    def detect(
        self, images: Sequence[np.ndarray], image_format: str = "RGB"
    ) -> list[ImageDetections]:
        """Detects the objects of each image and returns tuples with run-length encoded masks.

        Takes the arguments of `__call__` and ignores `output_mode`.
        """
        if isinstance(images, np.ndarray) and images.ndim < 4:
            raise ValueError(
                f"images is one array of shape {images.shape}; expected a list of images: [image]"
            )
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format is {image_format!r}; expected 'RGB' or 'BGR'")
        # Decode to RGB
        order = slice(None, None, 1 if image_format == "RGB" else -1)
        decoded = [
            decode_image(image, name=f"image {index}", percentiles=self.percentiles)[:, :, order]
            for index, image in enumerate(images)
        ]
        # The host converts one batch while the device computes the next.
        detections: list[Any] = [None] * len(decoded)
        for indices, placements, rows in iterate_one_ahead(self._run_batches(decoded)):
            rows = jax.device_get(rows)
            for slot, (index, placement) in enumerate(zip(indices, placements, strict=True)):
                row = {name: values[slot] for name, values in rows.items()}
                first = row["valid"].cumsum() <= self.max_detections
                row["valid"] = row["valid"] & first & (row["scores"] > self.score_threshold)
                detections[index] = to_image_frame(self.model, row, placement)
        return detections

    def to_dict(self, detections: ImageDetections) -> dict[str, Any]:
        """Converts the detections of one image from `detect` to the format of `__call__`."""
        output: dict[str, Any] = {
            "boxes": detections.boxes,
            "labels": detections.labels,
            "scores": detections.scores,
        }
        if detections.stuff is not None:
            output["stuff"] = detections.stuff
        hw, masks, keypoints = detections.hw, detections.masks, detections.keypoints
        if masks is not None and self.output_mode == "coco_rle":
            output["masks"] = [{"size": list(hw), "counts": counts} for counts in masks]
        elif masks is not None:
            output["masks"] = np.zeros((len(masks), *hw), bool)
            for index, counts in enumerate(masks):
                output["masks"][index] = decode_mask(counts, *hw)
        if keypoints is not None:
            # torchvision's third column is the visibility, which is always 1.
            xy, output["keypoints_scores"] = keypoints[..., :2], keypoints[..., 2]
            output["keypoints"] = np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1)
        return output

    def _run_batches(self, images: Sequence[np.ndarray]) -> Iterator[tuple]:
        """Starts the network on batches of images that share a canvas.

        Yields:
          indices: indices of the images of the batch.
          placements: their placements on the canvas.
          rows: device arrays of `detect_on_canvas`, perhaps still being computed.
        """
        choices = [choose_canvas(self.model, image.shape[:2], self.canvases) for image in images]
        # Images that share a canvas share batches.
        canvas_of = lambda index: choices[index][1]
        for canvas, group in itertools.groupby(
            sorted(range(len(images)), key=canvas_of), canvas_of
        ):
            group = list(group)
            for start in range(0, len(group), self.images_per_batch):
                indices = group[start : start + self.images_per_batch]
                placements = [choices[index][0] for index in indices]
                # Unused slots stay black, with the size of the canvas.
                dtype = RESIZES[self.model.preprocessing.resize].dtype
                batch = np.zeros((self.images_per_batch, *canvas, 3), dtype)
                sizes = np.full((self.images_per_batch, 2), canvas, np.int32)
                for slot, (index, placement) in enumerate(zip(indices, placements, strict=True)):
                    batch[slot] = pad_to_canvas(placement.apply_exactly(images[index]), canvas)
                    sizes[slot] = placement.size
                rows = _detect_on_canvas(self.model, self.variables, batch, sizes)
                yield indices, placements, rows
