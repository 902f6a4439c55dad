// Look inside a layer: what it read, what it learned and what it computed, forward and back, for one image.
import { brief, button, byId, make, number, tell } from "./parts.js";
import { MapView, unpack } from "./maps.js";
import { spoken, written } from "./sum.js";

const WORDS = { x: "what it reads", y: "what it computes", dy: "the delta that arrives", dx: "the delta it sends back", w: "weights", b: "biases", gamma: "scale", beta: "shift", dw: "gradient of w", db: "gradient of b", dgamma: "gradient of gamma", dbeta: "gradient of beta" };

export class Inside {
  constructor(play) {
    this.play = play;
    this.layer = "0";
    this.place = 0;
    this.pixels = null;
    this.target = null; // { name, index }: what was pointed at
    this.followed = null; // the map with the focus, when its delta was followed to the next layer
    this.busy = false;
    this.views = new Map();
    this.about = make("p", { class: "about" });
    this.rows = { forward: make("div", { class: "row" }), backward: make("div", { class: "row" }) };
    this.account = make("section", { class: "account", "aria-label": "The sum" }, make("p", { class: "quiet" }, "Click a cell to see its sum."));
    this.picker = make("select", { "aria-label": "Layer", onchange: (event) => this.choose(event.target.value) });
    byId("inside").append(
      make("div", { class: "bar" },
        make("label", {}, "layer ", this.picker),
        button("◀", () => this.turn(-1), { "aria-label": "The image before" }),
        button("▶", () => this.turn(1), { "aria-label": "The next image" }),
        this.about,
        button("Save as a page", () => this.page(), { class: "far" })),
      make("div", { class: "look" },
        make("div", { class: "sides" },
          make("p", { class: "legend" }, make("span", { class: "scale", "aria-hidden": "true" }), "Blue is below 0, orange above; grey is NaN or infinite. Each array has its own scale."),
          make("p", { class: "quiet narrow" }, "Tap a cell to see its sum."),
          make("h3", {}, "forward ", make("i", { "aria-hidden": "true" }, "→")), this.rows.forward,
          make("h3", {}, make("i", { "aria-hidden": "true" }, "←"), " backward"), this.rows.backward),
        this.account));
    byId("inside").addEventListener("keydown", (event) => { if (event.key === "Escape" && this.target) this.close(); });
  }

  where() {
    return this.pixels ? { pixels: this.pixels } : { place: this.place };
  }

  layers(rows) { // after a new drawing
    const names = rows.map((row, i) => make("option", { value: String(i) }, `${i} ${brief(row.code ?? "")}`));
    this.picker.replaceChildren(...names);
    if (Number(this.layer) >= rows.length) this.layer = "0";
    this.picker.value = this.layer;
    this.target = null;
  }

  choose(layer, target = null) {
    this.layer = String(layer);
    this.picker.value = this.layer;
    this.target = target;
    this.refresh();
  }

  turn(by) {
    this.pixels = null;
    this.place += by;
    this.refresh();
  }

  async refresh() { // one at a time; what comes meanwhile is done once, afterwards
    if (byId("inside").hidden || !this.play.begun) return;
    if (this.busy) { this.again = true; return; }
    this.busy = true;
    try {
      do {
        this.again = false;
        await this.show();
      } while (this.again);
    } catch (error) {
      this.play.trouble(error);
    } finally {
      this.busy = false;
    }
  }

  async show() {
    const { play, layer } = this;
    const told = await play.python.ask("inside", { layer, ...this.where() });
    this.told = told;
    this.place = told.place < 0 ? this.place : told.place;
    this.about.textContent = told.place < 0 ? `your drawing; the network says ${told.answer}` : `image ${told.place} is a ${told.class}; the network says ${told.answer}`;
    let why = null, words = null;
    if (this.target) {
      const asked = this.asked();
      if (asked) {
        try {
          why = await play.python.ask("explain", { target: asked, ...this.where() });
        } catch (error) {
          words = error.message;
        }
      } else words = "The backward pass begins here: this delta is softmax(y) minus the right answer (E10), the derivative of the loss.";
    }
    if (this.layer !== layer) { this.again = true; return; }
    this.draw(told, why);
    this.refocus();
    const close = button("✕", () => this.close(), { class: "close", "aria-label": "Close the sum" });
    this.account.classList.toggle("chosen", Boolean(why || words));
    if (why) {
      this.account.replaceChildren(close, ...written(why));
      this.reveal();
      tell(spoken(why));
    } else if (words) {
      this.account.replaceChildren(close, make("p", { class: "note" }, words));
      tell(words);
    } else {
      this.account.replaceChildren(make("p", { class: "quiet" }, "Click a cell to see its sum."));
    }
  }

