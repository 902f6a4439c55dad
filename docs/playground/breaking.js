// Break the backward pass with an exercise of the zoo, and hear what the check of the gradients says.
import { button, byId, make, stressed, tell } from "./parts.js";

export class Breaking {
  constructor(play) {
    this.play = play;
    this.menu = make("select", { id: "mistake", onchange: (event) => this.break_(event.target.value) });
    this.story = make("div", { class: "story" });
    this.report = make("div", { class: "report" });
    byId("breaking").append(
      make("p", { class: "quiet lead-in" }, "A wrong backward pass still trains, only worse. Put a mistake from the zoo into your network, train on, and compare. Then ask dn.check, which checks the gradients."),
      make("div", { class: "bar" }, make("label", { for: "mistake" }, "Mistake"), this.menu, button("What does dn.check say?", () => this.check(), { id: "check" })),
      this.story, this.report);
  }

  async refresh() { // which mistakes fit the network
    const { rows } = await this.play.python.ask("menu");
    this.rows = rows;
    const option = (row) => make("option", { value: row.name, disabled: !row.layers.length }, row.layers.length || row.elsewhere ? row.name : `${row.name} (needs ${row.needs})`);
    const group = (label, fits) => make("optgroup", { label }, ...rows.filter(fits).map(option));
    this.menu.replaceChildren(make("option", { value: "" }, "none: the right backward pass"), group("in this network", (row) => row.layers.length),
      group("in other networks that you can draw", (row) => !row.layers.length && !row.elsewhere), group("not here: in networks of another form, and in optimizers", (row) => row.elsewhere));
    this.show();
  }

  layersOf(name) { return this.rows?.find((row) => row.name === name)?.layers ?? []; }

  show() {
    const name = this.play.settings.broken, row = this.rows?.find((each) => each.name === name);
    this.menu.value = name;
    this.report.replaceChildren();
    if (!row) {
      this.story.replaceChildren(make("p", {}, "The backward pass is right."));
      return;
    }
    const where = name === "forgotten-mean" ? "in the loss" : `in layer${row.layers.length > 1 ? "s" : ""} ${row.layers.join(" and ")}`;
    this.story.replaceChildren(make("p", {}, make("b", {}, `${name}, ${where}. `), row.symptom), ...(row.only_dx ? [make("p", {}, "Only dx, the delta that the layer sends back, is wrong. The layer itself learns correctly; what stands in front of it learns from the wrong dx.")] : []),
      make("p", { class: "quiet" }, "It is wrong from this step on. Train on, or start again and train from the first step."),
      ...(row.hidden ? [make("p", {}, "Here no curve shows it, because nothing in front of the broken layer learns. Put a convolution in front, and it learns from the wrong dx."), make("p", { class: "buttons" }, button("Add a convolution in front", () => this.inFront(), { id: "in-front" }))] : []),
      ...(name === "unturned-kernel" ? [make("p", { class: "quiet" }, make("a", { href: "../see-it.html" }, "Are the weights turned in the backward pass?"), " The page “See it” shows it step by step.")] : []));
  }

  async inFront() { // a layer that keeps the size of the map, and with the mistake where it was
    const { layers, broken } = this.play.settings;
    await this.play.change({ layers: [["Conv2D", { filters: 8, kernel_size: 3, padding: "same" }], ["ReLU", {}], ...layers], broken });
    tell("A convolution stands in front now.");
  }

  async break_(name) {
    await this.play.break_(name);
    tell(name ? `The backward pass is broken: ${name}.` : "The backward pass is right again.");
  }

  async check() {
    const ask = byId("check");
    ask.disabled = true;
    this.report.replaceChildren(make("p", { class: "quiet" }, "Comparing with central differences, in float64 …"));
    try {
      await this.play.pause();
      this.told(await this.play.python.ask("check"));
    } catch (error) {
      this.report.replaceChildren();
      this.play.trouble(error);
    } finally {
      ask.disabled = false;
    }
  }

  told(report) {
    const parts = [make("p", { class: report.ok ? "verdict good" : "verdict bad" }, report.ok ? "dn.check finds nothing wrong." : "dn.check finds the mistake."), make("pre", { tabindex: 0, "aria-label": "The report of the check" }, ...report.text.split("\n").flatMap((line) => [line.includes("<-- wrong") ? make("b", { class: "bad" }, line) : line, "\n"]))];
    if (report.name) {
      const blind = Object.entries(report.blind).map(([witness, why]) => make("li", {}, make("b", {}, witness), `: ${why}`));
      if (report.ok) parts.push(make("p", {}, "Not every witness can see every mistake:"), make("ul", {}, ...blind));
      parts.push(make("details", {}, make("summary", {}, "The story, and a hint"), make("p", {}, ...stressed(report.story)), make("p", {}, ...stressed(report.hint))));
      parts.push(make("details", {}, make("summary", {}, "The wrong code"), make("pre", { tabindex: 0 }, report.code)));
      parts.push(make("details", {}, make("summary", {}, "The mistake, and why"), make("pre", { tabindex: 0 }, report.diff), make("p", {}, ...stressed(report.lesson))));
    }
    this.report.replaceChildren(...parts);
    tell(report.ok ? "The check finds nothing wrong." : "The check finds the mistake.");
  }
}
