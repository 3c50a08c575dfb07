"""The record of the Mask R-CNN family."""

from segjax.models.detection.build import SIZES, build_mask_rcnn, init_mask_rcnn
from segjax.models.detection.fpn import VitBackbone
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.detection.sizes import OPTIONS
from segjax.models.family import Family, describe_vit
from segjax.models.sam.family import resize_sam_positions


def describe_backbone(model: MaskRcnn) -> str:
    """Returns the backbone of a detector, as `segjax models` prints it."""
    backbone = model.backbone
    if isinstance(backbone, VitBackbone):
        return describe_vit(backbone)
    return getattr(backbone, "size", type(backbone).__name__)


FAMILY = Family(
    title="Mask R-CNN",
    module=MaskRcnn,
    sizes=SIZES,
    build=build_mask_rcnn,
    init=init_mask_rcnn,
    task="detection",
    encoder_path="backbone",
    name_tables=(
        "segjax.weights.tables.torchvision:TORCHVISION_DETECTORS",
        "segjax.weights.tables.detectron2:DETECTRON2_DETECTORS",
        "segjax.weights.tables.torchvision:TORCHVISION_RESNETS",
    ),
    usage="`segjax detect` finds the objects of images with a Mask R-CNN",
    origin="experiments/mask_rcnn trains one",
    describe_encoder=describe_backbone,
    # A ViTDet has the position tables of a SAM; a ResNet has none.
    fit_canvas=resize_sam_positions,
    recognize="segjax.inference.detection.recognize:recognize_detector",
    check_weights="segjax.inference.detection.recognize:check_conventions",
    option_comments={name: option.comment for name, option in OPTIONS.items()},
    library=lambda model: model.library,
)
