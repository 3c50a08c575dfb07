"""The batches of the detection task: canvases, examples, and the records of a split."""

from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections
import numpy as np

from segjax.data.aspect_batches import AspectGroupedExample, AspectGroupedOrder
from segjax.data.examples.copy_paste import CopyPaste
from segjax.data.examples.detection import MASK_SIDE, DetectionExample
from segjax.data.examples.place_objects import find_left_right_pairs
from segjax.data.mixture import MixedRecords
from segjax.data.repeat_factor import RepeatFactorSource
from segjax.data.splits import describe_categories
from segjax.inference.detection.canvases import list_default_canvases
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.tasks.detection.data_checks import (
    NO_BOX,
    check_boxes,
    check_classes,
    check_stuff,
    get_keypoint_names,
    warn_without_masks,
)
from segjax.tasks.record_task import RecordTask, make_batches


class DetectionBatches(RecordTask):
    """The part of the detection task that makes batches.

    `Detection` adds the loss and the scores.

    Args:
      config: see `detection_config`.
    """

    model: MaskRcnn
    no_object = NO_BOX

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        # Opening a source can count all of its categories, so it happens once per split.
        self._sources: dict[str, Sequence] = {}

    def canvas(self, split: str) -> tuple[int, int]:
        """Returns (height, width) in pixels of the canvases of "train" or "eval".

        The setting `canvas` of the split comes first. Otherwise, images grouped by orientation get
        the widest default canvas (upright for portrait images), and all others the model's square.
        """
        own = (self.data if split == "train" else self.eval)["canvas"]
        if split == "train" and self.data["by_orientation"] and not own:
            return max(list_default_canvases(self.model), key=lambda hw: hw[1] / hw[0])
        return tuple(own) or (self.model.canvas,) * 2

    def describe_classes(self) -> dict[str, tuple]:
        """Returns the names and ids of the categories and the keypoint names of the data."""
        return describe_categories(self.data)

    @property
    def batch_shape_count(self) -> int:
        """Number of batch shapes in training: 2 if images are grouped by orientation."""
        # A square canvas is its own portrait version.
        height, width = self.canvas("train")
        return 2 if self.data["by_orientation"] and height != width else 1

    def build_example(
        self,
        *,
        train: bool,
        keypoint_pairs: tuple[tuple[int, int], ...] = (),
        portrait: bool = False,
    ) -> DetectionExample:
        """Returns the function that makes an example of a record.

        Args:
          train: True for training, False for evaluation.
          keypoint_pairs: indices of the keypoints that a mirrored image swaps.
          portrait: True for the canvas upright, for portrait images.
        """
        needs_loss = train or self.eval["loss"]
        canvas = self.canvas("train" if train else "eval")
        return DetectionExample(
            canvas[::-1] if portrait else canvas,
            self.data["max_objects"],
            short_side=self.model.preprocessing.short_side,
            long_side=self.model.preprocessing.long_side,
            resize=self.model.preprocessing.resize,
            augment={name: value for name, value in self.data["augment"].items() if value},
            train=train,
            mask_side=MASK_SIDE if needs_loss and self.model.mask_head else 0,
            min_visible=self.data["min_visible"],
            # Without a loss, the evaluation split may have other classes than the model.
            classes=self.model.classes if needs_loss else 0,
            keypoints=self.model.keypoints if needs_loss else 0,
            keypoint_pairs=keypoint_pairs,
            percentiles=tuple(self.data["percentiles"]) or None,
            stuff=self.model.semantic_head.classes
            if needs_loss and self.model.semantic_head
            else 0,
        )

    def open_source(self, split: str) -> Sequence:
        """Returns the records of a split.

        Training uses repeat factor sampling if `config.data.repeat_threshold` is set.

        Raises:
          ValueError: A loss is needed, and the data has another number of classes, or of classes
            of stuff, than the model.
          NoUsableObjectError: All objects of the training split are crowds, or there are none.
        """
        if split not in self._sources:
            source, threshold = super().open_source(split), self.data["repeat_threshold"]
            check_classes(self.data, self.model, split=split, needs_loss=self.eval["loss"])
            if split == "train" or self.eval["loss"]:
                check_stuff(self.data, self.model)
            if split == "train":
                check_boxes(source, self.data)
                if self.model.mask_head:
                    warn_without_masks(source, self.data)
            if split == "train" and threshold:
                if isinstance(source, MixedRecords):
                    raise ValueError(
                        "config.data.repeat_threshold and a mixture in config.data.source both "
                        "decide how often an image is drawn; set config.data.repeat_threshold=0"
                    )
                source = RepeatFactorSource(source, threshold)
            self._sources[split] = source
        return self._sources[split]

    def build_split_example(
        self, split: str, *, portrait: bool = False
    ) -> DetectionExample | CopyPaste:
        """Returns the function that makes the examples of a split.

        Training uses copy-paste if `config.data.copy_paste` is set.

        Raises:
          ValueError: The data has another number of keypoints than the model.
        """
        train, pairs = split == "train", ()
        # Only the targets of the loss need keypoints.
        if train or self.eval["loss"]:
            pairs = find_left_right_pairs(get_keypoint_names(self.data, self.model))
        example = self.build_example(train=train, keypoint_pairs=pairs, portrait=portrait)
        if not train or not self.data["copy_paste"]:
            return example
        return CopyPaste(example, self.open_source(split), probability=self.data["copy_paste"])

    def batches(
        self, split: str, *, batch_size: int, seed: int = 0, **place: Any
    ) -> Iterator[dict[str, np.ndarray]]:
        """Opens a split, see `RecordTask.batches`.

        With `config.data.by_orientation`, the images of a training batch are all landscape or all
        portrait.
        """
        if split != "train" or not self.data["by_orientation"]:
            return super().batches(split, batch_size=batch_size, seed=seed, **place)
        source = self.open_source(split)
        order = AspectGroupedOrder(source, batch_size, seed)
        makers = (self.build_split_example(split, portrait=portrait) for portrait in (False, True))
        options = dict(train=True, order=order, batch_size=batch_size, seed=seed) | place
        options |= {"no_object": self.no_object}
        return make_batches(source, AspectGroupedExample(*makers, order), self.data, **options)
