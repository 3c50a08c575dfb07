"""Readers of images, annotations and prepared data, with small valid inputs for each."""

import functools
import json

import numpy as np
import raw_folders
import scipy.io
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from fuzzing.binary_formats import write_tar
from fuzzing.harness import Reader
from fuzzing.verdicts import WrongValueError
from segjax.data.broken import BrokenRecords
from segjax.data.examples.detection import DetectionExample
from segjax.data.examples.promptable import PromptableExample
from segjax.data.fetch import ExampleFetcher
from segjax.data.prepare import prepare
from segjax.data.records import validate_record
from segjax.data.sources import bsds500, cityscapes, coco, images, label_maps, lvis, sa1b  # noqa: F401 - loaded before the children are forked
from segjax.data.sources.read_files import read_image
from segjax.data.sources.tfds import open_tfds
from segjax.data.storage import open_source, read_info
from segjax.images.decoding import decode_image
from segjax.masks import decode_mask, decode_run_lengths, encode_mask

MASK = np.zeros((20, 30), bool)
MASK[3:9, 4:20] = True
RUNS = [83, 6, *[14, 6] * 15, 211]
SQUARE = raw_folders.square(3, 3, 8)
CODE = (
    *("fuzz_canary.Features", "this.Features", "tensorflow_datasets.core.features.text.Text"),
    *("pythonClassName", "pickle", "os.system", "tensorflow_datasets.testing.DummyMnist"),
)


# Images


