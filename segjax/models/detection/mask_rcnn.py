"""Mask R-CNN (arXiv 1703.06870): region proposals on a feature pyramid, then one head per output.

With several box heads it is a Cascade R-CNN (arXiv 1712.00726): each head refines the boxes of the
previous one.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.detection.conventions import LossRules
from segjax.models.detection.fpn import append_p6
from segjax.models.detection.heads import (
    BoxHead,
    BoxOutputs,
    CascadeStage,
    KeypointHead,
    MaskHead,
    SemanticHead,
    cascade_stages,
)
from segjax.models.detection.postprocess import (
    Detections,
    DetectionSelection,
    OutputRules,
    average_stages,
)
from segjax.models.detection.preprocessing import Preprocessing, blank_padding, check_images
from segjax.models.detection.roi_pooling import RoiPooling
from segjax.models.detection.rpn import (
    AnchorGenerator,
    ProposalSelection,
    RegionProposals,
    RpnHead,
)
from segjax.models.detection.valid_region import (
    ValidRegion,
    find_canvas,
    find_valid_region,
    takes_region,
)
from segjax.ops.boxes import clip_boxes, decode_boxes
from segjax.ops.gradient_scale import scale_gradient

BOX_BINS = 7  # side in cells of the regions that the box heads get
MASK_BINS = 14  # side in cells of the regions that the mask and the keypoint head get

Levels = tuple[jax.Array, ...]  # one array per level of the pyramid


class MaskRcnn(nn.Module):
    """Detector composed of a backbone, a feature pyramid, a region proposal network and heads.

    `segjax.models.detection.build.build_mask_rcnn` composes the published and the small models by
    name. To try another part, pass it in place of one of theirs. A part needs a name only if its
    arrays should lie elsewhere than under the attribute's name.

    Example:
      >>> parts = dict(backbone=ResNet("resnet18"), pyramid=FeaturePyramid(64), rpn=RpnHead())
      >>> box_head = BoxHead(classes=3, conv_width=64, name="box_head")
      >>> model = MaskRcnn(**parts, box_heads=(box_head,), mask_head=MaskHead(3))
      >>> model.classes
      3

    Attributes:
      backbone: maps normalized images to feature maps, such as `ResNet` or `VitBackbone`. If it
        takes a `region`, so does the pyramid, and detections do not depend on the canvas.
      pyramid: maps these to levels P2 to P5, such as `FeaturePyramid` or `SimplePyramid`. Its
        attribute `features` is their width.
      rpn: region proposal network head.
      box_heads: one box head, or those of a cascade.
      mask_head: None for a detector of boxes alone.
      keypoint_head: None for a detector without keypoints.
      semantic_head: None for a detector without stuff.
      library: whose files can hold the model, "torchvision" or "detectron2".
      preprocessing: canvas, size and normalization of images.
      anchor_generator: anchors of the levels.
      proposal_selection: from the outputs of `rpn` to region proposals.
      roi_pooling: pooling of regions from the levels.
      detection_selection: from the outputs of the box heads to detections.
      loss_rules: numbers of the losses.
      output_rules: from masks and keypoints to pixels of the image.
    """

    backbone: nn.Module
    pyramid: nn.Module
    rpn: RpnHead
    box_heads: tuple[BoxHead, ...]
    mask_head: MaskHead | None = None
    keypoint_head: KeypointHead | None = None
    semantic_head: SemanticHead | None = None
    library: str = "torchvision"
    preprocessing: Preprocessing = Preprocessing()
    anchor_generator: AnchorGenerator = AnchorGenerator()
    proposal_selection: ProposalSelection = ProposalSelection()
    roi_pooling: RoiPooling = RoiPooling()
    detection_selection: DetectionSelection = DetectionSelection()
    loss_rules: LossRules = LossRules()
    output_rules: OutputRules = OutputRules()

    # linen: a part that has a name keeps it, as "simple_pyramid" and "box_head_0" do. The paths of
    # a model's arrays, and so its checkpoints, depend on these names.
    preserve_adopted_names = True

    @property
    def classes(self) -> int:
        """Returns K, the number of classes without the background. Labels are 1..K."""
        return self.box_heads[0].classes

    @property
    def keypoints(self) -> int:
        """Returns the number of keypoints, 0 without a keypoint head."""
        return self.keypoint_head.keypoints if self.keypoint_head is not None else 0

    @property
    def canvas(self) -> int:
        """Returns the longest side in pixels of the canvases that the model is made for."""
        return self.preprocessing.canvas

    @property
    def divisor(self) -> int:
        """Returns the number of pixels that divides the sides of all canvases."""
        return 32

    @property
    def dtype(self) -> jnp.dtype:
        """Returns the type of the computation. Parameters, boxes and outputs are float32."""
        return jnp.dtype(self.rpn.dtype)

    @property
    def stages(self) -> tuple[CascadeStage, ...]:
        """Returns the stage of each box head. Raises as `cascade_stages`."""
        return cascade_stages(len(self.box_heads), self.box_heads[0].agnostic)

    @nn.nowrap
    def replace_selection(self, **changes: Any) -> "MaskRcnn":
        """Returns a model with some attributes of its `DetectionSelection` replaced."""
        selection = dataclasses.replace(self.detection_selection, **changes)
        return self.clone(detection_selection=selection)

    def encode_image(
        self, images: jax.Array, sizes: jax.Array | None = None, *, train: bool = False
    ) -> Levels:
        """Computes the levels of the feature pyramid.

        Args:
          images: [B, H, W, 3], RGB values 0..255, uint8 or float. `divisor` divides H and W.
          sizes: int [B, 2], (height, width) of the content at the top left of each canvas. The
            rest is padding, whose values do not matter. None means no padding.
          train: apply the backbone's drop path.

        Returns:
          P2 to P6, [B, H/4, W/4, features] to [B, H/64, W/64, features], halves rounded up. Values
          outside of the valid region are arbitrary.

        Raises:
          ValueError: images of another shape.
        """
        check_images(images, self.divisor)
        # Padding is blanked after normalization, so that it holds the mean color.
        x = self.preprocessing.pixels.normalize(images)
        if sizes is not None:
            x = blank_padding(x, sizes)
        region = self.find_region(images.shape[1:3], sizes)
        if region is None:
            return append_p6(self.pyramid(self.backbone(x, train=train)))
        return append_p6(self.pyramid(self.backbone(x, train=train, region=region), region))

    @nn.nowrap
    def find_region(self, canvas: tuple[int, int], sizes: jax.Array | None) -> ValidRegion | None:
        """Returns the valid region of images of `sizes`, None if all of the canvas is valid.

        It is the canvas for a ViT. Attention reaches all tokens, and ViTDet pads every image to its
        one square canvas.
        """
        if sizes is None or not takes_region(self.backbone):
            return None
        return find_valid_region(canvas, sizes, self.divisor)

    def propose(self, levels: Levels, sizes: jax.Array | None = None) -> tuple[Levels, Levels]:
        """Predicts objectness logits and deltas of all anchors, see `RpnHead`.

        Args:
          levels: outputs of `encode_image`.
          sizes: as for `encode_image`.
        """
        return self.rpn(levels, self.find_region(find_canvas(levels), sizes))

    def make_anchors(
        self, levels: Levels, sizes: jax.Array | None = None
    ) -> tuple[list[np.ndarray | jax.Array], list[np.ndarray | jax.Array]]:
        """Generates the anchors of all levels, in the order of `propose`.

        Args:
          levels: outputs of `encode_image`.
          sizes: as for `encode_image`.

        Returns:
          anchors: see `AnchorGenerator.generate`.
          valid: see `AnchorGenerator.mark_valid`.
        """
        canvas, grids = find_canvas(levels), [level.shape[1:3] for level in levels]
        region, generator = self.find_region(canvas, sizes), self.anchor_generator
        return generator.generate(canvas, grids, region), generator.mark_valid(grids, region)

    def select_proposals(
        self,
        logits: Levels,
        deltas: Levels,
        levels: Levels,
        sizes: jax.Array,
        *,
        train: bool = False,
    ) -> RegionProposals:
        """Selects region proposals from the outputs of `propose`.

        Args:
          logits: as `propose` returns them.
          deltas: as `propose` returns them.
          levels: outputs of `encode_image`.
          sizes: int [B, 2], (height, width) of the contents.
          train: select as many as in training.
        """
        anchors, valid = self.make_anchors(levels, sizes)
        return self.proposal_selection.select(
            logits, deltas, anchors, sizes, valid=valid, train=train
        )

    def pool_regions(
        self, levels: Levels, boxes: jax.Array, bins: int, sizes: jax.Array | None = None
    ) -> jax.Array:
        """Pools regions from the levels, see `RoiPooling`.

        Args:
          levels: outputs of `encode_image`.
          boxes: float32 [B, N, 4], pixels of the canvas.
          bins: `BOX_BINS` or `MASK_BINS`.
          sizes: as for `encode_image`.

        Returns:
          [B, N, bins, bins, features].
        """
        region = self.find_region(find_canvas(levels), sizes)
        return self.roi_pooling.pool(levels, boxes, bins, region)

    def classify(self, regions: jax.Array, stage: int = 0) -> tuple[jax.Array, jax.Array]:
        """Predicts classes and boxes of regions with one box head.

        In a cascade, the gradient that flows back into the regions is divided by the number of
        stages. The pyramid learns from the mean of the stages, and each head from its own loss
        (detectron2's CascadeROIHeads).

        Args:
          regions: [R, 7, 7, features].
          stage: index of the box head.

        Returns:
          logits: float32 [R, 1 + K], the background first.
          deltas: float32 [R, K or 1, 4].
        """
        if len(self.box_heads) > 1:
            regions = scale_gradient(regions, 1 / len(self.box_heads))
        return self.box_heads[stage](regions)

    def run_box_heads(self, levels: Levels, boxes: jax.Array, sizes: jax.Array) -> list[BoxOutputs]:
        """Runs all box heads, each on the boxes of the previous one, without a gradient.

        Args:
          levels: outputs of `encode_image`.
          boxes: float32 [B, N, 4], regions of the first head, pixels of the canvas.
          sizes: int [B, 2], (height, width) of the contents. Refined boxes are clipped to them.

        Returns:
          The outputs of each head.
        """
        outputs: list[BoxOutputs] = []
        for index in range(len(self.box_heads)):
            # Refine the boxes by the previous head
            if outputs:
                weights = self.stages[index - 1].weights
                refined = decode_boxes(outputs[-1].deltas[:, :, 0], boxes, weights)
                boxes = jax.lax.stop_gradient(clip_boxes(refined, sizes[:, None]))
            # Pool and classify them
            regions = self.pool_regions(levels, boxes, BOX_BINS, sizes)
            logits, deltas = self.classify(regions.reshape(-1, *regions.shape[2:]), index)
            logits, deltas = (_split(x, boxes.shape[:2]) for x in (logits, deltas))
            outputs.append(BoxOutputs(boxes, logits, deltas))
        return outputs

    def segment(self, regions: jax.Array, labels: jax.Array) -> jax.Array:
        """Predicts the mask of each region for its class.

        Args:
          regions: [R, 14, 14, features].
          labels: int [R], 1..K.

        Returns:
          Mask logits, float32 [R, 28, 28].
        """
        # A class-agnostic head has one channel, which serves all labels.
        logits = self.mask_head(regions)
        channel = jnp.clip(labels - 1, 0, logits.shape[-1] - 1)
        return jnp.take_along_axis(logits, channel[:, None, None, None], axis=-1)[..., 0]

    def locate(self, regions: jax.Array) -> jax.Array:
        """Predicts keypoint heatmaps of regions.

        Args:
          regions: [R, 14, 14, features].

        Returns:
          Heatmap logits, float32 [R, 56, 56, keypoints].
        """
        return self.keypoint_head(regions)

    def segment_stuff(self, levels: Levels, sizes: jax.Array | None = None) -> jax.Array:
        """Predicts the class of stuff of each pixel, see `SemanticHead`. Arguments: `propose`."""
        return self.semantic_head(levels[:4], self.find_region(find_canvas(levels), sizes))

    def detect(
        self, images: jax.Array, sizes: jax.Array | None = None, levels: Levels | None = None
    ) -> tuple[Detections, jax.Array | None, jax.Array | None]:
        """Detects the objects of images. One program serves all images of one canvas.

        An image has the same detections on every canvas and in every batch, apart from rounding. A
        ViT has them in every batch only, see `find_region`.

        Args:
          images: as for `encode_image`.
          sizes: as for `encode_image`.
          levels: outputs of `encode_image`. None: computed.

        Returns:
          detections: in D slots per image.
          masks: float32 [B, D, 28, 28], mask probabilities of the detection's class in the cells
            of its box. None without a mask head.
          keypoints: float32 [B, D, 56, 56, keypoints], heatmap logits in the cells of the box.
            None without a keypoint head.
        """
        if sizes is None:
            sizes = jnp.broadcast_to(jnp.array(images.shape[1:3]), (len(images), 2))
        levels = self.encode_image(images, sizes) if levels is None else levels

        # Region proposals
        logits, deltas = self.propose(levels, sizes)
        proposals = self.select_proposals(logits, deltas, levels, sizes)

        # Classes and boxes
        outputs = self.run_box_heads(levels, proposals.boxes, sizes)
        detections = self.detection_selection.select(
            average_stages([each.logits for each in outputs]),
            outputs[-1].deltas,
            proposals._replace(boxes=outputs[-1].boxes),
            sizes,
            weights=self.stages[-1].weights,
        )
        if self.mask_head is None and self.keypoint_head is None:
            return detections, None, None

        # Masks and keypoints, of the detections' boxes
        slots = detections.scores.shape
        regions = self.pool_regions(levels, detections.boxes, MASK_BINS, sizes)
        regions = regions.reshape(-1, *regions.shape[2:])
        masks = keypoints = None
        if self.mask_head is not None:
            masks = self.segment(regions, detections.labels.reshape(-1))
            masks = _split(jax.nn.sigmoid(masks), slots)
        if self.keypoint_head is not None:
            keypoints = _split(self.locate(regions), slots)
        return detections, masks, keypoints

    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Runs every part once, the heads on an empty region, to create parameters and shapes."""
        levels = self.encode_image(images)
        logits, deltas = self.propose(levels)
        regions = lambda bins: jnp.zeros((1, bins, bins, self.pyramid.features), self.dtype)
        for stage in range(len(self.box_heads)):
            scores, boxes = self.classify(regions(BOX_BINS), stage)
        out = dict(logits=logits, deltas=deltas, scores=scores, boxes=boxes)
        if self.mask_head is not None:
            out["masks"] = self.mask_head(regions(MASK_BINS))
        if self.keypoint_head is not None:
            out["keypoints"] = self.locate(regions(MASK_BINS))
        if self.semantic_head is not None:
            out["stuff"] = self.segment_stuff(levels)
        return out


def _split(x: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Splits the first axis: [B * N, ...] to [B, N, ...] for shape (B, N)."""
    return x.reshape(*shape, *x.shape[1:])
