"""The classification task: sums over labeled images, frozen encoders, and starts from a MAE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.sam_inputs import make_images
from jax.sharding import AxisType

from segjax.models.build import variable_shapes
from segjax.models.classifier import build_classifier, init_classifier
from segjax.models.mae import build_mae, init_mae
from segjax.ops.positions import cubic_weights, make_sincos_positions
from segjax.tasks import complete_config, make_task
from segjax.tasks.classification.config import classification_config
from segjax.training.checkpoints import Checkpoints
from segjax.training.optimizer import build_optimizer, compute_layer_scales
from segjax.training.program import make_program, restore_or_initialize
from segjax.training.sharding import BATCH_AXES, make_mesh, place_batch, state_shardings
from segjax.training.state import init_state
from segjax.weights.checkpoint import write_checkpoint
from segjax.weights.tree import CheckpointError, flatten


def config(**changes):
    config = classification_config()
    config.model = dict(name="vit_debug", depth=1) | changes
    config.optimizer.update(warmup_steps=1, layer_decay=1.0)
    config.update(total_steps=2, batch_size=8)
    config.data.update(label="largest", statistics=0)
    config.data.scenes.update(train_count=6, eval_count=5, size=64)
    config.eval.update(batch_size=2, pictures=3, neighbours=2)
    return config


def variables_of(task):
    return jax.tree.map(jnp.asarray, drawn_variables(task.model, init_classifier))


def one_device():
    return jax.make_mesh(
        (1, 1), BATCH_AXES, (AxisType.Auto, AxisType.Auto), devices=jax.devices()[:1]
    )


@pytest.fixture(scope="module")
def task():
    return make_task(config(pool="mean", drop_path=0.2))


@pytest.fixture(scope="module")
def probing():
    return make_task(config(frozen=True))


def outcome_of(task):
    def outcome(variables, batch):
        objective = lambda params: task.loss(
            variables | {"params": params}, batch, jax.random.key(1), True
        )[:2]
        return jax.value_and_grad(objective, has_aux=True)(variables["params"])

    return outcome


def make_batch(count=8):
    weight = np.array([1.0] * (count - 1) + [0.0], np.float32)
    return {
        "image": make_images(64, count),
        "weight": weight,
        "label": np.arange(count, dtype=np.int32) % 5,
    }


def assert_same(ours, theirs, tolerance=1e-5):
    """Compares losses and gradients, with a tolerance relative to the largest gradient."""
    ((loss, weight), gradient), ((their_loss, their_weight), their_gradient) = jax.device_get(
        (ours, theirs)
    )
    np.testing.assert_allclose((loss, weight), (their_loss, their_weight), rtol=tolerance)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(their_gradient))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)
    jax.tree.map(close, gradient, their_gradient)


@pytest.mark.slow
def test_one_device_and_eight_agree_with_mixed_images_and_placeholders(task):
    variables = variables_of(task)
    compute = jax.jit(outcome_of(task))
    expected = compute(variables, make_batch())
    assert expected[0][1] == 7
    other = make_batch()
    other["image"][-1], other["label"][-1] = 255, 3
    assert_same(compute(variables, other), expected, 1e-6)
    mesh = make_mesh(data=2, fsdp=4)
    shardings = state_shardings(variables, mesh, floor=512)
    placed = jax.device_put(variables, shardings)
    with jax.set_mesh(mesh):
        step = jax.jit(outcome_of(task), out_shardings=((None, None), shardings["params"]))
        result = step(placed, place_batch(make_batch(), mesh))
    assert not result[1]["encoder"]["patch_embed"]["kernel"].sharding.is_fully_replicated
    assert_same(result, expected)


def test_nothing_is_mixed_or_smoothed_in_evaluation(task):
    variables, batch = variables_of(task), make_batch()
    loss, _, metrics = jax.jit(lambda v, b: task.loss(v, b, jax.random.key(1), False))(
        variables, batch
    )
    logits = np.asarray(
        jax.jit(lambda v, x: task.model.apply(v, x))(variables, batch["image"]), np.float64
    )
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    want = -np.log(probabilities[np.arange(7), batch["label"][:7]])
    assert loss == pytest.approx(want.sum(), rel=1e-4)
    assert metrics["top1"] == (logits.argmax(1) == batch["label"])[:7].sum()


def test_a_frozen_encoder_has_no_optimizer_state_no_gradient_and_no_average(probing):
    assert set(variable_shapes(probing.model)["params"]) == {"head"}
    optimizer = build_optimizer(config(frozen=True))[1]
    make = lambda key: init_state(probing.init(key), optimizer, key, ema=True)
    state = jax.eval_shape(make, jax.random.key(0))
    head = {(5,), (32, 5)}
    assert {leaf.shape for leaf in jax.tree.leaves(state.opt_state)} == head | {()}
    assert {leaf.shape for leaf in jax.tree.leaves(state.ema)} == head
    assert state.constants["encoder"]["trunk"]["block_0"]["qkv"]["kernel"].shape == (32, 96)


def test_layer_decay_reaches_every_module_as_the_paper_counts_them():
    """Compares with layer_decay ** (depth + 1 - i).

    i = 0 for patch embedding, class token and positions, i = depth + 1 for norm and head.
    """
    recipe = classification_config().optimizer
    params = variable_shapes(build_classifier("vit_debug", pool="mean"))["params"]
    scales = flatten(compute_layer_scales(params, 0.5, recipe.trunk))
    found = {path: np.log2(1 / scale) for path, scale in scales.items()}
    assert {path for path, layer in found.items() if layer == 3} == {
        "encoder/cls_token",
        "encoder/pos_embed",
        "encoder/patch_embed/kernel",
        "encoder/patch_embed/bias",
    }
    assert (
        found["encoder/trunk/block_0/qkv/kernel"] == 2
        and found["encoder/trunk/block_1/norm_2/scale"] == 1
    )
    assert found["encoder/fc_norm/scale"] == found["head/kernel"] == 0


@pytest.fixture(scope="module")
def mae_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("mae") / "mae.pth"
    mae = build_mae("mae_debug", depth=1)
    write_checkpoint(path, drawn_variables(mae, init_mae), metadata={}, canvas=mae.canvas)
    return path


def test_a_linear_probe_starts_from_a_mae_and_standardizes_its_frozen_features(
    mae_file, tmp_path, caplog, probing
):
    """Compares the statistics with mean and variance of the same images' features."""
    settings = config(frozen=True)
    settings.init_from = f"mae:{mae_file}"
    one = one_device()
    # Initializers take long to compile.
    probing.init = lambda key: drawn_variables(probing.model, init_classifier)
    with Checkpoints(tmp_path / "run") as checkpoints, caplog.at_level("INFO", "segjax"):
        state = restore_or_initialize(
            probing, settings, make_program(probing, settings, one), checkpoints, None
        )
    assert (
        "frozen encoder from the MAE in" in caplog.text
        and "nothing resized; the head is fresh" in caplog.text
    )
    assert "standardized over 6 training images" in caplog.text
    mae = flatten(drawn_variables(build_mae("mae_debug", depth=1), init_mae)["params"]["encoder"])
    found = flatten(state.constants["encoder"])
    assert set(found) == {*mae, "pos_embed"}
    for path, array in mae.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
    images = probing._open_training_images(0)
    features, labels = probing._embed_records(state.variables, images, one)
    statistics = jax.device_get(state.constants["statistics"])
    assert features.shape == (6, 32) and set(labels) <= set(range(5))
    np.testing.assert_allclose(statistics["mean"], features.mean(0), atol=1e-5)
    np.testing.assert_allclose(statistics["variance"], features.var(0), rtol=1e-3, atol=1e-6)


