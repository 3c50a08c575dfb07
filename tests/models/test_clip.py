"""CLIP's towers against plain NumPy, and their published sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.models.build import variable_shapes
from segjax.models.clip.clip import OPENAI_MEAN, OPENAI_STD
from segjax.models.clip.family import build_clip, init_clip, resize_clip_positions

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
IDS = np.array([[62, 4, 9, 63] + [0] * 12, [62, 1, 2, 3, 30, 63] + [7] * 10], np.int32)


@pytest.fixture(scope="module", params=["gelu", "quick_gelu"])
def clip(request):
    model = build_clip("clip_debug", activation=request.param)
    variables = drawn_variables(model, init_clip)
    apply = jax.jit(
        lambda *inputs, **options: model.apply(variables, *inputs, **options),
        static_argnames=("method", "dense"),
    )
    return model, jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"]), apply


def norm(x, weights):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weights["scale"] + weights["bias"]


def act(x, name):
    if name == "quick_gelu":
        return x / (1 + np.exp(-1.702 * x))
    erf = np.vectorize(math.erf)
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def run_block(x, w, heads, name, mask):
    """Runs a block of CLIP on tokens [T, D] in float64, one head after the other."""
    width = x.shape[-1]
    qkv = norm(x, w["norm_1"]) @ w["qkv"]["kernel"] + w["qkv"]["bias"]
    q, k, v = np.split(qkv, 3, axis=-1)
    out = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        scores = q[:, part] @ k[:, part].T / np.sqrt(width // heads)
        scores = np.exp(np.where(mask, scores, -np.inf))
        out[:, part] = scores / scores.sum(-1, keepdims=True) @ v[:, part]
    x = x + out @ w["proj"]["kernel"] + w["proj"]["bias"]
    hidden = norm(x, w["norm_2"]) @ w["mlp"]["layer_0"]["kernel"] + w["mlp"]["layer_0"]["bias"]
    return x + act(hidden, name) @ w["mlp"]["layer_1"]["kernel"] + w["mlp"]["layer_1"]["bias"]


def encode_image(image, params, model):
    tower = params["image"]
    encoder = tower["encoder"]
    pixels = (image / 255 - np.array(OPENAI_MEAN)) / np.array(OPENAI_STD)
    side = model.canvas // model.patch
    patches = pixels.reshape(side, model.patch, side, model.patch, 3).transpose(0, 2, 1, 3, 4)
    kernel = encoder["patch_embed"]["kernel"].reshape(-1, model.width)
    x = np.concatenate([encoder["cls_token"][None], patches.reshape(side**2, -1) @ kernel])
    x = norm(x + encoder["pos_embed"], encoder["norm_pre"])
    for i in range(model.depth):
        x = run_block(x, encoder["trunk"][f"block_{i}"], model.heads, model.activation, True)
    return norm(x[0], tower["norm_post"]) @ tower["proj"]["kernel"]


def encode_text(ids, params, model):
    tower = params["text"]
    x = tower["token_embed"][ids] + tower["pos_embed"]
    for i in range(model.text_depth):
        block = tower["trunk"][f"block_{i}"]
        mask = np.tri(len(ids), dtype=bool)
        x = run_block(x, block, model.text_heads, model.activation, mask)
    return norm(x[np.argmax(ids)], tower["norm"]) @ tower["proj"]["kernel"]


def test_towers_are_the_formula(clip):
    model, params, apply = clip
    images = apply(IMAGES, method="encode_image")
    np.testing.assert_allclose(images, [encode_image(x, params, model) for x in IMAGES], atol=1e-5)
    texts = apply(IDS, method="encode_text")
    np.testing.assert_allclose(texts, [encode_text(x, params, model) for x in IDS], atol=1e-5)


def test_vectors_have_length_one_and_the_scale_is_the_exponential(clip):
    _, params, apply = clip
    images, texts, scale = apply(IMAGES, IDS)
    for vectors in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(scale, np.exp(params["logit_scale"]), rtol=1e-6)


def test_ids_after_the_end_do_not_matter(clip):
    _, _, apply = clip
    changed = IDS.copy()
    changed[0, 4:] = 5
    np.testing.assert_allclose(
        apply(changed, method="encode_text"), apply(IDS, method="encode_text"), atol=1e-6
    )


def test_a_mask_of_all_tokens_is_the_plain_vector(clip):
    model, _, apply = clip
    cells = 1 + np.prod(model.grid)
    masks = np.ones((2, 3, cells), bool)
    masks[:, 2, 5:] = False
    pooled = apply(IMAGES, masks=masks, method="encode_image")
    plain = apply(IMAGES, method="encode_image")
    assert pooled.shape == (2, 3, model.embedding)
    np.testing.assert_allclose(pooled[:, 0], plain, atol=1e-5)
    assert np.abs(pooled[:, 2] - plain).max() > 1e-2


@pytest.mark.parametrize("dense", ["values", "self_similarity"])
def test_patches_have_vectors_on_any_grid(clip, dense):
    model, _, apply = clip
    vectors = apply(IMAGES, dense=dense, method="describe_patches")
    assert vectors.shape == (2, *model.grid, model.embedding)
    wide = np.zeros((1, 32, 64, 3), np.uint8)
    assert apply(wide, dense=dense, method="describe_patches").shape == (1, 4, 8, model.embedding)


@pytest.mark.parametrize(
    "name, total, image, text, arrays",
    [
        ("clip_vit_b_32", 151_277_313, 87_849_216, 63_428_096, 302),
        ("clip_vit_b_16", 149_620_737, 86_192_640, 63_428_096, 302),
        ("clip_vit_l_14", 427_616_513, 303_966_208, 123_650_304, 446),
        ("clip_vit_l_14_336", 427_944_193, 304_293_888, 123_650_304, 446),
        ("clip_vit_h_14", 986_109_441, None, None, None),
    ],
)
def test_published_parameter_counts(name, total, image, text, arrays):
    """Compares with counts of OpenAI's and open_clip's models."""
    params = variable_shapes(build_clip(name))["params"]
    count = lambda tree: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
    assert count(params) == total
    if image:
        assert (count(params["image"]), count(params["text"])) == (image, text)
        assert len(jax.tree.leaves(params)) == arrays


def test_another_canvas_resizes_the_positions():
    small, large = build_clip("clip_debug"), build_clip("clip_debug", canvas=64)
    variables = drawn_variables(small, init_clip)
    resized = resize_clip_positions(variables, small, large)
    want = variable_shapes(large)
    assert jax.tree.map(np.shape, resized) == jax.tree.map(lambda leaf: leaf.shape, want)
    # The module itself resizes in the same way
    images = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), np.uint8)
    np.testing.assert_allclose(
        large.apply(resized, images, method="encode_image"),
        small.apply(variables, images, method="encode_image"),
        atol=1e-5,
    )


def test_refused_images_and_options():
    model = build_clip("clip_debug")
    variables = jax.eval_shape(lambda: init_clip(model, jax.random.key(0)))
    for shape, message in (((1, 32, 32, 4), "RGB"), ((1, 33, 32, 3), "multiple of the patch")):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(
                lambda v, x: model.apply(v, x, method="encode_image"), variables, jnp.zeros(shape)
            )
    with pytest.raises(ValueError, match="'stretch'; choose one of crop, squash"):
        init_clip(build_clip("clip_debug", resize="stretch"), jax.random.key(0))
