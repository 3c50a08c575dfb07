"""A SAM that starts from a MAE's encoder: the same arrays, any grid, any kind of file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.mae_inputs import inputs
from jax.sharding import AxisType

from segjax.models.build import variable_shapes
from segjax.models.mae import build_mae, init_mae
from segjax.models.sam.build import build_sam, init_sam
from segjax.models.vit import PatchEmbed, ViT
from segjax.ops.pixels import normalize
from segjax.ops.positions import cubic_weights, make_sincos_positions
from segjax.tasks import make_task
from segjax.tasks.promptable.config import promptable_config
from segjax.tasks.reconstruction.config import reconstruction_config
from segjax.training.checkpoints import Checkpoints
from segjax.training.program import make_program, restore_or_initialize
from segjax.training.sharding import BATCH_AXES
from segjax.weights.checkpoint import write_checkpoint
from segjax.weights.tree import CheckpointError, flatten

MAE = build_mae("mae_debug")
GLOBAL = dict(window=0, global_blocks=())


@pytest.fixture(scope="module")
def mae_variables():
    return drawn_variables(MAE, init_mae)


def task_of(**model):
    config = promptable_config()
    config.model = {"name": "sam_debug"} | model
    return make_task(config)


def taken(path, **model):
    task = task_of(**model)
    variables = task.load_pretrained("mae", str(path), variable_shapes(task.model))
    return variables["params"]["image_encoder"]


@pytest.fixture(scope="module")
def files(tmp_path_factory, mae_variables):
    folder = tmp_path_factory.mktemp("mae")
    metadata = {"model": {"name": "mae_debug"}}
    for name, format in (
        ("ours.safetensors", None),
        ("theirs.safetensors", "huggingface"),
        ("official.pth", None),
    ):
        write_checkpoint(
            folder / name, mae_variables, format=format, metadata=metadata, canvas=MAE.canvas
        )
    return folder


@pytest.mark.parametrize("name", ["ours.safetensors", "theirs.safetensors", "official.pth"])
def test_on_the_same_grid_without_windows_sam_s_trunk_computes_what_mae_s_does(
    files, mae_variables, name
):
    """Compares patch tokens before MAE's last norm, without the class token, which SAM lacks."""
    model = build_sam("sam_debug", **GLOBAL)
    variables = drawn_variables(model, init_sam)
    encoder = variables["params"]["image_encoder"]
    ours = {
        "params": variables["params"] | {"image_encoder": encoder | taken(files / name, **GLOBAL)}
    }
    ours["constants"] = variables["constants"]
    images, _ = inputs(MAE)
    trunk = lambda module, method: isinstance(module, ViT) and method == "__call__"
    run = lambda v, x: model.apply(
        v, x, method="encode_image", capture_intermediates=trunk, mutable=["intermediates"]
    )
    _, state = jax.jit(run)(ours, images)
    found = state["intermediates"]["image_encoder"]["trunk"]["__call__"][0]

    params = mae_variables["params"]["encoder"]

    @jax.jit
    def by_hand(params, images):
        x = PatchEmbed(MAE.width, MAE.patch).apply(
            {"params": params["patch_embed"]}, normalize(images)
        )
        x = (x + make_sincos_positions(MAE.grid, MAE.width)).reshape(2, 16, MAE.width)
        return ViT(depth=MAE.depth, heads=MAE.heads).apply({"params": params["trunk"]}, x)

    want = np.asarray(by_hand(params, images))
    np.testing.assert_allclose(found.reshape(want.shape), want, atol=1e-5 * np.abs(want).max())


def test_positions_come_to_any_grid_and_relative_ones_are_zero(files, mae_variables):
    found = taken(files / "ours.safetensors", canvas=96)
    weights = cubic_weights(4, 6)
    want = np.einsum("ab,cd,bdk->ack", weights, weights, make_sincos_positions((4, 4), 32))
    np.testing.assert_allclose(found["pos_embed"][0], want, atol=1e-6)
    tables = [x for path, x in flatten(found).items() if "rel_pos" in path]
    assert len(tables) == 4 and not any(table.any() for table in tables)
    kernel = mae_variables["params"]["encoder"]["patch_embed"]["kernel"]
    np.testing.assert_array_equal(found["patch_embed"]["kernel"], kernel)


def test_a_projection_of_other_patches_is_resized(files, mae_variables):
    found = taken(files / "official.pth", patch=8)["patch_embed"]["kernel"]
    weights = cubic_weights(16, 8)
    kernel = mae_variables["params"]["encoder"]["patch_embed"]["kernel"]
    np.testing.assert_allclose(
        found, np.einsum("ab,cd,bdik->acik", weights, weights, kernel), atol=1e-5
    )