def test_the_evaluation_is_the_same_for_any_number_of_devices_and_has_nearest_neighbors(probing):
    variables = variables_of(probing)
    one, many = one_device(), make_mesh()
    numbers, sheets = probing.evaluate(variables, mesh=one)
    others, _ = probing.evaluate(variables, mesh=many)  # eight rows, three of them placeholders
    assert numbers == pytest.approx(others, rel=1e-5)
    assert set(numbers) == {"eval_loss", "top1", "per_class", "commonest", "knn@2"}
    assert sheets["classes"].dtype == np.uint8 and sheets["classes"].shape[1] == 3 * 192 + 4 * 10


def test_positions_are_resized_to_another_grid_and_the_log_says_so(mae_file, caplog):
    task = make_task(config(canvas=96, pool="mean"))
    with caplog.at_level("INFO", "segjax"):
        found = task.load_pretrained("mae", str(mae_file), variable_shapes(task.model))["params"][
            "encoder"
        ]
    assert (
        "bicubically resized: positions from (4, 4) to (6, 6) patches; the norm behind the mean "
        "and the" in caplog.text
    )
    assert "norm" not in found and not found["pos_embed"][0].any()
    weights = cubic_weights(4, 6)
    want = np.einsum("ab,cd,bdk->ack", weights, weights, make_sincos_positions((4, 4), 32))
    np.testing.assert_allclose(found["pos_embed"][1:].reshape(6, 6, 32), want, atol=1e-6)


