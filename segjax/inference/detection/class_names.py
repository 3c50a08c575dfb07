"""Class names of a detector, its category ids, and the limbs between keypoints."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from segjax.models.detection.mask_rcnn import MaskRcnn

_COCO = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant - "
    "stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe - "
    "backpack umbrella - - handbag tie suitcase frisbee skis snowboard sports_ball kite "
    "baseball_bat baseball_glove skateboard surfboard tennis_racket bottle - wine_glass cup fork "
    "knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair "
    "couch potted_plant bed - dining_table - - toilet - tv laptop mouse remote keyboard cell_phone "
    "microwave oven toaster sink refrigerator - book clock vase scissors teddy_bear hair_drier "
    "toothbrush"
)
# Category ids 1 to 90. COCO never used ten of them.
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
_ACROSS = ("hip", "shoulder", "eye")  # joints with a line from left to right
_MIDDLE = {"nose": ("left_eye", "right_eye"), "hip": ("neck", "left_foot", "right_foot")}
_MIDDLE |= {"neck": ("head", "left_hand", "right_hand")}


@dataclasses.dataclass(frozen=True)
class DetectorClasses:
    """Names of a detector's K classes and J keypoints.

    Label n = 1..K has the index n - 1.

    Attributes:
      names: K class names.
      ids: K category ids of the data set, increasing, possibly with gaps.
      keypoint_names: J keypoint names, or empty.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    keypoint_names: tuple[str, ...] = ()

    @property
    def skeleton(self) -> list[tuple[int, int]]:
        """Returns pairs of keypoint indices that are joined by a limb, as their names suggest."""
        sides = [
            (f"{side}_{a}", f"{side}_{b}")
            for a, b in map(str.split, _LIMBS)
            for side in ("left", "right")
        ]
        pairs = sides + [(f"left_{joint}", f"right_{joint}") for joint in _ACROSS]
        pairs += [(one, other) for one, others in _MIDDLE.items() for other in others]
        index = {name: number for number, name in enumerate(self.keypoint_names)}
        return [
            (index[one], index[other]) for one, other in pairs if one in index and other in index
        ]


def resolve_classes(model: MaskRcnn, saved: Mapping[str, Any] | None = None) -> DetectorClasses:
    """Returns the classes of a detector, from its checkpoint or from their number.

    Checkpoints that segjax writes hold the names. Published files do not: a model with as many
    classes as COCO (90 in torchvision, 80 in detectron2, or 1 with its 17 keypoints) gets COCO's
    names, and any other model gets numbered names.

    Args:
      model: the detector.
      saved: metadata of the checkpoint, with the names under "classes".

    Raises:
      ValueError: The checkpoint names another number of classes than the model has, or its names
        or ids are of another kind.
    """
    if named := (saved or {}).get("classes"):
        _check_saved_classes(named)
        names, keypoints = tuple(named["categories"]), tuple(named.get("keypoint_names", ()))
        if len(names) != model.classes:
            some = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
            raise ValueError(
                f"the checkpoint names {len(names)} classes ({some}), its model has {model.classes}"
            )
        return DetectorClasses(names, tuple(named["category_ids"]), keypoints)
    # torchvision: labels are COCO's category ids, with gaps
    if model.classes == max(COCO):
        ids = tuple(range(1, max(COCO) + 1))
        return DetectorClasses(tuple(COCO.get(number, "N/A") for number in ids), ids)
    # detectron2: labels count the categories
    if model.classes == len(COCO):
        return DetectorClasses(tuple(COCO.values()), tuple(COCO))
    # Keypoint R-CNN
    if model.classes == 1 and model.keypoints == len(COCO_KEYPOINTS):
        return DetectorClasses(("person",), (1,), COCO_KEYPOINTS)
    numbers = range(1, model.classes + 1)
    keypoints = tuple(f"keypoint {number}" for number in range(model.keypoints))
    return DetectorClasses(
        tuple(f"class {number}" for number in numbers), tuple(numbers), keypoints
    )


def _check_saved_classes(named: Any) -> None:
    """Raises ValueError unless a checkpoint states class names, as many ids, and keypoint names."""
    expected = {"categories": str, "category_ids": int, "keypoint_names": str}
    lists = {key: named.get(key, ()) for key in expected} if isinstance(named, Mapping) else {}
    is_fine = bool(lists) and all(
        isinstance(values, list | tuple) and all(isinstance(v, expected[key]) for v in values)
        for key, values in lists.items()
    )
    if not is_fine or len(lists["categories"]) != len(lists["category_ids"]):
        raise ValueError(
            "the classes that the checkpoint states are damaged; expected lists of names and of as "
            "many whole numbers under 'categories' and 'category_ids'"
        )
