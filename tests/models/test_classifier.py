"""The classifier: its size, its two pools, and a frozen encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.sam_inputs import make_images

from segjax.models.build import variable_shapes
from segjax.models.classifier import build_classifier, init_classifier
from segjax.models.layers import LayerNorm
from segjax.models.mae import build_mae
from segjax.models.vit import ViT
from segjax.ops.positions import make_position_table
from segjax.weights.tables.vit import unfreeze_encoder

SMALL = dict(name="vit_debug", depth=1)


@pytest.fixture(scope="module")
def variables():
    return drawn_variables(build_classifier(**SMALL), init_classifier)


@pytest.fixture(scope="module")
def frozen():
    return drawn_variables(build_classifier(**SMALL, frozen=True), init_classifier)


def run(variables, method="__call__", **options):
    model = build_classifier(**SMALL | options)
    return jax.jit(lambda v, x: model.apply(v, x, method=method))(variables, make_images(64, 2))


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def blocks(width, depth):
    """Returns 12 D^2 + 13 D numbers for each block.

    qkv 3 D^2 + 3 D, proj D^2 + D, MLP 8 D^2 + 5 D, two norms of 2 D.
    """
    return depth * (12 * width**2 + 13 * width)


@pytest.mark.parametrize(
    "name, count, width, depth, patch",
    [
        # timm: vit_base_patch16_224, vit_large_patch16_224, vit_huge_patch14_224. Pooling the mean
        # has as many parameters.
        ("vit_b", 86_567_656, 768, 12, 16),
        pytest.param("vit_l", 304_326_632, 1024, 24, 16, marks=pytest.mark.slow),
        pytest.param("vit_h", 632_045_800, 1280, 32, 14, marks=pytest.mark.slow),
    ],
)
def test_published_parameter_counts(name, count, width, depth, patch):
    tokens = 1 + (224 // patch) ** 2
    stem = 3 * patch**2 * width + width + width + tokens * width
    assert stem + blocks(width, depth) + 2 * width + 1000 * width + 1000 == count
    assert size_of(variable_shapes(build_classifier(name))["params"]) == count


def test_pooling_and_freezing_change_no_count():
    shapes = lambda **options: variable_shapes(build_classifier("vit_b", **options))
    assert size_of(shapes(pool="mean")["params"]) == 86_567_656
    assert size_of(shapes(frozen=True)["params"]) == 769_000
    assert size_of(shapes(frozen=True)["constants"]["encoder"]) == 86_567_656 - 769_000


def test_with_mae_s_positions_the_features_are_mae_s_class_token(variables):
    mae, encoder = build_mae("mae_debug", depth=1), dict(variables["params"]["encoder"])
    ours = {"params": {"encoder": encoder | {"pos_embed": make_position_table((4, 4), 32)}}}
    found = run(ours, "features")
    del encoder["pos_embed"]
    theirs = {"params": {"encoder": encoder}}
    encode = jax.jit(lambda v, x: mae.apply(v, x, method="encode_image"))
    tokens = encode(theirs, make_images(64, 2))
    np.testing.assert_allclose(found, tokens[:, 0], atol=1e-5)


def test_the_mean_is_of_the_patches_without_the_last_norm_but_with_one_of_its_own(variables):
    encoder = dict(variables["params"]["encoder"])
    norm = encoder.pop("norm")
    mean = {"params": variables["params"] | {"encoder": encoder | {"fc_norm": norm}}}
    model = build_classifier(**SMALL, pool="mean")
    trunk = lambda module, method: isinstance(module, ViT) and method == "__call__"
    apply = lambda v, x: model.apply(
        v, x, method="features", capture_intermediates=trunk, mutable=["intermediates"]
    )
    found, state = jax.jit(apply)(mean, make_images(64, 2))
    tokens = state["intermediates"]["encoder"]["trunk"]["__call__"][0]
    want = LayerNorm().apply({"params": norm}, tokens[:, 1:].mean(axis=1))
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_a_frozen_encoder_s_features_are_standardised_before_the_head(frozen):
    features = np.asarray(run(frozen, "features", frozen=True))
    statistics, head = frozen["constants"]["statistics"], frozen["params"]["head"]
    standard = (features - statistics["mean"]) / np.sqrt(statistics["variance"] + 1e-6)
    want = standard @ head["kernel"] + head["bias"]
    found = run(frozen, frozen=True)
    assert set(frozen["params"]) == {"head"} and found.dtype == jnp.float32
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        run(unfreeze_encoder(frozen)), want, rtol=1e-4, atol=1e-4
    )  # a head that standardises by itself


def test_a_fresh_head_is_as_small_as_it_is_told(variables):
    model = build_classifier("vit_debug", depth=1, classes=1000, head_std=0.01)
    kernel = model.bind(variables).head.kernel_init(jax.random.key(0), (32, 1000))
    assert np.std(kernel) == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"pool": "max"}, "pool 'max' is unknown; choose one of token, mean"),
        ({"canvas": 60}, "canvas 60 is not a multiple of the patch 16; use 48 or 64"),
    ],
)
def test_what_cannot_be_built_is_said(options, said):
    with pytest.raises(ValueError, match=said):
        variable_shapes(build_classifier(**SMALL | options))


def test_pictures_of_another_size_are_refused(variables):
    model = build_classifier(**SMALL)
    with pytest.raises(ValueError, match=r"takes RGB \[B, 64, 64, 3\]"):
        jax.eval_shape(lambda v: model.apply(v, jnp.zeros((1, 32, 32, 3))), variables)