def test_encoders_of_classifiers_load_like_those_of_a_mae(tmp_path):
    """Covers trained positions, of a fine-tuned file and of a frozen encoder of ours."""
    whole = drawn_variables(build_classifier("vit_debug", depth=1, classes=3), init_classifier)
    frozen = drawn_variables(build_classifier("vit_debug", depth=1, frozen=True), init_classifier)
    write_checkpoint(tmp_path / "whole.pth", whole, metadata={})
    model = {"model": {"name": "vit_debug", "depth": 1, "frozen": True}}
    write_checkpoint(tmp_path / "frozen.safetensors", frozen, metadata=model)
    task = make_task(config())
    for name, encoder in (
        ("whole.pth", whole["params"]),
        ("frozen.safetensors", frozen["constants"]),
    ):
        found = task.load_pretrained("mae", str(tmp_path / name), variable_shapes(task.model))[
            "params"
        ]["encoder"]
        jax.tree.map(np.testing.assert_array_equal, found, encoder["encoder"])


def start(settings, init_from, tmp_path):
    settings.init_from = str(init_from)
    one = one_device()
    task = make_task(settings)
    with Checkpoints(tmp_path / "run") as checkpoints:
        return restore_or_initialize(
            task, settings, make_program(task, settings, one), checkpoints, None
        )


def test_a_checkpoint_with_other_classes_says_how_to_fix_it(mae_file, tmp_path):
    model = {"name": "vit_debug", "depth": 1, "classes": 3}
    three = drawn_variables(build_classifier(**model), init_classifier)
    for name in ("three.pth", "three.safetensors"):
        write_checkpoint(tmp_path / name, three, metadata={"model": model})
        message = (
            "its head knows 3 classes, not 5: set config.model.classes=3; "
            "config.init_from='mae:PATH' loads its encoder alone"
        )
        with pytest.raises(CheckpointError, match=message):
            start(config(), tmp_path / name, tmp_path)
    with pytest.raises(
        CheckpointError,
        match="of facebookresearch/mae; expected ViT; an encoder starts from it with",
    ):
        start(config(), mae_file, tmp_path)
    with pytest.raises(
        CheckpointError,
        match="expected one whose encoder is frozen; an encoder starts from it with",
    ):
        start(config(frozen=True), tmp_path / "three.pth", tmp_path)
    with pytest.raises(
        CheckpointError, match="2 missing: statistics/mean .*'mae:PATH' loads its enc"
    ):
        start(config(frozen=True, classes=3), tmp_path / "three.safetensors", tmp_path)


def test_unusable_labels_and_classes_are_errors(tmp_path):
    settings = config()
    settings.data.label = "record"
    with pytest.raises(
        ValueError,
        match="no image of 'synthetic', split 'train' has a class: its records have no la",
    ):
        make_task(settings).batches("train", batch_size=2)
    with pytest.raises(
        ValueError, match="'synthetic' has 5 classes, the model 4; set config.model.classes=5"
    ):
        make_task(config(classes=4)).batches("train", batch_size=2)
    with pytest.raises(
        ValueError, match="from its own checkpoints or from a MAE, 'mae:PATH'; got 'dino:x'"
    ):
        make_task(config()).load_pretrained("dino", "x", {})


def test_a_completed_config_states_all_options_of_the_same_model():
    full = complete_config(config(frozen=True))
    assert (full.model.pool, full.model.head_std, full.model.frozen, full.model.dtype) == (
        "token",
        2e-5,
        True,
        "float32",
    )
    assert (
        complete_config(full).to_dict() == full.to_dict()
        and make_task(full).model == make_task(config(frozen=True)).model
    )


def test_devices_may_resize_images():
    settings = config()
    settings.data.crop.frame = 64
    framed = make_task(settings)
    host, device = (
        next(task.batches("train", batch_size=4, seed=3)) for task in (make_task(config()), framed)
    )
    assert device["image"].shape == (4, 64, 86, 3) and (device["label"] == host["label"]).all()
    placed = {name: rows for name, rows in device.items() if name != "index"}
    shapes = jax.eval_shape(
        lambda v, b: framed.loss(v, b, jax.random.key(0), True),
        variable_shapes(framed.model),
        placed,
    )
    assert shapes[0].shape == ()
