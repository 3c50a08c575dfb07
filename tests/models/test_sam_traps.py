"""Where ports of SAM go wrong: each test compares our model with plain NumPy, which says the same, and with plain NumPy
that makes the mistake, which says something else (tests/plain_sam.py).

Traps of the way from picture to canvas and back, and of segment-everything, are in tests/inference/test_sam_traps.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables, path_of
from golden.sam_inputs import as_one_call, pictures, prompts
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
CONTENT = pictures(CANVAS)[0]
SQUARE, OBLONG = (
    (CANVAS, CANVAS),
    (CANVAS, 80),
)  # maps of 4 x 4 and 4 x 5, in windows of 3: padded by 2, and by 2 and 1

# Of the largest magnitude: our arithmetic (measured: below 1e-6), and what a mistake moves at least.
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
def ours(stage, quiet=False):
    """What segjax answers: the embedding of `CONTENT` cut to 40 columns on a canvas, or of every prompt, by kind."""
    variables = weights(quiet)
    if stage == "decode":
        logits, iou = decode(variables, as_one_call(CASES, SIDE))
        return {kind: (logits[0, row], iou[0, row]) for row, kind in enumerate(CASES)}
    canvas = np.zeros((1, *stage, 3), np.uint8)
    canvas[0, :64, :40] = CONTENT[:, :40]
    return encode(variables, canvas, np.array([[64, 40]]))


@functools.cache
def weights(quiet=False):
    """The drawn ones; quiet: what enters the first norm of encoder and decoder is a thousandth of that."""
    loud = ("patch_embed", "pos_embed", "block_0/self_attention/out")
    scale = lambda path, x: (
        x * np.float32(1e-3) if quiet and any(part in path_of(path) for part in loud) else x
    )
    return jax.tree_util.tree_map_with_path(scale, VARIABLES)


@functools.cache
def plain(stage, kind=None, mistake=None, quiet=False):
    """What plain NumPy answers, with a mistake or none."""
    sam = PlainSam(MODEL, weights(quiet), mistake)
    if stage == "decode":
        answer = sam.decode(EMBEDDING, *sam.prompt(**CASES[kind]))
    else:
        answer = (sam.encode(CONTENT[:, :40], stage),)
    assert mistake is None or sam.made, f"plain SAM does not know how to go wrong so: {mistake!r}"
    return answer


def assert_embeds(mistake, canvas=SQUARE, quiet=False):
    """Our embedding is the right one and not that of the mistake."""
    assert_right(
        mistake,
        (ours(canvas, quiet),),
        *(plain(canvas, mistake=m, quiet=quiet) for m in (None, mistake)),
    )


def assert_answers(mistake, kind="points_box", quiet=False):
    """Our logits and predicted IoUs are the right ones, and not both are those of the mistake."""
    assert_right(
        mistake,
        ours("decode", quiet)[kind],
        *(plain("decode", kind, m, quiet) for m in (None, mistake)),
    )


def assert_right(mistake, answers, right, wrong):
    assert max(map(difference, wrong, right)) > OTHER
    assert max(map(difference, answers, wrong)) > OTHER / 2, f"so does our model: {mistake}"
    assert max(map(difference, answers, right)) < SAME, "our model goes wrong, though not so"


# --- image encoder ----------------------------------------------------------------------------------------------------


def test_patches_have_a_bias():
    assert_embeds("patches have no bias")


def test_there_is_no_class_token_and_positions_are_added_once():
    assert VARIABLES["params"]["image_encoder"]["pos_embed"].shape == (1, GRID, GRID, MODEL.width)
    assert_embeds("positions are added before every block")


def test_encoder_blocks_are_pre_norm():
    assert_embeds("the encoder's norms come last")


def test_q_k_and_v_are_whole_thirds_of_their_projection():
    assert_embeds("q, k and v lie side by side in every head")


def test_exact_gelu():
    assert_embeds("GELU is the tanh form")
    assert_answers("GELU is the tanh form", "mask")


def test_windows_are_padded_after_the_norm():
    assert_embeds("pads windows before the norm")


def test_padded_window_tokens_attend_and_are_attended():
    assert_embeds("masks padded tokens")


def test_relative_positions_multiply_the_unscaled_query():
    assert_embeds("relative positions multiply the scaled query")


def test_relative_positions_are_query_minus_key():
    assert_embeds("relative positions are key minus query")


def test_window_padding_of_a_non_square_map():
    """Padded by 2 and 1, tables of 7 rows read for 4 and for 5 cells, positions resized along one axis alone."""
    assert_embeds("masks padded tokens", OBLONG)
    assert_embeds("takes the rows' table for the columns", SQUARE)


def test_neck_norms_are_over_channels():
    assert_embeds("neck norms are over the map")


def test_pixels_are_normalised_on_the_scale_of_255():
    assert_embeds("pixels are from 0 to 1")


def test_normalise_then_pad():
    assert_embeds("pads before it normalises")


def test_pixel_mean_and_std_are_not_in_the_state_dict():
    assert not [key for key in SAM.to_published(VARIABLES, "official") if "pixel" in key]


def test_decoder_norms_have_epsilon_1e_5_and_encoder_1e_6():
    """What the norms see is about as small as epsilon; and each says its own."""
    assert_embeds("the encoder's epsilon is 1e-5", quiet=True)
    assert_answers("the decoder's epsilon is 1e-6", quiet=True)
    found = {1e-5: set(), 1e-6: set()}

    def note(call, args, kwargs, context):
        if isinstance(context.module, LayerNorm):
            found[context.module.epsilon].add("/".join(context.module.path))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda key: init_sam(MODEL, key), jax.random.key(0))
    norms = {
        path_of(path[1:-1])
        for path, _ in jax.tree_util.tree_leaves_with_path(VARIABLES)
        if path[-1].key == "scale"
    }
    assert found[1e-5] | found[1e-6] == norms
    assert found[1e-5] == {path for path in norms if path.startswith("mask_decoder/transformer/")}


def test_the_bias_of_relative_positions_is_never_made():
    """4096 x 4096 numbers a head, of which chunked attention has 128 rows at once."""
    block = Block(heads=2, grid=(64, 64), impl="chunked")
    x = jax.ShapeDtypeStruct((1, 64, 64, 16), jnp.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)
    largest = max(np.prod(shape) for shape in made(jax.make_jaxpr(block.apply)(shapes, x).jaxpr))
    assert 128 * 4096 <= largest < 4096 * 4096 / 8  # a chunk of queries of one head


def made(jaxpr):
    """Shapes of everything that a program makes, in its loops too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from made(inner)


