"""Opening the data of an experiment."""

import numpy as np
import pytest

from segjax.data.prepare import prepare
from segjax.data.splits import open_split

SCENES = dict(train_count=3, eval_count=2, size=64, difficulty="easy", seed=0)


def test_synthetic_scenes_by_role():
    data = dict(source="synthetic", scenes=SCENES)
    train, held_out = open_split(data, "train"), open_split(data, "eval")
    assert (len(train), len(held_out)) == (3, 2)
    assert train[0]["image_id"].startswith("train") and held_out[0]["image_id"].startswith(
        "heldout"
    )


def test_a_prepared_folder_by_role(tmp_path):
    prepare("synthetic", None, tmp_path / "scenes", limit=2, size=64)
    data = dict(source=str(tmp_path / "scenes"), train_split="train", eval_split="heldout")
    scenes = open_split(dict(source="synthetic", scenes=SCENES), "train")
    prepared = open_split(data, "train")
    assert len(prepared) == len(open_split(data, "eval")) == 2
    assert prepared[0]["image_id"] == scenes[0]["image_id"]
    assert np.array_equal(prepared[0]["objects"]["box"], scenes[0]["objects"]["box"])


def test_unknown_role_and_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="role 'test' is unknown"):
        open_split(dict(source="synthetic", scenes=SCENES), "test")
    with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
        open_split(dict(source=str(tmp_path / "nowhere"), train_split="train"), "train")


def test_a_misspelt_split_of_synthetic_scenes_is_an_error():
    scenes = dict(train_count=2, eval_count=2, size=32, seed=0, difficulty="easy")
    data = {"source": "synthetic", "scenes": scenes, "train_split": "trian", "eval_split": "val"}
    assert len(open_split(data, "eval")) == 2
    with pytest.raises(ValueError, match="train_split is 'trian'.*whose train split is 'train'"):
        open_split(data, "train")
