"""Tables, attention maps and strips that notebooks use."""

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax import inspect
from segjax.models.build import build_model, init_model
from segjax.models.parameter_counts import count_parameters

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def sam():
    model = build_model("sam_debug")
    return model, drawn_variables(model, init_model)


def test_summary_adds_up():
    table = inspect.summary(build_model("sam_debug"), depth=1)
    counts = {row[0]: row[2] for row in table.rows}
    assert counts["Sam"] == count_parameters("sam_debug")
    assert sum(counts.values()) == 2 * counts["Sam"] and "mask_decoder" in counts
    assert "parameters" in repr(table) and "<table>" in table._repr_html_()


def test_compare_names_what_differs(sam):
    _, variables = sam
    assert inspect.compare(variables, variables).rows == []
    params = jax.tree.map(np.array, variables["params"])
    params["mask_decoder"]["iou_token"] = params["mask_decoder"]["iou_token"] * 2
    del params["image_encoder"]["pos_embed"]
    table = inspect.compare(variables["params"], params)
    assert table.rows[0][:2] == ["image_encoder/pos_embed", "only in a"]
    assert table.rows[1][0] == "mask_decoder/iou_token" and table.rows[1][2] == pytest.approx(1.0)
    assert len(table.rows) == 2


def test_sharding_table():
    mesh = jax.make_mesh((8,), ("fsdp",))
    spec = jax.sharding.PartitionSpec("fsdp")
    array = jax.device_put(np.zeros((16, 4), np.float32), jax.NamedSharding(mesh, spec))
    (row,) = inspect.sharding_table({"a": {"b": array}}).rows
    assert row[:4] == ["a/b", "(16, 4)", "('fsdp',)", 8] and row[4] == 2 * 4 * 4 / 2**20


def test_attention_of_every_layer(sam):
    model, variables = sam
    prompt = {"point_coords": [[20, 30]], "point_labels": [1]}
    maps = inspect.attention_maps(model, variables, IMAGE, prompt)
    assert [one.name for one in maps] == [
        "block_0/self_attention",
        "block_0/tokens_to_image",
        "block_0/image_to_tokens",
        "block_1/self_attention",
        "block_1/tokens_to_image",
        "block_1/image_to_tokens",
        "final_tokens_to_image",
    ]
    side = model.canvas // model.patch
    tokens = len(inspect.attention.OUTPUT_TOKENS) + 1 + 1 + 2  # a point, padding, two corners
    for one in maps:
        np.testing.assert_allclose(one.weights.sum(-1), 1, atol=1e-5)
    assert maps[0].weights.shape[1:] == (tokens, tokens)
    assert maps[1].weights.shape[1:] == (tokens, side**2)
    assert maps[2].weights.shape[1:] == (side**2, tokens)
    assert not maps[0].weights[..., -2:].any() or not maps[0].weights[..., -3:-1].any()
    assert maps[-1].token_map(1).shape == (side, side)
    with pytest.raises(ValueError, match="does not look at the image"):
        maps[0].token_map(1)
    with pytest.raises(ValueError, match="prompt has text"):
        inspect.attention_maps(model, variables, IMAGE, {"text": "x"})


def test_attention_weights_are_those_of_the_layer(sam):
    """With v = identity-like values, the layer's output is a known function of its weights."""
    from segjax.inspect.attention import _compute_weights
    from segjax.models.sam.two_way_transformer import ProjectedAttention

    rng = np.random.default_rng(0)
    q, k = (rng.normal(size=(1, 1, n, 16)).astype(np.float32) for n in (3, 5))
    layer = ProjectedAttention(heads=2)
    variables = layer.init(jax.random.key(0), q, k, k)
    valid = np.array([[[True, True, False, True, True]]])
    out = layer.apply(variables, q, k, k, valid)
    weights = np.asarray(_compute_weights(layer.bind(variables), q, k, valid))[0, 0]
    params = variables["params"]
    values = (k[0, 0] @ params["v"]["kernel"] + params["v"]["bias"]).reshape(5, 2, 8)
    mixed = np.einsum("hqk,khc->qhc", weights, values).reshape(3, 16)
    wanted = mixed @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(out[0, 0], wanted, atol=1e-5)
    assert not weights[..., 2].any()


def test_strip_and_heat_map():
    sheet = inspect.strip([IMAGE, IMAGE, IMAGE], ["a", "b", "c"], columns=2, side=64)
    assert sheet.height > 2 * 48 and sheet.width >= 2 * 64
    with pytest.raises(ValueError, match="1 images and 2 captions"):
        inspect.strip([IMAGE], ["a", "b"])
    drawn = inspect.draw_heat_map(IMAGE, np.eye(4), opacity=1.0)
    assert drawn.shape == IMAGE.shape and tuple(drawn[0, 0]) == (253, 231, 37)
    assert tuple(inspect.draw_heat_map(IMAGE, np.ones((2, 2)), 1.0)[5, 5]) == (68, 1, 84)
