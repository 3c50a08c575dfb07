"""SAM in plain NumPy and float64, one image and one prompt at a time, optionally with one mistake.

The oracle of tests/models/test_sam_traps.py. It uses nothing of segjax but the names and shapes of
the parameters.
"""

import numpy as np
from scipy.special import erf

MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


class PlainSam:
    """SAM in NumPy.

    Args:
      model: The linen module, for the sizes.
      variables: Its variables.
      mistake: A mistake of those that ports make, in words that occur below. None: no mistake.

    Attributes:
      made: True once the mistake was made.
    """

    def __init__(self, model, variables, mistake=None):
        self.model, self.mistake, self.made = model, mistake, False
        self.encoder, self.prompt_encoder, self.decoder = (
            variables["params"][part]
            for part in ("image_encoder", "prompt_encoder", "mask_decoder")
        )
        self.matrix = np.asarray(
            variables["constants"]["prompt_encoder"]["gaussian_matrix"], np.float64
        )

    def does(self, mistake):
        """Tests if this is its mistake, and records that it was made."""
        self.made |= mistake == self.mistake
        return mistake == self.mistake

    # Image encoder

    def encode(self, content, canvas):
        """Computes the embedding [H/patch, W/patch, D] of an image on a canvas (H, W)."""
        patch = self.model.patch
        rows, columns = canvas[0] // patch, canvas[1] // patch
        patches = (
            self.pixels(content, canvas).reshape(rows, patch, columns, patch, 3).swapaxes(1, 2)
        )
        embed = self.encoder["patch_embed"]
        x = np.tensordot(patches, np.asarray(embed["kernel"], np.float64), 3)
        x = x + (0 if self.does("patches have no bias") else embed["bias"])
        positions = np.asarray(self.encoder["pos_embed"][0], np.float64)
        positions = resize(resize(positions, rows, 0), columns, 1)
        x = x + positions
        for number in range(self.model.depth):
            if number and self.does("positions are added before every block"):
                x = x + positions
            window = 0 if number in self.model.global_blocks else self.model.window
            x = self.block(x, self.encoder["trunk"][f"block_{number}"], window)
        x = x @ self.encoder["neck_conv_1"]["kernel"][0, 0]
        over = (0, 1, 2) if self.does("neck norms are over the map") else -1
        x = self.norm(x, self.encoder["neck_norm_1"], axis=over)
        around = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        kernel = np.asarray(self.encoder["neck_conv_2"]["kernel"], np.float64)
        x = sum(
            around[i : i + rows, j : j + columns] @ kernel[i, j] for i in range(3) for j in range(3)
        )
        return self.norm(x, self.encoder["neck_norm_2"], axis=over)

    def pixels(self, content, canvas):
        """Returns the normalized and padded pixels, the input of the encoder."""
        normalised = lambda x: (x - MEAN) / STD
        if self.does("pixels are from 0 to 1"):
            normalised = lambda x: (x / 255 - MEAN) / STD
        padding = ((0, canvas[0] - content.shape[0]), (0, canvas[1] - content.shape[1]), (0, 0))
        if self.does("pads before it normalises"):
            return normalised(np.pad(content.astype(np.float64), padding))
        return np.pad(normalised(content.astype(np.float64)), padding)

    def block(self, x, weights, window):
        """Applies one block of the trunk to a map [h, w, D], in windows if it has any."""
        norm_1, norm_2 = (
            lambda x, name=name: self.norm(x, weights[name]) for name in ("norm_1", "norm_2")
        )
        mlp = lambda x: self.mlp(x, weights["mlp"], self.gelu)
        attend = lambda x: (
            self.attend_in_windows(x, norm_1, weights, window)
            if window
            else self.attend(norm_1(x), weights)
        )
        if self.does("the encoder's norms come last"):
            x = norm_1(x + self.attend_in_windows(x, lambda x: x, weights, window or max(x.shape)))
            return norm_2(x + mlp(x))
        x = x + attend(x)
        return x + mlp(norm_2(x))

    def attend_in_windows(self, x, norm, weights, window):
        """Attends within each window of a map that is zero-padded at the bottom and right."""
        rows, columns, _ = x.shape
        padding = ((0, -rows % window), (0, -columns % window), (0, 0))
        y = (
            norm(np.pad(x, padding))
            if self.does("pads windows before the norm")
            else np.pad(norm(x), padding)
        )
        real = np.pad(np.ones((rows, columns), bool), padding[:2])
        out = np.zeros_like(y)
        for top in range(0, rows, window):
            for left in range(0, columns, window):
                cut = np.s_[top : top + window, left : left + window]
                keys = real[cut].ravel() if self.does("masks padded tokens") else None
                out[cut] = self.attend(y[cut], weights, keys)
        return out[:rows, :columns]

    def attend(self, x, weights, keys=None):
        """Applies self-attention to a map [h, w, D], with decomposed relative positions."""
        rows, columns, width = x.shape
        heads = self.model.heads
        qkv = self.linear(x.reshape(-1, width), weights["qkv"])
        if self.does("q, k and v lie side by side in every head"):
            q, k, v = qkv.reshape(len(qkv), heads, 3, -1).transpose(2, 1, 0, 3)
        else:
            q, k, v = qkv.reshape(len(qkv), 3, heads, -1).transpose(1, 2, 0, 3)
        scale = q.shape[-1] ** -0.5
        row, column = np.divmod(np.arange(rows * columns), columns)
        table_h, table_w = weights["rel_pos_h"], weights["rel_pos_w"]
        if self.does("takes the rows' table for the columns"):
            table_w = table_h
        sign = -1 if self.does("relative positions are key minus query") else 1
        of_rows = resize(table_h, 2 * rows - 1, 0)[sign * (row[:, None] - row) + rows - 1]
        of_columns = resize(table_w, 2 * columns - 1, 0)[
            sign * (column[:, None] - column) + columns - 1
        ]
        bias = np.einsum("hqc,qkc->hqk", q, of_rows + of_columns)
        bias = bias * scale if self.does("relative positions multiply the scaled query") else bias
        out = softmax(q @ k.swapaxes(1, 2) * scale + bias, keys) @ v
        return self.linear(out.swapaxes(0, 1).reshape(-1, width), weights["proj"]).reshape(x.shape)

    # Prompt encoder

    def prompt(self, points=None, labels=None, box=None, mask=None):
        """Encodes a prompt.

        Args:
          points: [N, 2].
          labels: [N], -1 is "not a point".
          box: [4].
          mask: [4h, 4w].

        Returns:
          tokens [T, D], and dense [D] or [h, w, D].
        """
        named = lambda name: np.asarray(self.prompt_encoder[name], np.float64)
        half = lambda what: 0 if self.does(f"{what} get no half pixel") else 0.5
        tokens = []
        for place, label in zip(
            points if points is not None else (), labels if labels is not None else (), strict=True
        ):
            if box is not None and self.does("loses points beside a box"):
                break
            position = self.fourier((place + half("points")) / self.model.canvas)
            if label == 0 and self.does("negative clicks are no clicks"):
                label = -1
            if label == -1 and not self.does("keeps the position of what is not a point"):
                position = 0
            tokens.append(
                position + named({1: "foreground", 0: "background", -1: "not_a_point"}[label])
            )
        closes = points is not None and (
            box is None or self.does("closes the points before a box too")
        )
        if closes and not self.does("never closes the points"):
            tokens.append(named("not_a_point"))
        if box is not None:
            kinds = ["top_left", "bottom_right"][
                :: -1 if self.does("takes one corner for the other") else 1
            ]
            for corner, kind in zip(np.reshape(box, (2, 2)), kinds, strict=True):
                tokens.append(
                    self.fourier((corner + half("corners")) / self.model.canvas) + named(kind)
                )
            if self.does("closes after a box alone") and points is None:
                tokens.append(named("not_a_point"))
        return np.array(tokens).reshape(-1, self.model.prompt_width), self.dense(mask)

    def dense(self, mask):
        """Encodes mask logits [4h, 4w] to [h, w, D], or no mask to [D]."""
        if mask is None:
            no_mask = np.asarray(self.prompt_encoder["no_mask"], np.float64)
            return 0 * no_mask if self.does("no mask is nothing") else no_mask
        activation = relu if self.does("the mask branch has ReLU") else self.gelu
        x = np.asarray(mask, np.float64)[..., None]
        for number in (1, 2):
            rows, columns, channels = x.shape
            x = (
                x.reshape(rows // 2, 2, columns // 2, 2, channels)
                .swapaxes(1, 2)
                .reshape(rows // 2, columns // 2, -1)
            )
            x = self.linear(x, self.prompt_encoder[f"mask_conv_{number}"])
            x = activation(self.norm(x, self.prompt_encoder[f"mask_norm_{number}"]))
        return self.linear(x, self.prompt_encoder["mask_conv_3"])

    def fourier(self, places):
        """Computes random Fourier features [..., D] of positions [..., 2] in the unit square."""
        if self.does("positions are row before column"):
            places = places[..., ::-1]
        angles = (
            2
            * np.pi
            * ((places if self.does("positions start at 0") else 2 * places - 1) @ self.matrix)
        )
        waves = [np.sin(angles), np.cos(angles)]
        if self.does("sines and cosines alternate"):
            return np.stack(waves, -1).reshape(*places.shape[:-1], -1)
        return np.concatenate(waves, -1)

    # Mask decoder

    def decode(self, embedding, tokens, dense):
        """Computes logits [4, 4h, 4w] and iou [4] from the embedding, tokens and dense prompt."""
        rows, columns, width = embedding.shape
        own = (
            ["mask_tokens", "iou_token"]
            if self.does("the IoU's token comes last")
            else ["iou_token", "mask_tokens"]
        )
        tokens = np.concatenate(
            [*(np.asarray(self.decoder[name], np.float64) for name in own), tokens]
        )
        corner = 0 if self.does("cells are at their corners") else 0.5
        y, x = np.meshgrid(
            (np.arange(rows) + corner) / rows,
            (np.arange(columns) + corner) / columns,
            indexing="ij",
        )
        positions = self.fourier(np.stack([x, y], -1)).reshape(-1, width)
        image = (embedding + dense).reshape(-1, width)
        if self.does("the mask is a position"):
            positions, image = (
                positions + image - embedding.reshape(-1, width),
                embedding.reshape(-1, width),
            )
        tokens, image = self.two_way(tokens, image, positions)
        x = self.upscale(image.reshape(rows, columns, width), self.decoder["upscale_1"])
        x = self.gelu(self.norm(x, self.decoder["upscale_norm"]))
        x = self.upscale(x, self.decoder["upscale_2"])
        x = x if self.does("upscaling ends without GELU") else self.gelu(x)
        which = [0] * 4 if self.does("one hypernetwork serves all masks") else range(4)
        hyper = [self.decoder[f"hypernetwork_{number}"] for number in which]
        filters = np.stack(
            [
                self.mlp(token, weights, relu)
                for token, weights in zip(tokens[1:5], hyper, strict=True)
            ]
        )
        iou = self.mlp(tokens[0], self.decoder["iou_head"], relu)
        iou = 1 / (1 + np.exp(-iou)) if self.does("squashes predicted IoUs") else iou
        return np.einsum("mc,yxc->myx", filters, x), iou

    def two_way(self, tokens, image, positions):
        """Returns tokens [T, D] and image [h*w, D] after the two-way transformer."""
        weights, token_positions = self.decoder["transformer"], tokens
        for number in range(self.model.decoder_depth):
            tokens, image = self.two_way_block(
                tokens,
                image,
                token_positions,
                positions,
                weights[f"block_{number}"],
                first=number == 0,
            )
        if self.does("the tokens look at the image no last time"):
            return self.decoder_norm(tokens, weights["final_norm"]), image
        seen = self.cross(
            tokens + token_positions, image + positions, image, weights["final_tokens_to_image"]
        )
        return self.decoder_norm(tokens + seen, weights["final_norm"]), image

    def two_way_block(self, tokens, image, token_positions, positions, weights, first):
        """Applies self-attention, tokens to image, MLP, and image to tokens."""
        norm = lambda number, x: self.decoder_norm(x, weights[f"norm_{number}"])
        if self.does("token positions are those of the block before"):
            token_positions = tokens
        q = (
            tokens
            if first and not self.does("the first self-attention has positions")
            else tokens + token_positions
        )
        itself = self.cross(
            q, q, q if self.does("values have positions") else tokens, weights["self_attention"]
        )
        if not first or self.does("the first self-attention has a residual"):
            itself = tokens + itself
        tokens = norm(1, itself)
        values = image + positions if self.does("values have positions") else image
        keys = image if self.does("image keys have no positions") else image + positions
        attend = lambda x: self.cross(x + token_positions, keys, values, weights["tokens_to_image"])
        mlp = lambda x: self.mlp(
            x, weights["mlp"], self.gelu if self.does("the decoder's MLP has GELU") else relu
        )
        if self.does("the decoder's norms come first"):
            tokens = tokens + attend(norm(2, tokens))
            tokens = tokens + mlp(norm(3, tokens))
        elif self.does("the MLP comes before the image"):
            tokens = norm(3, tokens + mlp(tokens))
            tokens = norm(2, tokens + attend(tokens))
        else:
            tokens = norm(2, tokens + attend(tokens))
            tokens = norm(3, tokens + mlp(tokens))
        values = tokens + token_positions if self.does("values have positions") else tokens
        seen = self.cross(
            image + positions, tokens + token_positions, values, weights["image_to_tokens"]
        )
        return tokens, image + seen if self.does("the image has no norm") else norm(4, image + seen)

    def cross(self, q, k, v, weights):
        """Attends from [Tq, D] to [Tk, D], in as many channels as the projections have."""
        split = lambda x, name: (
            self.linear(x, weights[name])
            .reshape(len(x), self.model.decoder_heads, -1)
            .swapaxes(0, 1)
        )
        q, k, v = split(q, "q"), split(k, "k"), split(v, "v")
        channels = q.shape[-1]
        if self.does("scales by the channels before the projection"):
            channels = self.model.prompt_width // self.model.decoder_heads
        out = softmax(q @ k.swapaxes(1, 2) * channels**-0.5) @ v
        return self.linear(out.swapaxes(0, 1).reshape(out.shape[1], -1), weights["out"])

    def upscale(self, x, weights):
        """Applies a transposed convolution 2x2 of stride 2: [h, w, C] -> [2h, 2w, C']."""
        kernel = np.asarray(weights["kernel"], np.float64)
        if self.does("upscaling mirrors its kernel"):
            kernel = kernel[:, ::-1, ::-1]
        out = np.zeros((2 * x.shape[0], 2 * x.shape[1], kernel.shape[-1]))
        for i in range(2):
            for j in range(2):
                out[i::2, j::2] = x @ kernel[:, i, j]
        return out + weights["bias"]

    # Layers

    def linear(self, x, weights):
        """Applies a linear layer: [..., in] -> [..., out]."""
        return x @ np.asarray(weights["kernel"], np.float64) + weights["bias"]

    def mlp(self, x, weights, activation):
        """Applies linear layers with an activation between them."""
        for number in range(len(weights)):
            x = self.linear(activation(x) if number else x, weights[f"layer_{number}"])
        return x

    def gelu(self, x):
        """Computes the exact GELU."""
        if self.does("GELU is the tanh form"):
            return x * 0.5 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
        return x * 0.5 * (1 + erf(x * 0.5**0.5))

    def norm(self, x, weights, axis=-1):
        """Applies the LayerNorm of all parts but the two-way transformer."""
        return layer_norm(
            x, weights, 1e-5 if self.does("the encoder's epsilon is 1e-5") else 1e-6, axis
        )

    def decoder_norm(self, x, weights):
        """Applies the LayerNorm of the two-way transformer."""
        return layer_norm(x, weights, 1e-6 if self.does("the decoder's epsilon is 1e-6") else 1e-5)


def relu(x):
    """Computes max(x, 0)."""
    return np.maximum(x, 0)


def layer_norm(x, weights, epsilon, axis=-1):
    """Normalizes over the last axis, or over others."""
    centred = x - x.mean(axis, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(axis, keepdims=True) + epsilon) * weights["scale"]
        + weights["bias"]
    )


def softmax(scores, keys=None):
    """Computes softmax over the last axis, of the valid keys only."""
    scores = scores if keys is None else np.where(keys, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def resize(table, length, axis):
    """Interpolates linearly along an axis, between the centers of its cells."""
    table = np.asarray(table, np.float64)
    size = table.shape[axis]
    places = (np.arange(length) + 0.5) * size / length - 0.5
    return np.apply_along_axis(
        lambda values: np.interp(places, np.arange(size), values), axis, table
    )
