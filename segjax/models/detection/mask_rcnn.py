"""Mask R-CNN (arXiv 1703.06870): proposals on a feature pyramid, then class, box, mask and keypoints of each.

Or with a cascade of box heads, each of which refines the boxes of the one before (Cascade R-CNN, arXiv 1712.00726).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.detection.conventions import Conventions, conventions_named, normalised
from segjax.models.detection.fpn import FeaturePyramid, SimplePyramid, VitBackbone, with_p6
from segjax.models.detection.heads import STAGES, BoxAnswers, BoxHead, KeypointHead, MaskHead, Stage
from segjax.models.detection.layers import numbered
from segjax.models.detection.postprocess import Detections, best_detections, mean_probabilities
from segjax.models.detection.resnet import RESNETS, ResNet
from segjax.models.detection.rpn import Proposals, RpnHead, best_proposals, pyramid_anchors
from segjax.ops.boxes import clip_boxes, decode_boxes
from segjax.ops.gradient_scale import scaled_gradient
from segjax.ops.masks import content_mask
from segjax.ops.roi.pooling import pool_regions
from segjax.ops.roi.pyramid import fpn_level

POOLED_LEVELS = 4  # P2 to P5: regions are not taken from P6


class MaskRcnn(nn.Module):
    """The detector. Sizes are made by `segjax.models.detection.build.build_mask_rcnn`.

    Attributes:
      conventions: a name of `segjax.models.detection.conventions.CONVENTIONS`: whose rules it follows.
      classes: K, without the background; labels are 1..K, 0 is the background.
      canvas: longest side in pixels of the canvases it is made for, a multiple of `divisor`; others work too.
      short_side, long_side: pictures are resized until the shorter side has short_side pixels, or the longer long_side.
      backbone: a key of `RESNETS`, or "vit".
      norm, norm_epsilon, freeze_at: of a ResNet. width, depth, heads, window, global_blocks, patch, positions (side of
        the grid of learned positions), drop_path, remat, scan, attention: of a ViT, see `ViT`.
      features, pyramid_norm: channels and norm of the pyramid. anchor_sizes: side of the anchors by level, P2 to P6;
        anchor_ratios: height over width.
      box_stages: box heads one after another, of `STAGES`; 1: no cascade. More need agnostic_boxes.
      rpn_convs; box_convs, box_fcs, box_width, agnostic_boxes; mask_convs (0: no masks), mask_width, agnostic_masks;
        keypoints (0: none), keypoint_convs, keypoint_width: of the heads. head_norm, head_epsilon: of the boxes' and
        masks' convolutions.
      score_threshold, nms_threshold, detections: what inference keeps: scores above, no two boxes of a class that
        overlap more, the best so many of a picture. candidates: so many of the best scores take part in that.
      proposals_before, proposals_after: (training, inference); () leaves them to the conventions.
      canonical_size: side in pixels of a box that belongs to P4. pooling: how regions are taken, one of
        `segjax.ops.roi.pooling.POOLINGS`.
      dtype: of the computation; parameters, norms' statistics, boxes, scores and outputs stay float32.
    """

    conventions: str
    classes: int
    canvas: int = 1344
    short_side: int = 800
    long_side: int = 1333
    backbone: str = "resnet50"
    norm: str = "frozen_bn"
    norm_epsilon: float = 1e-5
    freeze_at: int = 0
    width: int = 768
    depth: int = 12
    heads: int = 12
    window: int = 14
    global_blocks: tuple[int, ...] = ()
    patch: int = 16
    positions: int = 14
    drop_path: float = 0.0
    remat: str = "none"
    scan: bool = False
    attention: str = "xla"
    features: int = 256
    pyramid_norm: str = "none"
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_convs: int = 1
    box_stages: int = 1
    box_convs: int = 0
    box_fcs: int = 2
    box_width: int = 1024
    agnostic_boxes: bool = False
    mask_convs: int = 4
    mask_width: int = 256
    agnostic_masks: bool = False
    keypoints: int = 0
    keypoint_convs: int = 8
    keypoint_width: int = 512
    head_norm: str = "none"
    head_epsilon: float = 1e-5
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100
    candidates: int = 1000
    proposals_before: tuple[int, ...] = ()
    proposals_after: tuple[int, ...] = ()
    canonical_size: float = 224.0
    pooling: str = "roi_align"
    dtype: jnp.dtype = jnp.float32

    @property
    def rules(self) -> Conventions:
        """The conventions by name."""
        return conventions_named(self.conventions)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of the box heads. Raises ValueError for another number than there are, and where each class has its box."""
        if not 1 <= self.box_stages <= len(STAGES):
            raise ValueError(
                f"box_stages is {self.box_stages}; expected 1 (no cascade) to {len(STAGES)}"
            )
        if self.box_stages > 1 and not self.agnostic_boxes:
            raise ValueError(
                f"box_stages is {self.box_stages} and agnostic_boxes False; a cascade hands one box of a region on, "
                "not one of each class: set agnostic_boxes=True, or box_stages=1 for no cascade"
            )
        return STAGES[: self.box_stages]

    @property
    def divisor(self) -> int:
        """What the sides of canvases are multiples of, in pixels."""
        return 32

    @property
    def published_as(self) -> str:
        """Whose files hold such a model: "torchvision" or "detectron2"."""
        return self.rules.library

    def setup(self) -> None:
        """The parts. Raises ValueError for a backbone or conventions that are unknown."""
        rules, same = self.rules, dict(dtype=self.dtype)
        if self.backbone == "vit":
            trunk = dict(
                depth=self.depth,
                heads=self.heads,
                window=self.window,
                global_blocks=self.global_blocks,
            )
            trunk |= dict(grid=(self.canvas // self.patch,) * 2, drop_path=self.drop_path)
            trunk |= dict(remat=self.remat, scan=self.scan, impl=self.attention)
            self.body = VitBackbone(
                trunk, self.width, self.patch, (self.positions,) * 2, name="backbone", **same
            )
            self.pyramid = SimplePyramid(self.features, name="simple_pyramid", **same)
        elif self.backbone in RESNETS:
            norm = dict(norm=self.norm, epsilon=self.norm_epsilon, freeze_at=self.freeze_at)
            self.body = ResNet(self.backbone, rules.stride_in_1x1, name="backbone", **norm, **same)
            self.pyramid = FeaturePyramid(
                self.features, self.pyramid_norm, self.norm_epsilon, **same
            )
        else:
            raise ValueError(
                f"backbone {self.backbone!r} is unknown; choose one of {', '.join(RESNETS)} or vit"
            )
        self.rpn = RpnHead(len(self.anchor_ratios), self.rpn_convs, **same)
        heads = same | dict(
            norm=self.head_norm, epsilon=self.head_epsilon, background_rows=rules.background_rows
        )
        boxes = dict(
            convs=self.box_convs, conv_width=self.features, fcs=self.box_fcs, width=self.box_width
        )
        boxes |= dict(agnostic=self.agnostic_boxes)
        names = numbered("box_head", len(self.stages))
        self.box_heads = [BoxHead(self.classes, name=name, **boxes, **heads) for name in names]
        if self.mask_convs:
            masks = dict(convs=self.mask_convs, width=self.mask_width, agnostic=self.agnostic_masks)
            self.mask_head = MaskHead(self.classes, **masks, **heads)
        if self.keypoints:
            self.keypoint_head = KeypointHead(
                self.keypoints, self.keypoint_convs, self.keypoint_width, **same
            )

    def encode_image(
        self, images: jax.Array, sizes: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, ...]:
        """RGB images of values 0..255 to the levels of the pyramid.

        Args:
          images: [B, H, W, 3], uint8 or float; H and W multiples of `divisor`.
          sizes: int [B, 2], (height, width) of the content at the top left corner of each canvas; the rest is padding
            and becomes the mean colour, whatever it holds. None: no padding.

        Returns:
          P2 to P6, [B, H/4, W/4, features] to [B, H/64, W/64, features], halves rounded up.

        Raises:
          ValueError: a side that is no multiple of the divisor.
        """
        if (
            images.ndim != 4
            or images.shape[-1] != 3
            or any(side % self.divisor for side in images.shape[1:3])
        ):
            raise ValueError(
                f"images are {images.shape}; this detector takes RGB [B, H, W, 3] with sides that are multiples of "
                f"{self.divisor}: pad them at the bottom and the right, and pass `sizes`"
            )
        x = normalised(images, self.rules)
        if sizes is not None:
            x = jnp.where(content_mask(sizes, images.shape[1:3])[..., None], x, 0)
        maps = self.body(x, train=train) if self.backbone == "vit" else self.body(x)
        return with_p6(self.pyramid(maps))

    def propose(
        self, levels: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """(logits [B, anchors], deltas [B, anchors, 4]) by level, float32; see `RpnHead`."""
        return self.rpn(levels)

    def classify(self, regions: jax.Array, stage: int = 0) -> tuple[jax.Array, jax.Array]:
        """Regions [R, 7, 7, features] -> logits [R, 1 + K], deltas [R, K or 1, 4], float32; see `BoxHead`.

        What flows back into the regions is divided by the number of stages, so that the pyramid learns from their mean
        while each head learns from all of its own loss (as detectron2's CascadeROIHeads have it).
        """
        if self.box_stages > 1:
            regions = scaled_gradient(regions, 1 / self.box_stages)
        return self.box_heads[stage](regions)

    def box_answers(
        self, levels: tuple[jax.Array, ...], boxes: jax.Array, sizes: jax.Array
    ) -> list[BoxAnswers]:
        """What each stage says: the first of these boxes, a later one of what the one before has made of its own.

        No gradient goes through boxes.

        Args:
          levels: of `encode_image`. boxes: float32 [B, N, 4]. sizes: int [B, 2], (height, width) of the contents, to
            which refined boxes are cut.
        """
        answers = []
        for stage in range(self.box_stages):
            if answers:
                refined = decode_boxes(
                    answers[-1].deltas[:, :, 0], boxes, STAGES[stage - 1].weights
                )
                boxes = jax.lax.stop_gradient(clip_boxes(refined, sizes[:, None]))
            regions = self.regions(levels, boxes, 7)
            found = self.classify(regions.reshape(-1, *regions.shape[2:]), stage)
            answers.append(
                BoxAnswers(boxes, *(x.reshape(*boxes.shape[:2], *x.shape[1:]) for x in found))
            )
        return answers

    def segment(self, regions: jax.Array, labels: jax.Array) -> jax.Array:
        """Regions [R, 14, 14, features] of classes int [R], 1..K -> the class's mask logits float32 [R, 28, 28]."""
        logits = self.mask_head(regions)
        channel = jnp.clip(labels - 1, 0, logits.shape[-1] - 1)
        return jnp.take_along_axis(logits, channel[:, None, None, None], axis=-1)[..., 0]

    def locate(self, regions: jax.Array) -> jax.Array:
        """Regions [R, 14, 14, features] -> keypoint logits float32 [R, 56, 56, keypoints]; see `KeypointHead`."""
        return self.keypoint_head(regions)

    def proposals(
        self,
        logits: tuple[jax.Array, ...],
        deltas: tuple[jax.Array, ...],
        levels: tuple[jax.Array, ...],
        canvas: tuple[int, int],
        sizes: jax.Array,
        *,
        train: bool = False,
    ) -> Proposals:
        """The best boxes of the answers of `propose`; more of them in training, where the conventions have it so.

        Args:
          levels: of `encode_image`. canvas: (H, W) of the images. sizes: int [B, 2], (height, width) of the contents.
        """
        rules = self.rules
        before, after = (
            (own or usual)[0 if train else 1]
            for own, usual in (
                (self.proposals_before, rules.proposals_before),
                (self.proposals_after, rules.proposals_after),
            )
        )
        return best_proposals(
            rules, logits, deltas, self.anchors(canvas, levels), sizes, before=before, after=after
        )

    def anchors(self, canvas: tuple[int, int], levels: tuple[jax.Array, ...]) -> list[np.ndarray]:
        """Anchors float32 [n, 4] by level, in the order of `propose`; canvas (H, W), levels of `encode_image`."""
        grids = [level.shape[1:3] for level in levels]
        return pyramid_anchors(self.rules, self.anchor_sizes, self.anchor_ratios, canvas, grids)

    def regions(self, levels: tuple[jax.Array, ...], boxes: jax.Array, side: int) -> jax.Array:
        """What boxes float32 [B, N, 4], pixels of the canvas, show: [B, N, side, side, features]; `side` is 7 or 14.

        Each is taken from the one of P2 to P5 that its size names.
        """
        rules, pooled = self.rules, levels[:POOLED_LEVELS]
        level = fpn_level(
            boxes, canonical_size=self.canonical_size, epsilon_inside=rules.level_epsilon_inside
        )
        scales = [2.0**-n for n in range(2, 2 + POOLED_LEVELS)]
        pool = lambda levels, boxes, level: pool_regions(
            levels,
            boxes,
            level,
            side,
            scales,
            samples=rules.roi_samples,
            aligned=rules.roi_aligned,
            pooling=self.pooling,
        )
        return jax.vmap(pool)(list(pooled), boxes, level)

    def detect(
        self, images: jax.Array, sizes: jax.Array | None = None
    ) -> tuple[Detections, jax.Array | None, jax.Array | None]:
        """Everything, from pictures to detections: one program for each size of the canvas.

        Args:
          images, sizes: as `encode_image`.

        Returns:
          detections: of D places, see `Detections`.
          masks: float32 [B, D, 28, 28], the probability of the detection's class in the cells of its box, or None.
          keypoints: float32 [B, D, 56, 56, keypoints], logits in the cells of its box, or None.
        """
        sizes = (
            jnp.broadcast_to(jnp.array(images.shape[1:3]), (len(images), 2))
            if sizes is None
            else sizes
        )
        levels = self.encode_image(images, sizes)
        proposals = self.proposals(*self.propose(levels), levels, images.shape[1:3], sizes)
        answers = self.box_answers(levels, proposals.boxes, sizes)
        found = best_detections(
            mean_probabilities([each.logits for each in answers]),
            answers[-1].deltas,
            proposals._replace(boxes=answers[-1].boxes),
            sizes,
            weights=self.stages[-1].weights,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            side=self.rules.detection_side,
            candidates=self.candidates,
            count=self.detections,
        )
        if not (self.mask_convs or self.keypoints):
            return found, None, None
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        unflat = lambda x: x.reshape(len(images), -1, *x.shape[1:])
        regions = flat(self.regions(levels, found.boxes, 14))
        masks = self.segment(regions, found.labels.reshape(-1)) if self.mask_convs else None
        return (
            found,
            None if masks is None else unflat(jax.nn.sigmoid(masks)),
            unflat(self.locate(regions)) if self.keypoints else None,
        )

    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Every module once, the heads on an empty region: for shapes and fresh parameters."""
        levels = self.encode_image(images)
        logits, deltas = self.propose(levels)
        regions = lambda side: jnp.zeros((1, side, side, self.features), self.dtype)
        scores, boxes = [self.classify(regions(7), stage) for stage in range(self.box_stages)][-1]
        out = dict(logits=logits, deltas=deltas, scores=scores, boxes=boxes)
        if self.mask_convs:
            out["masks"] = self.mask_head(regions(14))
        if self.keypoints:
            out["keypoints"] = self.locate(regions(14))
        return out
