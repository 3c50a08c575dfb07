"""What programs written for segment-anything do, call by call, as its example notebooks show it.

Each function is such a program: `sa` is the module that it imports from, segment-anything's own or
ours. It returns everything that it got.
"""

import numpy as np

# For weights that are sure of nothing.
EVERYTHING = dict(pred_iou_thresh=-9.0, stability_score_thresh=0.0, stability_score_offset=0.02)


def predictor_example(sa, checkpoint, image, device="cpu"):
    """One picture, and one object after another."""
    sam = sa.sam_model_registry["vit_b"](checkpoint=checkpoint)
    sam.to(device=device)
    sam.eval()
    predictor = sa.SamPredictor(sam)
    predictor.set_image(image)
    got = {
        "size": np.array(
            [*predictor.original_size, *predictor.input_size, sam.image_encoder.img_size]
        )
    }

    point, label = np.array([[20, 15]]), np.array([1])
    masks, scores, logits = predictor.predict(
        point_coords=point, point_labels=label, multimask_output=True
    )
    assert masks.shape == (3, *image.shape[:2]) and masks.dtype == bool
    shown = [
        (f"Mask {i + 1}, Score: {score:.3f}", mask * 1.0)
        for i, (mask, score) in enumerate(zip(masks, scores))  # noqa: B905
    ]
    assert len(shown) == 3
    got |= {"one point": (masks, scores, logits)}

    best = logits[np.argmax(scores), :, :]
    points, labels = np.array([[20, 15], [50, 31]]), np.array([1, 1])
    got["refined"] = predictor.predict(
        point_coords=points,
        point_labels=labels,
        mask_input=best[None, :, :],
        multimask_output=False,
    )
    got["not that"] = predictor.predict(
        point_coords=points,
        point_labels=np.array([1, 0]),
        mask_input=got["refined"][2][0][None],
        multimask_output=False,
    )

    box = np.array([12, 8, 61, 40])
    got["box"] = predictor.predict(
        point_coords=None,
        point_labels=None,
        box=box[None, :],
        multimask_output=False,
        return_logits=True,
    )
    got["box and point"] = predictor.predict(
        point_coords=np.array([[30, 20]]),
        point_labels=np.array([0]),
        box=box,
        multimask_output=False,
    )
    logit_masks, _, _ = predictor.predict(points, labels, None, None, True, True)
    got["logits"] = logit_masks
    got["thresholded"] = logit_masks > predictor.model.mask_threshold

    transform = predictor.transform
    got["apply_coords"] = transform.apply_coords(points.astype(float), image.shape[:2])
    got["apply_boxes"] = transform.apply_boxes(box, image.shape[:2])
    got["apply_image"] = transform.apply_image(image)
    got["shape"] = np.array(
        transform.get_preprocess_shape(*image.shape[:2], transform.target_length)
    )
    got["embedding"] = predictor.get_image_embedding().cpu().numpy()

    kept = predictor.features, predictor.original_size, predictor.input_size
    predictor.set_image(image[:, ::-1, ::-1], image_format="BGR")
    got["other"] = predictor.predict(box=np.array([5, 5, 30, 30]))
    predictor.reset_image()
    predictor.features, predictor.original_size, predictor.input_size = kept
    predictor.is_image_set = True
    got["kept"] = predictor.predict(box=box, multimask_output=False)
    return got


