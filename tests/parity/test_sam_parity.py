"""SAM equals segment-anything and transformers with the same weights, stage by stage.

pip install .[test,parity] segment-anything
pytest -m parity tests/parity
"""

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.sam_inputs import as_one_call, make_images, prompts

from segjax.models.sam.build import build_sam, init_sam
from segjax.models.sam.prompt_encoder import Prompts
from segjax.ops.resize import resize_bilinear

pytestmark = pytest.mark.parity
# Relative to the reference's largest magnitude. 12 blocks of 4096 tokens get 1e-4.
TOLERANCE = 1e-5


def difference(ours, theirs) -> float:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def check_difference(record_property, name, value, tolerance=TOLERANCE):
    record_property(name, value)
    print(f"{name}: {value:.1e}")
    assert value < tolerance, f"{name} differs by {value:.1e} of the reference's largest magnitude"


SMALL = {
    "debug": dict(name="sam_debug"),
    # Windows that divide the grid, tables of other lengths, another number of heads
    "windows": dict(
        name="sam_debug", canvas=96, window=2, depth=3, global_blocks=(2,), heads=4, width=64
    ),
}


@pytest.fixture(
    scope="module", params=[f"{r}-{s}" for r in ("SegmentAnything", "Transformers") for s in SMALL]
)
def pair(request):
    pytest.importorskip("torch")
    from parity import sam_references

    reference, size = request.param.split("-")
    try:
        return build_pair(getattr(sam_references, reference), **SMALL[size])
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


def build_pair(reference, **size):
    model = build_sam(**size)
    variables = drawn_variables(model, init_sam)
    return reference(model, variables), model, variables


def test_the_image_encoder_equals_the_reference(pair, record_property):
    reference, model, variables = pair
    images = make_images(model.canvas)
    ours = model.apply(variables, images, method="encode_image")
    check_difference(
        record_property,
        "embedding",
        difference(ours, np.stack([reference.encode(image) for image in images])),
    )


def test_a_padded_image_equals_the_reference(pair, record_property):
    reference, model, variables = pair
    if not hasattr(reference.sam, "preprocess"):
        pytest.skip("transformers pads in its processor, outside the model")
    height, width = model.canvas, model.canvas * 5 // 8
    image = make_images(model.canvas)[:1]
    embed = lambda image: model.apply(
        variables, image, np.array([[height, width]]), method="encode_image"
    )[0]
    check_difference(
        record_property,
        "padded embedding",
        difference(embed(image), reference.encode(image[0, :, :width])),
    )
    image[0, :, width:] = 200  # the content of the padding has no effect
    check_difference(
        record_property,
        "embedding, padding not zero",
        difference(embed(image), reference.encode(image[0, :, :width])),
    )


def test_prompt_encoder_and_mask_decoder_equal_the_reference(pair, record_property):
    reference, model, variables = pair
    check_prompts(reference, model, variables, record_property)


def check_prompts(reference, model, variables, record_property):
    grid = model.canvas // model.patch
    cases = prompts(model.canvas, 4 * grid)
    embedding = (
        np.random.default_rng(3)
        .standard_normal((1, grid, grid, model.prompt_width))
        .astype(np.float32)
    )
    fields = Prompts(**as_one_call(cases, 4 * grid))
    encode = lambda module: module.prompt_encoder(fields, (model.canvas,) * 2, (grid, grid))
    tokens, valid, dense = model.apply(variables, method=encode)
    logits, iou = jax.jit(lambda e, p: model.apply(variables, e, p, method="decode"))(
        embedding, fields
    )
    for i, (kind, prompt) in enumerate(cases.items()):
        their_tokens, their_dense = reference.prompt(**prompt)
        if kind not in ("nothing", "mask"):
            ours = tokens[0, i][np.asarray(valid[0, i])]
            # Only the index of the final "not a point" differs: ours follows the empty slots.
            check_difference(record_property, f"{kind} tokens", difference(ours, their_tokens))
        else:
            assert not valid[0, i].any() and their_tokens.shape[0] == 0
        check_difference(
            record_property,
            f"{kind} dense",
            difference(np.broadcast_to(dense[0, i], their_dense.shape), their_dense),
        )
        their_logits, their_iou = reference.decode(embedding[0], their_tokens, their_dense)
        check_difference(record_property, f"{kind} logits", difference(logits[0, i], their_logits))
        check_difference(record_property, f"{kind} iou", difference(iou[0, i], their_iou))


@pytest.mark.parametrize("shape", [(16, 16), (7, 23), (5, 3), (40, 9), (64, 64)])
def test_bilinear_resizing_equals_torch(shape, record_property):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 16, 13)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(x)[None], shape, mode="bilinear", align_corners=False
    )
    check_difference(
        record_property,
        f"resize to {shape}",
        difference(resize_bilinear(x, shape), theirs[0].numpy()),
    )


@pytest.mark.slow
def test_the_published_size_equals_the_reference(record_property):
    """Compares ViT-B at 1024 x 1024 pixels. It takes minutes and 8 GB."""
    pytest.importorskip("torch")
    from parity.sam_references import SegmentAnything

    try:
        reference, model, variables = build_pair(
            SegmentAnything, name="sam_vit_b", attention="chunked"
        )
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    image = make_images(1024, 1)
    ours = jax.jit(lambda image: model.apply(variables, image, method="encode_image"))(image)
    check_difference(
        record_property, "ViT-B embedding", difference(ours[0], reference.encode(image[0])), 1e-4
    )
    check_prompts(reference, model, variables, record_property)
