"""Detections do not depend on the canvas, nor on the other images of a batch."""

import functools

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.models.build import build_model, init_model
from segjax.models.detection.layers import GroupNorm
from segjax.models.detection.rpn import AnchorGenerator
from segjax.models.detection.valid_region import ValidRegion, blank_outside, find_valid_region
from segjax.training.program import quick_compilation

HW = (58, 65)  # of an image whose smallest canvas has 64 x 96 pixels
TIGHT = (64, 96)


def test_cells_of_a_region_are_those_of_its_own_canvas():
    sizes = np.array([[58, 65], [0, 0], [160, 128], [100, 160]])
    region = find_valid_region((160, 192), sizes, 32)
    assert region.extent.tolist() == [[64, 96], [32, 32], [160, 128], [128, 160]]
    for level in range(7):
        cells = [-(-side // 2**level) for side in region.canvas]
        want = -(-np.asarray(region.extent) // 2**level)
        np.testing.assert_array_equal(region.cells(cells), want)
    mask = np.asarray(region.mask((5, 6)))
    assert mask.shape == (4, 5, 6) and mask[0].sum() == 2 * 3 and mask[0, :2, :3].all()
    x = np.ones((4, 5, 6, 2), np.float32)
    assert blank_outside(x, None) is x
    np.testing.assert_array_equal(blank_outside(x, region), mask[..., None] * x)


def test_anchors_are_those_of_the_smallest_canvas():
    """torchvision divides the canvas by the cells: P6 of 96 pixels has 2 cells, 48 pixels apart."""
    generator = AnchorGenerator()
    grids = lambda canvas: [tuple(-(-side // 2**n) for side in canvas) for n in range(2, 7)]

    @jax.jit
    def generate(extent):
        region = ValidRegion((160, 192), extent)
        levels = grids(region.canvas)
        return (
            generator.generate(region.canvas, levels, region),
            generator.mark_valid(levels, region),
        )

    anchors, marks = jax.device_get(generate(np.array([[64, 96], [160, 192]])))
    for image, canvas in enumerate([(64, 96), (160, 192)]):
        alone = generator.generate(canvas, grids(canvas))
        for level, mark, want in zip(anchors, marks, alone, strict=True):
            np.testing.assert_array_equal(level[image][mark[image]], want[0])


def test_group_norm_takes_its_statistics_inside():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 6, 8)).astype(np.float32)
    norm = GroupNorm()
    variables = norm.init(jax.random.key(0), x)
    region = ValidRegion((160, 192), np.array([[64, 96], [160, 192]]))
    found = norm.apply(variables, x, region)
    np.testing.assert_allclose(
        found[:1, :2, :3], norm.apply(variables, x[:1, :2, :3]), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(found[1:], norm.apply(variables, x[1:]), rtol=1e-4, atol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def detect(model, variables, images, sizes):
    return model.apply(variables, images, sizes, method="detect")


def draw_detector(**options):
    """Builds a detector whose drawn weights are certain of their classes."""
    model = build_model("maskrcnn_debug", score_threshold=0.2, **options)
    variables = jax.tree.map(np.array, drawn_variables(model, init_model))
    variables["params"]["box_head"]["scores"]["kernel"] *= 8
    return model, variables


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param(
            dict(norm="gn", pyramid_norm="gn", conventions="detectron2_rgb"),
            marks=pytest.mark.slow,
            id="gn, detectron2",
        ),
        pytest.param(
            dict(pooling="roi_pool", backbone="resnet18_narrow", norm="bn"),
            marks=pytest.mark.slow,
            id="roi_pool, basic blocks",
        ),
    ],
)
def test_detections_are_the_same_on_every_canvas_and_in_every_batch(options):
    """Padding of the canvas is noise. The second image of the batch fills its canvas."""
    rng = np.random.default_rng(1)
    model, variables = draw_detector(**options)
    image = rng.integers(0, 256, (15, 17, 3), np.uint8).repeat(4, 0).repeat(4, 1)[: HW[0], : HW[1]]
    outputs = []
    for canvas, count in ((TIGHT, 1), ((160, 128), 2)):
        images = rng.integers(0, 256, (count, *canvas, 3), np.uint8)
        images[0, : HW[0], : HW[1]] = image
        sizes = np.array([HW, canvas])[:count]
        with quick_compilation():
            outputs.append(jax.device_get(detect(model, variables, images, sizes)))
    (alone, masks, keypoints), (others, more_masks, more_keypoints) = outputs
    assert alone.valid[0].all()
    np.testing.assert_array_equal(alone.labels[0], others.labels[0])
    np.testing.assert_allclose(alone.scores[0], others.scores[0], atol=1e-4)
    np.testing.assert_allclose(alone.boxes[0], others.boxes[0], atol=1e-4 * max(HW))
    np.testing.assert_allclose(masks[0], more_masks[0], atol=1e-4)
    scale = np.abs(keypoints[0]).max()
    np.testing.assert_allclose(keypoints[0], more_keypoints[0], atol=1e-4 * scale)


def test_a_backbone_without_a_region_computes_the_whole_canvas():
    """Attention of a ViT reaches all tokens. ViTDet has one canvas for all images."""
    vit = build_model(
        "maskrcnn_debug", backbone="vit", width=32, depth=1, heads=2, positions=4, window=0
    )
    sizes = np.array([HW])
    assert vit.find_region((64, 64), sizes) is None
    model = build_model("maskrcnn_debug")
    assert model.find_region((64, 96), None) is None
    assert model.find_region((128, 128), sizes).extent.tolist() == [list(TIGHT)]
