import functools

import jax
import numpy as np
import optax
import optax.contrib
import pytest

from segjax.training.defaults import base_config
from segjax.training.optimizer import (
    build_optimizer,
    compute_layer_scales,
    make_optimizer,
    make_schedule,
    select_decayed,
)

full = functools.partial(np.full, dtype=np.float32)


def rates(steps, **options):
    return np.asarray(jax.jit(jax.vmap(make_schedule(2.0, 100, **options)))(np.array(steps)))


def updates_of(optimizer, params, *gradients):
    """Computes the updates for a sequence of gradients, and the state after them."""

    @jax.jit
    def run(params, gradients):
        state, updates = optimizer.init(params), []
        for gradient in gradients:
            update, state = optimizer.update(gradient, state, params)
            updates.append(update)
        return *updates, state

    return jax.device_get(run(params, gradients))


def test_warmup_is_linear_from_zero_in_every_schedule():
    for options in (
        {"schedule": "constant"},
        {"schedule": "cosine"},
        {"schedule": "step", "boundaries": (50,)},
    ):
        np.testing.assert_allclose(
            rates([0, 5, 10], warmup_steps=10, **options), [0.0, 1.0, 2.0], rtol=1e-6
        )


def test_cosine_closed_form():
    got = rates([10, 40, 55, 100, 150], schedule="cosine", warmup_steps=10, final_lr=0.2)
    want = [2.0, 0.2 + 0.9 * (1 + np.cos(np.pi / 3)), 1.1, 0.2, 0.2]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_step_schedule_drops_at_each_boundary():
    got = rates([29, 30, 59, 60, 99], schedule="step", boundaries=(30, 60), decay_factor=0.1)
    np.testing.assert_allclose(got, [2.0, 0.2, 0.2, 0.02, 0.02], rtol=1e-5)


def test_constant_schedule_without_warmup():
    np.testing.assert_allclose(rates([0, 99], schedule="constant"), [2.0, 2.0])


