"""A cascade of box heads (Cascade R-CNN, arXiv 1712.00726): its stages by hand, then inference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.models.build import build_model, init_model
from segjax.ops.gradient_scale import scale_gradient
from segjax.training.program import quick_compilation

CASCADE = dict(box_stages=3, agnostic_boxes=True, mask_convs=0, keypoints=0)
MODEL = build_model("maskrcnn_debug", score_threshold=0.0, **CASCADE)
HEADS = [f"box_head_{stage}" for stage in range(3)]


@pytest.fixture(scope="module")
def variables():
    return jax.tree.map(jnp.asarray, drawn_variables(MODEL, init_model))


def test_each_stage_refines_the_boxes_of_the_previous_one_without_a_gradient(variables):
    """Every stage predicts the deltas (10, 0, 0, 5 log 2).

    With weights (10, 10, 5, 5) the box moves by one side to the right and becomes twice as high.
    With (20, 20, 10, 10) it moves by half a side, and its height grows by the square root of two.
    The second image is 40 pixels wide.
    """
    heads = {name: {**variables["params"][name]} for name in HEADS}
    for head in heads.values():
        head["deltas"] = {
            "kernel": 0 * head["deltas"]["kernel"],
            "bias": np.float32([10, 0, 0, 5 * np.log(2)]),
        }
    boxes = np.tile(np.float32([10, 20, 30, 30]), (2, 1, 1))
    sizes = np.array([[64, 96], [64, 40]])
    rng = np.random.default_rng(0)
    levels = [
        rng.normal(size=(2, 64 // stride, 96 // stride, 16)).astype(np.float32)
        for stride in (4, 8, 16, 32, 64)
    ]

    def answers(heads, levels):
        tree = variables | {"params": variables["params"] | heads}
        found = MODEL.apply(tree, levels, boxes, sizes, method="run_box_heads")
        return sum(each.logits.sum() for each in found), found

    with quick_compilation():
        (_, found), of_heads = jax.jit(jax.value_and_grad(answers, has_aux=True))(heads, levels)
    half = 10 * 2**0.5
    want = [[10, 20, 30, 30], [30, 15, 50, 35], [40, 25 - half, 60, 25 + half]]
    cut = [[10, 20, 30, 30], [30, 15, 40, 35], [35, 25 - half, 40, 25 + half]]
    np.testing.assert_allclose([each.boxes[0, 0] for each in found], want, atol=1e-4)
    np.testing.assert_allclose([each.boxes[1, 0] for each in found], cut, atol=1e-4)
    assert all(
        each.logits.shape == (2, 1, 4) and each.deltas.shape == (2, 1, 1, 4) for each in found
    )
    for name in HEADS:
        assert not any(leaf.any() for leaf in jax.tree.leaves(of_heads[name]["deltas"])), (
            "scores do not depend on them"
        )
        assert all(leaf.any() for leaf in jax.tree.leaves(of_heads[name]["scores"]))


def test_the_pyramid_gets_a_third_of_each_gradient_and_the_heads_all_of_it(variables):
    regions = np.random.default_rng(1).normal(size=(2, 7, 7, 16)).astype(np.float32)
    alone = build_model("maskrcnn_debug", **CASCADE | dict(box_stages=1))
    head = variables["params"]["box_head_1"]

    def total(model, stage, tree):
        return lambda head, regions: model.apply(tree(head), regions, stage, method="classify")[
            0
        ].sum()

    def gradients(head, regions):
        cascade = total(
            MODEL,
            1,
            lambda head: variables | {"params": {**variables["params"], "box_head_1": head}},
        )
        ordinary = total(alone, 0, lambda head: {"params": {"box_head": head}})
        return [jax.value_and_grad(each, (0, 1))(head, regions) for each in (cascade, ordinary)]

    (loss, (of_head, of_regions)), (whole, (of_whole, of_all)) = jax.jit(gradients)(head, regions)
    assert loss == whole and np.abs(of_all).max() > 0
    np.testing.assert_allclose(of_regions, of_all / 3, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, of_head, of_whole)


def test_gradients_are_scaled_and_values_are_not():
    value, gradient = jax.value_and_grad(lambda x: 3 * scale_gradient(x, 0.25))(np.float32(2))
    assert (value, gradient) == (6, 0.75)


def test_detections_have_fixed_shapes_and_lie_inside_of_the_content(variables):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    run = jax.jit(lambda v, images, sizes: MODEL.apply(v, images, sizes, method="detect"))
    with quick_compilation():
        found, *_ = jax.device_get(run(variables, images, np.array([[64, 64], [40, 50]])))
    assert found.boxes.shape == (2, 8, 4) and found.scores.shape == found.valid.shape == (2, 8)
    for i, size in enumerate([(64, 64), (40, 50)]):
        boxes, scores = (x[i][found.valid[i]] for x in (found.boxes, found.scores))
        assert (
            len(boxes) > 1 and (np.diff(scores) <= 0).all() and (boxes[:, :2] < boxes[:, 2:]).all()
        )
        assert (
            (boxes >= 0).all() and (boxes[:, 2] <= size[1]).all() and (boxes[:, 3] <= size[0]).all()
        )


def test_an_impossible_cascade_raises_an_error():
    with pytest.raises(
        ValueError, match="box_stages is 3 and agnostic_boxes False; .* set agnostic_boxes=True, or"
    ):
        build_model("maskrcnn_debug", box_stages=3)
    with pytest.raises(ValueError, match=r"box_stages is 4; expected 1 \(no cascade\) to 3"):
        build_model("maskrcnn_debug", box_stages=4, agnostic_boxes=True)
