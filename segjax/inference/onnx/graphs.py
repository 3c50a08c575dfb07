"""ONNX operations around the exported networks, whose shapes change from call to call.

They are written in ONNX's text syntax. Too many points or too large an image must not be cut
silently, so the padding has names that the runtime's error message shows.
"""

from collections.abc import Sequence
from typing import Any

FRAME = """
<ir_version: 10, opset_import: ["" : {opset}]>
operations ({inputs}) => ({outputs}) {{
{body}
}}
"""

# Fills the list of points up to the static number of slots
PROMPT_INPUTS = "float[1, num_points, 2] point_coords, float[1, num_points] point_labels"
PROMPTS = """
  one = Constant<value_ints: ints = [1]>()
  two = Constant<value_ints: ints = [2]>()
  slots = Constant<value_ints: ints = [{slots}]>()
  points = Shape<start: int = 1, end: int = 2>(point_labels)
  unused = Sub(slots, points)
  labels_shape = Concat<axis: int = 0>(one, unused)
  coords_shape = Concat<axis: int = 0>(one, unused, two)
  no_labels = ConstantOfShape<value: tensor = float[1] {{{empty}}}>(labels_shape)
  no_coords = ConstantOfShape<value: tensor = float[1] {{0.0}}>(coords_shape)
  slot_labels = Concat<axis: int = 1>(point_labels, no_labels)
  slot_coords = Concat<axis: int = 1>(point_coords, no_coords)
"""

# Resizes masks to the canvas, crops the padding, and resizes to the image, as segment-anything
MASK_INPUTS = "float[1, {masks}, {side}, {side}] low_res_masks, float[2] orig_im_size"
MASKS = """
  canvas = Constant<value_ints: ints = [{canvas}]>()
  count = Constant<value_ints: ints = [1, {masks}]>()
  canvas_shape = Concat<axis: int = 0>(count, canvas, canvas)
  canvas_masks = Resize<mode: string = "linear">(low_res_masks, , , canvas_shape)
  size = Cast<to: int = 11>(orig_im_size)
  longest = ReduceMax<keepdims: int = 1>(size)
  side = Cast<to: int = 11>(canvas)
  scale = Div(side, longest)
  exact = Mul(scale, size)
  half = Constant<value: tensor = double[1] {{0.5}}>()
  shifted = Add(exact, half)
  rounded = Floor(shifted)
  least = Constant<value: tensor = double[1] {{1.0}}>()
  content_size = Max(rounded, least)
  content = Cast<to: int = 7>(content_size)
  zeros = Constant<value_ints: ints = [0, 0]>()
  axes = Constant<value_ints: ints = [2, 3]>()
  content_masks = Slice(canvas_masks, zeros, content, axes)
  image_size = Cast<to: int = 7>(size)
  image_shape = Concat<axis: int = 0>(count, image_size)
  masks = Resize<mode: string = "linear">(content_masks, , , image_shape)
"""

# Pads an image at the right and at the bottom
IMAGE_INPUTS = "float[1, 3, height, width] input_image"
IMAGE = """
  one = Constant<value_ints: ints = [1]>()
  three = Constant<value_ints: ints = [3]>()
  canvas = Constant<value_ints: ints = [{canvas}]>()
  image = Transpose<perm: ints = [0, 2, 3, 1]>(input_image)
  height = Shape<start: int = 1, end: int = 2>(image)
  width = Shape<start: int = 2, end: int = 3>(image)
  missing_rows = Sub(canvas, height)
  missing_columns = Sub(canvas, width)
  right_shape = Concat<axis: int = 0>(one, height, missing_columns, three)
  below_shape = Concat<axis: int = 0>(one, missing_rows, canvas, three)
  right = ConstantOfShape<value: tensor = float[1] {{0.0}}>(right_shape)
  below = ConstantOfShape<value: tensor = float[1] {{0.0}}>(below_shape)
  wide = Concat<axis: int = 2>(image, right)
  pixels = Concat<axis: int = 1>(wide, below)
  size = Concat<axis: int = 0>(height, width)
  size_int = Cast<to: int = 6>(size)
  zero = Constant<value_ints: ints = [0]>()
  sizes = Unsqueeze(size_int, zero)
"""


def parse_operations(body: str, inputs: str, outputs: str, opset: int, guard: str = "") -> Any:
    """Parses operations in ONNX's text syntax.

    Args:
      body: One operation per line.
      inputs: Types, shapes and names of the inputs.
      outputs: The same of the outputs.
      opset: Version of the operators.
      guard: Name of the operations that fail when an input is too large. "": they have no name.

    Returns:
      The onnx.GraphProto. Names inside it begin with the name of its first output.
    """
    from onnx import parser

    text = FRAME.format(opset=opset, inputs=inputs, outputs=outputs, body=body)
    graph = parser.parse_model(text).graph
    prefix = f"segjax_{graph.output[0].name}"
    outside = {value.name for value in (*graph.input, *graph.output)} | {""}
    rename = lambda name: name if name in outside else f"{prefix}_{name}"
    for index, node in enumerate(graph.node):
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
        guards = guard and node.op_type == "ConstantOfShape"
        node.name = f"{guard if guards else prefix}_{index}"
    return graph


def wrap_network(
    model: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    before: Any = None,
    after: Any = None,
) -> Any:
    """Places operations before and after a network, in place.

    Args:
      model: The onnx.ModelProto of the network.
      inputs: Names of the inputs of the result, in order.
      outputs: Names of its outputs, in order.
      before: onnx.GraphProto of `parse_operations`, whose outputs are inputs of the network. None:
        nothing.
      after: The same, whose inputs are outputs of the network or of the result.

    Returns:
      The model.
    """
    graph, parts = model.graph, [part for part in (before, model.graph, after) if part is not None]
    nodes = [node for part in parts for node in part.node]
    # The network's own declarations come last, and win
    values = {}
    for part in (before, after, graph):
        if part is not None:
            values |= {value.name: value for value in (*part.input, *part.output)}
    arguments = [values[name] for name in inputs]
    results = [values[name] for name in outputs]
    # jax2onnx leaves constants that no operation reads, and runtimes warn about them
    read = {name for node in nodes for name in node.input}
    arrays = [array for array in graph.initializer if array.name in read]
    fields = (graph.node, graph.initializer, graph.input, graph.output)
    for field, items in zip(fields, (nodes, arrays, arguments, results), strict=True):
        items = list(items)
        del field[:]
        field.extend(items)
    return model
