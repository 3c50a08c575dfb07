"""The operations of Mask R-CNN against torchvision's; see `torchvision_reference.py`.

SEGJAX_TORCHVISION=/some/folder pytest -m parity tests/parity/test_detection_ops_parity.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.anchors import make_cell_anchors, make_grid_anchors
from segjax.ops.boxes import box_iou, decode_boxes, encode_boxes
from segjax.ops.keypoints import decode_keypoints, encode_keypoints
from segjax.ops.matching import match_boxes, sample_balanced
from segjax.ops.nms import nms, select_best
from segjax.ops.roi.align import IMPLEMENTATIONS, pyramid_roi_align, roi_align
from segjax.ops.roi.mask_targets import compute_mask_targets
from segjax.ops.roi.max_pool import roi_pool
from segjax.ops.roi.paste_masks import paste_masks
from segjax.ops.roi.pyramid import fpn_level

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")


def some_boxes(seed, count, low=0, high=100, side=60):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(low, high, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(1, side, (count, 2))], 1).astype(np.float32)


def t(array):
    return torch.tensor(np.asarray(array))


def first(features):
    """Converts [h, w, C] to [1, C, h, w]."""
    return t(features).permute(2, 0, 1)[None]


def last(pooled):
    """Converts [R, C, h, w] to NumPy [R, h, w, C]."""
    return pooled.detach().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("samples", [0, 1, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_the_stand_in_for_the_compiled_roi_align(torchvision, samples, aligned):
    """torchvision's Python code lacks samples outside of the map, so the boxes are inside."""
    from parity.torchvision_reference import roi_align

    features = torch.rand(2, 3, 17, 23)
    corner = torch.rand(40, 2) * 10
    rois = torch.cat(
        [torch.randint(0, 2, (40, 1)).float(), corner, corner + torch.rand(40, 2) * 7], 1
    )
    arguments = (features, rois, 1.0, 3, 4, samples, aligned)
    theirs = torchvision("ops.roi_align")._roi_align.__wrapped__(*arguments)
    torch.testing.assert_close(roi_align(*arguments), theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_box_coding(torchvision, weights):
    coder = torchvision("models.detection._utils").BoxCoder(weights)
    boxes, anchors = some_boxes(0, 200), some_boxes(1, 200)
    theirs = coder.encode_single(t(boxes), t(anchors))
    np.testing.assert_allclose(encode_boxes(boxes, anchors, weights), theirs, rtol=1e-5, atol=1e-5)
    deltas = (
        np.random.default_rng(2).normal(scale=8, size=(200, 3, 4)).astype(np.float32)
    )  # one box a class, some huge
    theirs = coder.decode(t(deltas).reshape(200, -1), [t(anchors)])
    np.testing.assert_allclose(
        decode_boxes(deltas, anchors[:, None], weights), theirs, rtol=1e-5, atol=2e-3
    )


def test_anchors(torchvision):
    sizes, ratios, image = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0), (800, 1344)
    grids = [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]
    generator = torchvision("models.detection.anchor_utils").AnchorGenerator(
        tuple((s,) for s in sizes), (ratios,) * 5
    )
    images = torchvision("models.detection.image_list").ImageList(
        torch.zeros(1, 3, *image), [image]
    )
    theirs = generator(images, [torch.zeros(1, 1, *grid) for grid in grids])[0]
    ours = [
        make_grid_anchors(
            make_cell_anchors(size, ratios, rounded=True),
            grid,
            (image[0] // grid[0], image[1] // grid[1]),
        )
        for size, grid in zip(sizes, grids, strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(ours), theirs)


@pytest.mark.parametrize("force", [False, True])
def test_matching(torchvision, force):
    rng = np.random.default_rng(0)
    matcher = torchvision("models.detection._utils").Matcher(
        0.6, 0.3, allow_low_quality_matches=force
    )
    match = jax.jit(match_boxes, static_argnums=(2, 3, 4))
    for _ in range(20):
        low, anchor_low = (
            rng.integers(0, 12, (4, 2)),
            rng.integers(0, 12, (60, 2)),
        )  # whole numbers: ties
        truth, anchors = (
            np.concatenate([a, a + rng.integers(1, 9, a.shape)], 1) for a in (low, anchor_low)
        )
        overlap = np.asarray(box_iou(truth, anchors))
        if not overlap.max(
            1
        ).all():  # there, an object beside all anchors forces all that it does not overlap
            continue
        theirs = matcher(t(overlap)).numpy()
        index, label = match(overlap, np.ones(4, bool), 0.3, 0.6, force)
        np.testing.assert_array_equal(
            label, np.where(theirs >= 0, 1, np.where(theirs == -1, 0, -1))
        )
        np.testing.assert_array_equal(np.asarray(index)[theirs >= 0], theirs[theirs >= 0])


@pytest.mark.parametrize("positive, negative", [(300, 300), (20, 300), (300, 5), (0, 40)])
def test_number_of_samples(torchvision, positive, negative):
    label = np.repeat([1, 0, -1], [positive, negative, 9])
    sampler = torchvision("models.detection._utils").BalancedPositiveNegativeSampler(64, 0.25)
    theirs = [int(chosen[0].sum()) for chosen in sampler([t(label)])]
    _, valid, is_positive = sample_balanced(jax.random.key(0), label, 64, 0.25)
    assert [int(is_positive.sum()), int((valid & ~is_positive).sum())] == theirs


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_suppression(torchvision, threshold):
    rng = np.random.default_rng(1)
    boxes, scores = some_boxes(3, 1000), rng.permutation(1000).astype(np.float32)
    boxes[-1] = boxes[0] + [
        0,
        0,
        (boxes[0, 2] - boxes[0, 0]) * (1 / threshold - 1),
        0,
    ]  # overlaps by the threshold
    category = rng.integers(0, 5, 1000)
    keep = jax.jit(nms)(boxes, scores, threshold)
    theirs = torchvision("ops.boxes").nms(t(boxes), t(scores), threshold)
    index, found = select_best(keep, scores, 1000)
    np.testing.assert_array_equal(index[: len(theirs)], theirs)
    assert int(found.sum()) == len(theirs)
    keep = jax.jit(nms)(boxes, scores, threshold, categories=category)
    theirs = torchvision("ops.boxes")._batched_nms_vanilla(
        t(boxes), t(scores), t(category), threshold
    )
    np.testing.assert_array_equal(select_best(keep, scores, len(theirs))[0], theirs)


def test_levels(torchvision):
    boxes = some_boxes(4, 5000, side=900)
    sides = np.array([16, 55.9, 56, 111.9, 112, 223.9, 224, 447.9, 448], np.float32)
    boxes[:9, 2:] = boxes[:9, :2] = 0
    boxes[:9, 2:] = sides[:, None]
    theirs = torchvision("ops.poolers").LevelMapper(2, 5)([t(boxes)])
    np.testing.assert_array_equal(fpn_level(boxes, epsilon_inside=False), theirs)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align(torchvision, samples, aligned, impl):
    """Values and gradients, for boxes inside, across the border, outside and far outside."""
    features = np.random.default_rng(5).normal(size=(25, 42, 8)).astype(np.float32)
    boxes = np.concatenate(
        [some_boxes(6, 200, -150, 700, 400), [[-700, -700, 1200, 1200], [5e3, 0, 6e3, 9]]]
    )
    boxes = boxes.astype(np.float32)
    weights = np.random.default_rng(7).normal(size=(len(boxes), 7, 7, 8)).astype(np.float32)
    theirs = first(features).requires_grad_()
    pooled = torchvision("ops.roi_align").roi_align(theirs, [t(boxes)], 7, 1 / 16, samples, aligned)
    (pooled * t(weights).permute(0, 3, 1, 2)).sum().backward()

    @jax.jit
    def ours(features):
        value = lambda f: roi_align(
            f, boxes, 7, scale=1 / 16, samples=samples, aligned=aligned, impl=impl, max_samples=40
        )
        return value(features), jax.grad(lambda f: jnp.vdot(value(f), weights))(features)

    found, gradient = ours(features)
    np.testing.assert_allclose(found, last(pooled), atol=5e-5)
    scale = abs(theirs.grad).max().item()
    np.testing.assert_allclose(gradient, last(theirs.grad)[0], atol=2e-5 * scale)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_pyramid(torchvision, impl):
    rng = np.random.default_rng(8)
    levels = [
        rng.normal(size=(h, w, 4)).astype(np.float32)
        for h, w in ((128, 192), (64, 96), (32, 48), (16, 24))
    ]
    boxes = np.clip(some_boxes(9, 300, 0, 500, 700), 0, [[768, 512, 768, 512]]).astype(np.float32)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] > 1).all(1)]
    pooler = torchvision("ops.poolers").MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    theirs = pooler({str(k): first(f) for k, f in enumerate(levels)}, [t(boxes)], [(512, 768)])
    level = fpn_level(boxes, epsilon_inside=False)
    assert len(np.unique(level)) == 4
    scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
    ours = pyramid_roi_align(levels, boxes, level, 7, scales, samples=2, aligned=False, impl=impl)
    np.testing.assert_allclose(ours, last(theirs), atol=5e-5)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_samples_equal_grid_sample(samples):
    """Inside of the map: a grid of samples and the mean of each bin."""
    features = np.random.default_rng(10).normal(size=(20, 30, 4)).astype(np.float32)
    boxes = np.array([[2.3, 3.1, 25.7, 18.2], [5.3, 4.1, 9.9, 16.7]], np.float32)
    ours = roi_align(features, boxes, 5, scale=1, samples=samples)
    place = (np.arange(5 * samples) + 0.5) / (5 * samples)
    for box, found in zip(boxes, ours, strict=True):
        x, y = (box[axis] + place * (box[axis + 2] - box[axis]) for axis in (0, 1))
        grid = np.stack(np.meshgrid(x / 30, y / 20), -1) * 2 - 1
        sampled = torch.nn.functional.grid_sample(
            first(features), t(grid.astype(np.float32))[None], align_corners=False
        )
        np.testing.assert_allclose(
            found, last(torch.nn.functional.avg_pool2d(sampled, samples))[0], atol=5e-5
        )


