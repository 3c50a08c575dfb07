"""Writes a small COCO folder with the faults that people's files have, for the guide "Your data".

  python tools/messy_folder.py messy
  segjax prepare coco messy --out data/messy
  segjax show data/messy --out look

The images are drawn: bowls (ellipses), boxes and sticks on a table.
"""

import json
import pathlib
import sys
import unicodedata

import numpy as np
from PIL import Image, ImageDraw

SIZE = (320, 240)  # width, height
NAMES = ["bowl", "box", "stick"]
COLORS = [(196, 86, 70), (70, 120, 190), (222, 180, 70), (90, 160, 110), (160, 100, 180)]
IMAGES = 9


def main(folder: str) -> None:
    """Writes the folder."""
    root = pathlib.Path(folder)
    (root / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(4)
    images, annotations = [], []
    for number in range(1, IMAGES + 1):
        shapes = [draw_shape(rng, cell) for cell in rng.permutation(6)[:4]]
        name = f"table {number}.jpg"
        draw_table(rng, shapes).save(root / "images" / name, quality=92)
        images.append({"id": number, "file_name": name, "height": SIZE[1], "width": SIZE[0]})
        for kind, points, _ in shapes:
            annotations.append(make_annotation(len(annotations) + 1, number, kind, points))
    add_faults(root, images, annotations)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(NAMES, 1)],
    }
    # Some editors write a byte order mark.
    text = json.dumps(content, indent=1)
    (root / "instances_train.json").write_text(text, encoding="utf-8-sig")


def draw_shape(rng: np.random.Generator, cell: int) -> tuple[int, np.ndarray, tuple[int, int, int]]:
    """Returns the class, the points [n, 2] and the color of a shape in one of six cells."""
    kind = int(rng.integers(3))
    center = np.array([53 + 106 * (cell % 3), 62 + 118 * (cell // 3)]) + rng.uniform(-9, 9, 2)
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    turn = rng.uniform(0, np.pi)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    shape = {
        0: np.stack([np.cos(angle) * rng.uniform(28, 44), np.sin(angle) * rng.uniform(22, 40)], 1),
        1: corners * rng.uniform(20, 32, 2),
        2: corners * [44, rng.uniform(4, 7)],
    }[kind]
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = np.clip(center + shape @ rotation.T, 1, np.array(SIZE) - 1)
    return kind, points.round(1), COLORS[int(rng.integers(len(COLORS)))]


def draw_table(rng: np.random.Generator, shapes: list) -> Image.Image:
    """Draws shapes with shadows on a wooden table."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    grain = 12 * np.sin(y / 5 + 2 * np.sin(x / 60 + rng.uniform(0, 6)))
    table = np.array([176, 150, 118]) + grain[..., None] - (y / 10)[..., None]
    image = Image.fromarray(table.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for kind, points, color in shapes:
        draw.polygon([tuple(point) for point in points + 4], fill=(110, 92, 72))
        draw.polygon([tuple(point) for point in points], fill=color)
        inner = points.mean(0) + 0.75 * (points - points.mean(0))
        lighter = tuple(min(255, value + 28) for value in color)
        if kind != 2:
            draw.polygon([tuple(point) for point in inner], fill=lighter)
    return image


def make_annotation(identity: int, image: int, kind: int, points: np.ndarray) -> dict:
    """Returns a correct annotation of a shape."""
    low, high = points.min(0), points.max(0)
    return {
        "id": identity,
        "image_id": image,
        "category_id": kind + 1,
        "iscrowd": 0,
        "bbox": [*low.tolist(), *(high - low).round(1).tolist()],
        "segmentation": [points.ravel().tolist()],
    }


def add_faults(root: pathlib.Path, images: list, annotations: list) -> None:
    """Changes images and annotations as other tools would have written them."""
    rows = iter(annotations)
    take = lambda: next(rows)
    # Boxes: corners, shares of the image, a stale one, one without a mask
    row = take()
    x, y, width, height = row["bbox"]
    row["bbox"] = [x, y, x + width, y + height]
    row = take()
    x, y, width, height = row["bbox"]
    row["bbox"] = [x / SIZE[0], y / SIZE[1], width / SIZE[0], height / SIZE[1]]
    take()["bbox"] = [5, 5, 30, 30]
    take()["segmentation"] = []
    # Values: text, pairs, a degenerate part, a crowd flag as text, an unknown class
    row = take()
    row["segmentation"] = np.reshape(row["segmentation"], (1, -1, 2)).tolist()
    take()["segmentation"].append([10, 10, 12, 12])
    take()["iscrowd"] = "1"
    take()["category_id"] = 99
    take()["segmentation"] = {"size": 96, "counts": [0, 96]}
    take()["image_id"] = [1]
    take()["iscrowd"] = "maybe"
    take()["area"] = "large"
    # File names of other systems
    images[1]["file_name"] = "D:\\export\\images\\table 2.JPG"
    images[2]["file_name"] = "table%203.jpg"
    images[3]["file_name"] = unicodedata.normalize("NFD", "tablé.jpg")
    (root / "images" / "table 4.jpg").rename(root / "images" / "tablé.jpg")
    # Images: a missing one, a truncated one, one of another size
    (root / "images" / "table 7.jpg").unlink()
    broken = root / "images" / "table 8.jpg"
    broken.write_bytes(broken.read_bytes()[:2000])
    images[8] |= {"height": 480, "width": 640}


if __name__ == "__main__":
    main(*sys.argv[1:])
