"""Typical mistakes of SAM ports, each compared with plain NumPy (tests/plain_sam.py).

The correct NumPy model gives the same outputs as ours, and the one with the mistake gives others.
Mistakes between image and canvas, and in automatic mask generation, are tested in
tests/inference/test_sam_traps.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables, get_path
from golden.sam_inputs import as_one_call, make_images, prompts
from jax.extend.core import jaxprs_in_params
from plain_sam import PlainSam

from segjax.models.layers import LayerNorm
from segjax.models.sam.build import build_sam, init_sam
from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.vit import Block
from segjax.weights.tables.sam import SAM

MODEL = build_sam("sam_debug")
VARIABLES = drawn_variables(MODEL, init_sam)
CANVAS, GRID, SIDE = 64, 4, 16
CASES = prompts(CANVAS, SIDE)
EMBEDDING = (
    np.random.default_rng(5).standard_normal((GRID, GRID, MODEL.prompt_width)).astype(np.float32)
)
CONTENT = make_images(CANVAS)[0]
# Maps of 4 x 4 and 4 x 5 cells. Windows of 3 need padding by 2, and by 2 and 1.
SQUARE, OBLONG = (CANVAS, CANVAS), (CANVAS, 80)

# Relative to the largest magnitude: rounding differences (measured below 1e-6), and the least
# effect of a mistake.
SAME, OTHER = 5e-6, 5e-5


def difference(a, b):
    return np.abs(np.asarray(a) - b).max() / np.abs(b).max()


@jax.jit
def encode(variables, images, sizes):
    return MODEL.apply(variables, images, sizes, method="encode_image")[0]


@jax.jit
def decode(variables, fields):
    return MODEL.apply(variables, EMBEDDING[None], Prompts(**fields), method="decode")


@functools.cache
def run_segjax(stage, quiet=False):
    """Returns segjax's outputs.

    Args:
      stage: "decode" for the outputs of every prompt, by kind. A canvas (H, W) for the embedding of
        `CONTENT` cropped to 40 columns.
      quiet: See `get_weights`.
    """
    variables = get_weights(quiet)
    if stage == "decode":
        logits, iou = decode(variables, as_one_call(CASES, SIDE))
        return {kind: (logits[0, row], iou[0, row]) for row, kind in enumerate(CASES)}
    canvas = np.zeros((1, *stage, 3), np.uint8)
    canvas[0, :64, :40] = CONTENT[:, :40]
    return encode(variables, canvas, np.array([[64, 40]]))


@functools.cache
def get_weights(quiet=False):
    """Returns the random weights. If `quiet`, inputs of the first norms are 1000 times smaller."""
    loud = ("patch_embed", "pos_embed", "block_0/self_attention/out")
    scale = lambda path, x: (
        x * np.float32(1e-3) if quiet and any(part in get_path(path) for part in loud) else x
    )
    return jax.tree_util.tree_map_with_path(scale, VARIABLES)


@functools.cache
def run_plain(stage, kind=None, mistake=None, quiet=False):
    """Returns the outputs of plain NumPy, with or without a mistake. Arguments as `run_segjax`."""
    sam = PlainSam(MODEL, get_weights(quiet), mistake)
    if stage == "decode":
        outputs = sam.decode(EMBEDDING, *sam.prompt(**CASES[kind]))
    else:
        outputs = (sam.encode(CONTENT[:, :40], stage),)
    assert mistake is None or sam.made, f"PlainSam does not know the mistake {mistake!r}"
    return outputs


def assert_embeds(mistake, canvas=SQUARE, quiet=False):
    """Checks that our embedding is the correct one and differs from the mistaken one."""
    assert_right(
        mistake,
        (run_segjax(canvas, quiet),),
        *(run_plain(canvas, mistake=m, quiet=quiet) for m in (None, mistake)),
    )


def assert_decodes(mistake, kind="points_box", quiet=False):
    """Checks that our logits and IoUs are correct and differ from the mistaken ones."""
    assert_right(
        mistake,
        run_segjax("decode", quiet)[kind],
        *(run_plain("decode", kind, m, quiet) for m in (None, mistake)),
    )


def assert_right(mistake, outputs, right, wrong):
    assert max(map(difference, wrong, right)) > OTHER
    assert max(map(difference, outputs, wrong)) > OTHER / 2, (
        f"our model makes the mistake: {mistake}"
    )
    assert max(map(difference, outputs, right)) < SAME, "our model is wrong in another way"


# Image encoder


def test_patches_have_a_bias():
    assert_embeds("patches have no bias")


def test_there_is_no_class_token_and_positions_are_added_once():
    assert VARIABLES["params"]["image_encoder"]["pos_embed"].shape == (1, GRID, GRID, MODEL.width)
    assert_embeds("positions are added before every block")


def test_encoder_blocks_are_pre_norm():
    assert_embeds("the encoder's norms come last")


def test_q_k_and_v_are_contiguous_thirds_of_their_projection():
    assert_embeds("q, k and v lie side by side in every head")


def test_exact_gelu():
    assert_embeds("GELU is the tanh form")
    assert_decodes("GELU is the tanh form", "mask")


def test_windows_are_padded_after_the_norm():
    assert_embeds("pads windows before the norm")


def test_padded_window_tokens_attend_and_are_attended():
    assert_embeds("masks padded tokens")


def test_relative_positions_multiply_the_unscaled_query():
    assert_embeds("relative positions multiply the scaled query")


def test_relative_positions_are_query_minus_key():
    assert_embeds("relative positions are key minus query")


def test_window_padding_of_a_non_square_map():
    """The map is padded by 2 and 1, and positions are resized along one axis only."""
    assert_embeds("masks padded tokens", OBLONG)
    assert_embeds("takes the rows' table for the columns", SQUARE)


def test_neck_norms_are_over_channels():
    assert_embeds("neck norms are over the map")


def test_pixels_are_normalized_on_the_scale_of_255():
    assert_embeds("pixels are from 0 to 1")


def test_images_are_normalized_before_padding():
    assert_embeds("pads before it normalises")


def test_pixel_mean_and_std_are_not_in_the_state_dict():
    assert not [key for key in SAM.to_published(VARIABLES, "official") if "pixel" in key]


def test_decoder_norms_have_epsilon_1e_5_and_encoder_1e_6():
    """Uses norm inputs about as small as epsilon, and reads the epsilon of every norm."""
    assert_embeds("the encoder's epsilon is 1e-5", quiet=True)
    assert_decodes("the decoder's epsilon is 1e-6", quiet=True)
    norms_by_epsilon = {1e-5: set(), 1e-6: set()}

    def record_norm(call, args, kwargs, context):
        if isinstance(context.module, LayerNorm):
            norms_by_epsilon[context.module.epsilon].add("/".join(context.module.path))
        return call(*args, **kwargs)

    with nn.intercept_methods(record_norm):
        jax.eval_shape(lambda key: init_sam(MODEL, key), jax.random.key(0))
    norms = {
        get_path(path[1:-1])
        for path, _ in jax.tree_util.tree_leaves_with_path(VARIABLES)
        if path[-1].key == "scale"
    }
    assert norms_by_epsilon[1e-5] | norms_by_epsilon[1e-6] == norms
    assert norms_by_epsilon[1e-5] == {
        path for path in norms if path.startswith("mask_decoder/transformer/")
    }


def test_the_full_bias_of_relative_positions_is_never_computed():
    """It would have 4096 x 4096 values per head. Chunked attention has 128 rows at a time."""
    block = Block(heads=2, grid=(64, 64), impl="chunked")
    x = jax.ShapeDtypeStruct((1, 64, 64, 16), jnp.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)
    largest = max(
        np.prod(shape) for shape in list_shapes(jax.make_jaxpr(block.apply)(shapes, x).jaxpr)
    )
    assert 128 * 4096 <= largest < 4096 * 4096 / 8  # a chunk of queries of one head


def list_shapes(jaxpr):
    """Yields the shapes of all intermediate values of a program, including its loops."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from list_shapes(inner)


