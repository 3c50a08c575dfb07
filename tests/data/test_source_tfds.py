"""Image datasets of TFDS, written by TFDS's own writer under several schemas."""

import io
import json
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from segjax.data.examples.crop import CropExample
from segjax.data.loader import make_loader
from segjax.data.metadata import count_images
from segjax.data.records import validate_record
from segjax.data.splits import list_splits, open_split
from segjax.data.writer import write_examples


def jpeg(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)).save(
        buffer, "JPEG"
    )
    return buffer.getvalue()


IMAGENETS = {
    "image": tfds.features.Image(encoding_format="jpeg"),
    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
    "file_name": tfds.features.Text(),
}


def write(folder, name="tiny", features=IMAGENETS, version="1.0.0", **fields):
    """Writes splits train (5) and validation (2). `fields` compute fields from the index."""

    def example(number):
        usual = {
            "image": io.BytesIO(jpeg(number)),
            "label": number % 2,
            "file_name": f"n{number}.JPEG",
        }
        return {
            key: (usual | {k: make(number) for k, make in fields.items()})[key] for key in features
        }

    splits = {"train": map(example, range(5)), "validation": map(example, range(5, 7))}
    write_examples(folder / name / version, name, tfds.features.FeaturesDict(features), splits)
    return folder


def open_dataset(folder, role="train", name="tiny", **data):
    splits = {"train_split": "train", "eval_split": "validation"}
    return open_split(splits | data | {"source": f"tfds:{name}", "tfds_dir": str(folder)}, role)


def test_records_hold_the_stored_bytes_the_name_and_the_label(tmp_path):
    source, measured = open_dataset(write(tmp_path)), open_dataset(tmp_path, "eval")
    assert (len(source), len(measured)) == (5, 2)
    for number in range(5):
        record = source[number]
        validate_record(record)
        assert record["image"] == jpeg(number) and record["image_id"] == f"n{number}.JPEG"
        assert (record["height"], record["width"], record["label"]) == (20, 30, number % 2)
    assert measured[0]["image_id"] == "n5.JPEG" and source.info.categories == ("cat", "dog")
    assert pickle.loads(pickle.dumps(source))[1]["image_id"] == "n1.JPEG"
    assert list_splits("tfds:tiny", str(tmp_path)) == ["train", "validation"]


def test_a_part_of_a_split_is_a_split(tmp_path):
    source = open_dataset(write(tmp_path), train_split="train[:3]", eval_split="train[60%:]")
    assert len(source) == 3
    held = open_dataset(tmp_path, "eval", eval_split="train[60%:]")
    assert [held[i]["image_id"] for i in range(len(held))] == ["n3.JPEG", "n4.JPEG"]


def test_other_field_names_and_unused_fields(tmp_path):
    features = {
        "photo": tfds.features.Image(),
        "mask": tfds.features.LabeledImage(labels=2, shape=(None, None, 1)),
        "text": tfds.features.Text(),
    }
    mask = lambda number: io.BytesIO(b"not an image: decoding it fails")
    write(
        tmp_path,
        features=features,
        photo=lambda n: io.BytesIO(jpeg(n)),
        mask=mask,
        text=lambda n: "x",
    )
    record = open_dataset(tmp_path)[3]
    assert record["image"] == jpeg(3) and record["image_id"] == "3" and "label" not in record


def test_unknown_labels_are_left_out(tmp_path):
    assert "label" not in open_dataset(write(tmp_path, label=lambda number: -1))[0]


def test_worker_processes_train_from_it(tmp_path):
    with make_loader(
        open_dataset(write(tmp_path)), CropExample(16), batch_size=4, workers=1
    ) as loader:
        batch = next(loader)
    assert batch["image"].shape == (4, 16, 16, 3) and batch["weight"].all()


def test_the_newest_version_is_opened_by_default(tmp_path):
    write(tmp_path, file_name=lambda number: "old")
    write(tmp_path, version="1.1.0", file_name=lambda number: "new")
    assert open_dataset(tmp_path)[0]["image_id"] == "new"
    assert open_dataset(tmp_path, name="tiny:1.0.0")[0]["image_id"] == "old"


def test_unprepared_datasets_raise_with_the_command(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"has not prepared imagenet2012 in .*tfds build imagenet2012 --file_f",
    ):
        open_dataset(tmp_path, name="imagenet2012")
    with pytest.raises(FileNotFoundError, match="has not prepared nonesuch"):
        open_dataset(write(tmp_path), name="nonesuch")
    with pytest.raises(ValueError, match="tiny has no split 'val'; it has train, validation"):
        open_dataset(tmp_path, train_split="val")
    with pytest.raises(ValueError, match="tiny has no split 'train.:x.'"):
        open_dataset(tmp_path, train_split="train[:x]")


def test_formats_without_random_access_raise_with_the_command(tmp_path):
    file = write(tmp_path) / "tiny" / "1.0.0" / "dataset_info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fileFormat": "tfrecord"}))
    for path in file.parent.glob("*.array_record*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    with pytest.raises(
        ValueError, match="stored as tfrecord, which has no random access.*convert_format"
    ):
        open_dataset(tmp_path)


def test_a_dataset_without_images_raises(tmp_path):
    write(tmp_path, features={"text": tfds.features.Text()}, text=lambda number: "x")
    with pytest.raises(ValueError, match=r"tiny is not an image dataset: .*it has text \(Text\)"):
        open_dataset(tmp_path)


def test_neither_tensorflow_nor_jax_is_imported(tmp_path):
    write(tmp_path)
    code = (
        "import sys\n"
        "from segjax.data.splits import open_split\n"
        f"data = dict(source='tfds:tiny', tfds_dir={str(tmp_path)!r}, train_split='train')\n"
        "open_split(data, 'train')[0]\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules), 'heavy imports'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_features_of_other_modules_are_refused_before_they_are_imported(tmp_path, monkeypatch):
    path = write(tmp_path / "data") / "tiny" / "1.0.0" / "features.json"
    text = path.read_text()
    path.write_text(
        text.replace("tensorflow_datasets.core.features.text_feature.Text", "evil.Evil")
    )
    (tmp_path / "evil.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("tiny", "tiny:1.0.0"):
        with pytest.raises(ValueError, match="names the class 'evil.Evil'.* is refused"):
            open_dataset(tmp_path / "data", name=name)
    assert "evil" not in sys.modules
    path.write_text(text[:100])
    with pytest.raises(ValueError, match="features.json is damaged: it is no valid JSON"):
        open_dataset(tmp_path / "data")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("text", ["{}", '{"version": [1]}', '{"pythonClassName": [1]}'])
def test_damaged_metadata_raises_one_sentence(tmp_path, name, text):
    (write(tmp_path) / "tiny" / "1.0.0" / name).write_text(text)
    with pytest.raises(ValueError, match="tiny in .* cannot be opened.*damaged") as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_split_of_fewer_than_no_images_is_refused():
    """Damaged metadata can say so."""
    splits = {"train": types.SimpleNamespace(num_examples=-3)}
    builder = types.SimpleNamespace(info=types.SimpleNamespace(splits=splits))
    with pytest.raises(ValueError, match="the split 'train' of tiny is empty"):
        count_images(builder, "train", "tiny")
