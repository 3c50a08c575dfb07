"""detectron2's names of Mask R-CNN's modules, on a ResNet or a vision transformer.

`segjax.weights.names` moves arrays by the table.
"""

from segjax.weights.layouts import (
    BACKGROUND_LAST,
    CONVOLUTION,
    FLATTENED,
    LINEAR,
    NORM,
    SAME,
    UPSCALING,
    WITH_TOKEN,
)
from segjax.weights.names import Entry, NameTable
from segjax.weights.tables.torchvision import explain_other_classes, list_conv_and_norm

DETECTRON2 = "detectron2"


def _with_norm(ours: str, conv: str) -> list[Entry]:
    """Returns the entries of a convolution that contains its norm."""
    return list_conv_and_norm(ours, conv, f"{conv}.norm")


def _box_head(ours: str, head: str, predictor: str) -> list[Entry]:
    """Returns the entries of a box head. detectron2 counts its layers from 1."""
    convolutions = (_with_norm(f"{{c}}/{ours}/conv_{n}", f"{head}.conv{n + 1}") for n in range(8))
    return [
        *(entry for convolution in convolutions for entry in convolution),
        (f"params/{ours}/fc", f"{head}.fc1", FLATTENED),
        (f"params/{ours}/fc_0", f"{head}.fc1", FLATTENED),
        (f"params/{ours}/fc_1", f"{head}.fc2", LINEAR),
        (f"params/{ours}/scores", f"{predictor}.cls_score", BACKGROUND_LAST),
        (f"params/{ours}/deltas", f"{predictor}.bbox_pred", LINEAR),
    ]


DETECTRON2_DETECTORS = NameTable(
    model="Mask R-CNN",
    formats={DETECTRON2: "detectron2"},
    own_module="params/rpn",
    signatures={
        DETECTRON2: (
            "backbone.bottom_up.",
            "backbone.net.",
            "backbone.simfp_",
            "proposal_generator.",
        )
    },
    entries=[
        *_with_norm("{c}/backbone/stem", "backbone.bottom_up.stem.conv1"),
        *(
            entry
            for n in (2, 3, 4, 5)
            for ours, theirs in (
                *((f"conv_{k}", f"conv{k}") for k in (1, 2, 3)),
                ("shortcut", "shortcut"),
            )
            for entry in _with_norm(
                f"{{c}}/backbone/stage_{n}_block_{{i}}/{ours}",
                f"backbone.bottom_up.res{n}.{{i}}.{theirs}",
            )
        ),
        *_with_norm("{c}/pyramid/lateral_{i}", "backbone.fpn_lateral{i}"),
        *_with_norm("{c}/pyramid/output_{i}", "backbone.fpn_output{i}"),
        ("params/backbone/pos_embed", "backbone.net.pos_embed", {"": ("", WITH_TOKEN)}),
        ("params/backbone/patch_embed", "backbone.net.patch_embed.proj", CONVOLUTION),
        *(
            (
                f"params/backbone/trunk/block_{{i}}{ours}",
                f"backbone.net.blocks.{{i}}.{theirs}",
                leaves,
            )
            for ours, theirs, leaves in (
                ("/norm_1", "norm1", NORM),
                ("/norm_2", "norm2", NORM),
                ("/qkv", "attn.qkv", LINEAR),
                ("/proj", "attn.proj", LINEAR),
                ("", "attn", {name: (name, SAME) for name in ("rel_pos_h", "rel_pos_w")}),
                ("/mlp/layer_0", "mlp.fc1", LINEAR),
                ("/mlp/layer_1", "mlp.fc2", LINEAR),
            )
        ),
        ("params/simple_pyramid/upscale_2a", "backbone.simfp_2.0", UPSCALING),
        ("params/simple_pyramid/norm_2", "backbone.simfp_2.1", NORM),
        ("params/simple_pyramid/upscale_2b", "backbone.simfp_2.3", UPSCALING),
        ("params/simple_pyramid/upscale_3", "backbone.simfp_3.0", UPSCALING),
        *(
            entry
            for level, lateral in ((2, 4), (3, 1), (4, 0), (5, 1))
            for ours, place in (("lateral", lateral), ("output", lateral + 1))
            for entry in _with_norm(
                f"params/simple_pyramid/{ours}_{level}", f"backbone.simfp_{level}.{place}"
            )
        ),
        ("params/rpn/conv", "proposal_generator.rpn_head.conv", CONVOLUTION),
        ("params/rpn/conv_{i}", "proposal_generator.rpn_head.conv.conv{i}", CONVOLUTION),
        ("params/rpn/logits", "proposal_generator.rpn_head.objectness_logits", CONVOLUTION),
        ("params/rpn/deltas", "proposal_generator.rpn_head.anchor_deltas", CONVOLUTION),
        *_box_head("box_head", "roi_heads.box_head", "roi_heads.box_predictor"),
        *_box_head("box_head_{i}", "roi_heads.box_head.{i}", "roi_heads.box_predictor.{i}"),
        *(
            entry
            for n in range(8)
            for entry in _with_norm(
                f"{{c}}/mask_head/conv_{n}", f"roi_heads.mask_head.mask_fcn{n + 1}"
            )
        ),
        ("params/mask_head/upscale", "roi_heads.mask_head.deconv", UPSCALING),
        ("params/mask_head/logits", "roi_heads.mask_head.predictor", CONVOLUTION),
        *(
            (
                f"params/keypoint_head/conv_{n}",
                f"roi_heads.keypoint_head.conv_fcn{n + 1}",
                CONVOLUTION,
            )
            for n in range(8)
        ),
        ("params/keypoint_head/upscale", "roi_heads.keypoint_head.score_lowres", UPSCALING),
    ],
    explain=explain_other_classes,
    encoder="params/backbone",
    position_keys={DETECTRON2: "backbone.net.pos_embed"},
    # Tables that some versions store and that are computed: mean and deviation of pixels, anchors.
    ignored_keys={
        DETECTRON2: r"pixel_(mean|std)"
        r"|proposal_generator\.anchor_generator\.cell_anchors\.\d+"
        r"|.*\.num_batches_tracked"
    },
)
