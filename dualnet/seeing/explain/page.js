"use strict";
// What the reader chose, and how: mouse, touch and keys.
(() => {
  const { make } = Draw;
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const views = new Map(data.layers.filter((layer) => layer.view).map((layer) => [layer.path, Model.make(layer)]));
  const layerAt = (path) => data.layers.find((layer) => layer.path === path);
  const named = (layer) => (layer.path && layer.path !== "loss" ? layer.path + " " : "") + layer.kind;
  const state = { path: data.target.path, sum: "dx", spelling: "correlation", picked: null, all: false, taken: false };
  const view = () => views.get(state.path);
  const MEANS = "dx, dw and db are the gradients of x, w and b; dy, the delta, is how fast the loss grows with each output; ⊗ is a correlation, ∗ a convolution";
  const narrow = () => matchMedia("(max-width: 620px)").matches;
  let telling = 0;
  function say(text) { // to a screen reader, once the reader has come to rest
    clearTimeout(telling);
    telling = setTimeout(() => { byId("live").textContent = text; }, 250);
  }

  // -- the story, on a convolution of its own

  const story = Story.mount(byId("story"), Model.make(data.story), { say, size: () => (narrow() ? Math.max(28, Math.min(36, Math.floor((innerWidth - 206) / 5))) : 42) });

  // -- the frame: layers, sums, choices

  function chain() {
    const nodes = [make("span", { class: "to" }, "x →")];
    data.layers.forEach((layer, place) => {
      if (place) nodes.push(make("span", { class: "to", "aria-hidden": "true" }, "→"));
      nodes.push(views.has(layer.path) ? make("button", { type: "button", "data-path": layer.path, title: layer.title }, named(layer)) : make("span", { class: "layer", title: layer.title + ": not drawn here" }, named(layer)));
    });
    byId("chain").replaceChildren(...nodes, ...(data.layers.at(-1).view?.form === "loss" ? [] : [make("span", { class: "to" }, "→ y")]));
  }
  byId("chain").addEventListener("click", (event) => {
    const path = event.target.dataset?.path;
    if (path !== undefined) go(path, views.get(path).sums(state.spelling).some(([name]) => name === state.sum) ? state.sum : views.get(path).sums(state.spelling).at(-1)[0]);
  });
  function go(path, sum, picked = null) {
    Object.assign(state, { path, sum, picked, all: false });
    show(Boolean(picked));
  }

  function options(id, ids, chosen, word, choose) {
    const label = byId(id), select = label.querySelector("select");
    label.hidden = !ids || ids.length < 2;
    if (label.hidden) return;
    label.firstChild.textContent = word + " ";
    select.replaceChildren(...ids.map((value, place) => make("option", { value: place }, String(value))));
    select.value = chosen;
    select.onchange = () => { choose(Number(select.value)); show(true); };
  }
  function sums() {
    const list = view().sums(state.spelling), focused = byId("sums").contains(document.activeElement);
    byId("sums").replaceChildren(byId("sums").querySelector("legend"), ...list.map(([name, text, anchor]) => make("label", {},
      make("input", { type: "radio", name: "sum", value: name, checked: name === state.sum }), make("span", { title: `equation ${anchor} of the derivation; ${MEANS}` }, text, make("sup", {}, anchor)))));
    if (focused) byId("sums").querySelector(":checked").focus();
  }

  // -- one step of E17: taken and undone, with the loss that the library found after it

  function step() {
    const { step: told } = data;
    if (!told) return;
    const rate = told.rates[told.chosen ?? 1], after = told.losses[told.chosen ?? 1];
    Model.rate.now = rate;
    const select = make("select", { "aria-label": "learning rate" }, told.rates.map((value, place) => make("option", { value: place, selected: place === (told.chosen ?? 1) }, String(value))));
    select.onchange = () => { told.chosen = Number(select.value); step(); show(true); };
    const button = make("button", { type: "button", class: "take" }, state.taken ? "↶ undo the step" : "take one step (E17)");
    button.onclick = () => { state.taken = !state.taken; step(); byId("step").querySelector(".take").focus(); say(byId("step").querySelector("output").textContent); };
    const begin = make("button", { type: "button", class: "begin" }, "follow a delta from the loss");
    begin.onclick = fromLoss;
    byId("step").replaceChildren(make("output", { "data-loss": state.taken ? after : told.before }, "loss ", make("b", {}, "E = " + Draw.full(told.before)),
      ...(state.taken ? [make("b", {}, " → " + Draw.full(after)), ` (a straight line would give ${Draw.full(told.before - rate * told.squared)})`] : [])),
    make("label", { title: "η, the learning rate: how far one step goes" }, "learning rate η ", select), button, ...(views.has("loss") ? [begin] : []));
  }

  // -- following a delta: the dy of a layer is the dx of the layer after it

  const beforeOf = (layer) => (views.has(layer.before) ? layerAt(layer.before) : null);
  const afterOf = (layer) => (views.has(layer.after) ? layerAt(layer.after) : null);
  function largest(v, map) {
    let best = null, most = -1;
    for (const [r, c] of Draw.cellsOf(v.maps(map).find((spec) => spec.name === map))) {
      const value = Math.abs(v.get(map, r, c).value);
      if (value > most) { most = value; best = { map, r, c }; }
    }
    return best;
  }
  function fromLoss() { go("loss", "dy", largest(views.get("loss"), "dy")); byId("explore").scrollIntoView(); }
  function back(found) { // one layer towards the pixels: where the largest part of this delta goes
    const layer = beforeOf(layerAt(state.path)), v = layer && views.get(layer.path), place = v?.locate("dy", found.index);
    if (!place) return layer && { layer };
    return { layer, go: () => {
      v.locate("dy", found.index);
      v.choose?.({ map: "dy", ...place });
      let best = null, most = -1;
      const came = (cell) => cell.map === "dy" && cell.r === place.r && cell.c === place.c;
      for (const channel of v.form === "convolution" ? v.cs.keys() : [v.c]) {
        if (v.form === "convolution" && !v.linked(channel, v.d)) continue;
        v.c = channel;
        for (const text of v.explain("dy", place.r, place.c, "dx").lit.dx ?? []) {
          const [r, c] = text.split(",").map(Number);
          const part = v.explain("dx", r, c, "dx").terms.filter((term) => term.cells.some(came)).reduce((sum, term) => sum + Model.product(term), 0);
          if (Math.abs(part) > most) { most = Math.abs(part); best = { channel, place: { map: "dx", r, c } }; }
        }
      }
      if (!best) return;
      v.c = best.channel;
      go(layer.path, "dx", best.place);
    } };
  }
  function towards(found) { // one layer towards the loss: where the largest of its deltas came from
    const layer = afterOf(layerAt(state.path)), deltas = found.terms.map((term) => ({ part: Math.abs(Model.product(term)), cell: term.cells.find((cell) => cell.map === "dy") })).filter(({ cell }) => cell?.index);
    if (!layer || !deltas.length) return null;
    const { cell } = deltas.reduce((best, each) => (each.part > best.part ? each : best)), v = views.get(layer.path), map = layer.path === "loss" ? "dy" : "dx";
    if (!v.locate(map, cell.index)) return null;
    return { layer, cell, go: () => { const place = v.locate(map, cell.index); go(layer.path, map, { map, ...place }); } };
  }
  function follow(found) {
    if (found.reach || !["dx", "dw", "db", "dy"].includes(state.sum)) return [];
    const list = [], down = (state.sum === "dx" || state.sum === "dy") && found.index ? back(found) : null, up = towards(found);
    if (down) list.push(down.go ? make("button", { type: "button", class: "back" }, `← continues into ${named(down.layer)}`) : make("p", { class: "note" }, `It continues into a channel of ${named(down.layer)} that this page does not hold.`));
    if (up) list.push(make("button", { type: "button", class: "towards" }, `${up.cell.short} comes from ${named(up.layer)} →`));
    if (down?.go) list[0].onclick = down.go;
    if (up) list.at(-1).onclick = up.go;
    if (state.sum === "dx" && !layerAt(state.path).before && state.path === data.layers[0].path) list.unshift(make("p", { class: "note" }, "This is the gradient of a pixel: the backward pass ends here."));
    return list;
  }

  // -- drawing

  let shown = [];
  const SMALL = 22; // a smaller cell holds no number, and needs no gap
  function sizes(specs) { // one size for all, so that they can be compared; kernels may be larger
    if (narrow()) return (spec) => (spec.zoom ? 37 * Math.min(spec.zoom, 2) - 1 : 36);
    const room = byId("stage").clientWidth - 46;
    const sized = (size) => (spec) => (spec.zoom ? (size + 1) * spec.zoom - 1 : spec.kernel ? Math.min(44, Math.max(size, 26)) : size);
    const span = (spec, size) => Math.max(spec.kernel ? 178 : 150, Draw.lattice(spec).wide * (size + (size < SMALL ? 0 : 1)) + 6);
    const needed = (size) => specs.reduce((total, spec) => total + span(spec, sized(size)(spec)), 58 * (specs.length - 1));
    let size = 40;
    while (size > 4 && needed(size) > room) size -= size > SMALL ? 1 : 0.25;
    if (size < 26 && specs.every((spec) => Draw.lattice(spec).wide <= 14)) size = 26; // small maps keep their numbers, below each other
    return sized(size);
  }
  function drawn(spec, size = sizes(shown)(spec)) {
    const v = view(), marks = v.winners && v.how === "max" && (spec.name === "x" || spec.name === "dx") ? v.winners() : null;
    const figure = Draw.map(v, spec, size, { bare: size < SMALL, marks });
    return turn(figure, v.turned(state.sum, state.spelling) === spec.name);
  }

  function show(keep = false) {
    const v = view();
    if (v.form !== "convolution" && v.form !== "dense") v.d = v.c;
    if (!v.sums(state.spelling).some(([name]) => name === state.sum)) state.sum = v.sums(state.spelling).at(-1)[0];
    shown = v.maps(state.sum);
    if (!keep || !shown.some((spec) => spec.name === state.picked?.map)) state.picked = null;
    state.picked ??= first();
    v.choose?.(state.picked);
    shown = v.maps(state.sum); // of the channel of what was picked
    const size = sizes(shown);
    const signs = { convolution: ["", "=", state.spelling === "convolution" ? "∗" : "⊗"], dense: ["", "=", "·"] }[v.form] ?? [];
    byId("maps").replaceChildren(...shown.flatMap((spec, place) => [...(signs[place] && state.sum !== "new" ? [make("span", { class: "sign", "aria-hidden": "true" }, signs[place])] : []), drawn(spec, size(spec))]));
    sums();
    byId("spelling").hidden = v.form !== "convolution" || state.sum === "db" || state.sum === "new";
    document.querySelector(`input[name=spelling][value=${state.spelling}]`).checked = true;
    byId("words").textContent = v.words(state.sum, state.spelling);
    for (const button of byId("chain").querySelectorAll("button")) {
      if (button.dataset.path === state.path) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
    }
    options("pick-c", v.vector ? null : v.cs, v.c, "channel", (c) => { v.c = c; });
    options("pick-d", v.form === "convolution" || (v.form === "dense" && ["dw", "new"].includes(state.sum)) ? v.ds : null, v.d, v.form === "dense" ? "output" : "filter", (d) => { v.d = d; });
    const layer = layerAt(state.path);
    byId("lead").textContent = (layer.path && layer.path !== "loss" ? `layer ${layer.path}, ` : "") + `${layer.title}, in a ${data.net}; ${v.shape[0][0] === 1 ? "one image" : `image ${data.image + 1} of ${v.shape[0][0]}`}${data.untrained ? ". It is a fresh network that has learned nothing yet." : ""}`;
    byId("source").textContent = data.source ? `The deltas: ${data.source}.` : "";
    tabs();
    choose(state.picked, true);
  }

  function first() { // the entry that was asked for, or a telling one: the largest of the result
    const target = data.target, name = shown[0].name;
    if (target.path === state.path && name === target.name && !target.opened) {
      const index = target.index, v = view();
      target.opened = true;
      if (name === "dw" && index.length > 2) return { map: name, r: index[0], c: index[1] };
      const place = ["y", "dx"].includes(name) ? v.locate(name, index.slice(1)) : v.placedAt?.(name, index);
      if (place) return { map: name, ...place };
    }
    return largest(view(), name) ?? { map: name, r: 0, c: 0 };
  }

  function turn(figure, turned) {
    figure.classList.toggle("turned", turned);
    const words = shown.find((spec) => spec.name === figure.dataset.name)?.words;
    if (words) figure.querySelector(".turn").textContent = turned ? "turned by 180°" : words;
    return figure;
  }
  function tabs() { // one cell of each map is in the tab order
    for (const figure of byId("maps").querySelectorAll(".map")) {
      const name = figure.dataset.name, place = state.picked?.map === name ? state.picked : { r: 0, c: 0 };
      cellAt(name, place.r, place.c)?.setAttribute("tabindex", "0");
    }
  }
  const cellAt = (map, r, c) => byId("maps").querySelector(`[data-name="${map}"] .cell[data-r="${r}"][data-c="${c}"]`);

  // -- choosing a cell: what it came from lights up, and its sum is shown

  let last = "";
  function choose(place, redraw = false) {
    if (!place) return;
    const name = [state.path, state.sum, place.map, place.r, place.c].join();
    if (name === last && !redraw) return;
    last = name;
    const v = view();
    if (v.choose?.(place) && !redraw) for (const slice of v.slices(state.sum)) { // a dense layer shows the row of w that takes part
      const spec = v.maps(state.sum).find((each) => each.name === slice), old = byId("maps").querySelector(`[data-name="${slice}"]`);
      if (old && slice !== place.map) old.replaceWith(drawn(spec));
    }
    const found = v.explain(place.map, place.r, place.c, state.sum);
    for (const figure of byId("maps").querySelectorAll(".map")) {
      const lit = found.lit[figure.dataset.name], own = figure.dataset.name === place.map;
      figure.classList.toggle("whole", lit?.size === figure.querySelectorAll(".cell").length);
      figure.classList.toggle("chosen", Boolean(lit) || (own && figure.dataset.name !== shown[0].name));
      for (const cell of figure.querySelectorAll(".cell")) {
        const { r, c } = cell.dataset;
        cell.classList.toggle("lit", Boolean(lit?.has(r + "," + c)));
        cell.classList.toggle("twin", found.twin?.join() === [figure.dataset.name, r, c].join());
        cell.classList.toggle("here", own && Number(r) === place.r && Number(c) === place.c);
      }
      if (narrow() && (!own || redraw)) pan(figure, own ? ".here" : ".lit");
    }
    const most = state.all ? Infinity : narrow() ? 8 : 14;
    byId("account").replaceChildren(...Draw.account(found, { most, more: true, follow: follow(found) }));
    byId("account").querySelector(".more")?.addEventListener("click", () => { state.all = true; choose(place, true); });
    byId("account").dataset.entry = found.name;
    spell(place);
    routes(place);
    say(Draw.sentence(found));
  }
  function pan(figure, what) { // what takes part comes into view, inside its map
    const box = figure.querySelector(".pan"), lit = figure.querySelector(what);
    if (!lit || (box.scrollWidth <= box.clientWidth && box.scrollHeight <= box.clientHeight)) return;
    const [outer, inner] = [box.getBoundingClientRect(), lit.getBoundingClientRect()];
    box.scrollBy(inner.x - outer.x - 60, inner.y - outer.y - 60);
  }

  function spell(place) {
    const v = view(), spelled = v.spellings(place.map, place.r, place.c);
    byId("spellings").hidden = v.form !== "convolution";
    if (!spelled) return; // x, w and dy are not computed: the last spelling stays
    byId("spellings-words").replaceChildren("The same sum, written differently: ", make("code", {}, v.explain(place.map, place.r, place.c, state.sum).name),
      ` = ${Draw.full(spelled.value)} three times.` + (spelled.more ? ` (The pictures show the chosen channel and filter; a row below them adds the others.)` : ""));
    byId("spellings").dataset.entry = byId("account").dataset.entry;
    byId("cards").replaceChildren(...spelled.cards.map(Draw.card));
  }

  function routes(place) { // of max pooling: from the delta to the winner
    const svg = byId("routes"), v = view(), list = v.routes?.() ?? [];
    svg.replaceChildren();
    if (!list.length || narrow()) return;
    const frame = svg.getBoundingClientRect(), [to, from] = state.sum === "y" ? ["x", "y"] : ["dx", "dy"];
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
  byId("maps").addEventListener("click", (event) => { const cell = cellOf(event); if (cell) cell.focus({ preventScroll: true }); });
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
    const way = view().turned(state.sum, state.spelling) === map ? -1 : 1; // on a turned map the keys follow the picture
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
  byId("sums").addEventListener("change", (event) => setSum(event.target.value));
  byId("spelling").addEventListener("change", (event) => setSpelling(event.target.value));
  function setSum(sum) { replay(() => go(state.path, sum)); }
  function setSpelling(spelling) { replay(() => { state.spelling = spelling; show(true); }); }
  function replay(change) { // what is turned turns before the reader's eyes
    const before = view().turned(state.sum, state.spelling);
    change();
    const now = view().turned(state.sum, state.spelling);
    for (const name of before === now ? [] : [before, now]) {
      const figure = byId("maps").querySelector(`[data-name="${name}"]`);
      if (!figure) continue;
      turn(figure, name === before);
      void figure.offsetWidth;
      turn(figure, name === now);
    }
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("select, input[type=text]")) return;
    const focused = document.activeElement?.dataset ?? {}, was = focused.map && { ...focused };
    const key = event.key.toLowerCase();
    if (key === "f") setSum(state.sum === "y" ? "dx" : "y");
    else if (key === "r" && view().form === "convolution") setSpelling(state.spelling === "correlation" ? "convolution" : "correlation");
    else if (key === "b" || key === "n") { byId("account").querySelector(key === "b" ? ".back" : ".towards")?.click(); return; }
    else return;
    if (was) (cellAt(was.map, was.r, was.c) ?? cellAt(state.picked.map, state.picked.r, state.picked.c))?.focus();
  });

  // -- light and dark

  function theme(name) {
    const radio = document.querySelector(`input[name=theme][value="${CSS.escape(name)}"]`);
    if (!radio) return;
    radio.checked = true;
    if (name === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
  }
  byId("theme").addEventListener("change", (event) => {
    theme(event.target.value);
    try { localStorage.setItem("dualnet-theme", event.target.value); } catch { /* a frame may have no storage */ }
  });
  let remembered = null;
  try { remembered = localStorage.getItem("dualnet-theme"); } catch { /* none */ }
  theme(new URLSearchParams(location.search).get("theme") ?? remembered ?? "auto");

  // -- in a frame: the page around it may say which colours it has, and is told how high this one is

  addEventListener("message", (event) => { if (typeof event.data?.theme === "string") theme(event.data.theme); });
  if (parent !== window) new ResizeObserver(() => parent.postMessage({ height: document.body.offsetHeight }, "*")).observe(document.body);

  // -- begin

  if (data.target.name) {
    state.sum = data.target.name;
    const v = view(), index = data.target.index;
    if (v.form === "convolution" && ["dw", "db"].includes(state.sum)) v.aim(state.sum, index);
  }
  chain();
  step();
  show();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; story.redraw(); show(true); } });
})();