def start(init_from, tmp_path):
    """Returns the first state of a run that initializes with sevens, which compiles fast."""
    config = promptable_config()
    config.model = {"name": "sam_debug"}
    config.init_from = init_from
    config.ema_decay = 0.5
    task = make_task(config)
    task.init = lambda _: jax.tree.map(
        lambda x: jnp.full(x.shape, 7.0, x.dtype), variable_shapes(task.model)
    )
    one = jax.make_mesh(
        (1, 1), BATCH_AXES, (AxisType.Auto, AxisType.Auto), devices=jax.devices()[:1]
    )
    with Checkpoints(tmp_path / "run") as checkpoints:
        program = make_program(task, config, one)
        return restore_or_initialize(task, config, program, checkpoints, None)


def test_a_run_takes_the_encoder_and_draws_the_rest(files, tmp_path, mae_variables):
    state = start(f"mae:{files / 'official.pth'}", tmp_path)
    wanted = flatten({"image_encoder": taken(files / "official.pth")})
    found, average = flatten(state.params), flatten(state.ema)
    assert set(wanted) < set(found) and "image_encoder/neck_conv_1/kernel" in found
    for path, array in found.items():
        np.testing.assert_array_equal(array, wanted.get(path, 7.0), err_msg=path)
        np.testing.assert_array_equal(average[path], array, err_msg=path)
    np.testing.assert_array_equal(
        found["image_encoder/trunk/block_1/qkv/kernel"],
        mae_variables["params"]["encoder"]["trunk"]["block_1"]["qkv"]["kernel"],
    )


def test_an_official_file_of_the_encoder_alone_will_do(tmp_path, mae_variables):
    from segjax.weights.tables.mae import MAE as TABLE
    from segjax.weights.torch_writer import write_torch

    state = TABLE.to_published(mae_variables, "official", canvas=64)
    write_torch(
        tmp_path / "encoder.pth", {key: array for key, array in state.items() if "deco" not in key}
    )
    assert taken(tmp_path / "encoder.pth")["pos_embed"].shape == (1, 4, 4, 32)
    trained = state["pos_embed"] + np.arange(state["pos_embed"].shape[1], dtype=np.float32)[:, None]
    write_torch(tmp_path / "fine_tuned.pth", state | {"pos_embed": trained})
    shift = (
        taken(tmp_path / "fine_tuned.pth")["pos_embed"]
        - taken(tmp_path / "encoder.pth")["pos_embed"]
    )
    np.testing.assert_allclose(
        shift[0, ..., 0], 1 + np.arange(16).reshape(4, 4), atol=1e-5
    )  # the class token's is 0
    del state["blocks.1.mlp.fc1.weight"]
    write_torch(tmp_path / "damaged.pth", state)
    with pytest.raises(CheckpointError, match="1 missing: blocks.1.mlp.fc1.weight"):
        taken(tmp_path / "damaged.pth")


def test_what_cannot_be_handed_over_is_said(files, tmp_path):
    with pytest.raises(
        ValueError, match="of width 32 and depth 2, the SAM's of width 128 and depth 4; choose"
    ):
        taken(files / "official.pth", name="sam_tiny")
    with pytest.raises(ValueError, match="attends with 2 heads, the SAM with 4"):
        taken(files / "ours.safetensors", heads=4)
    variables = drawn_variables(build_sam("sam_debug"), init_sam)
    for name in ("sam.pth", "sam.safetensors"):
        write_checkpoint(tmp_path / name, variables, metadata={"model": {"name": "sam_debug"}})
        with pytest.raises(CheckpointError, match="leave out 'mae:'"):
            taken(tmp_path / name)
    with pytest.raises(
        ValueError, match="from its own checkpoints, from a MAE, 'mae:PATH'.*got 'dino:x'"
    ):
        task_of().load_pretrained("dino", "x", {})
    with pytest.raises(
        CheckpointError, match="holds a MAE of facebookresearch/mae; expected SAM; .*mae:PATH"
    ):
        start(str(files / "official.pth"), tmp_path)
    config = reconstruction_config()
    config.model = {"name": "mae_debug"}
    with pytest.raises(
        ValueError, match="a MAE starts from its own checkpoints: config.init_from = 'x'"
    ):
        make_task(config).load_pretrained("mae", "x", {})