def batched_example(sa, torch, checkpoint, images, device="cpu"):
    """Several boxes at once, several pictures at once, a picture resized by oneself: with
    torch's tensors.
    """
    sam = sa.sam_model_registry["vit_b"](checkpoint=checkpoint).to(device=device)
    predictor = sa.SamPredictor(sam)
    image = images[0]
    predictor.set_image(image)
    got = {"embedding": predictor.get_image_embedding().detach().cpu().numpy()}

    boxes = torch.tensor(
        [[12, 8, 61, 40], [30, 20, 50, 35], [1, 2, 70, 41]], device=predictor.device
    )
    transformed = predictor.transform.apply_boxes_torch(boxes, image.shape[:2])
    masks, iou, low_res = predictor.predict_torch(
        point_coords=None, point_labels=None, boxes=transformed, multimask_output=False
    )
    assert masks.dtype == torch.bool and masks.shape == (3, 1, *image.shape[:2])
    drawn = np.zeros(image.shape[:2])
    for mask in masks:
        drawn += mask.cpu().numpy()[0]
    got |= {"boxes": (masks, iou, low_res), "drawn": drawn}
    clicks = torch.as_tensor(
        [[[20.0, 15.0], [50.0, 31.0]], [[5, 6], [40, 20]], [[1, 1], [2, 2]]], device=sam.device
    )
    clicks = predictor.transform.apply_coords_torch(clicks, image.shape[:2])
    labels = torch.tensor([[1, 0], [1, -1], [1, 1]], device=sam.device)
    got["points"] = predictor.predict_torch(
        clicks, labels, multimask_output=True, return_logits=True
    )
    got["all kinds"] = predictor.predict_torch(
        clicks, labels, transformed, low_res, False, return_logits=True
    )
    got["nothing"] = predictor.predict_torch(None, None, return_logits=True)

    resize = sa.ResizeLongestSide(sam.image_encoder.img_size)

    def prepare(picture):
        resized = resize.apply_image(picture)
        return torch.as_tensor(resized, device=sam.device).permute(2, 0, 1).contiguous()

    predictor.set_torch_image(prepare(images[1])[None], images[1].shape[:2])
    square = resize.apply_boxes_torch(
        torch.tensor([[3.0, 4.0, 30.0, 35.0]], device=sam.device), images[1].shape[:2]
    )
    got["set_torch_image"] = predictor.predict_torch(None, None, square, return_logits=True)
    predictor.set_torch_image(prepare(images[1])[None].float() * 0.9, images[1].shape[:2])
    got["float image"] = predictor.predict_torch(None, None, square, return_logits=True)

    batched_input = [
        {"image": prepare(images[0]), "boxes": transformed, "original_size": images[0].shape[:2]},
        {
            "image": prepare(images[1]),
            "point_coords": resize.apply_coords_torch(
                torch.tensor([[[9.0, 9.0]]]), images[1].shape[:2]
            ),
            "point_labels": torch.tensor([[1]]),
            "original_size": images[1].shape[:2],
        },
        {"image": prepare(images[0]), "mask_inputs": low_res, "original_size": images[0].shape[:2]},
        {"image": prepare(images[1]), "original_size": images[1].shape[:2]},
    ]
    for multimask in (False, True):
        output = sam(batched_input, multimask_output=multimask)
        assert [sorted(record) for record in output] == [
            ["iou_predictions", "low_res_logits", "masks"]
        ] * 4
        got[f"batched {multimask}"] = [tuple(record.values()) for record in output]
    return got


def generator_example(sa, checkpoint, image, **options):
    """Everything in a picture, first as it comes, then with crops; and the picture that is
    shown of it.
    """
    sam = sa.sam_model_registry["default"](checkpoint=checkpoint)
    sam.to(device="cpu")
    options = dict(points_per_side=4) | EVERYTHING | options
    plain = sa.SamAutomaticMaskGenerator(sam, **options)
    cropped = sa.SamAutomaticMaskGenerator(
        model=sam, crop_n_layers=1, crop_n_points_downscale_factor=2, crop_nms_thresh=0.9, **options
    )
    records = plain.generate(image)
    rgba = np.ones((*image.shape[:2], 4))
    rgba[..., 3] = 0
    for record in sorted(records, key=lambda record: record["area"], reverse=True):
        rgba[record["segmentation"]] = [0.2, 0.4, 0.6, 0.35]
    return records, cropped.generate(image), rgba
