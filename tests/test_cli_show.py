"""`segjax show`: sheets of records and of training examples."""

import numpy as np
import pytest
from PIL import Image
from raw_folders import annotation, square, write_coco

from segjax.cli import main
from segjax.data.prepare import prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show")
    rows = [annotation(1, [square(2, 3, 8)]), annotation(2, [], bbox=[15, 5, 9, 9])]
    for split in ("train", "val"):
        write_coco(folder / "raw", rows, split)
    prepare("coco", folder / "raw", folder / "out")
    return folder / "out"


def test_records_of_a_split_are_drawn(prepared, tmp_path, capsys):
    assert main(["show", str(prepared), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "train.png")]
    with Image.open(tmp_path / "train.png") as sheet:
        assert sheet.width == 256 + 2 * 10 and np.asarray(sheet).std() > 10
    assert main(["show", str(prepared), "--split", "val", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "val.png").is_file()


@pytest.mark.parametrize(
    "experiment", ["sam/quickstart:debug", "mask_rcnn/quickstart:debug", "mae/quickstart:debug"]
)
def test_training_examples_are_drawn(prepared, tmp_path, experiment):
    flags = ["--config.model.classes=2"] if "rcnn" in experiment else []
    command = ["show", str(prepared), "--num", "2", "--out", str(tmp_path)]
    assert main([*command, "--config", experiment, *flags]) == 0
    with Image.open(tmp_path / "train_examples.png") as sheet:
        assert np.asarray(sheet).std() > 10


def test_mistakes_are_named(prepared, tmp_path, capsys):
    for arguments, message in [
        ([], "give a prepared folder, or --config"),
        ([str(tmp_path)], "is not prepared data"),
        ([str(prepared), "--split", "test"], "has no split 'test'; it has train, val"),
        ([str(prepared), "--num", "0"], "at least 1, got 0"),
        ([str(prepared), "--config.seed=1"], "unknown argument --config.seed=1"),
    ]:
        assert main(["show", *arguments, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