def test_roi_pool(torchvision):
    from parity.torchvision_reference import compiled

    if not compiled():
        pytest.skip("RoIPool is compiled alone: it needs the torch that torchvision was made for")
    features = np.random.default_rng(11).normal(size=(25, 42, 8)).astype(np.float32)
    boxes = some_boxes(12, 300, -150, 700, 400)
    theirs = first(features).requires_grad_()
    pooled = torchvision("ops.roi_pool").roi_pool(theirs, [t(boxes)], 7, 1 / 16)
    (pooled**2).sum().backward()
    value = lambda f: roi_pool(f, boxes, 7, scale=1 / 16)
    np.testing.assert_array_equal(jax.jit(value)(features), last(pooled))
    gradient = jax.jit(jax.grad(lambda f: (value(f) ** 2).sum()))(features)
    np.testing.assert_allclose(gradient, last(theirs.grad)[0], rtol=1e-4, atol=1e-4)


def test_pasting_by_whole_pixels(torchvision):
    masks = np.random.default_rng(13).random((60, 28, 28), np.float32)
    boxes = some_boxes(14, 60, -20, 100, 120)
    masks, boxes = (
        of_mask[(boxes[:, 2:] > 5).all(1)] for of_mask in (masks, boxes)
    )  # theirs fails on one beside
    theirs = torchvision("models.detection.roi_heads").paste_masks_in_image(
        t(masks)[:, None], t(boxes), (110, 140)
    )
    np.testing.assert_allclose(
        paste_masks(masks, boxes, (110, 140), rule="integer"), theirs[:, 0], atol=2e-5
    )