  draw(told, why) {
    const names = Object.keys(told.arrays), of = (name) => told.arrays[name];
    const parameters = names.filter((name) => !["x", "y", "dx", "dy"].includes(name) && !name.startsWith("d"));
    const sides = { forward: ["x", ...parameters, "y"], backward: ["dx", ...parameters.map((name) => `d${name}`), "dy"] };
    const fresh = this.drawn !== told.layer + names.join() + told.title;
    if (fresh) this.views = new Map(names.map((name) => [name, new MapView(name, WORDS[name] ?? "", (at, index) => this.pick(at, index))]));
    this.drawn = told.layer + names.join() + told.title;
    const lit = {};
    for (const [name, indices] of Object.entries(why?.cells ?? {})) {
      lit[name] = new Set(indices.map((index) => (["x", "y", "dx", "dy"].includes(name) ? index.slice(1) : index).join()));
    }
    const room = Math.max(120, byId("inside").clientWidth - 60);
    for (const [side, list] of Object.entries(sides)) {
      if (!fresh) continue;
      const figures = list.filter((name) => this.views.has(name)).map((name) => this.views.get(name).figure);
      const learned = make("div", { class: "learned" }, ...figures.slice(1, -1));
      this.rows[side].replaceChildren(figures[0], learned, figures.at(-1));
    }
    for (const name of names) {
      const chosen = this.target?.name === name ? this.target.index.join() : null;
      const marks = { lit: why ? lit[name] : null, chosen };
      this.views.get(name).show(unpack(of(name)), told.whole[name], marks.lit || chosen ? marks : null, room);
    }
  }

  reveal() { // the map that was tapped stays in sight above the sheet
    const figure = this.views.get(this.target.name)?.figure.getBoundingClientRect(), sheet = this.account.getBoundingClientRect();
    if (figure && getComputedStyle(this.account).position === "fixed" && figure.bottom > sheet.top) scrollBy(0, Math.min(figure.bottom - sheet.top, figure.top) + 8);
  }

  close() { // the sheet on a phone; the focus goes back to the map that was tapped
    const view = this.views.get(this.target?.name);
    this.target = null;
    view?.field.focus({ preventScroll: true });
    return this.refresh();
  }

  pick(name, index) {
    if (name === "dy" && this.told.next) return this.follow(index);
    this.target = { name, index };
    return this.refresh();
  }

  follow(index) { // this delta is the next layer's dx: its sum stands there
    const focused = document.activeElement?.closest?.("[data-name]");
    this.choose(this.told.next, { name: "dx", index });
    this.followed = focused;
  }

  refocus() { // the map that had the focus has gone; who has moved on meanwhile is left there
    const now = document.activeElement;
    if (this.followed && (now === document.body || this.followed.contains(now))) this.views.get("dx")?.field.focus({ preventScroll: true });
    this.followed = null;
  }

  asked() { // the target in the words of dn.explain
    const { name, index } = this.target, layer = this.layer;
    if (name === "dy") return null;
    if (name === "x" || name === "dx") return `${layer}.dx[${[0, ...index].join()}]`;
    if (name === "y") return `${layer}.y[${[0, ...index].join()}]`;
    return `${layer}.${name.startsWith("d") ? name : `d${name}`}[${index.join()}]`;
  }

  async page() {
    try {
      const target = (this.target && this.asked()) || "";
      const told = await this.play.python.ask("page", { target, ...this.where() });
      this.play.save(told.name, told.text);
    } catch (error) {
      this.play.trouble(error);
    }
  }
}
