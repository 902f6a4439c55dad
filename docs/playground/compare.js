// Two runs beside each other: one that was kept, and this one.
import { byId, button, make, number, percent } from "./parts.js";

const NAMES = { data: "images", layers: "network", optimizer: "optimizer", lr: "learning rate", batch_size: "batch", seed: "seed", broken: "mistake" };
const text = (name, value) => (name === "layers" ? `${value.length} layers: ${value.map(([kind]) => kind).join(", ")}` : name === "optimizer" ? value[0] : String(value) || "none");

export const kept = (settings, run) => structuredClone({ settings, losses: run.losses, trials: run.trials, marks: [] });

export function show(first, settings, run, forget) {
  if (!first) { byId("compared").replaceChildren(); return; }
  const differing = Object.keys(NAMES).filter((name) => JSON.stringify(first.settings[name]) !== JSON.stringify(settings[name]));
  const row = (words, its, each, kind) => make("tr", {}, make("th", { scope: "row" }, make("i", { class: `key loss${kind}` }), ` ${words}`), ...differing.map((name) => make("td", {}, text(name, its[name]))), make("td", {}, String(each.losses.length)), make("td", {}, each.losses.length ? number(each.losses.at(-1), 3) : "–"), make("td", {}, percent(each.trials.at(-1)?.accuracy)));
  byId("compared").replaceChildren(make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Two runs compared" }, make("table", { class: "compared" },
    make("caption", { class: "hidden" }, "The kept run and this one"),
    make("thead", {}, make("tr", {}, ...["run", ...differing.map((name) => NAMES[name]), "steps", "loss", "correct"].map((words) => make("th", { scope: "col" }, words)))),
    make("tbody", {}, row("kept", first.settings, first, " kept"), row("now", settings, run, "")))), button("Forget the kept run", forget, { class: "small" }));
}
