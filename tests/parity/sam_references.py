"""The two public PyTorch implementations of SAM behind one small interface, without their weights.

Both get our weights by name (`segjax.weights.names`) and serve one image and one prompt a call;
arrays are NumPy, channel-last.
"""

import functools

import numpy as np
import torch

from parity.stand_ins import segment_anything
from segjax.weights.names import HUGGINGFACE, OFFICIAL
from segjax.weights.tables.sam import SAM


def _tensors(state):
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def _first(image):
    """[h, w, D] -> [1, D, h, w]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


def _last(image):
    return image[0].permute(1, 2, 0).numpy()


def _maybe(value, *lead):
    return (
        None
        if value is None
        else torch.from_numpy(np.array(value, np.float32)).reshape(*lead, *np.shape(value))
    )


class SegmentAnything:
    """github.com/facebookresearch/segment-anything (`pip install segment-anything`)."""

    def __init__(self, model, variables):
        modeling = segment_anything().modeling
        grid = model.canvas // model.patch
        width = model.prompt_width
        encoder = modeling.ImageEncoderViT(
            img_size=model.canvas,
            patch_size=model.patch,
            embed_dim=model.width,
            depth=model.depth,
            num_heads=model.heads,
            out_chans=width,
            norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=model.window,
            global_attn_indexes=model.global_blocks,
        )
        prompt_encoder = modeling.PromptEncoder(
            width, (grid, grid), (model.canvas, model.canvas), model.mask_channels
        )
        transformer = modeling.TwoWayTransformer(
            model.decoder_depth, width, model.decoder_heads, model.decoder_mlp
        )
        decoder = modeling.MaskDecoder(
            transformer_dim=width, transformer=transformer, iou_head_hidden_dim=width
        )
        self.sam = modeling.Sam(encoder, prompt_encoder, decoder).eval()
        self.sam.load_state_dict(_tensors(SAM.to_published(variables, OFFICIAL)))

    @torch.no_grad()
    def encode(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3], H and W at most the canvas -> [h, w, D]."""
        pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)
        return _last(self.sam.image_encoder(self.sam.preprocess(pixels)[None]))

    @torch.no_grad()
    def prompt(self, points=None, labels=None, box=None, mask=None):
        """points [N, 2], labels [N] (-1: not a point), box [4], mask [4h, 4w] -> tokens [T,
        D], dense [h, w, D].
        """
        points = None if points is None else (_maybe(points, 1), _maybe(labels, 1))
        tokens, dense = self.sam.prompt_encoder(points, _maybe(box, 1), _maybe(mask, 1, 1))
        return tokens[0].numpy(), _last(dense)

    @torch.no_grad()
    def decode(self, embedding, tokens, dense):
        """-> logits [4, 4h, 4w], iou [4]."""
        logits, iou = self.sam.mask_decoder.predict_masks(
            image_embeddings=_first(embedding),
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=torch.from_numpy(tokens)[None],
            dense_prompt_embeddings=_first(dense),
        )
        return logits[0].numpy(), iou[0].numpy()

    @torch.no_grad()
    def preprocess(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] of any size -> content uint8 [h, w, 3], and the encoder's pixels
        float32 [S, S, 3].
        """
        content = self._frame().apply_image(picture)
        return content, _last(self.sam.preprocess(_first(content).float()))

    def on_canvas(
        self, points: np.ndarray, boxes: np.ndarray, hw: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Points [N, 2] and boxes [P, 4] of a picture of that size in pixels of the canvas."""
        return self._frame().apply_coords(points, hw), self._frame().apply_boxes(boxes, hw)

    @torch.no_grad()
    def in_picture(
        self, low_res: np.ndarray, content_hw: tuple[int, int], hw: tuple[int, int]
    ) -> np.ndarray:
        """Logits [M, 4h, 4w] -> [M, *hw]."""
        return self.sam.postprocess_masks(torch.from_numpy(low_res)[None], content_hw, hw)[
            0
        ].numpy()

    def _frame(self):
        return segment_anything().utils.transforms.ResizeLongestSide(
            self.sam.image_encoder.img_size
        )


class Transformers:
    """transformers' SamModel. attention: "eager" or "sdpa". Its decoder's default epsilon is 1e-6
    where the published model has 1e-5.
    """

    def __init__(self, model, variables, attention="eager"):
        from transformers import (
            SamConfig,
            SamMaskDecoderConfig,
            SamModel,
            SamPromptEncoderConfig,
            SamVisionConfig,
        )

        width = model.prompt_width
        vision = SamVisionConfig(
            hidden_size=model.width,
            output_channels=width,
            num_hidden_layers=model.depth,
            num_pos_feats=width // 2,
            num_attention_heads=model.heads,
            image_size=model.canvas,
            patch_size=model.patch,
            window_size=model.window,
            global_attn_indexes=list(model.global_blocks),
            mlp_dim=4 * model.width,
        )
        prompt = SamPromptEncoderConfig(
            hidden_size=width,
            image_size=model.canvas,
            patch_size=model.patch,
            mask_input_channels=model.mask_channels,
        )
        decoder = SamMaskDecoderConfig(
            hidden_size=width,
            mlp_dim=model.decoder_mlp,
            num_hidden_layers=model.decoder_depth,
            num_attention_heads=model.decoder_heads,
            iou_head_hidden_dim=width,
            layer_norm_eps=1e-5,
        )
        config = SamConfig(
            vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
        )
        config._attn_implementation = attention
        self.sam = SamModel(config).eval()
        self.sam.load_state_dict(_tensors(SAM.to_published(variables, HUGGINGFACE)))

    @torch.no_grad()
    def encode(self, image: np.ndarray) -> np.ndarray:
        """uint8 [S, S, 3] -> [h, w, D]; its processor normalises outside the model, so we do."""
        mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
        pixels = _first(((image - mean) / std).astype(np.float32))
        return _last(self.sam.vision_encoder(pixels).last_hidden_state)

    @torch.no_grad()
    def prompt(self, points=None, labels=None, box=None, mask=None):
        tokens, dense = self.sam.prompt_encoder(
            _maybe(points, 1, 1), _maybe(labels, 1, 1), _maybe(box, 1, 1), _maybe(mask, 1, 1)
        )
        width = dense.shape[1]
        return np.zeros((0, width), np.float32) if tokens is None else tokens[0, 0].numpy(), _last(
            dense
        )

    @torch.no_grad()
    def decode(self, embedding, tokens, dense):
        answers = [
            self.sam.mask_decoder(
                image_embeddings=_first(embedding),
                image_positional_embeddings=self.sam.get_image_wide_positional_embeddings(),
                sparse_prompt_embeddings=torch.from_numpy(tokens)[None, None],
                dense_prompt_embeddings=_first(dense),
                multimask_output=multimask,
            )
            for multimask in (False, True)
        ]
        logits, iou = (torch.cat([answer[i][0, 0] for answer in answers]).numpy() for i in range(2))
        return logits, iou
