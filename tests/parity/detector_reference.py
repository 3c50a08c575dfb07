"""torchvision's detectors with our weights. Arrays are NumPy and channel-last."""

import numpy as np
import torch

from segjax.weights.tables.torchvision import TORCHVISION, TORCHVISION_DETECTORS


def torchvision_detector(torchvision, name: str, model, variables):
    """Builds torchvision's model of a name in evaluation mode, with our weights loaded strictly."""
    detection = lambda module: torchvision(f"models.detection.{module}")
    classes = model.classes + 1
    if name.endswith("_v2"):
        build = getattr(detection("mask_rcnn"), name)
        theirs = build(weights=None, weights_backbone=None, num_classes=classes)
    else:
        backbone = detection("backbone_utils").resnet_fpn_backbone(
            backbone_name="resnet50", weights=None
        )
        kind = {
            "fasterrcnn_resnet50_fpn": lambda: detection("faster_rcnn").FasterRCNN,
            "maskrcnn_resnet50_fpn": lambda: detection("mask_rcnn").MaskRCNN,
            "keypointrcnn_resnet50_fpn": lambda: detection("keypoint_rcnn").KeypointRCNN,
        }[name]()
        theirs = kind(backbone, classes)
        detection("_utils").overwrite_eps(theirs, model.backbone.epsilon)
    state = TORCHVISION_DETECTORS.to_published(variables, TORCHVISION)
    theirs.load_state_dict(
        {key: torch.from_numpy(np.array(array)) for key, array in state.items()}, strict=True
    )
    return theirs.eval()


def channels_first(x) -> torch.Tensor:
    """Converts [..., h, w, C] to [..., C, h, w]."""
    return torch.from_numpy(np.moveaxis(np.asarray(x, np.float32), -1, -3).copy())


def channels_last(x: torch.Tensor) -> np.ndarray:
    """Converts [..., C, h, w] to [..., h, w, C]."""
    return np.moveaxis(x.numpy(), -3, -1)


@torch.no_grad()
def stages(
    theirs, images: np.ndarray, regions: dict[int, np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """Returns the outputs of every stage.

    Args:
      theirs: torchvision's model.
      images: uint8 [B, H, W, 3].
      regions: pooled features [R, side, side, C] by side, for the heads.
    """
    x = theirs.transform.normalize(channels_first(images) / 255)
    maps = theirs.backbone.body(x)
    levels = theirs.backbone.fpn(maps)
    logits, deltas = theirs.rpn.head(list(levels.values()))
    heads = theirs.roi_heads
    scores, boxes = heads.box_predictor(heads.box_head(channels_first(regions[7])))
    answers = dict(
        maps=[channels_last(y) for y in maps.values()],
        levels=[channels_last(y) for y in levels.values()],
        logits=[channels_last(y).reshape(len(y), -1) for y in logits],
        deltas=[channels_last(y).reshape(len(y), -1, 4) for y in deltas],
        scores=[scores.numpy()],
        boxes=[boxes.reshape(len(boxes), -1, 4)[:, 1:].numpy()],
    )
    for name in ("mask", "keypoint"):
        if getattr(heads, f"has_{name}")():
            head, predict = getattr(heads, f"{name}_head"), getattr(heads, f"{name}_predictor")
            maps = channels_last(predict(head(channels_first(regions[14]))))
            answers[f"{name}s"] = [maps[..., 1:] if name == "mask" else maps]
    return answers


@torch.no_grad()
def inference(model, theirs, images, sizes) -> list[dict[str, np.ndarray]]:
    """Runs inference with the thresholds of `model`, ours.

    Args:
      model: our detector.
      theirs: torchvision's detector.
      images: uint8 [B, H, W, 3] canvases.
      sizes: (height, width) of the content of each canvas.

    Returns:
      For each image: proposals [N, 4], boxes, labels, scores, masks [D, 28, 28], pasted masks
      [D, h, w], heatmaps [D, 56, 56, K], points [D, K, 3] and point_scores [D, K].
    """
    theirs.roi_heads.score_thresh, theirs.roi_heads.nms_thresh = (
        model.detection_selection.score_threshold,
        model.detection_selection.nms_threshold,
    )
    inner = {}

    def keep(module, given, out):
        inner.update({name: value.clone() for name, value in out[0][0].items()})

    hooks = [
        theirs.rpn.register_forward_hook(
            lambda module, given, out: inner.update(proposals=out[0][0])
        )
    ]
    hooks.append(theirs.roi_heads.register_forward_hook(keep))
    if theirs.roi_heads.has_keypoint():
        predictor = theirs.roi_heads.keypoint_predictor
        hooks.append(
            predictor.register_forward_hook(lambda module, given, out: inner.update(maps=out))
        )
    answers = []
    for image, (height, width) in zip(images, sizes, strict=True):
        theirs.transform.min_size, theirs.transform.max_size = (
            (min(height, width),),
            max(height, width),
        )
        (out,) = theirs([channels_first(image[:height, :width]) / 255])
        answer = {name: inner[name].numpy() for name in ("proposals", "boxes", "labels", "scores")}
        if "masks" in out:
            answer |= dict(pasted=out["masks"][:, 0].numpy(), masks=inner["masks"][:, 0].numpy())
        if "maps" in inner:
            answer["keypoints"] = channels_last(inner["maps"])
            answer["points"], answer["point_scores"] = (
                out["keypoints"].numpy(),
                out["keypoints_scores"].numpy(),
            )
        answers.append(answer)
    for hook in hooks:
        hook.remove()
    return answers
