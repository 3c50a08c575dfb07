"""Training does not depend on the padding of the canvas either."""

import functools

import jax
import numpy as np
import pytest

from segjax.models.build import build_model, init_model
from segjax.tasks.detection.loss import SampleCounts, compute_loss_terms
from segjax.tasks.detection.targets import sample_anchors
from segjax.training.program import quick_compilation

HW = (58, 65)
# All anchors are sampled, because the draw depends on their number, and so on the canvas.
SAMPLES = SampleCounts(anchors=100_000, regions=64)


def make_batch(canvas):
    """Makes one image with two objects on a canvas of noise."""
    rng = np.random.default_rng(3)
    content, boxes = rng.integers(0, 256, (*HW, 3), np.uint8), np.zeros((1, 3, 4), np.float32)
    # The second box reaches the edge of the region of 64 x 96 pixels.
    boxes[0, :2] = [[4, 6, 30, 40], [20, 30, 65, 58]]
    images = rng.integers(0, 256, (1, *canvas, 3), np.uint8)
    images[0, : HW[0], : HW[1]] = content
    batch = {"image": images, "size": np.array([HW], np.int32), "weight": np.ones(1, np.float32)}
    batch |= {"boxes": boxes, "categories": np.array([[0, 2, 0]], np.int32)}
    batch |= {"valid": np.array([[True, True, False]]), "crowd": np.zeros((1, 3), bool)}
    batch["masks"] = np.ones((1, 3, 112, 112), np.uint8)
    batch["keypoints"] = np.full((1, 3, 2, 3), 25, np.float32)
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["frozen_bn", "gn"])
def test_loss_and_gradient_are_the_same_on_every_canvas(norm):
    model = build_model("maskrcnn_debug", norm=norm, pyramid_norm="none" if norm != "gn" else norm)

    @jax.jit
    def measure(params, constants, batch):
        def total(params):
            variables = {"params": params, "constants": constants}
            arguments = (batch, jax.random.key(1), SAMPLES, True)
            terms, _ = model.apply(variables, *arguments, method=compute_loss_terms)
            return sum(terms.values()), terms

        return jax.grad(total, has_aux=True)(params)

    with quick_compilation():
        variables = jax.jit(functools.partial(init_model, model))(jax.random.key(0))
        outputs = [
            jax.device_get(measure(variables["params"], variables["constants"], make_batch(canvas)))
            for canvas in ((64, 96), (96, 128))
        ]
    (gradient, terms), (other_gradient, other_terms) = outputs
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(
        {name: float(value) for name, value in other_terms.items()}, rel=1e-4
    )
    assert all(value > 0 for value in terms.values())
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * largest), gradient, other_gradient
    )


def test_anchors_in_padding_are_neither_positive_nor_negative():
    """An anchor in padding is not even the best one of an object, although it covers it."""
    anchors = np.float32([[0, 0, 10, 10], [40, 40, 60, 60], [39, 39, 60, 60], [80, 0, 90, 10]])
    ground_truth = {"boxes": np.float32([[40, 40, 60, 60]]), "valid": np.array([True])}
    ground_truth["crowd"] = np.array([False])
    sample = jax.jit(functools.partial(sample_anchors, samples=8))
    targets = sample(jax.random.key(0), anchors, ground_truth, np.array([True, False, True, False]))
    assert targets.index[targets.valid & targets.positive].tolist() == [2]
    assert targets.index[targets.valid & ~targets.positive].tolist() == [0]
