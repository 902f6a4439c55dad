// The page: it holds the settings and the run, and lets its parts know what has changed.
import { Answer } from "./answer.js";
import { Breaking } from "./breaking.js";
import * as compare from "./compare.js";
import { Console } from "./console.js";
import * as curves from "./curves.js";
import { Exercises } from "./exercises.js";
import { Images } from "./images.js";
import { Inside } from "./inside.js";
import { Interpreter } from "./interpreter.js";
import { Keep } from "./keep.js";
import { largest, paint, readColours, sheets, unpack } from "./maps.js";
import { field, Network } from "./network.js";
import { byId, make, number, percent, save, shape, tell } from "./parts.js";
import { hashOf, settingsOf } from "./share.js";
import { tabs } from "./tabs.js";
import { theme } from "./theme.js";

class Playground {
  constructor() {
    this.begun = false;
    this.awake = false; // is Python there?
    this.step = 0;
    this.rows = [];
    this.run = { losses: [], trials: [], marks: [] };
    this.kept = null;
    this.save = save;
    this.python = new Interpreter(document.querySelector("meta[name=pyodide]").content);
    this.network = new Network(this);
    this.inside = new Inside(this);
    this.answer = new Answer(this);
    this.breaking = new Breaking(this);
    this.exercises = new Exercises(this);
    this.images = new Images(this);
    this.console = new Console(this);
    this.keep = new Keep(this);
    this.asleep(true);
    this.listen();
    this.buttons();
    tabs((name) => this.opened(name));
    this.arrange();
    theme(() => { readColours(); dispatchEvent(new Event("colours")); this.filters(this.learned); this.refresh(); });
    addEventListener("resize", () => { if (this.begun) this.draw(); });
    this.draw();
    const asked = new URLSearchParams(location.search).get("exercise");
    if (asked) this.exercises.open(asked);
  }

  get brokenLayers() { return this.settings?.broken ? this.breaking.layersOf(this.settings.broken) : []; }

  // -- Python

  listen() {
    const on = (event, act) => this.python.addEventListener(event, ({ data }) => act(data));
    on("loading", ({ words }) => this.state(words));
    on("failed", ({ words }) => { this.state("Python could not be loaded."); this.trouble(new Error(`${words} The page “How it works” says what it needs.`)); });
    on("trouble", ({ words }) => this.trouble(new Error(words)));
    on("ready", () => this.ready());
    on("trained", ({ told }) => this.trained(told));
    on("stopped", () => this.stopped());
  }

  async ready() {
    try {
      const about = await this.python.ask("about");
      this.standard = about.default;
      this.network.offer(about.blocks);
      this.optimizers = about.optimizers;
      byId("optimizer").replaceChildren(...about.optimizers.map((rule) => make("option", { value: rule.kind, title: rule.summary.replaceAll("`", "") }, rule.kind)));
      this.awake = true;
      await this.first(about.data);
      this.asleep(false); // every control changes settings, which are there now
      this.idle = `Ready, with dualnet ${about.version}.`;
      this.state(this.idle);
      this.opened("exercises");
    } catch (error) {
      this.state("Something went wrong.");
      this.trouble(error);
    }
  }

  async first(data) { // what the address asks for, and if that does not work, the default
    this.data = data;
    try {
      await this.begin(this.settings ?? settingsOf(location.hash, this.standard));
    } catch (error) {
      this.trouble(new Error(`${error.message.replace(/\.?$/, ".")} The page begins with the default settings instead.`));
      await this.begin(structuredClone(this.standard));
    }
  }

  asleep(yes) { // until Python is there for the first time, nothing but the tabs can be used
    for (const part of document.querySelectorAll(".network, .training, [role=tabpanel]")) part.inert = yes;
  }

  arrange() { // on a phone the training stands above the network, for the eye and for the Tab key
    const narrow = matchMedia("(max-width: 620px)"), place = () => byId("network")[narrow.matches ? "before" : "after"](byId("training"));
    narrow.addEventListener("change", place);
    place();
  }

  restart() {
    this.begun = this.awake = false;
    this.state("Loading Python …");
    this.enable(false);
    byId("train").textContent = "▶ Train"; // whatever was training has gone
    if (this.settings?.data !== "digits") this.settings = { ...this.settings, data: "digits" };
    this.python.restart();
  }

  // -- a new training

  async begin(settings) {
    this.beginWith(await this.python.ask("begin", { settings }));
  }

  beginWith(told) {
    this.settings = told.settings;
    this.data = told.data;
    this.rows = told.rows;
    this.run = { losses: [], trials: [], marks: [] };
    this.begun = true;
    this.state(this.idle ?? "Ready.");
    this.enable(true);
    this.inside.layers(this.rows);
    this.told(told);
    this.after();
    this.breaking.refresh().then(() => { this.network.show(this.rows); this.tellBroken(); }, (error) => this.trouble(error));
  }

