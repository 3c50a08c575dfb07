"""Trainable parameters by path, and low-rank adapters: selection, the step, and checkpoints."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import segjax
from segjax.models.build import build_model, init_model, variable_shapes
from segjax.scaling.estimates import count_flops
from segjax.tasks import make_task
from segjax.tasks.promptable.config import miniature, promptable_config
from segjax.training import sharding
from segjax.training.checkpoints import Checkpoints
from segjax.training.defaults import as_config
from segjax.training.loop import train
from segjax.training.optimizer import build_optimizer, compute_layer_scales
from segjax.training.program import initialize_state, make_program, restore_or_initialize
from segjax.training.trainable.lora import LoraSettings
from segjax.training.trainable.partition import count_trained, make_partition
from segjax.weights.adapters.files import save_adapter
from segjax.weights.adapters.low_rank import add_low_rank, merge_low_rank
from segjax.weights.checkpoint import Checkpoint
from segjax.weights.safetensors import save_variables
from segjax.weights.tree import CheckpointError, flatten

ENCODERS = {"sam_debug": "image_encoder", "mae_debug": "encoder", "vit_debug": "encoder"}


@functools.cache
def shapes_of(name):
    return variable_shapes(build_model(name))


def partition_of(trainable="", name="sam_debug", **lora):
    config = ml_collections.ConfigDict({"trainable": ml_collections.FieldReference(trainable)})
    config.lora = as_config(LoraSettings(**lora))
    return make_partition(config, shapes_of(name), ENCODERS.get(name, ""))


def trained_paths(partition, name="sam_debug"):
    return {path for path in flatten(shapes_of(name)["params"]) if path not in partition.frozen}


@pytest.mark.parametrize("trainable", ["", "full", (), ["full"]])
def test_everything_is_trained_by_default(trainable):
    assert not partition_of(trainable).frozen


@pytest.mark.parametrize("name", list(ENCODERS))
def test_decoder_trains_everything_but_the_encoder(name):
    paths = trained_paths(partition_of("decoder", name), name)
    everything = set(flatten(shapes_of(name)["params"]))
    assert paths == {path for path in everything if not path.startswith(f"{ENCODERS[name]}/")}
    assert paths and paths != everything


def test_late_trains_the_last_blocks_and_what_follows():
    frozen = partition_of("late:1").frozen
    tops = {
        path.removeprefix("image_encoder/").removeprefix("trunk/").split("/")[0] for path in frozen
    }
    assert tops == {"patch_embed", "pos_embed", "block_0"}


def test_patterns_and_presets_add_up():
    paths = trained_paths(partition_of(["iou_head", "neck_norm_1/scale$"]))
    assert {path.split("/")[1] for path in paths} == {"iou_head", "neck_norm_1"}
    assert trained_paths(partition_of(["decoder", "neck"])) > trained_paths(partition_of("decoder"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(trainable="mask_decodr"), "matches no parameter; nearest: mask_decoder"),
        (dict(trainable="late:3"), "late:N with N from 1 to 2"),
        (dict(trainable="late:x"), "late:N with N from 1 to 2"),
        (dict(trainable="(oops"), "no regular expression"),
        (dict(trainable="lora", targets=("q", "w")), "'w' is none"),
        (
            dict(trainable="lora", targets=()),
            r"targets is \(\); expected some of q, k, v, proj, mlp",
        ),
        (dict(trainable="lora", blocks="last:3"), "'last:N' with N from 1 to 2"),
        (dict(trainable="lora", rank=33), "rank is 33, but image_encoder/trunk/block_0/qkv/kernel"),
        (dict(trainable="lora", rank=-1), "rank is -1"),
        (dict(rank=-2), "rank is -2"),
        (dict(rank=4), "that are trained themselves"),
        (dict(trainable="late:1", rank=4), "that are trained themselves"),
    ],
)
def test_invalid_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        partition_of(**options)


def test_adapters_may_lie_below_trained_blocks():
    partition = partition_of("decoder", rank=2, blocks="last:1", targets=("k", "proj", "mlp"))
    block = "image_encoder/trunk/block_1"
    assert partition.adapters.shapes == {
        f"{block}/qkv/k": ((32, 2), (2, 32)),
        f"{block}/proj/kernel": ((32, 2), (2, 32)),
        f"{block}/mlp/layer_0/kernel": ((32, 2), (2, 128)),
        f"{block}/mlp/layer_1/kernel": ((128, 2), (2, 32)),
    }


@pytest.mark.parametrize(
    ("name", "count"),
    [("sam_vit_b", 147_456), pytest.param("sam_vit_h", 655_360, marks=pytest.mark.slow)],
)
def test_adapters_of_published_sizes_have_the_known_number_of_parameters(name, count):
    shapes = shapes_of(name)
    config = ml_collections.ConfigDict({"trainable": "lora_only"})
    config.lora = as_config(LoraSettings())
    partition = make_partition(config, shapes, "image_encoder")
    sizes = (np.prod(side) for pair in partition.adapters.shapes.values() for side in pair)
    assert sum(sizes) == count


def test_an_adapter_adds_its_product_to_a_third_of_the_kernel():
    random = np.random.default_rng(0)
    kernel, a, b = (random.normal(size=size).astype("f4") for size in ((4, 18), (4, 2), (2, 6)))
    changed = add_low_rank(kernel, {"v": {"a": a, "b": b}}, 0.5)
    np.testing.assert_array_equal(changed[:, :12], kernel[:, :12])
    np.testing.assert_allclose(changed[:, 12:], kernel[:, 12:] + 0.5 * a @ b, rtol=1e-6)
    with pytest.raises(ValueError, match="expected"):
        add_low_rank(kernel, {"kernel": {"a": a, "b": b}}, 1.0)
    with pytest.raises(ValueError, match="does not have"):
        merge_low_rank({"lora/x/kernel/a": a, "lora/x/kernel/b": b}, 1.0)


def test_layer_decay_counts_frozen_blocks():
    params = {
        "trunk": {"block_1": {"kernel": jnp.ones(1)}},
        "lora": {"trunk": {"block_0": {"a": 1}}},
    }
    scales = compute_layer_scales(params, 0.5, "trunk", depth=3)
    assert scales == {
        "trunk": {"block_1": {"kernel": 0.25}},
        "lora": {"trunk": {"block_0": {"a": 0.125}}},
    }


# Runs of the smallest SAM


def make_config(trainable, **changes):
    config = miniature(promptable_config())
    config.update(trainable=trainable, total_steps=3)
    config.update(changes)
    config.rounds.update(count=1, empty_random=False, empty_last=False)
    return config


@functools.cache
def make_run(trainable, devices=1):
    """Returns the task, its program, and the state before and after two steps."""
    config = make_config(trainable, batch_size=2 if devices == 1 else 8, ema_decay=0.5)
    config.lora.rank = 2 if trainable == "lora" else 0
    config = make_task(config).complete_config(config)
    task = make_task(config)
    mesh = (
        sharding.make_mesh(1, 1, devices=jax.devices()[:1])
        if devices == 1
        else (sharding.make_mesh(devices // 2, 2))
    )
    with jax.set_mesh(mesh):
        program = make_program(task, config, mesh)
        state = initialize_state(task, program, 0, {})
        before = sharding.to_host(state.variables)
        batches = task.batches("train", batch_size=config.batch_size)
        for _ in range(2):
            state, metrics = program.step(state, sharding.place_batch(next(batches), mesh))
    return task, program, before, state, metrics


@pytest.mark.parametrize("trainable", [pytest.param("decoder", marks=pytest.mark.slow), "lora"])
def test_only_the_trained_arrays_change_and_have_optimizer_state(trainable):
    task, program, before, state, _ = make_run(trainable)
    start, after = flatten(before["params"]), flatten(jax.device_get(state.params))
    changed = {path for path in start if not np.array_equal(start[path], after[path])}
    adapter = "lora/image_encoder/trunk/block_0/qkv"
    expected = {"mask_decoder/iou_token", "mask_decoder/hypernetwork_0/layer_2/kernel"}
    if trainable == "lora":
        expected |= {f"{adapter}/{name}/{side}" for name in "qv" for side in "ab"}
    assert changed >= expected
    kept = flatten(jax.device_get(state.constants))
    assert "image_encoder/trunk/block_0/qkv/kernel" in kept
    jax.tree.map(np.testing.assert_array_equal, flatten(before["constants"]), kept)
    bytes_of = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if leaf.ndim)
    assert bytes_of(state.opt_state) == 2 * bytes_of(state.params)
    assert bytes_of(state.ema) == bytes_of(state.params)
    trained, total = count_trained(state.params, state.constants, program.partition.frozen)
    plain = sum(leaf.size for leaf in jax.tree.leaves(shapes_of("sam_debug")["params"]))
    adapters = sum(leaf.size for leaf in jax.tree.leaves(state.params.get("lora", {})))
    assert total - adapters <= plain and trained < 0.4 * total


def test_fresh_adapters_change_nothing_and_checkpoints_merge_like_the_step(tmp_path):
    _, program, before, state, _ = make_run("lora")
    joined = flatten(sharding.to_host(program.join(before)))
    kernel = "image_encoder/trunk/block_1/qkv/kernel"
    np.testing.assert_array_equal(joined[f"params/{kernel}"], flatten(before["constants"])[kernel])
    assert joined.keys() == flatten(program.variable_shapes).keys()
    # The checkpoint of a run is merged by NumPy
    trained = sharding.to_host(state.variables)
    expected = sharding.to_host(program.join(state.variables))
    read = Checkpoint("run", "segjax", trained).variables(program.variable_shapes)
    assert not np.array_equal(
        flatten(read)[f"params/{kernel}"], flatten(before["constants"])[kernel]
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), read, expected
    )
    # A file of adapters on top of the weights that the run started from
    options = {"name": "sam_debug", "decoder_depth": 1}
    base, file = tmp_path / "base.safetensors", tmp_path / "lora.safetensors"
    save_variables(base, sharding.to_host(program.join(before)), {"model": options})
    constants = program.variable_shapes["constants"]
    assert save_adapter(file, trained, constants, options) == len(flatten(trained["params"]))
    assert file.stat().st_size < 0.5 * base.stat().st_size
    _, loaded = segjax.load(base, lora=file)
    jax.tree.map(np.testing.assert_array_equal, dict(loaded), read)
    save_variables(base, expected, {"model": options})
    with pytest.raises(CheckpointError, match="trained on other weights"):
        encoder = trained["constants"]["image_encoder"]
        encoder["pos_embed"] = encoder["pos_embed"] + 1.0
        save_adapter(file, trained, constants, options)
        segjax.load(base, lora=file)
    with pytest.raises(CheckpointError, match="holds no adapters"):
        segjax.load(base, lora=base)
    other = tmp_path / "tiny.safetensors"
    save_variables(
        other,
        init_model(build_model("mae_debug"), jax.random.key(0)),
        {"model": {"name": "mae_debug"}},
    )
    with pytest.raises(
        CheckpointError, match="adapters of 'sam_debug'; the weights are of 'mae_debug'"
    ):
        segjax.load(other, lora=file)
    with pytest.raises(ValueError, match="have no adapters"):
        save_adapter(file, expected, constants, options)
    del trained["constants"]["lora"]
    with pytest.raises(CheckpointError, match="without constants/lora/scale"):
        Checkpoint("run", "segjax", trained).variables(program.variable_shapes)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_frozen_encoder_has_no_backward_pass(compiled):
    flops = {}
    for trainable in ("", "decoder"):
        config = make_config(trainable, batch_size=1)
        # An encoder that outweighs the decoder
        config.model.update(width=128, depth=4)
        config.data.max_prompts = 1
        task = make_task(task_config := make_task(config).complete_config(config))
        mesh = sharding.make_mesh(1, 1, devices=jax.devices()[:1])
        program = make_program(task, task_config, mesh)
        shapes = task.batch_shapes(1)
        traced = program.trace(shapes)
        flops[trainable] = (
            traced.lower().compile().cost_analysis()["flops"]
            if compiled
            else count_flops(traced.jaxpr.jaxpr)
        )
    assert flops[""] / flops["decoder"] > 2.2  # 3 passes against 1, and the decoder


@pytest.mark.slow
def test_eight_devices_train_adapters_like_one():
    config = make_config("lora", batch_size=8)
    config.lora.rank = 2
    # Adam would divide rounding errors by gradients that are close to 0
    config.optimizer.update(name="sgd", peak_lr=0.1)
    config.mesh.floor = 64
    results = []
    for mesh in (
        sharding.make_mesh(1, 1, devices=jax.devices()[:1]),
        sharding.make_mesh(4, 2),
    ):
        task = make_task(complete := make_task(config).complete_config(config))
        with jax.set_mesh(mesh):
            program = make_program(task, complete, mesh)
            state = initialize_state(task, program, 0, {})
            batch = next(task.batches("train", batch_size=8))
            state, metrics = program.step(state, sharding.place_batch(batch, mesh))
            results.append((sharding.to_host(state.params), float(metrics["loss"])))
    (one, loss), (eight, same) = results
    assert loss == pytest.approx(same, rel=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), one, eight)


@pytest.mark.slow
def test_a_run_with_adapters_is_saved_loaded_and_resumed(tmp_path):
    config = make_config("lora", batch_size=8, total_steps=2)
    task = make_task(complete := make_task(config).complete_config(config))
    state = train(task, complete, tmp_path / "run")
    model, variables = segjax.load(tmp_path / "run")
    expected = make_program(task, complete, sharding.make_mesh()).join(state.variables)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-6),
        dict(variables),
        jax.device_get(expected),
    )
    # Another choice is another run
    other = make_config("decoder", batch_size=8)
    with pytest.raises(ValueError, match="trainable: 'lora' -> 'decoder'"):
        train(make_task(other), make_task(other).complete_config(other), tmp_path / "run")
    # The run is a start for others, which train everything
    third = make_config("", total_steps=1, init_from=str(tmp_path / "run"))
    task = make_task(third := make_task(third).complete_config(third))
    mesh = sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    with jax.set_mesh(mesh), Checkpoints(tmp_path / "none") as checkpoints:
        program = make_program(task, third, mesh)
        begun = restore_or_initialize(task, third, program, checkpoints, None)
    jax.tree.map(np.testing.assert_array_equal, dict(variables), dict(begun.variables))


def test_the_optimizer_sees_the_blocks_of_the_whole_model():
    config = make_config("decoder")
    config.optimizer.layer_decay = 0.8
    config = make_task(config).complete_config(config)
    schedule, optimizer = build_optimizer(config, shapes_of("sam_debug")["params"])
    params = {"mask_decoder": {"kernel": jnp.ones((2, 2))}}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert float(jnp.abs(updates["mask_decoder"]["kernel"]).max()) > 0
