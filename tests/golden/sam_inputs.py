"""Inputs of the SAM goldens and of the parity tests: images, and one prompt of every kind."""

import numpy as np


def make_images(canvas: int, count: int = 2) -> np.ndarray:
    """Returns checkered color images with noise, uint8 [count, canvas, canvas, 3].

    All arithmetic is on integers, so that every machine makes the same images.
    """
    rng = np.random.default_rng(7)
    colors = (
        rng.integers(20, 236, (count, 8, 8, 3))
        .repeat(canvas // 8, axis=1)
        .repeat(canvas // 8, axis=2)
    )
    return (colors + rng.integers(-20, 20, colors.shape)).astype(np.uint8)


def prompts(canvas: int, mask_side: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns the arguments of a prompt, by kind. Labels: 1, 0, and -1 for "not a point"."""
    rng = np.random.default_rng(11)
    points = rng.uniform(0, canvas - 1, (4, 2)).astype(np.float32)
    box = (np.array([0.12, 0.2, 0.8, 0.77]) * canvas).astype(np.float32)
    mask = (5 * rng.standard_normal((mask_side, mask_side))).astype(np.float32)
    one = dict(points=points[:1], labels=np.array([1]))
    three = dict(points=points[:3], labels=np.array([1, 0, 1]))
    closed = dict(points=points, labels=np.array([0, 1, -1, 1]))
    return {
        "nothing": {},
        "point": one,
        "points": three,
        "not_a_point": closed,
        "box": dict(box=box),
        "points_box": three | dict(box=box),
        "mask": dict(mask=mask),
        "point_mask": one | dict(mask=mask),
        "box_mask": dict(box=box, mask=mask),
        "all": three | dict(box=box, mask=mask),
    }


def as_one_call(prompts: dict[str, dict[str, np.ndarray]], mask_side: int) -> dict[str, np.ndarray]:
    """Returns the prompts as fields of `Prompts` for one image, [1, P, ...], padded."""
    count, slots = len(prompts), max(len(p.get("labels", ())) for p in prompts.values())
    fields = dict(
        points=np.zeros((1, count, slots, 2), np.float32),
        labels=np.full((1, count, slots), -1, np.int32),
        boxes=np.zeros((1, count, 4), np.float32),
        has_box=np.zeros((1, count), bool),
        masks=np.zeros((1, count, mask_side, mask_side), np.float32),
        has_mask=np.zeros((1, count), bool),
    )
    for i, prompt in enumerate(prompts.values()):
        if "points" in prompt:
            labels = np.where(
                prompt["labels"] == -1, -2, prompt["labels"]
            )  # `Prompts` writes -2 for "not a point"
            fields["points"][0, i, : len(labels)] = prompt["points"]
            fields["labels"][0, i, : len(labels)] = labels
        if "box" in prompt:
            fields["boxes"][0, i], fields["has_box"][0, i] = prompt["box"], True
        if "mask" in prompt:
            fields["masks"][0, i], fields["has_mask"][0, i] = prompt["mask"], True
    return fields


# Canvas -> (height, width) of images: landscape, portrait, square, tiny, and sizes that depend on
# how the other side rounds. 25 of 128 is 12.5 of 64 and becomes 13, 73 of 2048 is 36.5 of 1024 and
# becomes 37, and 534 of 800 is 683.5 of 1024.
FRAMES = {
    64: [(70, 90), (90, 62), (64, 64), (3, 5), (25, 128), (30, 47)],
    1024: [(534, 800), (481, 321), (73, 2048)],
}


def make_framed_image(hw: tuple[int, int]) -> np.ndarray:
    """Returns an image of stripes and noise, uint8 [*hw, 3], by integer arithmetic."""
    rows, columns = np.indices(hw)
    stripes = 128 + 50 * (rows // 7 % 2) - 50 * (columns // 5 % 2)
    noise = np.random.default_rng(hw).integers(-15, 16, (*hw, 3))
    return (stripes[..., None] + noise + [0, 10, -20]).astype(np.uint8)


def make_framed_prompts(hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns points float64 [6, 2] and boxes [3, 4] in pixels of an image, not integers."""
    extent = np.array(hw[::-1], np.float64)
    points = np.random.default_rng(hw).random((6, 2)) * extent
    corners = np.sort(np.random.default_rng(hw[::-1]).random((3, 2, 2)), axis=1) * extent
    return points, corners.reshape(3, 4)


def make_framed_logits(hw: tuple[int, int], mask_side: int) -> np.ndarray:
    """Returns logits on the mask grid of the image's canvas, float32 [1, side, side]."""
    return (5 * np.random.default_rng(hw).standard_normal((1, mask_side, mask_side))).astype(
        np.float32
    )


def subsample(array: np.ndarray, most: int = 128) -> np.ndarray:
    """Subsamples rows and columns of large arrays [..., h, w] or [h, w, 3] for storage."""
    first = 0 if array.shape[-1] == 3 else array.ndim - 2
    steps = [slice(None, None, -(-side // most)) for side in array.shape[first : first + 2]]
    return array[(slice(None),) * first + tuple(steps)]
