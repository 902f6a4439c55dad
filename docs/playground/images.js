// Images of the reader's own: drawn here, or uploaded.
import { button, byId, make, textOf } from "./parts.js";
import { shade } from "./maps.js";
import { Pad } from "./pad.js";

const SIDE = 12; // pixels of a drawing
const UPLOAD = 28; // pixels of an uploaded picture

export class Images {
  constructor(play) {
    this.play = play;
    this.drawings = new Map(); // name -> images
    this.pad = new Pad("Draw an image of a class", () => null);
    this.name = make("input", { id: "class-name", value: "circle", autocomplete: "off", maxlength: 20 });
    this.list = make("ul", { class: "classes", "aria-label": "Your drawings" });
    this.learn = button("Learn from these", () => this.use(), { class: "main", disabled: true });
    this.told = make("p", { class: "quiet", role: "status" }, "Draw two classes or more, such as circles and crosses, with a few images of each. Every drawing is used nine times, each time moved by a pixel.");
    addEventListener("colours", () => this.paint());
    this.opened = make("p", { class: "quiet", role: "status" });
    byId("images").append(make("div", { class: "answer" },
      make("div", {}, make("h3", {}, "Draw images of your own"), this.pad.element),
      make("div", { class: "says" }, make("form", { class: "bar", onsubmit: (event) => { event.preventDefault(); this.add(); } }, make("label", { for: "class-name" }, "This is a"), this.name, make("button", { type: "submit" }, "Add the drawing")), this.list, make("p", { class: "buttons" }, this.learn, button("Begin again", () => this.empty())), this.told),
      make("div", {}, make("h3", {}, "Upload"),
        make("p", { class: "quiet" }, "An .npz file with images x (N, H, W, C) and classes t (N,); or pictures whose names begin with their class, such as cat-01.png."),
        make("label", { class: "file" }, "Choose files", make("input", { type: "file", multiple: true, accept: ".npz,image/*", onchange: (event) => this.upload(event.target) })), this.opened)));
  }

  add() {
    const pixels = this.pad.pixels(SIDE, SIDE), name = this.name.value.trim();
    this.told.className = "quiet";
    if (!pixels || !name) {
      this.told.textContent = pixels ? "The drawing needs a name." : "There is nothing on the pad yet.";
      return;
    }
    this.drawings.set(name, [...(this.drawings.get(name) ?? []), pixels]);
    this.pad.clear();
    this.show();
  }

  empty() {
    this.drawings.clear();
    this.show();
  }

  show() {
    this.list.replaceChildren(...[...this.drawings].map(([name, images]) => make("li", {}, make("b", {}, name), ` ${images.length} `, ...images.map(() => make("canvas", { width: SIDE, height: SIDE })))));
    this.paint();
    const counts = [...this.drawings.values()].map((images) => images.length);
    this.told.className = "quiet"; // after a failure it was red
    this.learn.disabled = counts.length < 2 || Math.min(...counts) < 2;
    this.told.textContent = this.learn.disabled ? "You need two classes or more, with two drawings or more of each." : "Enough to begin. More drawings of each class teach more.";
  }

  paint() { // in the colours of the pad
    const paper = shade("--paper"), drawn = shade("--ink"), all = [...this.drawings.values()].flat();
    [...this.list.querySelectorAll("canvas")].forEach((canvas, k) => {
      const pen = canvas.getContext("2d");
      all[k].forEach((ink, i) => { pen.fillStyle = `rgb(${paper.map((from, j) => Math.round(from + ink * (drawn[j] - from))).join()})`; pen.fillRect(i % SIDE, Math.floor(i / SIDE), 1, 1); });
    });
  }

  async use() {
    const images = [...this.drawings.values()].flat(), labels = [...this.drawings].flatMap(([name, all]) => all.map(() => name));
    await this.play.newImages(() => this.play.python.ask("draw", { images, labels, shape: [SIDE, SIDE, 1] }), this.told);
  }

  async upload(input) {
    const files = [...input.files];
    input.value = "";
    const npz = files.find((file) => file.name.endsWith(".npz"));
    const ask = async () => {
      if (npz) return this.play.python.ask("upload", { data: await textOf(npz) });
      const images = await Promise.all(files.map(grey)), labels = files.map((file) => file.name.match(/^[^\W\d_]+/u)?.[0] ?? file.name);
      return this.play.python.ask("draw", { images, labels, shape: [UPLOAD, UPLOAD, 1] });
    };
    await this.play.newImages(ask, this.opened);
  }
}

async function grey(file) { // 0 is black, 1 is white
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { resizeWidth: UPLOAD, resizeHeight: UPLOAD, resizeQuality: "high" });
  } catch {
    throw new Error(`This browser cannot read ${file.name} as a picture.`);
  }
  const pen = make("canvas", { width: UPLOAD, height: UPLOAD }).getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  const { data } = pen.getImageData(0, 0, UPLOAD, UPLOAD);
  return Array.from({ length: UPLOAD * UPLOAD }, (_, i) => (0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]) / 255);
}
