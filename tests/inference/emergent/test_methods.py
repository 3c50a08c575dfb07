"""Emergent masks from the ViT of every family, on an image with a planted object."""

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.inference.emergent.features import PatchFeatures, extract_features, fit_patches
from segjax.inference.emergent.methods import METHODS, find_emergent_masks, measure_contrast
from segjax.models.build import build_model, init_model

IMAGE = np.full((64, 96, 3), 40, np.uint8)
IMAGE[16:48, 32:64] = [250, 30, 30]
NAMES = ("sam_debug", "mae_debug", "clip_debug", "dino_debug")


def draw(name, **options):
    model = build_model(name, **options)
    return model, drawn_variables(model, init_model)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_every_family(name):
    model, variables = draw(name)
    found = extract_features(model, variables, IMAGE, size=96)
    grid = (64 // model.patch, 96 // model.patch)
    cells = grid[0] * grid[1]
    assert found.grid == grid and found.hw == (64, 96)
    assert found.features.shape == (cells, model.width)
    assert found.attention.shape == (model.heads, cells, cells)
    np.testing.assert_allclose(found.attention.sum(-1), 1, atol=1e-5)
    if name == "sam_debug":
        assert found.token_attention is None
    else:
        assert found.token_attention.shape == (model.heads, cells)
    tokens = extract_features(model, variables, IMAGE, size=96, kind="tokens")
    assert tokens.features.shape == found.features.shape
    assert abs(tokens.features - found.features).max() > 1e-3
    # Blocks as one scan give the same record
    scanned = extract_features(model.clone(scan=True), variables, IMAGE, size=96)
    np.testing.assert_allclose(scanned.features, found.features, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_methods_find_masks_of_the_image_size(method):
    model, variables = draw("mae_debug")
    found = find_emergent_masks(model, variables, IMAGE, method, size=192)
    assert found.masks.shape[1:] == (64, 96) and found.masks.any(axis=(1, 2)).all()
    assert (np.diff(found.scores) <= 0).all()


def test_the_object_is_cut_from_a_plain_background():
    # Position-free random features separate two colors
    model, variables = draw("sam_debug")
    params = dict(variables["params"]["image_encoder"])
    params["pos_embed"] = np.zeros_like(params["pos_embed"])
    variables = {**variables, "params": {**variables["params"], "image_encoder": params}}
    found = find_emergent_masks(model, variables, IMAGE, "ncut", size=96)
    truth = np.zeros((64, 96), bool)
    truth[16:48, 32:64] = True
    iou = [(m & truth).sum() / (m | truth).sum() for m in found.masks]
    assert max(iou) > 0.9  # corners are rounded


def test_contrast_of_planted_features():
    features = np.repeat(np.eye(2, dtype=np.float32), [4, 12], axis=0)
    found = PatchFeatures((4, 4), (8, 8), features, np.zeros((1, 16, 16)), None)
    mask = np.zeros((8, 8), bool)
    mask[:2] = True
    assert measure_contrast(found, mask) == pytest.approx(1.0)
    assert measure_contrast(found, ~mask) == pytest.approx(1.0)
    assert measure_contrast(found, np.ones((8, 8), bool)) == 0.0


def test_dinov2_without_registers_warns(caplog):
    model, variables = draw("dino_debug", layer_scale=1.0)
    find_emergent_masks(model, variables, IMAGE, "lost")
    assert "without registers" in caplog.text
    caplog.clear()
    for other in (draw("dino_debug", layer_scale=1.0, registers=4), draw("dino_debug")):
        find_emergent_masks(*other, IMAGE, "lost")
    assert not caplog.text


def test_what_has_no_features():
    with pytest.raises(ValueError, match="a Mask R-CNN gives no features of patches"):
        extract_features(*draw("maskrcnn_debug"), IMAGE)
    model, variables = draw("sam_debug")
    with pytest.raises(ValueError, match="choose one of keys, queries"):
        extract_features(model, variables, IMAGE, kind="outputs")
    with pytest.raises(ValueError, match="block 7 does not exist; this ViT has 2 blocks"):
        extract_features(model, variables, IMAGE, block=7)
    with pytest.raises(ValueError, match="expected at least a patch of 16"):
        extract_features(model, variables, IMAGE, size=8)
    assert fit_patches((100, 333), 96, 16) == (32, 96)
