"""Modules of detectors in closed form: padding, mirrored kernels, order of cells, norms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.build import build_model
from segjax.models.detection.fpn import FeaturePyramid, SimplePyramid, append_p6, upsample_nearest
from segjax.models.detection.heads import BoxHead, KeypointHead, MaskHead, TransposedConv
from segjax.models.detection.layers import BatchNorm, Conv, GroupNorm, max_pool
from segjax.models.detection.rpn import RpnHead

RNG = np.random.default_rng(0)


@functools.partial(jax.jit, static_argnums=0)
def applied(module, variables, *arguments):
    return module.apply(variables, *arguments)


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def filled(module, *arguments, **values):
    """Draws the variables of a module. `values` replaces arrays by their last name."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.asarray(values.get(path[-1].key, drawn(*leaf.shape)), np.float32),
        shapes,
    )


@pytest.mark.parametrize("size", [3, 7])
def test_a_strided_convolution_is_centered_on_every_second_cell(size):
    """PyTorch pads both sides. The padding "SAME" would shift a map of even size by half a step."""
    kernel = np.zeros((size, size, 2, 2), np.float32)
    kernel[size // 2, size // 2] = np.eye(2)
    kernel[0, 0, 0, 1] = 10
    x = drawn(1, 6, 8, 2)
    conv = Conv(2, size, stride=2)
    found = applied(conv, filled(conv, x, kernel=kernel, bias=np.zeros(2)), x)
    reach = size // 2
    corner = np.pad(x[..., 0], [(0, 0), (reach, reach), (reach, reach)])[:, :6:2, :8:2]
    want = x[:, ::2, ::2] + np.stack([np.zeros_like(corner), 10 * corner], -1)
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_a_1x1_convolution_is_a_product():
    x = drawn(2, 5, 4, 3)
    conv = Conv(6, 1, stride=2, relu=True)
    variables = filled(conv, x)
    want = x[:, ::2, ::2] @ variables["params"]["kernel"][0, 0] + variables["params"]["bias"]
    np.testing.assert_allclose(applied(conv, variables, x), np.maximum(want, 0), atol=1e-5)


@pytest.mark.parametrize("grid", [(6, 8), (5, 7)])
def test_max_pool(grid):
    x = drawn(1, *grid, 2)
    found = jax.jit(max_pool)(x)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    rows, columns = -(-grid[0] // 2), -(-grid[1] // 2)
    want = [
        [padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(columns)]
        for i in range(rows)
    ]
    np.testing.assert_array_equal(found, np.moveaxis(want, 2, 0))


def test_batch_norm_divides_by_the_deviation_of_its_statistics():
    """Also with an epsilon of 0, as torchvision's detectors need. Frozen arrays are constants."""
    x = drawn(1, 2, 2, 3)
    for epsilon, frozen in ((1e-5, False), (0.0, True)):
        norm = BatchNorm(frozen, epsilon)
        variables = filled(norm, x, variance=[0.25, 1.0, 4.0])
        assert sorted(variables["constants"]) == (["bias"] if frozen else []) + ["mean"] + [
            "scale"
        ] * frozen + ["variance"]
        v = {name: np.asarray(a) for tree in variables.values() for name, a in tree.items()}
        want = (x - v["mean"]) / np.sqrt(v["variance"] + epsilon) * v["scale"] + v["bias"]
        np.testing.assert_allclose(applied(norm, variables, x), want, atol=1e-5)


def test_group_norm():
    x = drawn(2, 3, 4, 64) + 3
    found = np.asarray(
        applied(GroupNorm(), {"params": {"scale": np.ones(64), "bias": np.zeros(64)}}, x)
    )
    groups = found.reshape(2, 12, 32, 2)
    np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(groups.std((1, 3)), 1, atol=1e-3)
    assert np.corrcoef(found[0, ..., :2].ravel(), x[0, ..., :2].ravel())[0, 1] > 0.9999, (
        "of neighbouring channels"
    )


def test_an_unknown_norm_raises_an_error():
    with pytest.raises(
        ValueError, match="norm 'batch' is unknown; choose one of.*'frozen_bn', 'bn', 'gn', 'ln'"
    ):
        Conv(2, norm="batch").init(jax.random.key(0), jnp.zeros((1, 2, 2, 2)))


def test_nearest_upsampling_and_p6():
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    want = np.arange(6).reshape(2, 3).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(upsample_nearest(x, (4, 6))[0, ..., 0], want)
    np.testing.assert_array_equal(upsample_nearest(x, (3, 5))[0, ..., 0], want[:3, :5])
    assert append_p6((x,))[-1][0, :, :, 0].tolist() == [[0, 2]]


def test_a_pyramid_adds_the_coarser_level():
    """With identity projections and kernels that are 1 at the center, P2 is C2 + C3 + C4."""
    maps = tuple(drawn(1, 8 // 2**i, 8 // 2**i, 2) for i in range(3))
    pyramid = FeaturePyramid(2)
    centre = np.zeros((3, 3, 2, 2), np.float32)
    centre[1, 1] = np.eye(2)
    kernels = {1: np.eye(2)[None, None], 3: centre}
    variables = jax.tree.map(
        lambda x: np.float32(kernels[len(x)]) if x.ndim == 4 else np.zeros(x.shape, np.float32),
        filled(pyramid, maps),
    )
    p2, p3, p4 = applied(pyramid, variables, maps)
    np.testing.assert_allclose(p4, maps[2])
    np.testing.assert_allclose(p3, maps[1] + maps[2].repeat(2, 1).repeat(2, 2), atol=1e-6)
    np.testing.assert_allclose(p2, maps[0] + np.asarray(p3).repeat(2, 1).repeat(2, 2), atol=1e-6)


def test_a_transposed_convolution_scatters_its_kernel():
    """As in PyTorch, entry (i, j) of the kernel lands at row 2y + i - 1, column 2x + j - 1."""
    kernel = drawn(1, 4, 4, 1)
    x = np.zeros((1, 3, 3, 1), np.float32)
    x[0, 1, 1] = 1
    variables = {"params": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}
    found = np.asarray(applied(TransposedConv(1), variables, x))[0, ..., 0]
    want = np.zeros((6, 6))
    want[1:5, 1:5] = kernel[0, ..., 0]
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_the_mask_head_orders_the_cells_of_its_upscaling():
    head = MaskHead(classes=2, convs=0, width=3, background_rows=True)
    x = drawn(1, 2, 2, 4)
    variables = filled(head, x)
    upscale, logits = variables["params"]["upscale"], variables["params"]["logits"]
    cells = np.maximum(
        np.einsum("rhwc,cijd->rhiwjd", x, upscale["kernel"]) + upscale["bias"], 0
    ).reshape(1, 4, 4, 3)
    want = cells @ logits["kernel"][0, 0] + logits["bias"]
    assert want.shape[-1] == 3
    np.testing.assert_allclose(applied(head, variables, x), want[..., 1:], atol=1e-5)


def test_the_box_head_ignores_the_box_of_the_background():
    x = drawn(2, 7, 7, 3)
    head = BoxHead(classes=4, width=5, background_rows=True)
    variables = filled(head, x)
    p = variables["params"]
    y = np.maximum(x.reshape(2, -1) @ p["fc_0"]["kernel"] + p["fc_0"]["bias"], 0)
    y = np.maximum(y @ p["fc_1"]["kernel"] + p["fc_1"]["bias"], 0)
    logits, deltas = applied(head, variables, x)
    np.testing.assert_allclose(
        logits, y @ p["scores"]["kernel"] + p["scores"]["bias"], rtol=1e-4, atol=1e-4
    )
    want = (y @ p["deltas"]["kernel"] + p["deltas"]["bias"]).reshape(2, 5, 4)
    np.testing.assert_allclose(deltas, want[:, 1:], rtol=1e-4, atol=1e-4)


def test_a_box_head_has_a_box_per_class_or_one_for_all():
    def shapes(**options):
        head, features = BoxHead(4, **options), jnp.zeros((2, 7, 7, 3))
        outputs = lambda: head.init_with_output(jax.random.key(0), features)[0]
        return [y.shape for y in jax.eval_shape(outputs)]

    assert shapes() == [(2, 5), (2, 4, 4)]
    assert shapes(agnostic=True, background_rows=True) == [(2, 5), (2, 1, 4)]


def test_anchors_of_a_cell_are_adjacent():
    """The kind varies fastest, then the column, then the row. Each anchor has four deltas."""
    x = drawn(1, 2, 3, 4)
    head = RpnHead(anchors=3)
    (logits,), (deltas,) = applied(head, filled(head, (x,)), (x,))
    assert logits.shape == (1, 18) and deltas.shape == (1, 18, 4)
    variables = filled(head, (x,))
    variables = jax.tree.map(np.zeros_like, variables)
    variables["params"]["logits"]["bias"] = np.float32([1, 2, 3])
    variables["params"]["deltas"]["bias"] = np.arange(12, dtype=np.float32)
    (logits,), (deltas,) = applied(head, variables, (x,))
    assert logits[0].tolist() == [1, 2, 3] * 6
    assert deltas[0, 4].tolist() == [4, 5, 6, 7]


def test_keypoint_maps_are_four_times_as_large():
    head = KeypointHead(keypoints=2, convs=1, width=4)
    x = drawn(1, 14, 14, 3)
    assert applied(head, filled(head, x), x).shape == (1, 56, 56, 2)


def test_the_simple_pyramid_makes_four_strides_of_one_map():
    pyramid = SimplePyramid(8)
    x = (drawn(1, 4, 6, 16),)
    levels, _ = jax.eval_shape(lambda: pyramid.init_with_output(jax.random.key(0), x))
    assert [level.shape for level in levels] == [
        (1, 16, 24, 8),
        (1, 8, 12, 8),
        (1, 4, 6, 8),
        (1, 2, 3, 8),
    ]


def test_initialization():
    """Standard deviations: He by fan-out, Caffe's uniform, 0.01 of scores, 0.001 of boxes."""
    shape = jnp.zeros((1, 7, 7, 64))
    params = jax.jit(
        lambda key: BoxHead(20, convs=1, conv_width=32, fcs=1, width=128).init(key, shape)
    )(jax.random.key(0))
    params = jax.device_get(params["params"])
    spread = {name: float(np.std(module["kernel"])) for name, module in params.items()}
    want = dict(conv_0=(2 / (9 * 32)) ** 0.5, fc=(49 * 32) ** -0.5, scores=0.01, deltas=0.001)
    assert spread.keys() == want.keys()
    for name, value in want.items():
        assert abs(spread[name] / value - 1) < 0.05, name
    assert np.abs(params["fc"]["kernel"]).max() <= (3 / (49 * 32)) ** 0.5
    assert not any(np.any(module["bias"]) for module in params.values())


@pytest.mark.parametrize("freeze_at", [-1, 6, "2", 1.5])
def test_stages_to_freeze_are_0_to_5(freeze_at):
    with pytest.raises(ValueError, match="freeze_at is .*; expected 0 .nothing."):
        build_model("maskrcnn_debug", freeze_at=freeze_at)
