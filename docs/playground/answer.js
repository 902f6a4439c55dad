// Draw an image, and see the network's answer and where it looked.
import { button, byId, make, percent, tell } from "./parts.js";
import { shade, unpack } from "./maps.js";
import { Pad } from "./pad.js";

export class Answer {
  constructor(play) {
    this.play = play;
    this.cleared = 0; // how often the panel was emptied
    this.pad = new Pad("Draw something for the network to name", () => this.refresh());
    this.seen = make("canvas", { class: "seen", width: 192, height: 192, role: "img", "aria-label": "Your drawing as the network sees it; what led to the answer is orange" });
    this.odds = make("ul", { class: "odds", "aria-label": "How sure the network is" });
    this.caption = make("figcaption", { class: "quiet" }, "as the network sees it, with Grad-CAM");
    this.words = make("p", { class: "quiet" }, "Draw a digit. The network answers when you lift the pen.");
    this.further = button("Look inside with this drawing", () => this.look(), { disabled: true });
    byId("answer").append(make("div", { class: "answer" },
      this.pad.element,
      make("figure", {}, this.seen, this.caption, make("p", { class: "buttons" }, this.further)),
      make("div", { class: "says" }, this.words, this.odds)));
  }

  pixels() {
    const [rows, cols, channels] = this.play.data.shape, grey = this.pad.pixels(rows, cols);
    return grey && grey.flatMap((value) => Array(channels).fill(value));
  }

  look() {
    const pixels = this.pixels();
    if (pixels) this.play.lookAt(pixels);
  }

  async refresh() {
    if (byId("answer").hidden || !this.play.begun) return;
    const pixels = this.pixels();
    this.further.disabled = !pixels;
    if (!pixels) {
      this.cleared += 1;
      this.odds.replaceChildren();
      this.words.textContent = `Draw one of: ${this.play.data.classes.join(", ")}. The network answers when you lift the pen.`;
      this.seen.getContext("2d").clearRect(0, 0, 192, 192);
      return;
    }
    const { cleared } = this;
    try {
      const told = await this.play.python.ask("answer", { pixels });
      if (cleared === this.cleared) this.show(told, pixels); // else its drawing has gone
    } catch (error) {
      this.play.trouble(error);
    }
  }

  show(told, pixels) {
    const order = told.probabilities.map((share, i) => [share ?? 0, told.classes[i] ?? `output ${i}`]);
    const best = order.reduce((a, b) => (b[0] > a[0] ? b : a));
    this.odds.replaceChildren(...order.map(([share, name]) => {
      const bar = make("i", { "aria-hidden": "true" });
      bar.style.width = `${100 * share}%`;
      return make("li", { class: name === best[1] ? "best" : "" }, make("b", {}, name), make("span", { class: "track" }, bar), make("span", {}, percent(share)));
    }));
    this.words.textContent = `The network takes it for ${best[1]} (${percent(best[0])}).`;
    tell(this.words.textContent);
    this.paint(pixels, unpack(told.cam));
    this.caption.textContent = `as the network sees it, with ${told.how}`;
    if (told.why) this.words.textContent += ` ${told.why}`;
  }

  paint(pixels, cam) { // the image in grey; over it, in orange, what speaks for the answer
    const [rows, cols, channels] = this.play.data.shape, pen = this.seen.getContext("2d"), most = Math.max(...cam.data);
    const size = 192 / Math.max(rows, cols), paper = shade("--cell"), drawn = shade("--ink");
    pen.clearRect(0, 0, 192, 192);
    for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) {
      const ink = pixels[(r * cols + c) * channels];
      pen.fillStyle = `rgb(${paper.map((from, i) => Math.round(from + 0.85 * ink * (drawn[i] - from))).join()})`;
      pen.fillRect(c * size, r * size, size, size);
      if (most > 0) {
        const strength = cam.data[Math.floor((r * cam.shape[0]) / rows) * cam.shape[1] + Math.floor((c * cam.shape[1]) / cols)] / most;
        pen.fillStyle = `rgba(240,120,20,${(0.62 * strength).toFixed(3)})`;
        pen.fillRect(c * size, r * size, size, size);
      }
    }
  }
}
