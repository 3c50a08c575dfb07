"""MAE compared with goldens of transformers (tools/make_goldens.py) and published sizes."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.mae_inputs import inputs

from segjax.losses.reconstruction import reconstruction_loss
from segjax.models.build import variable_shapes
from segjax.models.mae import build_mae, init_mae
from segjax.ops.patches import make_patch_targets, render_prediction
from segjax.ops.pixels import normalize

MODEL = build_mae("mae_debug")
IMAGES, NOISE = inputs(MODEL)


def close(ours, golden):
    """Compares to 2e-5 of the largest magnitude, because CPUs sum in different orders."""
    np.testing.assert_allclose(np.asarray(ours), golden, rtol=0, atol=2e-5 * np.abs(golden).max())


@pytest.fixture(scope="module")
def variables():
    return jax.tree.map(jnp.asarray, drawn_variables(MODEL, init_mae))


@pytest.fixture(scope="module")
def answers(variables):
    def run(variables, images, noise):
        tokens, _, _ = MODEL.apply(variables, images, noise, method="encode_visible")
        prediction, masked = MODEL.apply(variables, images, noise)
        loss = {
            name: jnp.divide(
                *reconstruction_loss(
                    prediction, images, masked, patch=MODEL.patch, norm_pix=norm_pix
                )
            )
            for name, norm_pix in (("loss_normalised", True), ("loss_plain", False))
        }
        return loss | dict(tokens=tokens, prediction=prediction, masked=masked)

    return jax.tree.map(np.asarray, jax.jit(run)(variables, IMAGES, NOISE))


def test_every_stage_is_the_reference_s(answers):
    with np.load(pathlib.Path(__file__).parent.parent / "golden" / "mae_debug.npz") as golden:
        np.testing.assert_array_equal(answers["masked"], golden["masked"])
        close(answers["tokens"], golden["tokens"])
        close(answers["prediction"][:1], golden["prediction"])
        for name in ("loss_normalised", "loss_plain"):
            np.testing.assert_allclose(answers[name], golden[name], rtol=1e-5)


# torchvision documents 86,567,656, 304,326,632 and 632,045,800 parameters for vit_b_16, vit_l_16
# and vit_h_14 at 224
# pixels. Theirs hold a learned position table and a head of 1000 classes besides what is here.
@pytest.mark.parametrize(
    "name, published",
    [
        ("mae_vit_b", 86_567_656),
        pytest.param("mae_vit_l", 304_326_632, marks=pytest.mark.slow),
        pytest.param("mae_vit_h", 632_045_800, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts_are_the_published_ones(name, published):
    model = build_mae(name)
    params = variable_shapes(model)["params"]
    counts = {
        part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for part, tree in params.items()
    }
    positions, head = (model.grid[0] ** 2 + 1) * model.width, 1000 * (model.width + 1)
    assert counts["encoder"] == published - positions - head
    # The decoder, by hand: embedding, mask token, 8 blocks of 12 w^2 + 13 w, norm, prediction.
    width, pixels = 512, 3 * model.patch**2
    blocks = 8 * (12 * width**2 + 13 * width)
    assert (
        counts["decoder"]
        == (model.width + 1) * width + width + blocks + 2 * width + (width + 1) * pixels
    )


def test_a_decoder_of_one_block_is_an_option():
    params = variable_shapes(build_mae("mae_vit_b", decoder_depth=1))["params"]
    assert list(params["decoder"]["trunk"]) == ["block_0"]


def test_the_encoder_does_not_depend_on_masked_patches(variables, answers):
    """Also checks that tokens come in the order of the noise."""
    grid, patch = MODEL.grid[0], MODEL.patch
    masked = np.asarray(answers["masked"]).reshape(2, grid, grid).repeat(patch, 1).repeat(patch, 2)
    other = np.where(masked[..., None], 255 - IMAGES, IMAGES).astype(np.uint8)
    seen = np.argsort(NOISE, axis=1)[:, : answers["tokens"].shape[1] - 1]
    swapped = NOISE.copy()
    np.put_along_axis(swapped, seen, np.take_along_axis(NOISE, seen[:, ::-1], 1), 1)
    encode = jax.jit(
        lambda images, noise: MODEL.apply(variables, images, noise, method="encode_visible")[0]
    )
    close(encode(other, NOISE), answers["tokens"])
    reversed_tokens = np.concatenate(
        [answers["tokens"][:, :1], answers["tokens"][:, :0:-1]], axis=1
    )
    close(encode(IMAGES, swapped), reversed_tokens)


def test_scan_and_half_precision(variables, answers):
    run = lambda **options: jax.jit(build_mae("mae_debug", **options).apply)(
        variables, IMAGES, NOISE
    )[0]
    close(run(scan=True, remat="full"), answers["prediction"])
    half = run(dtype="bfloat16")
    assert half.dtype == jnp.float32
    assert np.abs(half - answers["prediction"]).mean() < 0.05 * np.abs(answers["prediction"]).mean()


@pytest.mark.parametrize("strategy", ["random", "block", "grid"])
def test_noise_is_drawn_from_the_rng_and_a_fixed_number_is_kept(variables, strategy):
    model = build_mae("mae_debug", mask_strategy=strategy, mask_ratio=0.7)
    run = jax.jit(lambda key: model.apply(variables, IMAGES, rngs={"mask": key})[1])
    masked, again, other = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
    assert masked.sum(1).tolist() == [12, 12]  # int(16 * 0.3) = 4 are kept
    assert (masked == again).all() and (masked != other).any() and (masked[0] != masked[1]).any()


def test_initialization_is_that_of_the_paper():
    """Xavier-uniform layers (qkv as one matrix), normal tokens (0.02), zero biases, unit norms."""
    model = build_mae("mae_tiny")
    params = jax.device_get(jax.jit(lambda key: init_mae(model, key))(jax.random.key(0))["params"])
    encoder, block = params["encoder"], params["encoder"]["trunk"]["block_0"]
    width = model.width

    def uniform(values, bound):
        assert 0.95 * bound < np.abs(values).max() <= bound
        np.testing.assert_allclose(np.std(values), bound / 3**0.5, rtol=0.1)

    uniform(block["qkv"]["kernel"], (6 / (width + 3 * width)) ** 0.5)
    uniform(block["proj"]["kernel"], (6 / (2 * width)) ** 0.5)
    uniform(block["mlp"]["layer_0"]["kernel"], (6 / (5 * width)) ** 0.5)
    uniform(params["decoder"]["predict"]["kernel"], (6 / (64 + 768)) ** 0.5)
    uniform(encoder["patch_embed"]["kernel"], (6 / (768 + width)) ** 0.5)
    uniform(encoder["patch_embed"]["bias"], 768**-0.5)
    tokens = np.concatenate([encoder["cls_token"], params["decoder"]["mask_token"]])
    np.testing.assert_allclose(np.std(tokens), 0.02, rtol=0.2)
    assert all((block[name]["bias"] == 0).all() for name in ("qkv", "proj", "norm_1"))
    assert (encoder["norm"]["scale"] == 1).all()


def test_without_a_mask_all_patches_are_encoded_in_order(variables):
    """Compares with all patches visible, in another order."""
    whole = jax.jit(lambda images: MODEL.apply(variables, images, method="encode_image"))(IMAGES)
    order = np.stack([np.random.default_rng(i).permutation(16) for i in range(2)])
    picked = jax.jit(
        lambda images: MODEL.apply(
            variables, normalize(images), order, method=lambda m, *a: m.encoder(*a)
        )
    )
    close(picked(IMAGES)[:, 1:], np.take_along_axis(np.asarray(whole)[:, 1:], order[..., None], 1))
    assert whole.shape == (2, 17, 32)


@pytest.mark.parametrize(
    "options, images, said",
    [
        (dict(mask_ratio=1.0), IMAGES, "mask_ratio 1.0 is not between 0 and 1"),
        (dict(mask_ratio=0.0), IMAGES, "mask_ratio 0.0 is not between 0 and 1"),
        (
            dict(mask_ratio=0.95),
            IMAGES,
            "mask_ratio 0.95 leaves 0 of 16 patches.*at most 0.9375 for 16",
        ),
        (dict(canvas=70), IMAGES, "canvas 70 is not a multiple of the patch 16; use 64 or 80"),
        ({}, IMAGES[:, :60], r"images are \(2, 60, 64, 3\); this MAE takes RGB \[B, 64, 64, 3\]"),
        (
            dict(mask_strategy="rows"),
            IMAGES,
            "mask_strategy 'rows' is unknown; choose one of random, block, grid",
        ),
    ],
)
def test_what_does_not_fit_is_said(options, images, said):
    model = build_mae("mae_debug", **options)
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(
            lambda: model.init({"params": jax.random.key(0), "mask": jax.random.key(1)}, images)
        )


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_rectangular_images_of_any_number_of_channels(channels):
    model = build_mae("mae_debug", canvas=(32, 80), channels=channels, depth=1, decoder_depth=1)
    assert model.grid == (2, 5)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 80, channels)).astype(np.uint8)
    shapes = jax.eval_shape(lambda: init_mae(model, jax.random.key(0)))["params"]
    assert shapes["encoder"]["patch_embed"]["kernel"].shape == (16, 16, channels, 32)

    def run(images):
        variables = init_mae(model, jax.random.key(0))
        return model.apply(variables, images, rngs={"mask": jax.random.key(1)})

    prediction, masked = jax.eval_shape(run, images)
    assert prediction.shape == (2, 10, 256 * channels) and masked.shape == (2, 10)
    # The loss of the true patches is zero, and they give the image back
    target = make_patch_targets(images, 16, norm_pix=False)
    loss, _ = reconstruction_loss(target, images, np.ones((2, 10)), patch=16, norm_pix=False)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    np.testing.assert_array_equal(render_prediction(target, images, 16, norm_pix=False), images)
    with pytest.raises(ValueError, match=rf"takes .*\[B, 32, 80, {channels}\]: resize them"):
        jax.eval_shape(run, images[:, :, :64])


def test_noise_of_another_number_of_patches(variables):
    with pytest.raises(
        ValueError, match=r"noise has shape \(2, 9\); expected \[B, L\] = \(2, 16\)"
    ):
        MODEL.apply(variables, IMAGES, NOISE[:, :9])
