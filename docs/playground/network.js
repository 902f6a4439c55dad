// Draw the network: its blocks in order, and the options of the chosen one, as the catalogue tells them.
import { brief, button, byId, make, plainly, shape, worded } from "./parts.js";

export class Network {
  constructor(play) {
    this.play = play;
    this.chosen = null;
    byId("add").addEventListener("submit", (event) => { event.preventDefault(); this.add(byId("add-kind").value); });
    byId("options").addEventListener("submit", (event) => event.preventDefault());
  }

  offer(blocks) {
    this.blocks = new Map(blocks.map((block) => [block.kind, block]));
    const groups = [...new Set(blocks.map((block) => block.group))];
    byId("add-kind").replaceChildren(...groups.map((group) => make("optgroup", { label: group },
      ...blocks.filter((block) => block.group === group).map((block) => make("option", { value: block.kind, title: block.summary.replaceAll("`", "") }, block.kind)))));
  }

  get layers() { return this.play.settings.layers; }

  add(kind) { // behind the chosen one; without one, before the last
    const options = Object.fromEntries(this.blocks.get(kind).options.filter((option) => option.required).map((option) => [option.name, option.default]));
    const place = this.chosen === null ? Math.max(0, this.layers.length - 1) : this.chosen + 1;
    this.change(this.layers.toSpliced(place, 0, [kind, options]), place);
  }

  change(layers, chosen) {
    this.chosen = layers.length ? Math.max(0, Math.min(chosen, layers.length - 1)) : null;
    this.play.change({ layers });
  }

  show(rows) {
    const focused = document.activeElement?.id;
    const blocks = this.layers.map(([kind], i) => this.block(kind, rows[i] ?? {}, i)), list = byId("blocks");
    if (list.innerHTML !== blocks.map((block) => block.outerHTML).join("")) list.replaceChildren(...blocks); // else a click that has begun would be lost
    this.showOptions(rows);
    if (focused) byId(focused)?.focus({ preventScroll: true });
  }

  block(kind, row, i) {
    const code = row.code ? brief(row.code) : kind;
    const broken = this.play.brokenLayers.includes(String(i));
    const told = row.error ? make("span", { class: "bad" }, "does not fit") : row.shape ? make("span", { class: "quiet" }, `${shape(row.shape)}${row.parameters ? ` · ${row.parameters} parameters` : ""}`) : make("span", { class: "quiet" }, "–");
    const choose = button("", () => this.choose(this.chosen === i ? null : i), { class: "name", id: `block-${i}`, "aria-pressed": String(this.chosen === i), "aria-label": `Layer ${i}, ${code}, ${told.textContent}` });
    choose.append(make("code", {}, code), told);
    return make("li", { class: [this.chosen === i ? "chosen" : "", broken ? "wrong" : ""].join(" ") }, choose);
  }

  choose(i) {
    this.chosen = i;
    this.show(this.play.rows);
    if (i !== null) this.play.inside.choose(i);
  }

  showOptions(rows) {
    const form = byId("options");
    form.hidden = this.chosen === null || this.chosen >= this.layers.length;
    byId("choose").hidden = !form.hidden;
    if (form.hidden) {
      form.replaceChildren();
      return;
    }
    const i = this.chosen, [kind, options] = this.layers[i], block = this.blocks.get(kind);
    const move = (by) => {
      const layers = this.layers.slice();
      [layers[i], layers[i + by]] = [layers[i + by], layers[i]];
      this.change(layers, i + by);
    };
    const set = (name, value) => {
      const layers = structuredClone(this.layers);
      layers[i][1][name] = value;
      this.change(layers, i);
    };
    form.replaceChildren(
      make("p", {}, make("b", {}, `${kind}:`), " ", ...worded(block?.summary ?? "")),
      row_error(rows[i]),
      make("p", { class: "buttons" },
        button("Move up", () => move(-1), { id: "move-up", disabled: i === 0 }),
        button("Move down", () => move(1), { id: "move-down", disabled: i === this.layers.length - 1 }),
        button("Remove", () => this.change(this.layers.toSpliced(i, 1), Math.min(i, this.layers.length - 2)), { id: "remove" })),
      ...(block?.options ?? []).map((option) => field(option, options[option.name], (value) => set(option.name, value), "option")));
  }
}

const row_error = (row) => (row?.error ? make("p", { class: "bad" }, plainly(row.error)) : null) ?? "";

// One option with its meaning. An empty text field means the default.
export function field(option, value, set, prefix) {
  const id = `${prefix}-${option.name}`, current = value === undefined ? option.default : value;
  const help = make("small", { id: `${id}-help` }, ...worded(option.meaning));
  if (option.form === "switch") {
    const box = make("input", { type: "checkbox", id, checked: current === true, "aria-describedby": help.id, onchange: (event) => set(event.target.checked) });
    return make("div", { class: "field" }, make("label", { for: id }, box, ` ${option.name}`), help);
  }
  const text = current === null || current === undefined ? "" : String(current);
  const input = make("input", { id, value: text, autocomplete: "off", spellcheck: "false", placeholder: option.default === null ? "none" : "", list: option.choices.length ? `${id}-list` : null, "aria-describedby": help.id,
    onchange: (event) => { const entered = event.target.value.trim(); set(entered === "" ? option.default : Number.isFinite(Number(entered)) ? Number(entered) : entered); } });
  const list = option.choices.length ? make("datalist", { id: `${id}-list` }, ...option.choices.map((choice) => make("option", { value: choice }))) : "";
  return make("div", { class: "field" }, make("label", { for: id }, option.name), input, list, help);
}