# Prompt encoder


@pytest.mark.parametrize(
    "mistake",
    ["positions start at 0", "sines and cosines alternate", "positions are row before column"],
)
def test_fourier_features_are_signed_x_before_y_sines_before_cosines(mistake):
    assert_decodes(mistake)


def test_positions_of_image_cells_are_their_centers():
    assert_decodes("cells are at their corners", "nothing")


@pytest.mark.parametrize("what, kind", [("points", "points"), ("corners", "box")])
def test_points_and_corners_get_half_a_pixel(what, kind):
    assert_decodes(f"{what} get no half pixel", kind)


def test_not_a_point_has_no_position():
    assert_decodes("keeps the position of what is not a point", "not_a_point")


def test_box_corners_have_different_embeddings():
    assert_decodes("takes one corner for the other", "box")


def test_points_end_with_not_a_point_only_without_a_box():
    assert_decodes("never closes the points", "points")
    assert_decodes("closes the points before a box too", "points_box")
    assert_decodes("closes after a box alone", "box")


def test_points_survive_beside_a_box():
    assert_decodes("loses points beside a box", "points_box")
    assert_decodes("loses points beside a box", "all")


def test_a_mask_alone_is_a_valid_prompt():
    assert difference(run_plain("decode", "mask")[0], run_plain("decode", "nothing")[0]) > OTHER
    assert_decodes("the mask branch has ReLU", "mask")


