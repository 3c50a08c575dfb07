"""Multiply-adds of a detector, from which utilization of a machine (MFU) is computed.

They are counted as in `segjax.models.flops`. Pooling of regions and non-maximum suppression are
no matrix products and do not count.
"""

import itertools
from typing import NamedTuple

from segjax.models.detection.fpn import VitBackbone
from segjax.models.detection.heads import BoxHead
from segjax.models.detection.mask_rcnn import BOX_BINS, MASK_BINS, MaskRcnn
from segjax.models.detection.resnet import RESNETS, ResNet
from segjax.models.detection.roi_pooling import POOLED_LEVELS
from segjax.models.flops import count_windowed_multiply_adds


class DetectorMultiplyAdds(NamedTuple):
    """Multiply-adds of the parts of a detector.

    Attributes:
      frozen: of the frozen stages, per image. They have no backward pass.
      image: of everything else in front of the heads, per image.
      region: of the box heads, per region.
      foreground: of the mask and the keypoint head, per region that shows an object.
    """

    frozen: int
    image: int
    region: int
    foreground: int


def count_detector_multiply_adds(model: MaskRcnn, canvas: tuple[int, int]) -> DetectorMultiplyAdds:
    """Counts the multiply-adds of a detector.

    torchvision's Mask R-CNN has 134.4e9 at 800 x 800 pixels with 1000 regions.

    Args:
      model: a composed detector.
      canvas: (height, width) of the images in pixels.

    Raises:
      ValueError: a backbone of another class than segjax's own.
    """
    features = model.pyramid.features
    if isinstance(model.backbone, VitBackbone):
        frozen, image = _count_vit(model, canvas)
    elif isinstance(model.backbone, ResNet):
        frozen, image = _count_resnet(model, canvas)
    else:
        raise ValueError(f"no count of {type(model.backbone).__name__}; expected ResNet or ViT")
    levels = [_cells(canvas, level) for level in range(2, 2 + POOLED_LEVELS)]
    # Outputs of the pyramid
    square = 9 * features**2
    image += sum(levels) * square
    # Region proposal network, on P6 too
    rpn = model.rpn.convs * square + 5 * model.rpn.anchors * features
    image += (sum(levels) + _cells(canvas, 6)) * rpn
    if (head := model.semantic_head) is not None:
        # P2 and P3 have one convolution, P4 two and P5 three, each on twice the side.
        for doublings in range(POOLED_LEVELS):
            sides = [features, *[head.width] * max(doublings, 1)]
            image += sum(
                _cells(canvas, 2 + doublings - i) * 9 * before * after
                for i, (before, after) in enumerate(itertools.pairwise(sides))
            )
        image += _cells(canvas, 2) * head.width * (1 + head.classes)
    region = sum(_count_box_head(head, features) for head in model.box_heads)
    return DetectorMultiplyAdds(frozen, image, region, _count_foreground(model))


def _cells(canvas: tuple[int, int], level: int) -> int:
    """Counts the cells of a map of stride 2 ** level."""
    return -(-canvas[0] // 2**level) * -(-canvas[1] // 2**level)


def _count_resnet(model: MaskRcnn, canvas: tuple[int, int]) -> tuple[int, int]:
    """Counts (frozen, trained) for a ResNet and the pyramid's projections of its maps."""
    backbone = model.backbone
    blocks, bottleneck, width = RESNETS[backbone.size]
    # Stage 1 is the stem, a 7x7 convolution of stride 2.
    stages = {1: _cells(canvas, 1) * 49 * 3 * width}
    channels, projections = width, 0
    for stage, count in enumerate(blocks, start=2):
        out, cells, total = width * (4 if bottleneck else 1), _cells(canvas, stage), 0
        for block in range(count):
            halves = block == 0 and stage > 2
            before = _cells(canvas, stage - 1) if halves and not backbone.stride_in_1x1 else cells
            if bottleneck:
                total += before * channels * width + cells * (9 * width**2 + width * out)
            else:
                total += cells * (9 * channels * width + 9 * width**2)
            total += cells * channels * out * (block == 0 and (bottleneck or halves))
            channels = out
        stages[stage] = total
        projections += cells * channels * model.pyramid.features
        width *= 2
    frozen = sum(count for stage, count in stages.items() if stage <= backbone.freeze_at)
    return frozen, sum(stages.values()) - frozen + projections


def _count_vit(model: MaskRcnn, canvas: tuple[int, int]) -> tuple[int, int]:
    """Counts (0, trained) for a ViT and the pyramid's projections of its map."""
    backbone = model.backbone
    width, trunk_options = backbone.width, backbone.trunk
    grid = tuple(side // backbone.patch for side in canvas)
    cells = grid[0] * grid[1]
    # Patch embedding, then the blocks
    trunk = cells * 3 * backbone.patch**2 * width
    trunk += count_windowed_multiply_adds(
        width,
        backbone.depth,
        grid,
        trunk_options["window"],
        trunk_options["global_blocks"],
        rel_pos=True,
    )
    # Two maps are doubled, one of them twice.
    enlarged = 2 * cells * 2 * width**2 + 4 * cells * width**2 // 2
    projected = 16 * width // 4 + 4 * width // 2 + width + width // 4
    return 0, trunk + enlarged + cells * projected * model.pyramid.features


def _count_box_head(head: BoxHead, features: int) -> int:
    """Counts for one box head, per region."""
    cells, width, total = BOX_BINS**2, features, 0
    for _ in range(head.convs):
        total += cells * 9 * width * head.conv_width
        width = head.conv_width
    sides = [cells * width, *[head.width] * head.fcs]
    total += sum(before * after for before, after in itertools.pairwise(sides))
    unused = int(head.background_rows and not head.agnostic)
    boxes = 1 if head.agnostic else head.classes + unused
    return total + sides[-1] * (1 + head.classes + 4 * boxes)


def _count_foreground(model: MaskRcnn) -> int:
    """Counts for the mask and the keypoint head, per region."""
    cells, features, total = MASK_BINS**2, model.pyramid.features, 0
    for head in (model.mask_head, model.keypoint_head):
        if head is not None:
            sides = [features, *[head.width] * head.convs]
            total += sum(cells * 9 * before * after for before, after in itertools.pairwise(sides))
    # The upscaling and the last 1x1 convolution act on 28 x 28 cells.
    if (head := model.mask_head) is not None:
        unused = int(head.background_rows and not head.agnostic)
        masks = 1 if head.agnostic else head.classes + unused
        total += 4 * cells * (head.width**2 + head.width * masks)
    if (head := model.keypoint_head) is not None:
        total += 16 * cells * (head.width if head.convs else features) * head.keypoints
    return total
