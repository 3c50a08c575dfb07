"""Our SAM beside segment-anything and transformers, with the same weights: every stage, every kind of prompt.

pip install .[test,parity] segment-anything
pytest -m parity tests/parity
"""

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.sam_inputs import as_one_call, pictures, prompts

from segjax.models.sam.build import build_sam, init_sam
from segjax.models.sam.prompt_encoder import Prompts
from segjax.ops.resize import resize_bilinear

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5  # of the largest magnitude of the reference; 12 blocks of 4096 tokens get 1e-4


def difference(ours, theirs) -> float:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def report(record_property, name, value, tolerance=TOLERANCE):
    record_property(name, value)
    print(f"{name}: {value:.1e}")
    assert value < tolerance, f"{name} differs by {value:.1e} of the reference's largest magnitude"


SMALL = {
    "debug": dict(name="sam_debug"),
    # windows that divide the grid, tables of other lengths, another head count
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


def test_image_encoder(pair, record_property):
    reference, model, variables = pair
    images = pictures(model.canvas)
    ours = model.apply(variables, images, method="encode_image")
    report(
        record_property,
        "embedding",
        difference(ours, np.stack([reference.encode(image) for image in images])),
    )


def test_padded_image(pair, record_property):
    reference, model, variables = pair
    if not hasattr(reference.sam, "preprocess"):
        pytest.skip("transformers pads in its processor, outside the model")
    height, width = model.canvas, model.canvas * 5 // 8
    image = pictures(model.canvas)[:1]
    embed = lambda image: model.apply(
        variables, image, np.array([[height, width]]), method="encode_image"
    )[0]
    report(
        record_property,
        "padded embedding",
        difference(embed(image), reference.encode(image[0, :, :width])),
    )
    image[0, :, width:] = 200  # what the padding holds is nobody's business
    report(
        record_property,
        "embedding, padding not zero",
        difference(embed(image), reference.encode(image[0, :, :width])),
    )


def test_prompts_tokens_and_decoder(pair, record_property):
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
            # Only the place of the closing "not a point" differs: ours follows the empty slots.
            report(record_property, f"{kind} tokens", difference(ours, their_tokens))
        else:
            assert not valid[0, i].any() and their_tokens.shape[0] == 0
        report(
            record_property,
            f"{kind} dense",
            difference(np.broadcast_to(dense[0, i], their_dense.shape), their_dense),
        )
        their_logits, their_iou = reference.decode(embedding[0], their_tokens, their_dense)
        report(record_property, f"{kind} logits", difference(logits[0, i], their_logits))
        report(record_property, f"{kind} iou", difference(iou[0, i], their_iou))


@pytest.mark.parametrize("shape", [(16, 16), (7, 23), (5, 3), (40, 9), (64, 64)])
def test_resize(shape, record_property):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 16, 13)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(x)[None], shape, mode="bilinear", align_corners=False
    )
    report(
        record_property,
        f"resize to {shape}",
        difference(resize_bilinear(x, shape), theirs[0].numpy()),
    )


@pytest.mark.slow
def test_published_size(record_property):
    """ViT-B at 1024 x 1024, as published: minutes and 8 GB."""
    pytest.importorskip("torch")
    from parity.sam_references import SegmentAnything

    try:
        reference, model, variables = build_pair(
            SegmentAnything, name="sam_vit_b", attention="chunked"
        )
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    image = pictures(1024, 1)
    ours = jax.jit(lambda image: model.apply(variables, image, method="encode_image"))(image)
    report(
        record_property, "ViT-B embedding", difference(ours[0], reference.encode(image[0])), 1e-4
    )
    check_prompts(reference, model, variables, record_property)