  after() { // the settings have changed
    history.replaceState(null, "", hashOf(this.settings, this.standard) || location.pathname + location.search);
    this.fill();
    this.network.show(this.rows);
    this.keep.refresh();
    this.draw();
    this.refresh();
  }

  fill() {
    for (const name of ["lr", "batch_size", "epochs", "seed"]) byId(name).value = this.settings[name];
    const [kind, options] = this.settings.optimizer, rule = this.optimizers.find((each) => each.kind === kind);
    byId("optimizer").value = kind;
    byId("optimizer-options").replaceChildren(...rule.options.map((option) => field(option, options[option.name], (value) => this.change({ optimizer: [kind, { ...options, [option.name]: value }] }), "rule")));
    const own = this.data.name === "digits" ? [] : [make("option", { value: this.data.name }, this.data.name)];
    byId("data").replaceChildren(make("option", { value: "digits" }, "digits"), ...own, make("option", { value: "own" }, "your own …"));
    byId("data").value = this.data.name;
    byId("data-about").textContent = `${this.data.train} to learn from, ${this.data.validation} held back, ${shape(this.data.shape)}`;
  }

  async change(more) { // a new setting, and so a new training
    const settings = { ...this.settings, ...more };
    if (more.layers && !("broken" in more)) settings.broken = "";
    this.settings = settings; // at once, so that two changes in a row are both in it
    this.begun = false;
    try {
      await this.pause();
    } catch { // Python restarts, and begins with these settings
      return;
    }
    if (settings !== this.settings) return; // a later change is on its way
    try {
      await this.begin(settings);
      this.quiet();
    } catch (error) { // the drawing shows what does not fit; the training stays as it was
      this.enable(false);
      const { rows } = await this.python.ask("shapes", { settings }).catch(() => ({ rows: [] }));
      this.rows = rows;
      this.fill();
      this.network.show(rows);
      const fits = !rows.some((row) => row.error);
      this.state(fits ? "Not ready." : "Not ready: a layer does not fit.");
      if (fits) this.trouble(error);
      else this.quiet();
    }
  }

  async newImages(ask, told) {
    told.className = "quiet";
    told.textContent = "Reading the images …";
    try {
      await this.pause();
      const data = await ask();
      this.data = data;
      await this.change({ data: data.name, broken: "" });
      told.textContent = `${data.train} images to learn from (${data.classes.join(", ")}), ${data.validation} held back.`;
    } catch (error) {
      told.className = "bad";
      told.textContent = error.message;
    }
  }

  // -- training

  buttons() {
    const act = (id, event, does) => byId(id).addEventListener(event, async (given) => {
      try {
        await does(given);
      } catch (error) {
        this.trouble(error);
      }
    });
    act("train", "click", () => (this.python.training ? this.pause() : this.train()));
    act("one-step", "click", async () => { await this.pause(); this.trained(await this.python.ask("advance", { steps: 1 })); this.paused(); this.refresh(); });
    act("again", "click", async () => { await this.pause(); await this.begin(this.settings); });
    act("compare", "click", () => { this.kept = compare.kept(this.settings, this.run); this.draw(); });
    act("rewind", "change", ({ target }) => this.goTo(Number(target.value)));
    act("mend", "click", () => this.break_(""));
    act("lr", "change", async ({ target }) => { await this.pause(); this.told(await this.python.ask("set_lr", { lr: target.value })); this.mark(`lr ${target.value}`); this.settings.lr = Number(target.value); this.after(); });
    for (const name of ["batch_size", "seed"]) act(name, "change", ({ target }) => this.change({ [name]: Number(target.value) }));
    act("epochs", "change", ({ target }) => { this.settings.epochs = Math.max(1, Math.round(Number(target.value)) || 1); this.after(); });
    act("optimizer", "change", ({ target }) => this.change({ optimizer: [target.value, {}] }));
    act("data", "change", ({ target }) => { if (target.value === "own") { target.value = this.data.name; byId("tab-images").click(); byId("tab-images").focus(); } else return this.change({ data: target.value }); });
    byId("settings").addEventListener("submit", (event) => event.preventDefault());
    byId("trouble").querySelector("button").addEventListener("click", () => this.quiet());
  }

  enable(on) {
    for (const id of ["train", "one-step", "again", "compare", "rewind"]) byId(id).disabled = !on;
  }

  train() {
    const whole = this.settings.epochs * this.perEpoch, goal = this.step < whole ? whole : this.step + whole;
    this.python.train(goal);
    byId("train").textContent = "❚❚ Pause";
    this.state("Training …");
  }

  pause() {
    return this.python.pause();
  }