def test_reciprocal_square_root_and_cooldown():
    got = rates(
        [10, 40, 80, 90, 100], schedule="rsqrt", warmup_steps=10, timescale=10, cooldown_steps=20
    )
    want = [
        2.0,
        1.0,
        2 / np.sqrt(8),
        1 / 3,
        0.0,
    ]  # 1 / sqrt(1 + 30 / 10), ...; half of the cool-down at 90
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(
        rates([79, 90], schedule="constant", cooldown_steps=20), [2.0, 1.0], rtol=1e-6
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"schedule": "linear"}, "'linear'; expected one of constant, cosine, step, rsqrt"),
        ({"warmup_steps": 101}, "warmup_steps is 101; expected 0 to total_steps"),
        ({"warmup_steps": 60, "cooldown_steps": 41}, "cooldown_steps is 41; .*(40)"),
        ({"schedule": "rsqrt", "timescale": 0}, "timescale is 0"),
        ({"schedule": "step", "boundaries": (60, 30)}, "ascending"),
        ({"schedule": "step"}, "boundaries go with schedule 'step'"),
        ({"schedule": "cosine", "boundaries": (3,)}, "boundaries go with schedule 'step'"),
    ],
)
def test_invalid_schedules_are_errors_that_name_valid_settings(options, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(1.0, 100, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "adam"}, "'adam'; expected one of adamw, muon, lars, sgd"),
        ({"b1": 1.0}, "optimizer.b1"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"layer_decay": 1.5}, "layer_decay"),
    ],
)
def test_invalid_optimizers_are_errors_that_name_valid_settings(options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(make_schedule(1.0, 10), **options)


def encoder_tree():
    kernel, vector = np.ones((4, 4)), np.ones(4)
    block = {
        "attn": {"qkv": {"kernel": kernel, "bias": vector}, "rel_pos_h": kernel},
        "norm1": {"scale": vector},
    }
    return {
        "image_encoder": {
            "patch_embed": {"kernel": np.ones((2, 2, 3, 4)), "bias": vector},
            "pos_embed": np.ones((1, 4, 4, 4)),
            "block_0": block,
            "block_1": block,
            "neck": {"conv": {"kernel": kernel}},
        },
        "prompt_encoder": {"point_embeddings": kernel, "no_mask_embed": np.ones((1, 4))},
        "mask_decoder": {
            "mask_tokens": kernel,
            "cross_attn_token_to_image": {"q": {"kernel": kernel}},
        },
        "class_embed": {"embedding": kernel},
    }


def test_weight_decay_excludes_vectors_and_learned_tables():
    mask = select_decayed(encoder_tree())
    decayed = {
        jax.tree_util.keystr(p, simple=True, separator="/")
        for p, on in jax.tree_util.tree_leaves_with_path(mask)
        if on
    }
    assert decayed == {
        "image_encoder/patch_embed/kernel",
        "image_encoder/block_0/attn/qkv/kernel",
        "image_encoder/block_1/attn/qkv/kernel",
        "image_encoder/neck/conv/kernel",
        "mask_decoder/cross_attn_token_to_image/q/kernel",
    }


def test_layer_scales_count_from_the_top_of_the_trunk():
    scales = compute_layer_scales(encoder_tree(), 0.5, "image_encoder")
    trunk = scales["image_encoder"]
    assert trunk["patch_embed"]["kernel"] == trunk["pos_embed"] == 0.125
    assert trunk["block_0"]["attn"]["qkv"]["kernel"] == trunk["block_0"]["norm1"]["scale"] == 0.25
    assert trunk["block_1"]["attn"]["rel_pos_h"] == 0.5
    assert trunk["neck"]["conv"]["kernel"] == scales["mask_decoder"]["mask_tokens"] == 1.0


def test_layer_scales_with_blocks_at_the_top_of_the_tree():
    scales = compute_layer_scales(encoder_tree()["image_encoder"], 0.5, "")
    assert scales["pos_embed"] == 0.125 and scales["block_1"]["norm1"]["scale"] == 0.5


def test_a_missing_trunk_is_an_error_that_lists_the_modules():
    with pytest.raises(
        ValueError, match="'backbone'/block_0.*class_embed, image_encoder, mask_decoder"
    ):
        compute_layer_scales(encoder_tree(), 0.5, "backbone")


def test_first_update_is_adam_plus_decoupled_decay_times_rate_and_layer():
    params = {"image_encoder": {"block_0": {"kernel": full((2, 2), 3.0), "bias": full(2, 3.0)}}}
    grads = jax.tree.map(lambda p: np.full_like(p, 7.0), params)
    optimizer = make_optimizer(
        make_schedule(0.1, 10, schedule="constant"), weight_decay=0.2, layer_decay=0.5
    )
    updates, _ = updates_of(optimizer, params, grads)
    block = updates["image_encoder"]["block_0"]
    # Adam's first step has size 1 whatever the gradient; the layer's factor is 0.5 ** 1.
    np.testing.assert_allclose(block["kernel"], -0.1 * 0.5 * (1.0 + 0.2 * 3.0), rtol=1e-5)
    np.testing.assert_allclose(block["bias"], -0.1 * 0.5, rtol=1e-5)


def test_muon_orthogonalizes_matrices_and_is_adam_elsewhere():
    """The first step is U V^T of the gradient, as large as AdamW's, with values of 0.7 to 1.2."""
    rng = np.random.default_rng(0)
    params = {
        "mlp": {"kernel": full((16, 64), 0), "bias": full(64, 0)},
        "pos_embed": full((16, 64), 0),
    }
    params["head"] = {"kernel": full((64, 4), 0)}
    grads = jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(np.float32), params)
    constant = make_schedule(0.1, 10, schedule="constant")
    muon = make_optimizer(constant, name="muon")
    adam = optax.chain(
        optax.scale_by_adam(nesterov=True), optax.scale(-0.1)
    )  # what optax's Muon has for the rest
    got, _ = updates_of(muon, params, grads)
    want, _ = updates_of(adam, params, grads)
    for name in ("pos_embed", "head"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got[name], want[name]
        )
    np.testing.assert_allclose(got["mlp"]["bias"], want["mlp"]["bias"], rtol=1e-5)
    u, _, vh = np.linalg.svd(grads["mlp"]["kernel"], full_matrices=False)
    along = -np.diag(u.T @ np.asarray(got["mlp"]["kernel"]) @ vh.T) / (0.1 * 0.2 * 64**0.5)
    assert along.min() > 0.6 and along.max() < 1.3
    assert np.std(got["mlp"]["kernel"]) == pytest.approx(0.1 * 0.2, rel=0.5)


def test_muon_orthogonalizes_convolutions_with_muon_convolutions():
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": full((3, 3, 16, 20), 0)},
        "stem": {"kernel": full((7, 7, 3, 64), 0)},
    }
    grads = jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(np.float32), params)
    updates = {}
    for convolutions in (False, True):
        muon = make_optimizer(
            make_schedule(0.1, 10, schedule="constant"), name="muon", muon_convolutions=convolutions
        )
        updates[convolutions], _ = updates_of(muon, params, grads)
    np.testing.assert_allclose(
        updates[True]["stem"]["kernel"], updates[False]["stem"]["kernel"], rtol=1e-5
    )
    values = lambda tree: np.linalg.svd(
        np.asarray(tree["conv"]["kernel"]).reshape(144, 20), compute_uv=False
    )
    scale = 0.1 * 0.2 * 144**0.5
    assert values(updates[True]).min() / scale > 0.6 and values(updates[True]).max() / scale < 1.3
    assert (
        values(updates[False]).max() > 2 * values(updates[False]).min()
    )  # Adam's are those of the gradient's signs