# --- prompt encoder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake",
    ["positions start at 0", "sines and cosines alternate", "positions are row before column"],
)
def test_fourier_features_are_signed_x_before_y_sines_before_cosines(mistake):
    assert_answers(mistake)


def test_cells_of_the_image_are_at_their_middles():
    assert_answers("cells are at their corners", "nothing")


@pytest.mark.parametrize("what, kind", [("points", "points"), ("corners", "box")])
def test_points_and_corners_get_half_a_pixel(what, kind):
    assert_answers(f"{what} get no half pixel", kind)


def test_the_position_of_what_is_not_a_point_is_zeroed():
    assert_answers("keeps the position of what is not a point", "not_a_point")


def test_corners_are_told_apart():
    assert_answers("takes one corner for the other", "box")


def test_the_closing_not_a_point_only_without_a_box():
    assert_answers("never closes the points", "points")
    assert_answers("closes the points before a box too", "points_box")
    assert_answers("closes after a box alone", "box")


def test_points_survive_beside_a_box():
    assert_answers("loses points beside a box", "points_box")
    assert_answers("loses points beside a box", "all")


def test_a_mask_alone_is_a_prompt():
    assert difference(plain("decode", "mask")[0], plain("decode", "nothing")[0]) > OTHER
    assert_answers("the mask branch has ReLU", "mask")


def test_negative_clicks_differ_from_no_clicks():
    assert_answers("negative clicks are no clicks", "points")


def test_no_mask_is_a_learned_vector():
    assert_answers("no mask is nothing", "point")


@pytest.mark.parametrize("kind", ["mask", "point"])
def test_mask_or_no_mask_is_added_to_the_image_for_values_too(kind):
    assert_answers("the mask is a position", kind)


# --- mask decoder -----------------------------------------------------------------------------------------------------


def test_the_token_of_the_iou_comes_first():
    assert_answers("the IoU's token comes last")


def test_first_layer_self_attention_has_no_positions_and_no_residual():
    assert_answers("the first self-attention has positions")
    assert_answers("the first self-attention has a residual")


def test_positions_are_in_queries_and_keys_and_never_in_values():
    assert_answers("values have positions")
    assert_answers("image keys have no positions")


def test_positions_of_tokens_are_the_tokens_as_they_came():
    assert_answers("token positions are those of the block before")


def test_decoder_blocks_are_post_norm_on_tokens_and_image():
    assert_answers("the decoder's norms come first")
    assert_answers("the image has no norm")


def test_tokens_look_at_the_image_before_the_mlp_and_a_last_time():
    assert_answers("the MLP comes before the image")
    assert_answers("the tokens look at the image no last time")


def test_mlp_of_the_decoder_is_relu():
    assert_answers("the decoder's MLP has GELU")


def test_cross_attention_scales_by_its_own_channels():
    assert_answers("scales by the channels before the projection")


def test_upscaling_is_a_transposed_convolution_and_ends_with_gelu():
    assert_answers("upscaling mirrors its kernel")
    assert_answers("upscaling ends without GELU")


def test_every_mask_has_its_own_hypernetwork():
    assert_answers("one hypernetwork serves all masks")


def test_predicted_ious_are_not_squashed():
    assert_answers("squashes predicted IoUs")
    assert any(not 0 <= value <= 1 for _, iou in ours("decode").values() for value in iou)


def test_there_is_no_dropout():
    """The published code has none: training needs no random numbers, and answers the same."""
    fields = {name: value[:, :1] for name, value in as_one_call(CASES, SIDE).items()}
    run = lambda train: MODEL.apply(
        VARIABLES, np.zeros((1, CANVAS, CANVAS, 3)), Prompts(**fields), train=train
    )
    programs = [str(jax.make_jaxpr(run, static_argnums=0)(train)) for train in (False, True)]
    assert programs[0] == programs[1] and "random" not in programs[0]
