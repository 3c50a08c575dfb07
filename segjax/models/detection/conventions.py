"""What torchvision and detectron2 decide differently about the same paper, in one place.

Weights of one library give poor answers under the rules of the other, so a model names whose rules it follows, and
nothing else asks. As torchvision 0.28 and detectron2's defaults (config/defaults.py, modeling/) have them.
"""

import dataclasses
import difflib

import jax
import jax.numpy as jnp

from segjax.ops.pixels import PIXEL_MEAN, PIXEL_STD


@dataclasses.dataclass(frozen=True)
class Conventions:
    """Rules of a library. Boxes are x1 y1 x2 y2; "sides" are in pixels of the canvas.

    Attributes:
      library: whose files have arrays of these shapes: "torchvision" or "detectron2".
      bgr: images are turned to BGR; pixel_mean and pixel_std (of values 0..255) are in that order.
      antialias: pictures are shrunk as Pillow does it, on uint8; else by plain bilinear interpolation of floats.
      stride_in_1x1: a bottleneck halves the map in its first 1x1 convolution, else in the 3x3 one.
      background_rows: the predictors of boxes and masks have outputs for the background too, as class 0, never used.
      background_last: the files' class scores have the background behind the classes; ours always have it first.
      round_anchors: base anchors are rounded to whole pixels.
      stride_from_grid: the step between anchors is canvas // cells, per axis; else it is 4, 8, 16, 32, 64.
      roi_aligned: RoIAlign shifts by half a pixel. roi_samples: per bin and axis; 0: as many as a bin has cells.
      level_epsilon_inside: boxes are of level floor(4 + log2(side / 224 + 1e-8)); else of floor(4 + log2(side / 224) +
        1e-6).
      proposals_before, proposals_after: (training, inference): how many of the best of each level go into suppression,
        and how many of all levels of a picture come out of it.
      proposal_nms: IoU above which a proposal of the same level is dropped.
      proposal_side: proposals with a shorter side are dropped; with one of exactly 0 too.
      detection_side: the same of detections.
      sigmoid_scores: proposals are ranked by probability, which saturates; else by logit.
      rpn_beta, box_beta: where smooth L1 turns from square to linear; 0 is plain L1. keypoint_box_beta: box_beta where
        there is a keypoint head.
      rpn_samples_fixed: losses of the proposals are divided by 256 an image; else by the number of anchors sampled.
      hard_mask_targets: masks are compared as 0 and 1 (RoIAlign with half pixels, then >= 0.5); else as soft values of
        RoIAlign without half pixels.
      integer_paste: masks are resized to boxes of whole pixels; else sampled at the pixels' centres.
      keypoint_probability: a keypoint's score is its share of the map, else its logit.
    """

    library: str
    bgr: bool
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    antialias: bool
    stride_in_1x1: bool
    background_rows: bool
    background_last: bool
    round_anchors: bool
    stride_from_grid: bool
    roi_aligned: bool
    roi_samples: int
    level_epsilon_inside: bool
    proposals_before: tuple[int, int]
    proposals_after: tuple[int, int]
    proposal_nms: float
    proposal_side: float
    detection_side: float
    sigmoid_scores: bool
    rpn_beta: float
    box_beta: float
    keypoint_box_beta: float
    rpn_samples_fixed: bool
    hard_mask_targets: bool
    integer_paste: bool
    keypoint_probability: bool

    @property
    def resize(self) -> str:
        """How pictures are resized, as `segjax.images.placement.Placement` calls it."""
        return "pillow" if self.antialias else "torchvision"

    @property
    def paste(self) -> str:
        """How masks come to the picture's pixels, as `segjax.ops.roi.paste_masks` calls it."""
        return "integer" if self.integer_paste else "grid"


_MEAN, _STD = (
    tuple(round(float(value), 3) for value in values) for values in (PIXEL_MEAN, PIXEL_STD)
)

_TORCHVISION = Conventions(
    library="torchvision",
    bgr=False,
    pixel_mean=_MEAN,
    pixel_std=_STD,
    antialias=False,
    stride_in_1x1=False,
    background_rows=True,
    background_last=False,
    round_anchors=True,
    stride_from_grid=True,
    roi_aligned=False,
    roi_samples=2,
    level_epsilon_inside=False,
    proposals_before=(2000, 1000),
    proposals_after=(2000, 1000),
    proposal_nms=0.7,
    proposal_side=1e-3,
    detection_side=1e-2,
    sigmoid_scores=True,
    rpn_beta=1 / 9,
    box_beta=1 / 9,
    keypoint_box_beta=1 / 9,
    rpn_samples_fixed=False,
    hard_mask_targets=False,
    integer_paste=True,
    keypoint_probability=False,
)

_DETECTRON2 = Conventions(
    library="detectron2",
    bgr=True,
    pixel_mean=_MEAN[::-1],
    pixel_std=(1.0, 1.0, 1.0),
    antialias=True,
    stride_in_1x1=True,
    background_rows=False,
    background_last=True,
    round_anchors=False,
    stride_from_grid=False,
    roi_aligned=True,
    roi_samples=0,
    level_epsilon_inside=True,
    proposals_before=(2000, 1000),
    proposals_after=(1000, 1000),
    proposal_nms=0.7,
    proposal_side=0.0,
    detection_side=0.0,
    sigmoid_scores=False,
    rpn_beta=0.0,
    box_beta=0.0,
    keypoint_box_beta=0.5,
    rpn_samples_fixed=True,
    hard_mask_targets=True,
    integer_paste=False,
    keypoint_probability=True,
)

CONVENTIONS = {
    "torchvision": _TORCHVISION,
    # On the weights of the ResNet paper's authors, which came by way of Caffe.
    "detectron2": _DETECTRON2,
    # On everybody else's: ViTDet, and ResNets that torchvision has trained.
    "detectron2_rgb": dataclasses.replace(
        _DETECTRON2, bgr=False, pixel_mean=_MEAN, pixel_std=_STD, stride_in_1x1=False
    ),
}


def normalised(images: jax.Array, rules: Conventions) -> jax.Array:
    """RGB values 0..255 [..., 3], of any type, as the library's models take them, float32."""
    x = images.astype(jnp.float32)
    x = (x[..., ::-1] if rules.bgr else x) - jnp.float32(rules.pixel_mean)
    return x / jnp.float32(rules.pixel_std)


def conventions_named(name: str) -> Conventions:
    """The rules of that name. Raises ValueError for an unknown one, naming the nearest."""
    if name not in CONVENTIONS:
        near = difflib.get_close_matches(str(name), CONVENTIONS, 1, cutoff=0)[0]
        raise ValueError(
            f"conventions {name!r} are unknown; nearest: {near}; all: {', '.join(CONVENTIONS)}"
        )
    return CONVENTIONS[name]
