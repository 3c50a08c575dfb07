import jax
import jax.numpy as jnp
import pytest

from segjax.models.build import variable_shapes
from segjax.models.classifier import build_classifier
from segjax.models.detection.build import build_mask_rcnn
from segjax.models.detection.flops import count_detector_multiply_adds
from segjax.models.flops import count_classifier_multiply_adds, count_mae_multiply_adds
from segjax.models.mae import build_mae
from segjax.models.sam.build import build_sam
from segjax.models.sam.flops import count_decoder_multiply_adds, count_encoder_multiply_adds


@pytest.mark.parametrize(
    "name, billions", [("sam_vit_b", 486), ("sam_vit_l", 1493), ("sam_vit_h", 2981)]
)
def test_the_flops_of_the_encoder_are_the_published_ones(name, billions):
    """Within 1 %. EfficientViT-SAM's paper counts 2973e9 for H. The others are counted by hand."""
    assert count_encoder_multiply_adds(build_sam(name)) == pytest.approx(billions * 1e9, rel=0.01)


def test_a_click_costs_little_and_mostly_projections_of_the_image():
    """Counted by hand: 1.81e9, 74 % of it 10 projections of 4096 cells, 256 and 128 channels."""
    count = count_decoder_multiply_adds(build_sam("sam_vit_b"), tokens=2)
    assert count == pytest.approx(1.81e9, rel=0.01)
    assert 10 * 4096 * 256 * 128 / count == pytest.approx(0.74, abs=0.01)


@pytest.mark.parametrize(
    "name, encoder, decoder", [("b", 4.3, 5.3), ("l", 15.1, 5.3), ("h", 41, 7.0)]
)
def test_the_flops_of_a_masked_image_are_those_of_the_paper(name, encoder, decoder):
    """Counted by hand: parameters x tokens + attention.

    ViT-B: 12 (12 x 768^2 x 50 + 2 x 50^2 x 768) + 49 x 768^2 = 4.32e9.
    """
    found = count_mae_multiply_adds(build_mae(f"mae_vit_{name}"))
    assert [count / 1e9 for count in found] == pytest.approx([encoder, decoder], rel=0.02)


def test_a_whole_picture_costs_four_times_as_much():
    """Counted by timm: 17.58e9 for ViT-B/16 with attention, on all 197 tokens."""
    assert count_classifier_multiply_adds(build_classifier("vit_b"))[0] == pytest.approx(
        17.5e9, rel=0.01
    )


def test_the_compiler_counts_the_same():
    """Compares with XLA's count, which includes norms and softmax: a few percent more."""
    model = build_mae("mae_tiny")
    shapes = variable_shapes(model)
    images = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    noise = jax.ShapeDtypeStruct((1, 64), jnp.float32)
    compiled = jax.jit(model.apply).lower(shapes, images, noise).compile()
    counted = compiled.cost_analysis()["flops"] / (2 * sum(count_mae_multiply_adds(model)))
    assert 1.0 < counted < 1.1


@pytest.mark.parametrize(
    "name, billions, detections",
    [("maskrcnn_resnet50_fpn", 134.38, 0), ("maskrcnn_resnet50_fpn_v2", 333.58, 100)],
)
def test_a_detector_costs_what_is_published(name, billions, detections):
    """Compares with torchvision's "GFLOPS", multiply-adds at 800 x 800 pixels with 1000 regions.

    The numbers imply that the first model detects nothing in an image of noise, and the second one
    100 objects.
    """
    found = count_detector_multiply_adds(build_mask_rcnn(name), (800, 800))
    assert found.image + 1000 * found.region + detections * found.foreground == pytest.approx(
        billions * 1e9, rel=0.005
    )
    assert found.frozen == 0
    # The mask head by hand: 4 convolutions 3x3 of 14 x 14 cells, 28 x 28 cells of 256 channels and
    # of 91 classes.
    assert found.foreground == 4 * 196 * 9 * 256**2 + 784 * 256**2 + 784 * 256 * 91
    frozen = count_detector_multiply_adds(build_mask_rcnn(name, freeze_at=2), (800, 800))
    assert frozen.frozen + frozen.image == found.image
    # The stem and, on 200 x 200 cells, 3 bottlenecks of 64 channels, the first from 64 channels and
    # with a projection.
    assert frozen.frozen == 160_000 * 147 * 64 + 40_000 * (
        3 * (9 * 64**2 + 64 * 256) + 64**2 + 3 * 64 * 256
    )


def test_a_plain_backbone_costs_what_sam_s_does():
    """ViTDet has SAM's encoder without the neck. The pyramid and the RPN are counted by hand."""
    found = count_detector_multiply_adds(build_mask_rcnn("vitdet_vit_b"), (1024, 1024))
    sam = count_encoder_multiply_adds(build_sam("sam_vit_b")) - 4096 * (768 * 256 + 9 * 256**2)
    enlarged = 4096 * 768 * 4 * (384 + 384) + 16384 * 384 * 4 * 192
    projected = 256 * (65536 * 192 + 16384 * 384 + 4096 * 768 + 1024 * 768)
    levels = 65536 + 16384 + 4096 + 1024
    smoothed = (3 * levels + 2 * 256) * 9 * 256**2 + (levels + 256) * 15 * 256
    assert found.image == sam + enlarged + projected + smoothed


def test_a_cascade_costs_three_box_heads():
    """Counted by hand for each region and stage.

    7 x 7 cells of 256 channels to 1024, to 1024, to 81 classes and one box.
    """
    cascade, alone = (
        count_detector_multiply_adds(build_mask_rcnn(f"{name}mask_rcnn_R_50_FPN"), (800, 800))
        for name in ("cascade_", "")
    )
    assert cascade.region == 3 * (49 * 256 * 1024 + 1024**2 + 1024 * (81 + 4))
    assert cascade._replace(region=0) == alone._replace(region=0)


def test_a_keypoint_head_costs_its_convolutions():
    found = count_detector_multiply_adds(build_mask_rcnn("keypointrcnn_resnet50_fpn"), (800, 800))
    assert (
        found.foreground == 196 * 9 * (256 * 512 + 7 * 512**2) + 784 * 4 * 512 * 17
    )  # 4 of 16 taps reach each cell of 28 x 28
