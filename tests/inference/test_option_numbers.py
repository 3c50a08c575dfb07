"""Numbers of options: NaN passes every comparison, so it is refused by name."""

import numpy as np
import pytest

from segjax.inference.numbers import check_numbers
from segjax.inference.sam.automatic import SamAutomaticMaskGenerator


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", [0.5], 1 + 2j, 10**400])
def test_a_threshold_is_a_finite_number(value):
    with pytest.raises(ValueError, match="score is .*; expected a number"):
        check_numbers(score=value)


def test_numbers_of_any_library_and_defaults_pass():
    check_numbers(a=None, b=0.5, c=np.float32(0.5), d=np.array(2), e=3, f=True)
    check_numbers(0, 1, share=0.0)
    with pytest.raises(ValueError, match="share is 2; expected a number from 0 to 1"):
        check_numbers(0, 1, share=2)


@pytest.mark.parametrize(
    "name",
    ["pred_iou_thresh", "stability_score_thresh", "stability_score_offset", "box_nms_thresh"]
    + ["crop_nms_thresh", "min_mask_region_area", "max_mask_area", "crop_overlap_ratio"]
    + ["points_per_batch", "views_per_batch"],
)
def test_the_mask_generator_refuses_nan(name):
    with pytest.raises(ValueError, match=f"{name} is nan; expected"):
        SamAutomaticMaskGenerator(None, {}, **{name: float("nan")})


def test_point_grids_of_nan_are_refused():
    with pytest.raises(ValueError, match="a point grid is .*; expected"):
        grids = [np.full((3, 2), np.nan)]
        SamAutomaticMaskGenerator(None, {}, points_per_side=None, point_grids=grids)
