"""Multiply-adds of a detector, counted from its sizes: what a machine's utilisation is measured against.

As `segjax.models.flops` counts. To take regions and to suppress boxes is no product and does not count.
"""

from typing import NamedTuple

from segjax.models.detection.mask_rcnn import POOLED_LEVELS, MaskRcnn
from segjax.models.detection.resnet import RESNETS
from segjax.models.flops import windowed_multiply_adds


class DetectorMultiplyAdds(NamedTuple):
    """Of one picture: in frozen stages, in all else before the heads. Of one region: for class and box, and for mask
    and keypoints of those that show an object."""

    frozen: int
    picture: int
    region: int
    shown: int


def detector_multiply_adds(model: MaskRcnn, canvas: tuple[int, int]) -> DetectorMultiplyAdds:
    """Of a canvas of (height, width) pixels (torchvision's Mask R-CNN at 800 x 800, with 1000 regions: 134.4e9)."""
    frozen, picture = _vit(model, canvas) if model.backbone == "vit" else _resnet(model, canvas)
    levels = [_cells(canvas, level) for level in range(2, 2 + POOLED_LEVELS)]
    square = 9 * model.features**2
    picture += sum(levels) * square  # the pyramid's outputs
    anchors = len(model.anchor_ratios)
    picture += (sum(levels) + _cells(canvas, 6)) * (
        model.rpn_convs * square + 5 * anchors * model.features
    )
    return DetectorMultiplyAdds(frozen, picture, _region(model), _shown(model))


def _cells(canvas: tuple[int, int], level: int) -> int:
    """Of a map of stride 2 ** level."""
    return -(-canvas[0] // 2**level) * -(-canvas[1] // 2**level)


def _resnet(model: MaskRcnn, canvas: tuple[int, int]) -> tuple[int, int]:
    """(frozen, trained) multiply-adds of a ResNet and of the pyramid's projections of its maps."""
    blocks, bottleneck, width = RESNETS[model.backbone]
    stages = {1: _cells(canvas, 1) * 49 * 3 * width}
    channels, projections = width, 0
    for stage, count in enumerate(blocks, start=2):
        out, cells, total = width * (4 if bottleneck else 1), _cells(canvas, stage), 0
        for block in range(count):
            halves = block == 0 and stage > 2
            before = (
                _cells(canvas, stage - 1) if halves and not model.rules.stride_in_1x1 else cells
            )
            if bottleneck:
                total += before * channels * width + cells * (9 * width**2 + width * out)
            else:
                total += cells * (9 * channels * width + 9 * width**2)
            total += cells * channels * out * (block == 0 and (bottleneck or halves))
            channels = out
        stages[stage] = total
        projections += cells * channels * model.features
        width *= 2
    frozen = sum(count for stage, count in stages.items() if stage <= model.freeze_at)
    return frozen, sum(stages.values()) - frozen + projections


def _vit(model: MaskRcnn, canvas: tuple[int, int]) -> tuple[int, int]:
    """(0, multiply-adds) of a ViT and of the pyramid that is made of its last map."""
    grid, width, features = (
        tuple(side // model.patch for side in canvas),
        model.width,
        model.features,
    )
    cells = grid[0] * grid[1]
    trunk = cells * 3 * model.patch**2 * width
    trunk += windowed_multiply_adds(
        width, model.depth, grid, model.window, model.global_blocks, rel_pos=True
    )
    enlarged = (
        2 * cells * 2 * width**2 + 4 * cells * width**2 // 2
    )  # two maps doubled, one of them twice
    projected = 16 * width // 4 + 4 * width // 2 + width + width // 4
    return 0, trunk + enlarged + cells * projected * features


def _region(model: MaskRcnn) -> int:
    inside = 49 * model.features
    total = model.box_convs * inside * 9 * model.features
    sides = [inside, *[model.box_width] * model.box_fcs]
    total += sum(before * after for before, after in zip(sides, sides[1:], strict=False))
    unused = int(model.rules.background_rows and not model.agnostic_boxes)
    boxes = 1 if model.agnostic_boxes else model.classes + unused
    return model.box_stages * (total + sides[-1] * (1 + model.classes + 4 * boxes))


def _shown(model: MaskRcnn) -> int:
    cells, total = 14 * 14, 0
    for convs, width in (
        (model.mask_convs, model.mask_width),
        (model.keypoints and model.keypoint_convs, model.keypoint_width),
    ):
        sides = [model.features, *[width] * convs]
        total += sum(
            cells * 9 * before * after for before, after in zip(sides, sides[1:], strict=False)
        )
    if model.mask_convs:
        unused = int(model.rules.background_rows and not model.agnostic_masks)
        masks = 1 if model.agnostic_masks else model.classes + unused
        total += 4 * cells * (model.mask_width**2 + model.mask_width * masks)
    if model.keypoints:
        total += (
            16
            * cells
            * (model.keypoint_width if model.keypoint_convs else model.features)
            * model.keypoints
        )
    return total
