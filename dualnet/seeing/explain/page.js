"use strict";
// What the reader chose, and how: mouse, touch and keys.
(() => {
  const { make } = Draw;
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const views = new Map(data.layers.filter((layer) => layer.view).map((layer) => [layer.path, Model.make(layer)]));
  const state = { path: data.target.path, pass: "backward", spelling: "correlation", picked: null };
  const view = () => views.get(state.path);
  const BACK = { dx: true, dw: true, db: true };

  // -- the frame: layers, choices

  function chain() {
    const nodes = [make("span", { class: "to" }, "x →")];
    data.layers.forEach((layer, place) => {
      if (place) nodes.push(make("span", { class: "to", "aria-hidden": "true" }, "→"));
      const text = (layer.path ? layer.path + " " : "") + layer.kind;
      nodes.push(views.has(layer.path) ? make("button", { type: "button", "data-path": layer.path, title: layer.title }, text) : make("span", { class: "layer", title: layer.title + ": not drawn here" }, text));
    });
    nodes.push(make("span", { class: "to" }, "→ y"));
    byId("chain").replaceChildren(...nodes);
    byId("chain").addEventListener("click", (event) => {
      const path = event.target.dataset?.path;
      if (path !== undefined) { state.path = path; state.picked = null; show(); }
    });
  }

  function options(id, ids, chosen, choose) {
    const label = byId(id), select = label.querySelector("select");
    label.hidden = !ids || ids.length < 2;
    if (!ids) return;
    select.replaceChildren(...ids.map((value, place) => make("option", { value: place }, String(value))));
    select.value = chosen;
    select.onchange = () => { choose(Number(select.value)); show(true); };
  }

  // -- equations

  function turned() { // is the kernel drawn turned by 180°?
    const v = view();
    return v.form === "convolution" && ((v.mode === "convolution") !== (state.spelling === "convolution")) !== (state.pass === "backward");
  }
  function equations() {
    const v = view(), sign = state.spelling === "convolution" ? "∗" : "⊗", w = turned() ? "rot180(w)" : "w";
    if (v.form === "convolution") {
      if (state.pass === "forward") return [["y", `y = x ${sign} ${w}${v.b ? " + b" : ""}`, "E4"]];
      const dw = state.spelling === "convolution" ? "x ∗ rot180(dy)" : "x ⊗ dy";
      const list = [["dx", `dx = dy ${sign} ${w}`, "E13"], ["dw", v.mode === "convolution" ? `dw = rot180(${dw})` : `dw = ${dw}`, "E11"]];
      return v.db ? [...list, ["db", "db = Σ dy", "E12"]] : list;
    }
    if (v.form === "pooling") {
      const how = { max: ["y = max(window)", "dx = dy, to the winner"], average: ["y = Σ window / M", "dx = Σ dy / M"], l2: ["y = √ Σ window²", "dx = Σ dy · x / y"] }[v.how];
      return [state.pass === "forward" ? ["y", how[0], "E8"] : ["dx", how[1], "E15"]];
    }
    return [state.pass === "forward" ? ["y", `y = ${v.formula}`, "E7"] : ["dx", "dx = f'(x) · dy", "E14"]];
  }
  function words(map) {
    const v = view();
    if (v.form === "pooling") return state.pass === "forward" ? "Each window becomes one number." : v.how === "max" ? "The dots are the winners: each takes the whole delta of its window, and the others get nothing." : "Each unit of a window gets its share of the delta.";
    if (v.form === "activation") return state.pass === "forward" ? "One function, applied to each number by itself." : "Each delta is scaled by the slope at its unit.";
    const is = turned() ? "turned by 180°" : "as it is stored";
    return { y: `The kernel, ${is}, stands on one window after the other.`, dx: `The deltas come back through the kernel, ${is}.`, dw: "Each delta meets what the weight read.", db: "The bias collects every delta." }[map]
      ?? (state.pass === "forward" ? `The kernel, ${is}, stands on one window after the other.` : "The deltas go back to the input and to the weights.");
  }

  // -- drawing

  let shown = [];
  const SMALL = 22; // a smaller cell holds no number, and needs no gap
  const span = (cells, size) => cells * (size + (size < SMALL ? 0 : 1)) + 6;
  function sizes(specs) { // one size for all large maps, so that they can be compared; kernels may be larger
    const narrow = matchMedia("(max-width: 620px)").matches;
    const room = byId("stage").clientWidth - (narrow ? 24 : 44);
    const wide = (spec) => spec.cols + (spec.pad ? spec.pad.left + spec.pad.right : 0);
    const tall = (spec) => spec.rows + (spec.pad ? spec.pad.top + spec.pad.bottom : 0);
    if (narrow) { // two columns
      const half = (room - 6) / 2 - 6;
      return (spec) => {
        const size = half / Math.max(wide(spec), spec.kernel ? 3 : 1);
        return size - 1 >= SMALL ? Math.min(40, Math.floor(size) - 1) : Math.min(size, SMALL - 1);
      };
    }
    const sized = (size) => (spec) => (spec.zoom ? (size + 1) * spec.zoom - 1 : spec.kernel ? Math.min(44, Math.max(size + 6, 26)) : size);
    const gap = view().form === "convolution" ? 18 : 52;
    const columns = [0, 1, 2].map((column) => specs.filter((spec) => spec.column === column)).filter((some) => some.length);
    const needed = (size) => columns.reduce((total, some) => total + Math.max(182, ...some.map((spec) => span(wide(spec), sized(size)(spec)))), gap * (columns.length - 1));
    const rows = [0, 1].reduce((total, row) => total + Math.max(0, ...specs.filter((spec) => spec.row === row).map(tall)), 0);
    let size = Math.min(40, Math.max(29, Math.floor((innerHeight - 400) / rows))); // both rows on one screen, where the numbers stay legible
    while (size > 4 && needed(size) > room) size -= size > SMALL ? 1 : 0.25;
    return sized(size);
  }

  function show(keep = false) {
    const v = view();
    if (v.form !== "convolution" && !v.ds) v.d = v.c;
    shown = v.maps(state.pass);
    const size = sizes(shown), marks = v.winners && v.how === "max" ? v.winners() : null;
    byId("maps").replaceChildren(...shown.map((spec) => Draw.map(v, spec, size(spec), size(spec) < SMALL, spec.name === "x" || spec.name === "dx" ? marks : null)));
    byId("maps").classList.toggle("few", v.form !== "convolution");
    byId("equations").replaceChildren(...equations().map(([name, text, anchor]) => make("span", { class: "equation", "data-of": name }, text, make("sup", {}, anchor))));
    byId("spelling").hidden = v.form !== "convolution";
    for (const button of byId("chain").querySelectorAll("button")) {
      if (button.dataset.path === state.path) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
    }
    for (const [name, value] of [["pass", state.pass], ["spelling", state.spelling]]) document.querySelector(`input[name=${name}][value=${value}]`).checked = true;
    options("pick-c", v.cs, v.c, (c) => { v.c = c; });
    options("pick-d", v.ds, v.d, (d) => { v.d = d; });
    const layer = data.layers.find((each) => each.path === state.path);
    byId("lead").textContent = `${layer.path ? "layer " + layer.path + ", " : ""}${layer.title} in a ${data.net}, image ${data.image} of ${v.shape[0][0]}`;
    if (!keep || !shown.some((spec) => spec.name === state.picked?.map)) state.picked = null;
    state.picked ??= first();
    turn();
    tabs();
    choose(state.picked, true);
  }

  function first() { // the entry that was asked for, or a telling one: the largest of the result
    const target = data.target, v = view();
    if (target.path === state.path && shown.some((spec) => spec.name === target.name)) {
      const index = target.index, place = index.length > 2 ? (target.name === "dw" ? [index[0], index[1]] : [index[1], index[2]]) : [0, 0];
      return { map: target.name, r: place[0], c: place[1] };
    }
    const spec = shown.find((each) => each.name === (state.pass === "forward" ? "y" : v.form === "convolution" ? "dw" : "dx"));
    let best = { map: spec.name, r: 0, c: 0 }, most = -1;
    for (let r = 0; r < spec.rows; r++) for (let c = 0; c < spec.cols; c++) {
      const value = Math.abs(v.get(spec.name, r, c).value);
      if (value > most) { most = value; best = { map: spec.name, r, c }; }
    }
    return best;
  }

  function turn() {
    const figure = byId("maps").querySelector('[data-name="w"]');
    if (!figure) return;
    figure.classList.toggle("turned", turned());
    figure.querySelector(".turn").textContent = turned() ? "turned by 180°" : "the kernel";
  }
  function tabs() { // one cell of each map is in the tab order
    for (const figure of byId("maps").children) {
      const name = figure.dataset.name, place = state.picked?.map === name ? state.picked : { r: 0, c: 0 };
      cellAt(name, place.r, place.c)?.setAttribute("tabindex", "0");
    }
  }
  const cellAt = (map, r, c) => byId("maps").querySelector(`[data-name="${map}"] .cell[data-r="${r}"][data-c="${c}"]`);

  // -- choosing a cell: what it came from lights up, and its sum is shown

  let last = "", telling = 0;
  function choose(place, redraw = false) {
    if (!place) return;
    const name = [state.path, state.pass, place.map, place.r, place.c].join();
    if (name === last && !redraw) return;
    last = name;
    const v = view(), found = v.explain(place.map, place.r, place.c, state.pass);
    for (const figure of byId("maps").children) {
      const lit = found.lit[figure.dataset.name], own = figure.dataset.name === place.map;
      figure.classList.toggle("whole", lit?.size === figure.querySelectorAll(".cell").length);
      figure.classList.toggle("aside", !found.reach && !lit && !own && !BACK[figure.dataset.name] && figure.dataset.name !== "y");
      figure.classList.toggle("chosen", Boolean(lit) || (own && !BACK[place.map] && place.map !== "y"));
      for (const cell of figure.querySelectorAll(".cell")) {
        const { r, c } = cell.dataset;
        cell.classList.toggle("lit", Boolean(lit?.has(r + "," + c)));
        cell.classList.toggle("twin", found.twin?.join() === [figure.dataset.name, r, c].join());
        cell.classList.toggle("here", own && Number(r) === place.r && Number(c) === place.c);
      }
    }
    byId("words").textContent = words(place.map);
    for (const equation of byId("equations").children) equation.classList.toggle("now", equation.dataset.of === place.map);
    byId("account").replaceChildren(...Draw.account(found));
    byId("account").dataset.entry = found.name;
    spell(place);
    routes(place);
    clearTimeout(telling);
    telling = setTimeout(() => { byId("live").textContent = Draw.sentence(found); }, 250);
  }

  function spell(place) {
    const spelled = view().spellings(place.map, place.r, place.c, state.pass);
    byId("spellings").hidden = view().form !== "convolution";
    if (!spelled) return; // x, w and dy are not computed: the last spelling stays
    byId("spellings-words").replaceChildren("Is the kernel rotated in the backward pass or not? It is the same sum, written differently: ", make("code", {}, view().explain(place.map, place.r, place.c, state.pass).name),
      ` = ${Draw.full(spelled.value)} three times.` + (spelled.more ? ` (The pictures show the chosen channel and filter; the others add ${Draw.full(spelled.more)}.)` : ""));
    byId("spellings").dataset.entry = byId("account").dataset.entry;
    byId("cards").replaceChildren(...spelled.cards.map(Draw.card));
  }

  function routes(place) { // of max pooling: from the delta to the winner
    const svg = byId("routes"), v = view(), list = v.routes?.() ?? [];
    svg.replaceChildren();
    if (!list.length) return;
    const frame = svg.getBoundingClientRect(), [to, from] = state.pass === "forward" ? ["x", "y"] : ["dx", "dy"];
    for (const route of list) {
      const ends = [cellAt(from, ...route.from), route.to && cellAt(to, route.to.r, route.to.c)];
      if (!ends[0] || !ends[1]) continue;
      const [a, b] = ends.map((cell) => cell.getBoundingClientRect()).map((box) => [box.x + box.width / 2 - frame.x, box.y + box.height / 2 - frame.y]);
      const now = (place.map === from && place.r === route.from[0] && place.c === route.from[1]) || (place.map === to && place.r === route.to.r && place.c === route.to.c);
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      const middle = (a[0] + b[0]) / 2;
      path.setAttribute("d", `M${a[0]} ${a[1]}C${middle} ${a[1]} ${middle} ${b[1]} ${b[0]} ${b[1]}`);
      if (now) path.setAttribute("class", "now");
      svg.append(path);
    }
  }

  // -- hands and keys

  const placeOf = (cell) => ({ map: cell.dataset.map, r: Number(cell.dataset.r), c: Number(cell.dataset.c) });
  const cellOf = (event) => event.target.closest?.(".cell[data-map]");
  byId("maps").addEventListener("pointerover", (event) => { const cell = cellOf(event); if (cell && event.pointerType !== "touch") choose(placeOf(cell)); });
  byId("maps").addEventListener("pointerleave", () => choose(state.picked));
  byId("maps").addEventListener("click", (event) => { const cell = cellOf(event); if (cell) cell.focus(); });
  byId("maps").addEventListener("focusin", (event) => {
    const cell = cellOf(event);
    if (!cell) return;
    for (const other of cell.closest(".map").querySelectorAll('.cell[tabindex="0"]')) other.setAttribute("tabindex", "-1");
    cell.setAttribute("tabindex", "0");
    state.picked = placeOf(cell);
    choose(state.picked);
  });
  byId("maps").addEventListener("keydown", (event) => {
    const cell = cellOf(event), step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!cell || (!step && event.key !== "Home" && event.key !== "End")) return;
    event.preventDefault();
    const { map, r, c } = placeOf(cell), spec = shown.find((each) => each.name === map);
    const way = map === "w" && turned() ? -1 : 1; // on a turned kernel the keys follow the picture
    const next = step ? [r + way * step[0], c + way * step[1]] : [r, event.key === "Home" ? 0 : spec.cols - 1];
    cellAt(map, Math.min(Math.max(next[0], 0), spec.rows - 1), Math.min(Math.max(next[1], 0), spec.cols - 1))?.focus();
  });
  byId("account").addEventListener("pointerover", (event) => pair(event.target.closest?.("tr[data-cells]")));
  byId("account").addEventListener("pointerleave", () => pair(null));
  function pair(row) { // the cells of one term
    for (const cell of byId("maps").querySelectorAll(".pair")) cell.classList.remove("pair");
    for (const text of row?.dataset.cells.split(" ") ?? []) {
      const [map, place] = text.split(":");
      cellAt(map, ...place.split(","))?.classList.add("pair");
    }
  }
  byId("pass").addEventListener("change", (event) => setPass(event.target.value));
  byId("spelling").addEventListener("change", (event) => setSpelling(event.target.value));
  function setPass(pass) {
    const before = turned();
    state.pass = pass; state.picked = null;
    show();
    replay(before);
  }
  function setSpelling(spelling) {
    const before = turned();
    state.spelling = spelling;
    show(true);
    replay(before);
  }
  function replay(before) { // the kernel turns before the reader's eyes
    const figure = byId("maps").querySelector('[data-name="w"]');
    if (!figure || before === turned()) return;
    figure.classList.toggle("turned", before);
    void figure.offsetWidth;
    figure.classList.toggle("turned", turned());
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("select, input[type=text]")) return;
    const focused = document.activeElement?.dataset ?? {}, was = focused.map && { ...focused };
    const key = event.key.toLowerCase();
    if (key === "f") setPass(state.pass === "forward" ? "backward" : "forward");
    else if (key === "r" && view().form === "convolution") setSpelling(state.spelling === "correlation" ? "convolution" : "correlation");
    else return;
    if (was) (cellAt(was.map, was.r, was.c) ?? cellAt(state.picked.map, state.picked.r, state.picked.c))?.focus();
  });

  // -- light and dark

  function theme(name) {
    if (name === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
    try { localStorage.setItem("dualnet-theme", name); } catch { /* a frame may have no storage */ }
  }
  byId("theme").addEventListener("change", (event) => theme(event.target.value));
  let remembered = null;
  try { remembered = localStorage.getItem("dualnet-theme"); } catch { /* none */ }
  const asked = new URLSearchParams(location.search).get("theme") ?? remembered;
  const radio = document.querySelector(`input[name=theme][value="${CSS.escape(asked ?? "auto")}"]`);
  if (radio) { radio.checked = true; theme(radio.value); }

  // -- begin

  const opened = view();
  if (data.target.name === "y") state.pass = "forward";
  if (opened.form === "convolution") {
    const index = data.target.index.length ? data.target.index : [0, 0, opened.cs[0] % opened.perGroup[0], opened.ds[0]];
    const channel = { dx: index[3], dw: opened.cs.findIndex((c, place) => opened.ds && c % opened.perGroup[0] === index[2] && opened.perGroup && Math.floor(c / opened.perGroup[0]) === Math.floor(index[3] / opened.perGroup[1])) }[data.target.name];
    if (data.target.name === "dx") opened.c = Math.max(opened.cs.indexOf(channel), 0);
    if (data.target.name === "dw") opened.c = Math.max(channel, 0);
    if (data.target.name !== "dx") opened.d = Math.max(opened.ds.indexOf(index[index.length - 1]), 0);
    else opened.d = Math.max(opened.ds.findIndex((d) => Math.floor(d / opened.perGroup[1]) === Math.floor(channel / opened.perGroup[0])), 0);
  } else opened.c = Math.max(opened.cs.indexOf(data.target.index.at(-1)), 0);
  chain();
  byId("source").textContent = data.source ? `The deltas: ${data.source}.` : "";
  show();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; show(true); } });
})();
