"""Names of torchvision's Mask R-CNN modules and of its ResNet classifiers.

`segjax.weights.names` moves arrays by the tables. An array has the same name whether a model trains
or freezes it.
"""

from collections.abc import Mapping
from typing import Any

from segjax.weights.layouts import BATCH_NORM, CONVOLUTION, FLATTENED, LINEAR, UPSCALING
from segjax.weights.names import Entry, NameTable

TORCHVISION = "torchvision"


def list_conv_and_norm(ours: str, conv: str | tuple[()], norm: str | tuple[()]) -> list[Entry]:
    """Returns the entries of a convolution and its norm.

    Args:
      ours: our path of the convolution.
      conv: torchvision's name of the convolution, () for none.
      norm: torchvision's name of the norm, () for none.
    """
    return [(ours, conv, CONVOLUTION), (f"{ours}/norm", norm, BATCH_NORM)]


def _torchvision_resnet(body: str) -> list[Entry]:
    """Returns the entries of a ResNet. `body` is the prefix of conv1 and layer1."""
    kinds = [(f"conv_{k}", f"conv{k}", f"bn{k}") for k in (1, 2, 3)] + [
        ("shortcut", "downsample.0", "downsample.1")
    ]
    stages = (
        list_conv_and_norm(
            f"{{c}}/backbone/stage_{n + 1}_block_{{i}}/{ours}",
            *(f"{body}layer{n}.{{i}}.{name}" for name in theirs),
        )
        for n in (1, 2, 3, 4)
        for ours, *theirs in kinds
    )
    return [
        *list_conv_and_norm("{c}/backbone/stem", f"{body}conv1", f"{body}bn1"),
        *(entry for stage in stages for entry in stage),
    ]


_TORCHVISION_HEADS = [
    ("params/rpn/conv", "rpn.head.conv.0.0", CONVOLUTION),
    ("params/rpn/conv_{i}", "rpn.head.conv.{i}.0", CONVOLUTION),
    ("params/rpn/logits", "rpn.head.cls_logits", CONVOLUTION),
    ("params/rpn/deltas", "rpn.head.bbox_pred", CONVOLUTION),
    *list_conv_and_norm(
        "{c}/box_head/conv_{i}", "roi_heads.box_head.{i}.0", "roi_heads.box_head.{i}.1"
    ),
    # The first generation has two maps, the second one, behind four convolutions and a flattening.
    ("params/box_head/fc_0", "roi_heads.box_head.fc6", FLATTENED),
    ("params/box_head/fc_1", "roi_heads.box_head.fc7", LINEAR),
    ("params/box_head/fc", "roi_heads.box_head.5", FLATTENED),
    ("params/box_head/scores", "roi_heads.box_predictor.cls_score", LINEAR),
    ("params/box_head/deltas", "roi_heads.box_predictor.bbox_pred", LINEAR),
    # Of a cascade it has none.
    *(
        (f"params/box_head_{{i}}/{layer}", (), LINEAR)
        for layer in ("fc", "fc_0", "fc_1", "scores", "deltas")
    ),
    *(
        entry
        for n in range(8)
        for entry in list_conv_and_norm(f"{{c}}/box_head_{{i}}/conv_{n}", (), ())
    ),
    *list_conv_and_norm(
        "{c}/mask_head/conv_{i}", "roi_heads.mask_head.{i}.0", "roi_heads.mask_head.{i}.1"
    ),
    ("params/mask_head/upscale", "roi_heads.mask_predictor.conv5_mask", UPSCALING),
    ("params/mask_head/logits", "roi_heads.mask_predictor.mask_fcn_logits", CONVOLUTION),
    *(
        (f"params/keypoint_head/conv_{n}", f"roi_heads.keypoint_head.{2 * n}", CONVOLUTION)
        for n in range(8)
    ),
    ("params/keypoint_head/upscale", "roi_heads.keypoint_predictor.kps_score_lowres", UPSCALING),
]


def explain_other_classes(checkpoint: Any, expected: Mapping[str, Any]) -> str:
    """Returns the hint that a detector of other classes can be a start."""
    del checkpoint, expected
    return (
        "; of a detector of other classes config.init_from='detector:PATH' loads all but their "
        "last layers"
    )


TORCHVISION_DETECTORS = NameTable(
    model="Mask R-CNN",
    formats={TORCHVISION: "torchvision"},
    own_module="params/rpn",
    signatures={TORCHVISION: ("backbone.body.", "backbone.fpn.", "rpn.head.")},
    entries=[
        *_torchvision_resnet("backbone.body."),
        *(
            entry
            for n in (2, 3, 4, 5)
            for ours, theirs in (("lateral", "inner_blocks"), ("output", "layer_blocks"))
            for entry in list_conv_and_norm(
                f"{{c}}/pyramid/{ours}_{n}", *(f"backbone.fpn.{theirs}.{n - 2}.{k}" for k in (0, 1))
            )
        ),
        *_TORCHVISION_HEADS,
    ],
    ignored_keys={TORCHVISION: r".*\.num_batches_tracked"},
    explain=explain_other_classes,
    # As the published files of the first generation have them.
    renamed_keys={
        TORCHVISION: (
            (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
            (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
            (
                r"^roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)$",
                lambda match: f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}",
            ),
        )
    },
)

# The backbone of a classifier alone (`NameTable.load_part`): no model of ours is one.
TORCHVISION_RESNETS = NameTable(
    model="ResNet",
    formats={TORCHVISION: "torchvision's classifiers"},
    own_module="params/classifier",
    signatures={TORCHVISION: ("layer1.0.",)},
    entries=_torchvision_resnet(""),
    usage="; a Mask R-CNN's backbone starts from it with config.init_from='resnet:PATH'",
    ignored_keys={TORCHVISION: r".*\.num_batches_tracked"},
)