def test_a_muon_step_equals_that_of_optax():
    """Compares tall and wide matrices with singular values over five decades."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((side, 24)))[0] for side in (24, 200))
    wide = (u * np.geomspace(1e-5, 1, 24) @ v.T).astype(np.float32)
    params = {"kernel": wide, "tall": {"kernel": wide.T}}
    ours = make_optimizer(make_schedule(0.1, 10, schedule="constant"), name="muon")
    theirs = optax.contrib.muon(0.1, consistent_rms=0.2)
    got, want = (updates_of(of, params, params)[0] for of in (ours, theirs))
    compare = lambda ours, theirs: np.testing.assert_allclose(
        ours, theirs, atol=1e-3 * np.abs(theirs).max()
    )
    jax.tree.map(compare, got, want)


def test_lars_scales_matrices_and_not_vectors():
    """Two steps in closed form: decay is inside the trust ratio, the rate after the momentum."""
    params = {"kernel": full((4, 4), 2.0), "bias": full(4, 2.0)}
    grads = {"kernel": full((4, 4), 0.5), "bias": full(4, 0.5)}
    rate = make_schedule(
        0.1, 10, warmup_steps=1, schedule="constant"
    )  # 0 in the first step, .1 in the second
    optimizer = make_optimizer(rate, name="lars", b1=0.9, weight_decay=0.25)
    first, second, _ = updates_of(optimizer, params, grads, grads)
    assert not np.any(first["kernel"])
    # The gradient with decay is all 1. Its norm is 4, that of the parameters 8.
    np.testing.assert_allclose(second["kernel"], -0.1 * 1.9 * 2e-3, rtol=1e-5)
    np.testing.assert_allclose(second["bias"], -0.1 * 1.9 * 0.5, rtol=1e-5)


def test_sgd_is_momentum_on_gradients_with_decay():
    """Two steps of torch.optim.SGD by hand: v = 0.9 v + g + 0.25 p, p -= 0.1 v."""
    params = {"kernel": full((4, 4), 2.0), "bias": full(4, 2.0)}
    grads = {"kernel": full((4, 4), 0.5), "bias": full(4, 0.5)}
    optimizer = make_optimizer(lambda step: 0.1, name="sgd", b1=0.9, weight_decay=0.25)
    first, second, _ = updates_of(optimizer, params, grads, grads)
    np.testing.assert_allclose(first["kernel"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(second["kernel"], -0.1 * 1.9, rtol=1e-6)
    np.testing.assert_allclose(second["bias"], -0.1 * 1.9 * 0.5, rtol=1e-6)  # vectors do not decay


def test_layers_are_found_below_an_optional_module_of_the_trunk():
    leaf = {"kernel": np.ones((2, 2))}
    params = {
        "image_encoder": {"patch_embed": leaf, "trunk": {"block_0": leaf, "block_1": leaf}},
        "head": leaf,
    }
    scales = compute_layer_scales(params, 0.5, "image_encoder(/trunk)?")
    assert [scales["image_encoder"]["trunk"][f"block_{i}"]["kernel"] for i in (0, 1)] == [0.25, 0.5]
    assert (
        scales["image_encoder"]["patch_embed"]["kernel"] == 0.125
        and scales["head"]["kernel"] == 1.0
    )


def test_clipping_bounds_the_gradient_that_adam_sees():
    params = {"w": full(4, 0)}
    optimizer = make_optimizer(make_schedule(0.1, 10), clip_norm=1.0)
    _, state = updates_of(optimizer, params, {"w": full(4, 100.0)})
    np.testing.assert_allclose(state[1].mu["w"], 0.1 * 0.5, rtol=1e-5)  # (1 - b1) * 1 / sqrt(4)


def test_the_settings_of_a_config_reach_the_schedule_and_the_optimizer():
    config = base_config()
    config.total_steps = 100
    config.optimizer.update(peak_lr=2.0, schedule="constant", cooldown_steps=40, weight_decay=0.2)
    schedule, optimizer = build_optimizer(config)
    found = jax.jit(jax.vmap(schedule))(np.array([0, 60, 80, 100]))
    np.testing.assert_allclose(found, [2.0, 2.0, 1.0, 0.0])
    params = {"w": full((2, 2), 3.0)}
    updates, _ = updates_of(optimizer, params, {"w": full((2, 2), 0)})
    np.testing.assert_allclose(updates["w"], -2.0 * 0.2 * 3.0, rtol=1e-6)  # decay alone


def test_a_base_rate_is_scaled_with_the_batch():
    config = base_config()
    config.batch_size = 4096
    config.optimizer.update(base_lr=1.5e-4, schedule="constant")
    np.testing.assert_allclose(
        build_optimizer(config)[0](0), 2.4e-3, rtol=1e-6
    )  # MAE's pretraining, appendix A.1