  stopped() {
    byId("train").textContent = "▶ Train";
    this.paused();
    this.refresh();
    if (this.step) tell(`Paused after step ${this.step}. Loss ${number(this.run.losses.at(-1), 3)}, correct ${percent(this.run.trials.at(-1)?.accuracy)}.`);
  }

  paused() {
    this.state(this.step ? `Paused after step ${this.step}.` : this.idle);
  }

  forget() { // going on from an earlier step: the steps after it are made again
    this.run.losses.length = Math.min(this.run.losses.length, this.step);
    this.run.trials = this.run.trials.filter((trial) => trial.step <= this.step);
    this.run.marks = this.run.marks.filter(([at]) => at <= this.step);
  }

  trained(told) {
    this.forget();
    this.run.losses.push(...told.losses);
    this.run.trials.push(...told.trials);
    this.told(told);
    this.filters(told.filters);
    this.draw();
    if (performance.now() - (this.looked ?? 0) > 400) { this.looked = performance.now(); this.refresh(); }
  }

  async goTo(step) {
    await this.pause();
    if (step > this.step) { // a step that was made before: it comes out the same
      const told = await this.python.ask("advance", { steps: step - this.step });
      this.told(told);
      this.filters(told.filters);
    } else {
      const told = await this.python.ask("rewind", { step });
      this.told(told);
      this.filters(told.filters);
    }
    this.paused();
    this.draw();
    this.refresh();
    tell(`Step ${this.step}.`);
  }

  told(told) {
    this.step = told.step;
    this.perEpoch = told.steps_per_epoch;
    byId("figure-step").textContent = told.step;
    byId("figure-epoch").textContent = told.epoch;
    if (told.message) this.trouble(new Error(told.message));
    if (told.broken !== this.settings.broken || told.lr !== this.settings.lr) {
      this.settings = { ...this.settings, broken: told.broken, lr: told.lr };
      this.after();
      this.breaking.show();
    }
    this.tellBroken();
  }

  tellBroken() {
    byId("broken").hidden = !this.settings.broken;
    byId("broken").firstChild.textContent = `The backward pass is broken: ${this.settings.broken}.`;
  }

  draw() {
    const { losses, trials } = this.run, trial = trials.findLast((each) => each.step <= this.step);
    curves.draw(byId("curves"), this.run, this.kept, this.step);
    byId("figure-loss").textContent = this.step && losses.length ? number(losses[this.step - 1], 3) : "–";
    byId("figure-accuracy").textContent = percent(trial?.accuracy);
    const words = losses.length ? `After step ${this.step}: loss ${number(losses[this.step - 1], 3)}, ${percent(trial?.accuracy)} right on images that were held back` : "No steps yet";
    byId("curves").setAttribute("aria-label", words);
    const rewind = byId("rewind");
    rewind.max = losses.length;
    curves.under(rewind, this.run, this.kept);
    rewind.value = this.step;
    rewind.setAttribute("aria-valuetext", `step ${this.step} of ${losses.length}`);
    compare.show(this.kept, this.settings, this.run, () => { this.kept = null; this.draw(); });
  }

  filters(told) { // the first bank, while it learns
    const strip = byId("live-filters");
    this.learned = told; // so that it can be painted in other colours
    if (!told?.w) { strip.replaceChildren(); return; }
    const array = unpack(told.w), all = sheets(array.shape);
    if (strip.children.length !== all.length) strip.replaceChildren(...all.map(() => make("canvas")));
    const most = largest(array.data), size = array.shape[0] > 4 ? 7 : 12; // eight filters fit beside each other on a phone
    all.forEach((sheet, i) => {
      const canvas = strip.children[i];
      canvas.style.width = `${sheet.cols * size}px`;
      canvas.style.height = `${sheet.rows * size}px`;
      paint(canvas, sheet, size, array, most, null);
    });
  }

  mark(words) {
    this.forget();
    this.run.marks = [...this.run.marks.filter(([at]) => at !== this.step), [this.step, words]];
  }

  async break_(name) {
    try {
      await this.pause();
      const told = await this.python.ask("break_", { name });
      this.mark(name || "mended");
      this.told(told);
      this.after();
      this.breaking.show();
    } catch (error) {
      this.trouble(error);
    }
  }

  // -- looking

  lookAt(pixels) {
    this.inside.pixels = pixels;
    byId("tab-inside").click();
  }

  opened(name) {
    if (name === "inside") this.inside.refresh();
    if (name === "answer") this.answer.refresh();
    if (name === "exercises") this.exercises.refresh();
    if (name === "keep") this.keep.refresh();
  }

  refresh() {
    this.inside.refresh();
    this.answer.refresh();
  }

  // -- words

  state(words) {
    byId("state").textContent = words;
  }

  trouble(error) {
    byId("trouble").hidden = false;
    byId("trouble").firstChild.textContent = error.message;
  }

  quiet() {
    byId("trouble").hidden = true;
  }
}

window.playground = new Playground();
