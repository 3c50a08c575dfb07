"""What a detector's classes are called, and the numbers that its data set has for them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from segjax.models.detection.mask_rcnn import MaskRcnn

_COCO = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant - stop_sign parking_meter "
    "bench bird cat dog horse sheep cow elephant bear zebra giraffe - backpack umbrella - - handbag tie suitcase "
    "frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle - "
    "wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair "
    "couch potted_plant bed - dining_table - - toilet - tv laptop mouse remote keyboard cell_phone microwave oven "
    "toaster sink refrigerator - book clock vase scissors teddy_bear hair_drier toothbrush"
)
# Of the categories 1 to 90; ten of these numbers were never given.
COCO = {
    number: name.replace("_", " ") for number, name in enumerate(_COCO.split(), 1) if name != "-"
}
COCO_KEYPOINTS = ("nose", "left_eye", "right_eye", "left_ear", "right_ear") + tuple(
    f"{side}_{joint}"
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
)
_LIMBS = (
    "ankle knee",
    "knee hip",
    "hip shoulder",
    "shoulder elbow",
    "elbow wrist",
    "eye ear",
    "ear shoulder",
)
_ACROSS = ("hip", "shoulder", "eye")  # joined to the one of the other side
_MIDDLE = {"nose": ("left_eye", "right_eye"), "hip": ("neck", "left_foot", "right_foot")}
_MIDDLE |= {"neck": ("head", "left_hand", "right_hand")}


@dataclasses.dataclass(frozen=True)
class Classes:
    """K classes. The label n = 1..K is called names[n - 1] and has the number ids[n - 1] in its data set.

    Attributes:
      names: of the classes. ids: numbers, increasing, perhaps with gaps. keypoint_names: J, or none.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    keypoint_names: tuple[str, ...] = ()

    @property
    def skeleton(self) -> list[tuple[int, int]]:
        """Pairs of keypoints between which there is a limb, as far as their names tell."""
        sides = [
            (f"{side}_{a}", f"{side}_{b}")
            for a, b in map(str.split, _LIMBS)
            for side in ("left", "right")
        ]
        pairs = sides + [(f"left_{joint}", f"right_{joint}") for joint in _ACROSS]
        pairs += [(one, other) for one, others in _MIDDLE.items() for other in others]
        place = {name: number for number, name in enumerate(self.keypoint_names)}
        return [
            (place[one], place[other]) for one, other in pairs if one in place and other in place
        ]


def classes_of(model: MaskRcnn, saved: Mapping[str, Any] | None = None) -> Classes:
    """The classes of a detector, by what its checkpoint says of them (`saved["classes"]`, as training writes it).

    A published file says nothing. Where a model has as many classes as COCO (90 numbers in torchvision, 80 in
    detectron2; 1 with its 17 keypoints), they are taken for COCO's; those of others are called by their numbers.

    Raises ValueError for a checkpoint that names another number of classes than the model has.
    """
    if said := (saved or {}).get("classes"):
        names, keypoints = tuple(said["categories"]), tuple(said.get("keypoint_names", ()))
        if len(names) != model.classes:
            some = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
            raise ValueError(
                f"the checkpoint names {len(names)} classes ({some}), its model has {model.classes}"
            )
        return Classes(names, tuple(said["category_ids"]), keypoints)
    if model.classes == max(COCO):
        ids = tuple(range(1, max(COCO) + 1))
        return Classes(tuple(COCO.get(number, "N/A") for number in ids), ids)
    if model.classes == len(COCO):
        return Classes(tuple(COCO.values()), tuple(COCO))
    if model.classes == 1 and model.keypoints == len(COCO_KEYPOINTS):
        return Classes(("person",), (1,), COCO_KEYPOINTS)
    numbers = range(1, model.classes + 1)
    keypoints = tuple(f"keypoint {number}" for number in range(model.keypoints))
    return Classes(tuple(f"class {number}" for number in numbers), tuple(numbers), keypoints)