def test_pasting_by_grid_sample():
    """detectron2's rule is a call of PyTorch at the pixel centers, with zeros around the mask."""
    masks = np.random.default_rng(15).random((40, 28, 28), np.float32)
    boxes = some_boxes(16, 40, -20, 100, 120)
    y, x = torch.arange(110) + 0.5, torch.arange(140) + 0.5
    low, side = t(boxes)[:, :2], t(boxes)[:, 2:] - t(boxes)[:, :2]
    x, y = (x - low[:, :1]) / side[:, :1] * 2 - 1, (y - low[:, 1:]) / side[:, 1:] * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, 110, -1), y[:, :, None].expand(-1, -1, 140)], -1)
    theirs = torch.nn.functional.grid_sample(t(masks)[:, None], grid, align_corners=False)[:, 0]
    np.testing.assert_allclose(paste_masks(masks, boxes, (110, 140)), theirs, atol=2e-5)


def test_mask_targets(torchvision):
    masks = np.zeros((3, 110, 140), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, some_boxes(17, 3).astype(int), strict=True):
        mask[y1:y2, x1:x2] = (
            np.random.default_rng(18).random((y2 - y1, x2 - x1))[: 110 - y1, : 140 - x1] < 0.8
        )
    proposals, matched = some_boxes(19, 30, -10), np.arange(30) % 3
    project = torchvision("models.detection.roi_heads").project_masks_on_boxes
    theirs = project(t(masks.astype(np.uint8)), t(proposals), t(matched), 28)
    ours = compute_mask_targets(masks, proposals, matched, convention="torchvision")
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_keypoint_targets(torchvision):
    rng = np.random.default_rng(20)
    boxes = some_boxes(21, 50)
    place = rng.uniform(-0.1, 1.1, (50, 17, 2)) * (
        rng.random((50, 17, 2)) < 0.95
    )  # some on the upper and left edge
    place = np.where(rng.random((50, 17, 2)) < 0.05, 1, place)  # and on the lower and right one
    xy = (boxes[:, None, :2] + place * (boxes[:, 2:] - boxes[:, :2])[:, None]).astype(np.float32)
    xy = np.where(place == 1, boxes[:, None, 2:], xy)
    keypoints = np.concatenate([xy, rng.integers(0, 3, (50, 17, 1))], -1).astype(np.float32)
    theirs, valid = torchvision("models.detection.roi_heads").keypoints_to_heatmap(
        t(keypoints), t(boxes), 56
    )
    ours = encode_keypoints(keypoints, boxes, 56)
    np.testing.assert_array_equal(ours[1], valid.numpy().astype(bool))
    np.testing.assert_array_equal(np.asarray(ours[0])[ours[1]], theirs.numpy()[ours[1]])


def test_keypoints(torchvision):
    heatmaps = np.random.default_rng(22).normal(size=(12, 56, 56, 17)).astype(np.float32) * 3
    boxes = some_boxes(23, 12, side=200)
    theirs = torchvision("models.detection.roi_heads").heatmaps_to_keypoints(
        t(heatmaps).permute(0, 3, 1, 2), t(boxes)
    )
    ours = jax.jit(decode_keypoints)(heatmaps, boxes)
    np.testing.assert_allclose(ours.xy, theirs[0][:, :, :2], atol=1e-3)
    np.testing.assert_allclose(ours.logit, theirs[1], atol=1e-4)
