// The canvas: the image, layers of masks, markers; zoom and pan; positions in pixels of the image.

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.image = null;
    this.scale = 1;
    this.offset = [0, 0];
    this.layers = [];           // OffscreenCanvas of the image's size
    this.points = [];
    this.box = null;
    this.circle = null;         // brush: [x, y, radius]
    new ResizeObserver(() => this.fit()).observe(canvas);
  }

  setImage(image) {
    this.image = image;
    this.layers = [];
    this.points = [];
    this.box = null;
    this.fit();
  }

  fit() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = this.canvas.clientWidth * ratio;
    this.canvas.height = this.canvas.clientHeight * ratio;
    this.ratio = ratio;
    if (this.image) {
      this.scale = Math.min(this.canvas.width / this.image.width, this.canvas.height / this.image.height);
      this.center();
    }
    this.draw();
  }

  center() {
    this.offset = [
      (this.canvas.width - this.image.width * this.scale) / 2,
      (this.canvas.height - this.image.height * this.scale) / 2,
    ];
  }

  // Zooms by a factor around a point of the canvas, its middle by default.
  zoom(factor, at = [this.canvas.width / 2, this.canvas.height / 2]) {
    const scale = Math.min(64, Math.max(0.02, this.scale * factor));
    for (const axis of [0, 1]) {
      this.offset[axis] = at[axis] - ((at[axis] - this.offset[axis]) * scale) / this.scale;
    }
    this.scale = scale;
    this.draw();
  }

  pan(dx, dy) {
    this.offset = [this.offset[0] + dx, this.offset[1] + dy];
    this.draw();
  }

  // Position of a pointer event in pixels of the image.
  locate(event) {
    const frame = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - frame.left) * this.ratio - this.offset[0]) / this.scale,
      ((event.clientY - frame.top) * this.ratio - this.offset[1]) / this.scale,
    ];
  }

  isInside([x, y]) {
    return this.image && x >= 0 && y >= 0 && x < this.image.width && y < this.image.height;
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.paint();
    });
  }

  paint() {
    const { context, canvas } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.image) return;
    context.setTransform(this.scale, 0, 0, this.scale, ...this.offset);
    context.imageSmoothingEnabled = this.scale < 3;
    context.drawImage(this.image, 0, 0);
    for (const layer of this.layers) context.drawImage(layer, 0, 0);
    const unit = this.ratio / this.scale;
    context.lineWidth = 2 * unit;
    if (this.box) {
      context.strokeStyle = "#ffd54f";
      const [x1, y1, x2, y2] = this.box;
      context.strokeRect(Math.min(x1, x2), Math.min(y1, y2), Math.abs(x2 - x1), Math.abs(y2 - y1));
    }
    for (const [x, y, label] of this.points) {
      context.beginPath();
      context.arc(x, y, 5 * unit, 0, 7);
      context.fillStyle = label ? "#39d353" : "#ff5252";
      context.fill();
      context.strokeStyle = "#fff";
      context.stroke();
    }
    if (this.circle) {
      context.beginPath();
      context.arc(...this.circle, 0, 7);
      context.strokeStyle = "#fff";
      context.stroke();
    }
  }
}
