"""Differences between torchvision and detectron2 in how they implement the same papers.

Weights that one library trained perform poorly under the rules of the other. A model is therefore
composed by the conventions of one of them, see `segjax.models.detection.build`. The values are
those of torchvision 0.28 and of detectron2's defaults (`config/defaults.py` and `modeling/`).

Two more differences need no rule here. detectron2's files store the background as the last class,
which `segjax.weights.tables.detectron2` reorders. Its mask targets are binary (RoIAlign with half
a pixel, then >= 0.5), torchvision's are the soft values of RoIAlign.
"""

import dataclasses
import difflib

from segjax.models.detection.postprocess import OutputRules
from segjax.models.detection.preprocessing import PixelNormalization
from segjax.models.detection.roi_pooling import RoiPooling
from segjax.models.detection.rpn import AnchorGenerator, ProposalSelection


@dataclasses.dataclass(frozen=True)
class LossRules:
    """Numbers of the losses that differ between the libraries.

    Attributes:
      rpn_beta: where the smooth L1 loss of proposals turns from quadratic to linear, in encoded
        units. 0 is plain L1.
      box_beta: the same for the boxes of regions.
      keypoint_box_beta: replaces `box_beta` in models with a keypoint head.
      stuff_weight: factor on the loss of the semantic branch (Panoptic FPN, section 4.1).
      rpn_samples_fixed: divide the losses of the proposals by the number of samples that an image
        should have (256). If false they are divided by the number of anchors that were sampled.
    """

    rpn_beta: float = 1 / 9
    box_beta: float = 1 / 9
    keypoint_box_beta: float = 1 / 9
    stuff_weight: float = 0.5
    rpn_samples_fixed: bool = False


@dataclasses.dataclass(frozen=True)
class Conventions:
    """Rules of one library.

    Attributes:
      library: "torchvision" or "detectron2", whose files hold such a model.
      pixels: channel order and normalization of images.
      resize: interpolation of images, see `Preprocessing.resize`.
      stride_in_1x1: a bottleneck of a ResNet halves the map in its first 1x1 convolution instead
        of the 3x3 one.
      background_rows: box and mask predictors have unused outputs for the background, class 0.
      anchors: sizes and rounding of anchors.
      proposals: selection of region proposals.
      roi_pooling: sampling of regions.
      min_detection_side: detections with a shorter side, in pixels, are dropped.
      losses: numbers of the losses.
      outputs: conversion of masks and keypoints into image pixels.
    """

    library: str
    pixels: PixelNormalization
    resize: str
    stride_in_1x1: bool
    background_rows: bool
    anchors: AnchorGenerator
    proposals: ProposalSelection
    roi_pooling: RoiPooling
    min_detection_side: float
    losses: LossRules
    outputs: OutputRules


_TORCHVISION = Conventions(
    library="torchvision",
    pixels=PixelNormalization(),
    resize="torchvision",
    stride_in_1x1=False,
    background_rows=True,
    anchors=AnchorGenerator(rounded=True, stride_from_grid=True),
    proposals=ProposalSelection(after=(2000, 1000), min_side=1e-3, sigmoid_scores=True),
    roi_pooling=RoiPooling(samples=2, aligned=False, level_epsilon_inside=False),
    min_detection_side=1e-2,
    losses=LossRules(),
    outputs=OutputRules(paste="integer", keypoint_probability=False),
)

_DETECTRON2 = Conventions(
    library="detectron2",
    pixels=PixelNormalization(bgr=True, mean=PixelNormalization().mean[::-1], std=(1.0, 1.0, 1.0)),
    resize="pillow",
    stride_in_1x1=True,
    background_rows=False,
    anchors=AnchorGenerator(rounded=False, stride_from_grid=False),
    proposals=ProposalSelection(after=(1000, 1000), min_side=0.0, sigmoid_scores=False),
    roi_pooling=RoiPooling(samples=0, aligned=True, level_epsilon_inside=True),
    min_detection_side=0.0,
    losses=LossRules(rpn_beta=0.0, box_beta=0.0, keypoint_box_beta=0.5, rpn_samples_fixed=True),
    outputs=OutputRules(paste="grid", keypoint_probability=True),
)

CONVENTIONS = {
    "torchvision": _TORCHVISION,
    # For backbones that start from the ResNet paper's own weights, which were trained in Caffe.
    "detectron2": _DETECTRON2,
    # For all other backbones: ViTDet, and ResNets that torchvision trained.
    "detectron2_rgb": dataclasses.replace(
        _DETECTRON2, pixels=PixelNormalization(), stride_in_1x1=False
    ),
}


def find_conventions(name: str) -> Conventions:
    """Returns the conventions of a name.

    Raises:
      ValueError: unknown name, with the nearest one.
    """
    if name not in CONVENTIONS:
        near = difflib.get_close_matches(str(name), CONVENTIONS, 1, cutoff=0)[0]
        raise ValueError(
            f"conventions {name!r} are unknown; nearest: {near}; all: {', '.join(CONVENTIONS)}"
        )
    return CONVENTIONS[name]
