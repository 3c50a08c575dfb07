"""Numbers of parameters of the models that segjax builds by name, stored.

Tracing all models takes half a minute, and `segjax models` should answer at once. The test of the
`slow` kind compares every number with the traced one, and prints the table when one differs.
"""

import jax
import numpy as np

from segjax.models.build import build_model, variable_shapes

PARAMETER_COUNTS = {
    "sam_vit_b": 93_735_472,
    "sam_vit_l": 312_342_832,
    "sam_vit_h": 641_090_608,
    "sam_tiny": 1_141_960,
    "sam_debug": 102_956,
    "mae_vit_b": 111_655_680,
    "mae_vit_l": 329_239_296,
    "mae_vit_h": 656_613_964,
    "mae_tiny": 1_050_240,
    "mae_debug": 70_304,
    "vit_b": 86_567_656,
    "vit_l": 304_326_632,
    "vit_h": 632_045_800,
    "vit_tiny": 900_869,
    "vit_debug": 50_821,
    "maskrcnn_resnet50_fpn": 44_401_393,
    "maskrcnn_resnet50_fpn_v2": 46_359_409,
    "fasterrcnn_resnet50_fpn": 41_755_286,
    "fasterrcnn_resnet50_fpn_v2": 43_712_278,
    "keypointrcnn_resnet50_fpn": 59_137_258,
    "maskrcnn_resnet101_fpn": 63_341_297,
    "mask_rcnn_R_50_FPN": 44_343_216,
    "mask_rcnn_R_101_FPN": 63_283_120,
    "faster_rcnn_R_50_FPN": 41_699_936,
    "faster_rcnn_R_101_FPN": 60_639_840,
    "keypoint_rcnn_R_50_FPN": 59_133_158,
    "cascade_mask_rcnn_R_50_FPN": 71_984_926,
    "vitdet_vit_b": 110_895_024,
    "vitdet_vit_l": 330_683_632,
    "vitdet_vit_h": 661_202_480,
    "maskrcnn_tiny": 12_565_872,
    "maskrcnn_debug": 182_081,
    "cascade_vitdet_vit_b": 141_160_222,
    "cascade_vitdet_vit_l": 360_948_830,
    "cascade_vitdet_vit_h": 691_467_678,
    "clip_vit_b_32": 151_277_313,
    "clip_vit_b_16": 149_620_737,
    "clip_vit_l_14": 427_616_513,
    "clip_vit_l_14_336": 427_944_193,
    "clip_vit_h_14": 986_109_441,
    "clip_tiny": 1_147_265,
    "clip_debug": 48_609,
    "dino_vit_s_16": 21_665_664,
    "dino_vit_s_8": 21_670_272,
    "dino_vit_b_16": 85_798_656,
    "dino_vit_b_8": 85_807_872,
    "dinov2_vit_s_14": 22_056_576,
    "dinov2_vit_b_14": 86_580_480,
    "dinov2_vit_l_14": 304_368_640,
    "dinov2_vit_g_14": 1_136_480_768,
    "dinov2_vit_s_14_reg4": 22_058_112,
    "dinov2_vit_b_14_reg4": 86_583_552,
    "dinov2_vit_l_14_reg4": 304_372_736,
    "dinov2_vit_g_14_reg4": 1_136_486_912,
    "dinov3_vit_s_16": 21_601_152,
    "dinov3_vit_s_plus_16": 28_697_472,
    "dinov3_vit_b_16": 85_669_632,
    "dinov3_vit_l_16": 303_154_176,
    "dinov3_vit_h_plus_16": 840_633_600,
    "dinov3_vit_7b_16": 6_716_035_072,
    "dino_debug": 32_224,
}


def count_parameters(name: str) -> int:
    """Returns the number of parameters of a model by name.

    A model of another package is traced, unless the table has it.

    Args:
      name: Name of a model of any registered family.

    Raises:
      ValueError: Unknown name.
    """
    if name in PARAMETER_COUNTS:
        return PARAMETER_COUNTS[name]
    return trace_parameter_count(name)


def trace_parameter_count(name: str) -> int:
    """Counts the parameters of a model by tracing its initialization, without allocating them."""
    shapes = variable_shapes(build_model(name))["params"]
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
