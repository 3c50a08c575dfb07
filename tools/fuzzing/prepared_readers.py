"""Readers of prepared folders, of their records, and of data sets that TFDS has prepared."""

import shutil

import numpy as np
import raw_folders
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from fuzzing.harness import Reader
from fuzzing.raw_readers import make_annotations
from segjax.data.broken import BrokenRecords
from segjax.data.examples.detection import DetectionExample
from segjax.data.examples.promptable import PromptableExample
from segjax.data.fetch import ExampleFetcher
from segjax.data.prepare import prepare
from segjax.data.records import validate_record
from segjax.data.sources.tfds import open_tfds
from segjax.data.storage import open_source, read_info

CODE = (
    *("fuzz_canary.Features", "this.Features", "tensorflow_datasets.core.features.text.Text"),
    *("pythonClassName", "pickle", "os.system", "tensorflow_datasets.testing.DummyMnist"),
)


def _make_prepared(folder):
    raw_folders.write_coco(folder / "raw", make_annotations())
    prepare("coco", folder / "raw", folder / "a")
    shutil.rmtree(folder / "raw")


def _read_prepared(folder):
    """Reads all records, directly and as a training run does."""
    for split in read_info(folder).splits:
        source = open_source(folder, split)
        for index in range(min(len(source), 3)):
            validate_record(source[index])
        examples = (PromptableExample(32, 4), DetectionExample((32, 32), 4))
        for example in examples:
            broken = BrokenRecords(None, 0, 1.0)
            fetch = ExampleFetcher(source, example, 1e6, broken)
            for index in range(min(len(source), 3)):
                fetch(index, np.random.default_rng(0))


def _make_records(folder):
    """Writes prepared folders with the serialized examples beside them instead of the file."""
    _make_prepared(folder)
    (path,) = (folder / "a").glob("*.array_record*")
    reader = ArrayRecordReader(str(path))
    (folder / "a" / "example.bin").write_bytes(reader.read([0])[0])
    reader.close()
    path.rename(folder / "a" / f"{path.name}.name")


def _read_records(folder):
    """Writes the changed example with valid checksums, as an attacker would, and reads it."""
    example = folder / "example.bin"
    for name in folder.glob("*.name"):
        writer = ArrayRecordWriter(str(folder / name.stem), "group_size:1")
        writer.write(example.read_bytes() if example.exists() else b"")
        writer.close()
    _read_prepared(folder)


def _make_tfds(folder):
    _make_prepared(folder)
    target = folder / "b" / "segjax_records" / "1.0.0"
    target.parent.mkdir(parents=True)
    (folder / "a").rename(target)


def _read_tfds(folder):
    source = open_tfds("segjax_records:1.0.0", "train", str(folder))
    for index in range(min(len(source), 3)):
        validate_record(source[index])


READERS = (
    Reader("prepared", _make_prepared, _read_prepared, words=("record", "split"), tokens=CODE),
    Reader("records", _make_records, _read_records, words=("record", "split"), tokens=CODE),
    Reader("tfds", _make_tfds, _read_tfds, words=("record", "segjax_records"), tokens=CODE),
)