def _make_images(folder):
    """Writes an image of every kind that users have."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    color = Image.fromarray(pixels[..., :3])
    gray16 = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "rgb.png": (color, {}),
        "gray.png": (color.convert("L"), {}),
        "alpha.png": (Image.fromarray(pixels), {}),
        "palette.png": (color.quantize(8), {"transparency": 0}),
        "bits.png": (color.convert("1"), {}),
        "gray16.png": (gray16, {}),
        "rgb.jpg": (color, {"exif": exif}),
        "progressive.jpg": (color, {"progressive": True}),
        "cmyk.jpg": (color.convert("CMYK"), {}),
        "plain.tif": (color, {}),
        "gray16.tif": (gray16, {}),
        "lzw.tif": (color, {"compression": "tiff_lzw"}),
        "deflate.tif": (color, {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (color, {"compression": "jpeg"}),
        "fax.tif": (color.convert("1"), {"compression": "group4"}),
        "pages.tif": (color, {"save_all": True, "append_images": [color.convert("L")]}),
        "a.bmp": (color, {}),
        "a.gif": (color, {"save_all": True, "append_images": [color]}),
        "lossy.webp": (color, {}),
        "lossless.webp": (color, {"lossless": True}),
        "a.ppm": (color, {}),
    }
    for name, (image, options) in kinds.items():
        (folder / name).mkdir()
        image.save(folder / name / name, **options)


IMAGE_TOKENS = (
    *("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "%PDF-1.4\n", "GIF89a"),
    *(
        "P6 99999 99999 255\n",
        "P4 8 8\n",
        "P7\n",
        "BM",
        "8BPS",
        "DDS ",
        "icns",
        "SIMPLE  =",
        "#FIG",
    ),
    *(
        "RIFF\0\0\0\0WEBPVP8X",
        "/* XPM */\n",
        "\nGRIB",
        "<svg>",
        "\0\0\0\x18ftypavif",
        "FORM",
        "IDAT",
    ),
)


def _read_images(folder):
    for path in sorted(folder.iterdir()):
        decode_image(path.read_bytes(), name=path.name)
        decode_image(path.read_bytes(), name=path.name, percentiles=(1, 99))
        read_image(path)


# Raw data


def _prepare(source, folder, **options):
    prepare(source, folder, folder.parent / "out", keep_empty=True, **options)


def _annotations():
    packed = {"size": [20, 30], "counts": encode_mask(MASK)}
    plain = {"size": [20, 30], "counts": RUNS}
    boxed = dict(bbox=[3.0, 3.0, 8.0, 8.0], area=64.0)
    segmentations = ([SQUARE], packed, plain, [SQUARE, raw_folders.square(15, 5, 4)])
    return [
        raw_folders.annotation(number, each, **boxed) for number, each in enumerate(segmentations)
    ]


def _make_coco(folder):
    raw_folders.write_coco(folder / "flat", _annotations())
    raw_folders.write_coco(folder / "twice", _annotations())
    raw_folders.write_coco(folder / "twice", _annotations()[:1], split="val")


def _make_keypoints(folder):
    points = [raw_folders.annotation(1, [SQUARE], keypoints=[4, 4, 2, 9, 9, 1], num_keypoints=2)]
    raw_folders.write_keypoints(folder / "a", points, ["left_eye", "right_eye"])


def _make_label_maps(folder):
    raw_folders.write_label_maps(folder / "maps", 1)
    raw_folders.write_kaggle(folder / "kaggle", 1)


def _make_bsds(folder):
    for name, packed in (("plain", False), ("packed", True)):
        raw_folders.write_bsds(folder / name, ("train",))
        path = folder / name / "groundTruth" / "train" / "11.mat"
        cells = scipy.io.loadmat(path)["groundTruth"]
        scipy.io.savemat(path, {"groundTruth": cells}, do_compression=packed)


def _make_cityscapes(folder):
    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 3:9], labels[9:12, 4:9], labels[15:, 20:] = 24001, 26002, 25
    raw_folders.write_cityscapes(folder / "a", labels)


def _make_sa1b(folder):
    segmentation = {"size": [20, 30], "counts": encode_mask(MASK)}
    objects = [
        {"id": number, "segmentation": segmentation, "predicted_iou": 0.9, "stability_score": 0.97}
        for number in range(3)
    ]
    text = json.dumps({"image": {"height": 20, "width": 30}, "annotations": objects})
    for number in range(2):
        image = raw_folders.write_image(folder / "folder" / f"sa_{number}.jpg", seed=number)
        image.with_suffix(".json").write_text(text)
    files = sorted((folder / "folder").iterdir())
    (folder / "tar").mkdir()
    data = write_tar([(path.name, path.read_bytes()) for path in files])
    (folder / "tar" / "sa_000000.tar").write_bytes(data)


def _make_image_folders(folder):
    for name in ("cat/1.png", "cat/2.jpg", "dog/3.png"):
        raw_folders.write_image(folder / "a" / "train" / name)


# Run lengths


def _make_run_lengths(folder):
    for name, counts in (("list", RUNS), ("text", encode_mask(MASK))):
        (folder / name).mkdir()
        (folder / name / "rle.json").write_text(json.dumps({"counts": counts}))


def _read_run_lengths(folder):
    try:
        content = json.loads((folder / "rle.json").read_text(errors="replace"))
    # Reading the JSON is not what is tested here.
    except (ValueError, RecursionError):
        return
    counts = content.get("counts") if isinstance(content, dict) else content
    if isinstance(counts, str):
        mask = decode_mask(counts, 20, 30)
    else:
        mask = decode_run_lengths(counts, 20, 30, "rle")
        if mask.sum() != sum(map(int, counts[1::2])):
            raise WrongValueError(f"{mask.sum()} pixels of {sum(counts[1::2])}")
    if mask.shape != (20, 30) or (decode_mask(encode_mask(mask), 20, 30) != mask).any():
        raise WrongValueError(f"a mask {mask.shape} that cannot be encoded again")


# Prepared data


def _make_prepared(folder):
    raw_folders.write_coco(folder / "raw", _annotations())
    prepare("coco", folder / "raw", folder / "a")
    for path in sorted((folder / "raw").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "raw").rmdir()


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
    (name,) = folder.glob("*.name")
    writer = ArrayRecordWriter(str(folder / name.stem), "group_size:1")
    example = folder / "example.bin"
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


def _source(source, make_seeds, tokens=(), *, name="", allowed=(), **options):
    """Returns the fuzzed reader of raw data: all of `prepare`."""
    read = functools.partial(_prepare, source, **options)
    words = ("split", "raw folder")
    return Reader(name or source, make_seeds, read, words, tokens, allowed=allowed)


_PATHS = ("../../../beside/x.png", "/etc/hostname", "a/../../x.jpg", "7.jpg", "images/7.jpg")

READERS = (
    Reader("images", _make_images, _read_images, tokens=IMAGE_TOKENS),
    Reader(
        "run_lengths",
        _make_run_lengths,
        _read_run_lengths,
        words=("mask", "rle", "runs"),
        tokens=(str(2**63 - 1), "9223372036854775807", "~~~~~~~~~~~~~0", "P", "o_``10"),
    ),
    _source("coco", _make_coco, _PATHS),
    _source("coco", _make_keypoints, _PATHS, name="keypoints", keypoints=True),
    _source("lvis", lambda folder: raw_folders.write_lvis(folder / "a", _annotations()), _PATHS),
    _source("label_maps", _make_label_maps, IMAGE_TOKENS),
    _source("sa1b", _make_sa1b, ("sa_0.jpg", "sa_1.json", "../sa_0.jpg"), held_out=0),
    _source("bsds500", _make_bsds, allowed=("process",)),
    _source("cityscapes", _make_cityscapes, IMAGE_TOKENS),
    _source("images", _make_image_folders, IMAGE_TOKENS, name="image_folders", held_out=0),
    Reader("prepared", _make_prepared, _read_prepared, words=("record", "split"), tokens=CODE),
    Reader("records", _make_records, _read_records, words=("record", "split"), tokens=CODE),
    Reader("tfds", _make_tfds, _read_tfds, words=("record", "segjax_records"), tokens=CODE),
)
