// A pad to draw on, with a finger, a mouse or the keys; and the drawing as an image of so many pixels.
import { button, make } from "./parts.js";

const SIDE = 192, PEN = 0.1, STEP = 1 / 16;

export class Pad {
  constructor(words, changed) {
    this.strokes = [];
    this.changed = changed;
    this.pen = { x: 0.5, y: 0.5, down: false };
    this.canvas = make("canvas", { class: "pad", width: 2 * SIDE, height: 2 * SIDE, tabindex: 0, role: "img", "aria-label": `${words}. With the keys: the arrows move the pen, the space bar sets it down and lifts it.` });
    this.element = make("div", { class: "pad-field" }, this.canvas, make("p", { class: "buttons" }, button("Clear", () => this.clear())));
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height];
    };
    this.canvas.addEventListener("pointerdown", (event) => { this.canvas.setPointerCapture(event.pointerId); this.strokes.push([at(event)]); this.draw(); });
    this.canvas.addEventListener("pointermove", (event) => { if (event.buttons && this.strokes.length) { this.strokes.at(-1).push(at(event)); this.draw(); } });
    this.canvas.addEventListener("pointerup", () => this.changed());
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("focus", () => this.draw());
    this.canvas.addEventListener("blur", () => this.draw());
    addEventListener("colours", () => this.draw());
    requestAnimationFrame(() => this.draw());
  }

  clear() {
    this.strokes = [];
    this.draw();
    this.changed();
  }

  key(event) {
    const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (event.key === " ") {
      event.preventDefault();
      this.pen.down = !this.pen.down;
      if (this.pen.down) this.strokes.push([[this.pen.x, this.pen.y]]); else this.changed();
    } else if (step) {
      event.preventDefault();
      this.pen.x = Math.max(0, Math.min(1, this.pen.x + step[0] * STEP));
      this.pen.y = Math.max(0, Math.min(1, this.pen.y + step[1] * STEP));
      if (this.pen.down) this.strokes.at(-1).push([this.pen.x, this.pen.y]);
    } else return;
    this.draw();
  }

  draw() {
    const pen = this.canvas.getContext("2d"), side = this.canvas.width, style = getComputedStyle(document.documentElement);
    pen.fillStyle = style.getPropertyValue("--paper");
    pen.fillRect(0, 0, side, side);
    pen.strokeStyle = pen.fillStyle = style.getPropertyValue("--ink");
    lines(pen, this.strokes, side, 0, 0, side * PEN);
    if (this.canvas.matches(":focus-visible")) { // the pen that the keys move
      pen.strokeStyle = style.getPropertyValue("--mark");
      pen.lineWidth = 4;
      pen.strokeRect(this.pen.x * side - 9, this.pen.y * side - 9, 18, 18);
    }
  }

  // The ink in each of rows × cols pixels, 0 … 1, cut to its frame and stretched as the digits in the data set are.
  pixels(rows, cols) {
    const fine = 8, canvas = make("canvas", { width: cols * fine, height: rows * fine }), pen = canvas.getContext("2d", { willReadFrequently: true });
    const points = this.strokes.flat();
    if (!points.length) return null;
    const [left, right] = [Math.min(...points.map((p) => p[0])), Math.max(...points.map((p) => p[0]))];
    const [top, bottom] = [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
    const width = fine * Math.min(rows, cols) * 0.2, room = [cols * fine - width, rows * fine - width];
    const scale = Math.min(room[0] / Math.max(right - left, 0.05), room[1] / Math.max(bottom - top, 0.05));
    pen.strokeStyle = pen.fillStyle = "#000";
    lines(pen, this.strokes, scale, cols * fine / 2 - scale * (left + right) / 2, rows * fine / 2 - scale * (top + bottom) / 2, width);
    const ink = pen.getImageData(0, 0, canvas.width, canvas.height).data, found = [];
    for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) {
      let sum = 0;
      for (let i = 0; i < fine; i++) for (let j = 0; j < fine; j++) sum += ink[4 * ((r * fine + i) * canvas.width + c * fine + j) + 3];
      found.push(sum / (255 * fine * fine));
    }
    return found;
  }
}

function lines(pen, strokes, scale, x, y, width) {
  pen.lineWidth = width;
  pen.lineCap = pen.lineJoin = "round";
  for (const stroke of strokes) {
    pen.beginPath();
    stroke.forEach(([a, b], i) => (i ? pen.lineTo(x + a * scale, y + b * scale) : pen.moveTo(x + a * scale, y + b * scale)));
    if (stroke.length === 1) pen.lineTo(x + stroke[0][0] * scale + 0.01, y + stroke[0][1] * scale);
    pen.stroke();
  }
}
