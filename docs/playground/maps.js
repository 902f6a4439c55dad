// Arrays as pictures: one canvas for each channel or filter, whose cells can be pointed at, by hand and by keys.
import { bytesOf, make, number, tell } from "./parts.js";

export function unpack({ shape, bytes }) {
  return { shape, data: new Float32Array(bytesOf(bytes).buffer) };
}

export function shade(name) { // a colour of the style: red, green and blue
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim().slice(1);
  return [0, 2, 4].map((i) => parseInt(text.slice(i, i + 2), 16));
}

let colours = null;
export function readColours() { // from the style, so that light and dark are said once
  const style = getComputedStyle(document.documentElement);
  colours = { zero: shade("--cell"), above: shade("--pos"), below: shade("--neg"), mark: style.getPropertyValue("--mark"), ink: style.getPropertyValue("--ink"), edge: style.getPropertyValue("--edge") };
}

export function colour(value, most) {
  if (!colours) readColours();
  if (!Number.isFinite(value)) return "#808080";
  const much = most > 0 ? Math.min(1, Math.abs(value) / most) ** 0.75 : 0, end = value < 0 ? colours.below : colours.above;
  return `rgb(${colours.zero.map((from, i) => Math.round(from + (end[i] - from) * much)).join()})`;
}

export const largest = (data) => data.reduce((most, value) => (Number.isFinite(value) ? Math.max(most, Math.abs(value)) : most), 0);

// How an array is laid out: its sheets, each with rows and columns, and the index of each cell.
export function sheets(shape) {
  if (shape.length === 4) {
    const found = [];
    for (let c = 0; c < shape[2]; c++) for (let d = 0; d < shape[3]; d++) found.push({ rows: shape[0], cols: shape[1], index: (r, s) => [r, s, c, d], words: `channel ${c}, filter ${d}` });
    return found;
  }
  if (shape.length === 3) return Array.from({ length: shape[2] }, (_, c) => ({ rows: shape[0], cols: shape[1], index: (r, s) => [r, s, c], words: `channel ${c}` }));
  if (shape.length === 2) return [{ rows: shape[0], cols: shape[1], index: (r, s) => [r, s], words: "" }];
  const cols = Math.min(shape[0], 16);
  return [{ rows: Math.ceil(shape[0] / cols), cols, index: (r, s) => (r * cols + s < shape[0] ? [r * cols + s] : null), words: "" }];
}

export const offset = (shape, index) => index.reduce((at, i, axis) => at * shape[axis] + i, 0);

function cellSize(sheet, count, room) {
  const wide = count === 1 ? Math.min(room, sheet.cols > 16 || room < 400 ? 320 : 168) : count <= 4 ? 96 : sheet.cols <= 5 ? 48 : 64;
  return Math.max(4, Math.min(count === 1 ? 26 : 24, Math.floor(wide / sheet.cols)));
}

export function paint(canvas, sheet, size, array, most, marks) {
  const ratio = window.devicePixelRatio || 1, gap = size >= 9 ? 1 : 0;
  canvas.width = Math.round(sheet.cols * size * ratio);
  canvas.height = Math.round(sheet.rows * size * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.fillStyle = colours?.edge ?? "#888";
  pen.fillRect(0, 0, sheet.cols * size, sheet.rows * size);
  for (let r = 0; r < sheet.rows; r++) for (let c = 0; c < sheet.cols; c++) {
    const index = sheet.index(r, c);
    if (!index) { pen.clearRect(c * size, r * size, size, size); continue; }
    pen.globalAlpha = 1;
    pen.fillStyle = colour(array.data[offset(array.shape, index)], most);
    pen.fillRect(c * size, r * size, size - gap, size - gap);
    const here = marks?.chosen === index.join(), lit = marks?.lit?.has(index.join());
    if (marks?.lit && !lit && !here) { pen.globalAlpha = 0.72; pen.fillStyle = colour(0, 1); pen.fillRect(c * size, r * size, size - gap, size - gap); }
    if (lit || here) {
      pen.globalAlpha = here ? 1 : 0.5;
      pen.strokeStyle = here ? colours.mark : colours.ink;
      pen.lineWidth = here ? Math.min(2.5, size / 4) : 1;
      const inset = pen.lineWidth / 2;
      pen.strokeRect(c * size + inset, r * size + inset, size - gap - 2 * inset, size - gap - 2 * inset);
    }
  }
}

export class MapView { // one array, under its name
  constructor(name, words, pick) {
    this.name = name;
    this.pick = pick;
    this.place = { sheet: 0, r: 0, c: 0 };
    this.caption = make("figcaption", {}, make("b", {}, name), make("span", {}, words));
    this.field = make("div", { class: "sheets", tabindex: 0, role: "group", onkeydown: (event) => this.key(event) });
    this.figure = make("figure", { class: "map", "data-name": name }, this.caption, this.field);
  }

  show(array, whole, marks, room) {
    if (!colours) readColours();
    this.array = array;
    this.sheets = sheets(array.shape);
    const most = largest(array.data), total = whole.reduce((a, b) => a * b, 1);
    const part = total > array.data.length ? ", in part" : "";
    this.field.setAttribute("aria-label", `${this.name}, ${whole.join(" by ")}${part}. Arrow keys move, Enter shows the sum.`);
    this.caption.lastChild.title = `± ${number(most)} at most${part}`;
    if (this.field.children.length !== this.sheets.length) {
      this.field.replaceChildren(...this.sheets.map((_, i) => make("canvas", { onclick: (event) => this.click(event, i) })));
    }
    this.sizes = this.sheets.map((sheet) => cellSize(sheet, this.sheets.length, room));
    this.sheets.forEach((sheet, i) => {
      const canvas = this.field.children[i], size = this.sizes[i];
      canvas.style.width = `${sheet.cols * size}px`;
      canvas.style.height = `${sheet.rows * size}px`;
      paint(canvas, sheet, size, array, most, marks);
    });
  }

  click(event, i) {
    const box = event.target.getBoundingClientRect(), size = this.sizes[i];
    this.place = { sheet: i, r: Math.min(this.sheets[i].rows - 1, Math.floor((event.clientY - box.y) / size)), c: Math.min(this.sheets[i].cols - 1, Math.floor((event.clientX - box.x) / size)) };
    this.choose();
  }

  choose() {
    const index = this.sheets[this.place.sheet].index(this.place.r, this.place.c);
    if (index) this.pick(this.name, index);
  }

  key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.choose(); return; }
    if (!step) return;
    event.preventDefault();
    const place = this.place, sheet = this.sheets[place.sheet];
    place.r += step[0];
    place.c += step[1];
    if (place.c < 0 || place.c >= sheet.cols) { // on to the neighbouring map
      const next = place.sheet + step[1];
      if (next >= 0 && next < this.sheets.length) { place.sheet = next; place.c = step[1] > 0 ? 0 : sheet.cols - 1; }
    }
    place.c = Math.max(0, Math.min(sheet.cols - 1, place.c));
    place.r = Math.max(0, Math.min(sheet.rows - 1, place.r));
    const index = this.sheets[place.sheet].index(place.r, place.c);
    if (!index) return;
    this.choose();
    tell(`${this.name}[${index.join()}] ${number(this.array.data[offset(this.array.shape, index)])}`);
  }
}
