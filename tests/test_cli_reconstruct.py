"""`segjax reconstruct`, and the other commands applied to a MAE."""

import logging

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from PIL import Image

import segjax
from segjax.cli import main
from segjax.images.transforms import center_crop
from segjax.models.mae import build_mae, init_mae
from segjax.weights.checkpoint import read_checkpoint, write_checkpoint
from segjax.weights.safetensors import read_arrays, write_arrays
from segjax.weights.tree import CheckpointError

MODEL = build_mae("mae_debug")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("mae") / "mae.safetensors"
    metadata = {"model": {"name": "mae_debug", "mask_ratio": 0.5}}
    write_checkpoint(path, drawn_variables(MODEL, init_mae), metadata=metadata, canvas=MODEL.canvas)
    return str(path)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)).save(path)
    return str(path)


def read(path):
    return np.asarray(Image.open(path))


def test_reconstruct_writes_three_images_and_a_sheet(weights, photo, tmp_path, capsys):
    assert (
        main(["reconstruct", photo, "--checkpoint", weights, "--out", str(tmp_path / "out")]) == 0
    )
    assert "8 of 16 patches masked" in capsys.readouterr().out
    original, masked, guess = (
        read(tmp_path / "out" / f"photo_{n}.png") for n in ("original", "masked", "reconstructed")
    )
    np.testing.assert_array_equal(original, center_crop(read(photo), 64))
    hidden = (masked.reshape(4, 16, 4, 16, 3) == 128).all((1, 3, 4))
    assert hidden.sum() == 8
    seen = ~hidden.repeat(16, 0).repeat(16, 1)
    assert (masked[seen] == original[seen]).all() and (guess[seen] == original[seen]).all()
    assert (guess[~seen] != original[~seen]).mean() > 0.9
    assert read(tmp_path / "out" / "photo_sheet.png").ndim == 3


def test_mask_and_seed_can_be_chosen(weights, photo, tmp_path):
    def masked(*options):
        main(
            [
                "reconstruct",
                photo,
                "--checkpoint",
                weights,
                "--out",
                str(tmp_path / "out"),
                *options,
            ]
        )
        return read(tmp_path / "out" / "photo_masked.png")

    first = masked("--mask-ratio", "0.75")
    assert (first == masked("--mask-ratio", "0.75")).all()
    assert (first != masked("--mask-ratio", "0.75", "--seed", "1")).any()
    grid = (
        masked("--mask-strategy", "grid", "--mask-ratio", "0.75").reshape(4, 16, 4, 16, 3) == 128
    ).all((1, 3, 4))
    assert (~grid.reshape(2, 2, 2, 2)).sum((1, 3)).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    "command, message",
    [
        (["reconstruct", "PHOTO", "--mask-ratio", "1.5"], "mask_ratio 1.5 is not between 0 and 1"),
        (["reconstruct", "PHOTO", "--mask-ratio", ".97"], "mask_ratio 0.97 leaves 0 of 16 patches"),
        (["reconstruct", "PHOTO", "--mask-strategy", "rows"], "choose one of random, block, grid"),
        (["reconstruct", "nowhere.png"], "no image nowhere.png"),
        (["predict", "PHOTO", "--point", "3,3"], "this command takes a SAM. `segjax reconstruct`"),
        (["eval"], "these weights come without a run and its data"),
    ],
)
def test_invalid_arguments_are_reported(weights, photo, tmp_path, capsys, command, message):
    words = [photo if word == "PHOTO" else word for word in command]
    assert main([*words, "--checkpoint", weights, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_convert_writes_the_official_files_and_load_guesses_their_size(weights, tmp_path, capsys):
    assert main(["convert", weights, str(tmp_path / "mae.pth")]) == 0
    assert "read" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "mae.pth").size == {
        "width": 32,
        "depth": 2,
        "patch": 16,
        "canvas": 64,
    }
    model, variables = segjax.load(tmp_path / "mae.pth")
    assert model == MODEL
    jax.tree.map(np.testing.assert_array_equal, variables, drawn_variables(MODEL, init_mae))
    assert segjax.load(weights)[0].mask_ratio == 0.5
    with pytest.raises(CheckpointError, match="holds a MAE of facebookresearch/mae; expected SAM"):
        segjax.load("sam_debug", tmp_path / "mae.pth")


def test_a_mae_changes_its_canvas_with_computed_positions(weights, tmp_path, caplog, capsys):
    """Position tables of a file are checked against its own grid, and computed for the new one."""
    assert main(["convert", weights, str(tmp_path / "mae.pth")]) == 0
    caplog.set_level(logging.INFO, "segjax")
    model, variables = segjax.load("mae_debug", tmp_path / "mae.pth", canvas=96)
    assert (
        "MAE of 64 pixels on a canvas of 96: positions computed for 6 x 6 patches instead of 4 x 4"
        in caplog.text
    )
    jax.tree.map(np.testing.assert_array_equal, variables, drawn_variables(MODEL, init_mae))
    prediction, masked = jax.jit(model.apply)(
        variables, np.zeros((1, 96, 96, 3)), np.arange(36.0)[None]
    )
    assert prediction.shape == (1, 36, 768) and masked.sum() == 27

    assert main(["convert", weights, str(tmp_path / "larger.pth"), "--canvas", "96"]) == 0
    larger = segjax.load(tmp_path / "larger.pth")[0]
    assert larger == model and read_checkpoint(tmp_path / "larger.pth").arrays[
        "pos_embed"
    ].shape == (1, 37, 32)

    with pytest.raises(
        ValueError, match="canvas 100 is not a multiple of the patch 16; use 96 or 112"
    ):
        segjax.load(weights, canvas=100)


def test_a_mae_with_trained_positions_cannot_change_its_canvas(weights, tmp_path):
    assert (
        main(["convert", weights, str(tmp_path / "mae.safetensors"), "--format", "official"]) == 0
    )
    arrays, header = read_arrays(tmp_path / "mae.safetensors")
    trained = {key: array + 0.01 * (key == "pos_embed") for key, array in arrays.items()}
    write_arrays(tmp_path / "trained.safetensors", trained, header)
    for overrides in ({}, {"canvas": 96}):
        with pytest.raises(CheckpointError, match="holds another pos_embed than MAE computes"):
            segjax.load("mae_debug", tmp_path / "trained.safetensors", **overrides)
