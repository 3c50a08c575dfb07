// Masks as bitmaps (Uint8Array, one byte per pixel) and as run lengths along rows.

export const COLORS = [
  [76, 141, 255], [255, 176, 59], [80, 220, 140], [240, 98, 146], [171, 130, 255],
  [255, 112, 67], [38, 198, 218], [212, 225, 87], [236, 64, 122], [141, 178, 200],
];

export function decodeRuns(runs, size) {
  const mask = new Uint8Array(size);
  let at = 0;
  for (let i = 0; i < runs.length; i++) {
    if (i % 2) mask.fill(1, at, at + runs[i]);
    at += runs[i];
  }
  return mask;
}

export function encodeRuns(mask) {
  const runs = [];
  let value = 0, start = 0;
  for (let i = 0; i < mask.length; i++) {
    if (mask[i] !== value) {
      runs.push(i - start);
      start = i;
      value = mask[i];
    }
  }
  runs.push(mask.length - start);
  return runs;
}

// Paints a mask into a canvas of the image's size: a soft inside and a solid edge.
export function paint(mask, width, height, color, alpha = 110) {
  const layer = new OffscreenCanvas(width, height);
  const context = layer.getContext("2d");
  const data = context.createImageData(width, height);
  const pixels = new Uint32Array(data.data.buffer);
  const rgb = color[0] | (color[1] << 8) | (color[2] << 16);
  const inside = (rgb | (alpha << 24)) >>> 0, edge = (rgb | (255 << 24)) >>> 0;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!mask[i]) continue;
      const border = x === 0 || y === 0 || x === width - 1 || y === height - 1 ||
        !mask[i - 1] || !mask[i + 1] || !mask[i - width] || !mask[i + width];
      pixels[i] = border ? edge : inside;
    }
  }
  context.putImageData(data, 0, 0);
  return layer;
}

// Sets or clears a disk in a mask.
export function stamp(mask, width, height, x, y, radius, value) {
  const top = Math.max(0, Math.ceil(y - radius)), bottom = Math.min(height - 1, Math.floor(y + radius));
  for (let row = top; row <= bottom; row++) {
    const half = Math.sqrt(radius * radius - (row - y) * (row - y));
    const left = Math.max(0, Math.ceil(x - half)), right = Math.min(width - 1, Math.floor(x + half));
    if (left <= right) mask.fill(value, row * width + left, row * width + right + 1);
  }
}
