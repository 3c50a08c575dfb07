import jax
import jax.numpy as jnp
import pytest

from segjax.models.classifier import build_classifier
from segjax.models.mae import build_mae, init_mae
from segjax.models.operations import classifier_multiply_adds, mae_multiply_adds
from segjax.models.sam.build import build_sam
from segjax.models.sam.operations import decoder_multiply_adds, encoder_multiply_adds


@pytest.mark.parametrize("name, billions", [("sam_vit_b", 486), ("sam_vit_l", 1493), ("sam_vit_h", 2981)])
def test_the_encoder_costs_what_is_published(name, billions):
    """Within 1 %: EfficientViT-SAM's paper counts 2973 for H; the others are counted by hand."""
    assert encoder_multiply_adds(build_sam(name)) == pytest.approx(billions * 1e9, rel=0.01)


def test_a_click_costs_little_and_mostly_projections_of_the_image():
    """1.81e9 by hand, of which 10 projections of 4096 cells between 256 and 128 channels are 74 %."""
    count = decoder_multiply_adds(build_sam("sam_vit_b"), tokens=2)
    assert count == pytest.approx(1.81e9, rel=0.01)
    assert 10 * 4096 * 256 * 128 / count == pytest.approx(0.74, abs=0.01)


@pytest.mark.parametrize("name, encoder, decoder", [("b", 4.3, 5.3), ("l", 15.1, 5.3), ("h", 41, 7.0)])
def test_a_masked_picture_costs_what_the_paper_saves(name, encoder, decoder):
    """By hand: parameters x tokens + attention. B: 12 (12 x 768^2 x 50 + 2 x 50^2 x 768) + 49 x 768^2 = 4.32e9."""
    found = mae_multiply_adds(build_mae(f"mae_vit_{name}"))
    assert [count / 1e9 for count in found] == pytest.approx([encoder, decoder], rel=0.02)


def test_a_whole_picture_costs_four_times_as_much():
    """17.5e9, MAE's encoder on all of 197 tokens; timm's count of ViT-B/16 is 17.58 GMACs with attention."""
    assert classifier_multiply_adds(build_classifier("vit_b"))[0] == pytest.approx(17.5e9, rel=0.01)


def test_the_compiler_counts_the_same():
    """XLA's own count for a small MAE, which holds norms, softmax and additions too: a few percent more."""
    model = build_mae("mae_tiny")
    shapes = jax.eval_shape(lambda: init_mae(model, jax.random.key(0)))
    images = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    noise = jax.ShapeDtypeStruct((1, 64), jnp.float32)
    compiled = jax.jit(model.apply).lower(shapes, images, noise).compile()
    counted = compiled.cost_analysis()["flops"] / (2 * sum(mae_multiply_adds(model)))
    assert 1.0 < counted < 1.1
