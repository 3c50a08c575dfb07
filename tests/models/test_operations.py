import pytest

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