def test_negative_clicks_differ_from_no_clicks():
    assert_decodes("negative clicks are no clicks", "points")


def test_no_mask_is_a_learned_vector():
    assert_decodes("no mask is nothing", "point")


@pytest.mark.parametrize("kind", ["mask", "point"])
def test_mask_or_no_mask_is_added_to_the_image_for_values_too(kind):
    assert_decodes("the mask is a position", kind)


# Mask decoder


def test_the_iou_token_comes_first():
    assert_decodes("the IoU's token comes last")


def test_first_layer_self_attention_has_no_positions_and_no_residual():
    assert_decodes("the first self-attention has positions")
    assert_decodes("the first self-attention has a residual")


def test_positions_are_in_queries_and_keys_and_never_in_values():
    assert_decodes("values have positions")
    assert_decodes("image keys have no positions")


def test_positions_of_tokens_are_the_input_tokens():
    assert_decodes("token positions are those of the block before")


def test_decoder_blocks_are_post_norm_on_tokens_and_image():
    assert_decodes("the decoder's norms come first")
    assert_decodes("the image has no norm")


def test_tokens_attend_to_the_image_before_the_mlp_and_once_more_at_the_end():
    assert_decodes("the MLP comes before the image")
    assert_decodes("the tokens look at the image no last time")


def test_mlp_of_the_decoder_is_relu():
    assert_decodes("the decoder's MLP has GELU")


def test_cross_attention_scales_by_its_own_channels():
    assert_decodes("scales by the channels before the projection")


def test_upscaling_is_a_transposed_convolution_and_ends_with_gelu():
    assert_decodes("upscaling mirrors its kernel")
    assert_decodes("upscaling ends without GELU")


def test_every_mask_has_its_own_hypernetwork():
    assert_decodes("one hypernetwork serves all masks")


def test_predicted_ious_pass_no_sigmoid():
    assert_decodes("squashes predicted IoUs")
    assert any(not 0 <= value <= 1 for _, iou in run_segjax("decode").values() for value in iou)


def test_there_is_no_dropout():
    """The published code has none. Training needs no random numbers and has the same outputs."""
    fields = {name: value[:, :1] for name, value in as_one_call(CASES, SIDE).items()}
    run = lambda train: MODEL.apply(
        VARIABLES, np.zeros((1, CANVAS, CANVAS, 3)), Prompts(**fields), train=train
    )
    programs = [str(jax.make_jaxpr(run, static_argnums=0)(train)) for train in (False, True)]
    assert programs[0] == programs[1] and "random" not in programs[0]
