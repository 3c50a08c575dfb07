"""The complete SAM: sizes, shapes, types, and ragged prompts of several images in one call."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.sam_inputs import as_one_call, make_images, prompts

from segjax.models.build import variable_shapes
from segjax.models.layers import Upscale
from segjax.models.sam.build import build_sam, init_sam
from segjax.models.sam.prompt_encoder import Prompts
from segjax.ops.masks import make_content_mask
from segjax.ops.pixels import scale_to_range

MODEL = build_sam("sam_debug")
GRID, SIDE = 4, 16
CASES = prompts(MODEL.canvas, SIDE)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def variables():
    return jax.tree.map(jnp.asarray, drawn_variables(MODEL, init_sam))


@functools.partial(jax.jit, static_argnames="model")
def decode(variables, embedding, prompts, model=MODEL):
    return model.apply(variables, embedding, prompts, method="decode")


@jax.jit
def encode(variables, images, sizes):
    return MODEL.apply(variables, images, sizes, method="encode_image")


@jax.jit
def prompt_encoder(variables, prompts):
    return MODEL.apply(
        variables, method=lambda module: module.prompt_encoder(prompts, (64, 64), (GRID, GRID))
    )


def count_parameters(shapes):
    return {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for name, tree in shapes.items()
    }


@pytest.mark.parametrize(
    "name, encoder",
    [
        ("sam_vit_b", 89_670_912),
        pytest.param("sam_vit_l", 308_278_272, marks=pytest.mark.slow),
        pytest.param("sam_vit_h", 637_026_048, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts_equal_the_published_ones(name, encoder):
    shapes = variable_shapes(build_sam(name))
    expected = {"image_encoder": encoder, "prompt_encoder": 6_220, "mask_decoder": 4_058_340}
    assert count_parameters(shapes["params"]) == expected
    assert count_parameters(shapes["constants"]) == {"prompt_encoder": 2 * 128}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    "name, global_blocks, channels",
    [
        ("sam_vit_b", (2, 5, 8, 11), 64),
        pytest.param("sam_vit_l", (5, 11, 17, 23), 64, marks=pytest.mark.slow),
        ("sam_vit_h", (7, 15, 23, 31), 80),
    ],
)
def test_global_blocks_and_head_channels_equal_the_published_ones(name, global_blocks, channels):
    """Global blocks have tables of 2 * 64 - 1 distances, window blocks of 2 * 14 - 1."""
    trunk = variable_shapes(build_sam(name))["params"]["image_encoder"]["trunk"]
    for number in range(len(trunk)):
        length = 127 if number in global_blocks else 27
        for table in ("rel_pos_h", "rel_pos_w"):
            assert trunk[f"block_{number}"][table].shape == (length, channels)


def test_prompts_decoded_together_equal_each_decoded_alone(variables):
    """Compares ragged prompts on two images, padded to one shape, with each prompt unpadded."""
    embeddings = RNG.standard_normal((2, GRID, GRID, MODEL.prompt_width)).astype(np.float32)
    kinds = ["points", "box", "nothing", "point_mask"]
    orders = [kinds, kinds[::-1]]
    rows = [as_one_call({kind: CASES[kind] for kind in order}, SIDE) for order in orders]
    together = Prompts(**{name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
    logits, iou = decode(variables, embeddings, together)
    assert logits.shape == (2, 4, 4, SIDE, SIDE) and iou.shape == (2, 4, 4)
    for kind in ("points", "box", "point_mask"):
        alone = make_single_prompt(CASES[kind])
        for image, order in enumerate(orders):
            one_logits, one_iou = decode(variables, embeddings[image : image + 1], alone)
            row = order.index(kind)
            scale = np.abs(one_logits).max()
            np.testing.assert_allclose(
                logits[image, row], one_logits[0, 0], atol=1e-5 * scale, err_msg=kind
            )
            np.testing.assert_allclose(
                iou[image, row], one_iou[0, 0], atol=1e-5 * np.abs(one_iou).max(), err_msg=kind
            )


@pytest.mark.parametrize(
    "size", [pytest.param(2, marks=pytest.mark.slow), 3]
)  # 3 does not divide the 4 prompts
def test_groups_of_prompts_give_the_same_outputs_and_gradients(variables, size):
    embedding = RNG.standard_normal((2, GRID, GRID, MODEL.prompt_width)).astype(np.float32)
    row = as_one_call(
        {kind: CASES[kind] for kind in ("points", "box", "nothing", "point_mask")}, SIDE
    )
    fields = Prompts(
        **{name: np.concatenate([value, value[:, ::-1]]) for name, value in row.items()}
    )

    model = build_sam(
        "sam_debug", decoder_depth=1
    )  # its parameters are a subset of the full model's
    loss = jax.jit(
        jax.value_and_grad(lambda e, model: sum_outputs(model, variables, e, fields)),
        static_argnums=1,
    )
    (value, gradient), (grouped, grouped_gradient) = (
        loss(embedding, model) for model in (model, model.clone(prompts_at_once=size))
    )
    np.testing.assert_allclose(grouped, value, rtol=1e-5)
    np.testing.assert_allclose(grouped_gradient, gradient, atol=1e-4 * np.abs(gradient).max())


def sum_outputs(model, variables, embedding, fields):
    logits, iou = model.apply(variables, embedding, fields, method="decode")
    weights = jnp.arange(logits.shape[1] * logits.shape[0]).reshape(logits.shape[:2])
    return jnp.sum(weights * (jnp.sin(logits).sum((2, 3, 4)) + iou.sum(2)))


def make_single_prompt(prompt):
    """Returns `Prompts` with only the parts that this prompt has."""
    fields = {}
    if "points" in prompt:
        fields["points"] = prompt["points"][None, None]
        fields["labels"] = np.where(prompt["labels"] == -1, -2, prompt["labels"])[None, None]
    if "box" in prompt:
        fields["boxes"] = prompt["box"][None, None]
    if "mask" in prompt:
        fields["masks"] = prompt["mask"][None, None]
    return Prompts(**fields)


def test_contents_of_empty_slots_have_no_effect(variables):
    embedding = RNG.standard_normal((1, GRID, GRID, MODEL.prompt_width)).astype(np.float32)
    fields = as_one_call(CASES, SIDE)
    expected = decode(variables, embedding, Prompts(**fields))
    junk = lambda x: np.full_like(x, np.nan if x.dtype == np.float32 else 0)
    fields["points"] = np.where(
        (fields["labels"] == -1)[..., None], junk(fields["points"]), fields["points"]
    )
    fields["boxes"] = np.where(fields["has_box"][..., None], fields["boxes"], junk(fields["boxes"]))
    fields["masks"] = np.where(fields["has_mask"][..., None, None], fields["masks"], 1e6).astype(
        np.float32
    )
    for ours, theirs in zip(decode(variables, embedding, Prompts(**fields)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_points_end_with_not_a_point_unless_a_box_follows(variables):
    encode = lambda prompts: prompt_encoder(variables, prompts)
    points = dict(points=np.array([[[[3.0, 5]]]]), labels=np.array([[[1]]]))
    box = dict(boxes=np.array([[[1.0, 2, 30, 40]]]))
    not_a_point = variables["params"]["prompt_encoder"]["not_a_point"]

    tokens, valid, _ = encode(Prompts(**points))
    assert valid.tolist() == [[[True, True]]]
    np.testing.assert_array_equal(tokens[0, 0, 1], not_a_point)
    tokens, valid, _ = encode(Prompts(**points, **box))
    assert valid.sum() == 3 and not (np.asarray(tokens)[valid] == not_a_point).all(-1).any()
    _, valid, _ = encode(Prompts(**box))
    assert valid.tolist() == [[[True, True]]]
    _, valid, _ = encode(Prompts(**points, **box, has_box=np.array([[False]])))
    assert valid.sum() == 2


def test_positions_are_pixel_centers(variables):
    """A point at pixel 7 of 64 is embedded at 7.5 / 64. The center of cell 0 is at 8 pixels."""
    encoder = lambda module, xy: (
        module.prompt_encoder.encode_positions(xy),
        module.prompt_encoder.encode_image_grid((2, 4)),
    )
    positional = jax.jit(lambda xy: MODEL.apply(variables, xy, method=encoder))
    matrix = np.asarray(variables["constants"]["prompt_encoder"]["gaussian_matrix"], np.float64)
    angles = 2 * np.pi * (2 * np.array([7.5 / 64, 20.5 / 64]) - 1) @ matrix
    expected = np.concatenate([np.sin(angles), np.cos(angles)])
    np.testing.assert_allclose(positional(np.array([7.5 / 64, 20.5 / 64]))[0], expected, atol=1e-4)
    prompt = Prompts(points=np.array([[[[7.0, 20]]]]), labels=np.array([[[0]]]))
    tokens, _, _ = prompt_encoder(variables, prompt)
    background = variables["params"]["prompt_encoder"]["background"]
    np.testing.assert_allclose(tokens[0, 0, 0], expected + background, atol=1e-4)
    xy, positions = positional(np.array([0.125, 0.75]))
    np.testing.assert_allclose(positions[1, 0], xy, atol=1e-5)


def test_images_do_not_mix_and_padding_is_the_mean_color(variables):
    images, sizes = make_images(64, 3).astype(np.float32), np.array([[64, 64], [64, 40], [30, 64]])
    together = encode(variables, images, sizes)
    for i in (2, 0, 1):
        turned = np.roll(images, -i, axis=0)
        np.testing.assert_allclose(
            encode(variables, turned, np.roll(sizes, -i, 0))[0], together[i], atol=1e-5
        )
    mean = np.broadcast_to(np.array([123.675, 116.28, 103.53], np.float32), (3, 64, 64, 3))
    inside = np.zeros((3, 64, 64, 1), bool)
    for row, (height, width) in enumerate(sizes):
        inside[row, :height, :width] = True
    by_hand = encode(variables, np.where(inside, images, mean), np.full((3, 2), 64))
    np.testing.assert_allclose(by_hand, together, atol=1e-4)


def test_rectangular_canvases(variables):
    """Positions are resized. Embeddings follow the image's shape, and masks its grid."""
    shape = (32, 80)
    images = np.zeros((1, *shape, 3), np.uint8)
    grid = (shape[0] // 16, shape[1] // 16)
    prompt = Prompts(
        points=np.array([[[[3.0, 5]], [[20, 9]]]]), labels=np.ones((1, 2, 1), np.int32)
    )
    run = jax.jit(lambda v, x, p: (MODEL.apply(v, x, method="encode_image"), MODEL.apply(v, x, p)))
    embedding, (logits, iou) = run(variables, images, prompt)
    assert embedding.shape == (1, *grid, 32)
    assert logits.shape == (1, 2, 4, 4 * grid[0], 4 * grid[1]) and iou.shape == (1, 2, 4)
    assert np.isfinite(logits).all() and float(jnp.abs(logits[0, 0] - logits[0, 1]).max()) > 1e-3


def test_half_precision(variables):
    """Outputs and parameters are float32, the embedding is bfloat16, and results are close."""
    half = build_sam("sam_debug", dtype="bfloat16")
    shapes = jax.eval_shape(lambda key: init_sam(half, key), jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    images, fields = make_images(64, 3).astype(np.float32), Prompts(**as_one_call(CASES, SIDE))
    full_embedding = encode(variables, images, np.full((3, 2), 64))
    full_logits, full_iou = decode(variables, full_embedding[:1], fields)
    embedding = jax.jit(lambda v: half.apply(v, images, method="encode_image"))(variables)
    logits, iou = jax.jit(lambda v: half.apply(v, embedding[:1], fields, method="decode"))(
        variables
    )
    assert (embedding.dtype, logits.dtype, iou.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    for ours, full in ((embedding, full_embedding), (logits, full_logits), (iou, full_iou)):
        error = jnp.abs(ours.astype(jnp.float32) - full)
        assert error.mean() < 0.02 * jnp.abs(full).max() and error.max() > 0


def test_bad_input(variables):
    embedding = np.zeros((1, GRID, GRID, 32), np.float32)
    with pytest.raises(ValueError, match="sam_vit_x.*nearest: sam_vit"):
        build_sam("sam_vit_x")
    with pytest.raises(ValueError, match="no attribute.*widht"):
        build_sam("sam_debug", widht=3)
    with pytest.raises(ValueError, match="8x8, expected 16x16"):
        decode(variables, embedding, Prompts(masks=np.zeros((1, 1, 8, 8), np.float32)))
    with pytest.raises(ValueError, match="canvas 70 is not a multiple of the patch 16"):
        init_sam(build_sam("sam_debug", canvas=70), jax.random.key(0))
    with pytest.raises(ValueError, match="40x64 does not divide into blocks of 16"):
        encode(variables, np.zeros((1, 40, 64, 3), np.uint8), np.array([[40, 64]]))
    with pytest.raises(ValueError, match="remat 'al'"):
        jax.eval_shape(
            lambda key: init_sam(build_sam("sam_debug", remat="al"), key), jax.random.key(0)
        )


def test_prompts_without_any_kind_are_an_error(variables):
    with pytest.raises(ValueError, match="points, boxes, masks or texts"):
        decode(variables, np.zeros((1, GRID, GRID, 32), np.float32), Prompts())


def test_predicted_ious_may_pass_a_sigmoid(variables):
    squashed = build_sam("sam_debug", iou_sigmoid=True)
    ask = Prompts(points=jnp.full((1, 1, 1, 2), 20.0), labels=jnp.ones((1, 1, 1), jnp.int32))
    embedding = RNG.standard_normal((1, GRID, GRID, MODEL.prompt_width)).astype(np.float32)
    _, plain = decode(variables, embedding, ask)
    _, iou = decode(variables, embedding, ask, squashed)
    np.testing.assert_allclose(iou, 1 / (1 + np.exp(-np.asarray(plain))), rtol=1e-5)


def test_upscaling_is_initialized_as_in_torch():
    """PyTorch draws a 2x2 transposed convolution within 1 / sqrt(4 * outputs)."""
    kernel = Upscale(16).init(jax.random.key(0), jnp.zeros((1, 2, 2, 64)))["params"]["kernel"]
    bound = (4 * 16) ** -0.5
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert np.std(kernel) == pytest.approx(bound / 3**0.5, rel=0.02)


def test_minmax_normalization_ignores_padding_and_is_refused_by_other_names():
    images = jnp.zeros((2, 4, 4, 3)).at[:, :2].set(50.0).at[:, 0, 0].set(150.0)
    images = images.at[1, 3, 3].set(250.0)  # in the padding
    content = make_content_mask(jnp.array([[2, 4], [2, 4]]), (4, 4))[..., None]
    scaled = scale_to_range(images, content)
    np.testing.assert_allclose(scaled[:, 0, 0], 1.0)
    np.testing.assert_allclose(scaled[:, 1], 0.0)
    np.testing.assert_array_equal(scale_to_range(jnp.full((1, 2, 2, 3), 7)), 0.0)
    with pytest.raises(ValueError, match="expected 'imagenet' or 'minmax'"):
        variable_shapes(build_sam("sam_debug", normalization="none"))
