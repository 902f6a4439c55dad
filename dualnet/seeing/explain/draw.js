"use strict";
// Maps, sums and cards as elements of the page. Nothing here depends on what the reader chose.
const Draw = (() => {
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "class") element.className = value;
      else if (name.startsWith("--")) element.style.setProperty(name, value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  }

  // -- numbers

  const sign = (text) => text.replace("-", "−");
  function full(value) {
    if (!Number.isFinite(value)) return sign(String(value));
    const text = value === 0 ? "0" : Number(value.toPrecision(6)).toString();
    return sign(text);
  }
  const brief = (value) => (Number.isFinite(value) ? sign(Number(value.toPrecision(4)).toString()) : full(value));
  function short(value) { // at most four characters: a cell is small
    if (!Number.isFinite(value)) return sign(String(value)).slice(0, 4);
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 100) return sign(String(value));
    if (size >= 999.5) return sign(value.toExponential(0).replace("e+", "e"));
    const text = value.toFixed(size < 0.995 ? 2 : size < 9.95 ? 1 : 0);
    return sign(text.replace(/^(-?)0\./, "$1."));
  }

  const raised = (ten) => "10" + [...String(ten)].map((digit) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(digit)]).join("");

  const anchor = (number) => make("span", { class: "anchor", title: `equation ${number} of the derivation` }, number);

  // -- colours: blue below 0, orange above, each map on its own scale

  function paint(value, scale) {
    const share = scale ? Math.min(Math.abs(value) / scale, 1) : 0;
    return { "--hue": value < 0 ? "var(--neg)" : "var(--pos)", "--much": (share * 100).toFixed(1) + "%" };
  }
  function painted(tag, name, value, scale, attributes, ...children) {
    return make(tag, { class: name, ...paint(value, scale), ...attributes }, ...children);
  }

  // -- a map

  function scaleOf(view, spec) {
    let scale = 0;
    for (const [r, c] of cellsOf(spec)) {
      const value = Math.abs(view.get(spec.name, r, c).value);
      if (Number.isFinite(value)) scale = Math.max(scale, value);
    }
    return scale;
  }
  function cellsOf(spec) {
    return Array.from({ length: spec.count ?? spec.rows * spec.cols }, (_, q) => [Math.floor(q / spec.cols), q % spec.cols]);
  }
  // rows and columns as they are drawn: those of the map, and the zeros around it and between its cells
  function lattice(spec) {
    if (spec.zeros) return { ...spec.zeros, tall: spec.zeros.rows[1] - spec.zeros.rows[0] + 1, wide: spec.zeros.cols[1] - spec.zeros.cols[0] + 1 };
    return { rows: [0, spec.rows - 1], cols: [0, spec.cols - 1], step: [1, 1], tall: spec.rows, wide: spec.cols };
  }

  function map(view, spec, size, { bare = false, marks = null, scale = scaleOf(view, spec) } = {}) {
    const { rows: [top, bottom], cols: [left, right], step: [s1, s2] } = lattice(spec), rows = [];
    const power = scale ? Math.floor(Math.log10(scale)) : 0, ten = power < -1 || power > 2 ? power : 0; // so that a cell has figures to show
    for (let u = top; u <= bottom; u++) {
      const row = make("div", { role: "row" });
      for (let v = left; v <= right; v++) {
        const r = u / s1, c = v / s2;
        if (!Number.isInteger(r) || !Number.isInteger(c) || r < 0 || c < 0 || r >= spec.rows || c >= spec.cols) {
          row.append(make("div", { class: "cell zero", "data-r": "z" + u, "data-c": v, "aria-hidden": "true", title: "a zero that is read here" }, make("span", {}, "0")));
          continue;
        }
        if (spec.count && r * spec.cols + c >= spec.count) continue;
        const cell = view.get(spec.name, r, c), won = marks?.has(r + "," + c);
        const name = "cell" + (spec.kernel && spec.name === "w" && r === 0 && c === 0 ? " first" : "") + (won ? " won" : "");
        const label = `${cell.name} = ${full(cell.value)}` + (won ? ", a winner" : "");
        row.append(painted("div", name, cell.value, scale, { role: "gridcell", tabindex: "-1", "data-map": spec.name, "data-r": r, "data-c": c, "aria-label": label, title: label }, make("span", { "aria-hidden": "true" }, short(cell.value / 10 ** ten))));
      }
      rows.push(row);
    }
    const grid = make("div", { class: "grid", role: "grid", "aria-label": `${spec.name}, ${spec.words}, ${spec.of}: ${spec.rows} by ${spec.cols}`, "aria-rowcount": spec.rows, "aria-colcount": spec.cols }, rows);
    grid.style.gridTemplateColumns = `repeat(${right - left + 1}, var(--size))`;
    return make("figure", { class: "map" + (bare ? " bare" : ""), "data-name": spec.name, "--size": size + "px" },
      make("figcaption", {}, make("b", {}, spec.name), " ", make("span", { class: "turn" }, spec.words), make("br"), make("small", {}, `${spec.of}, ` + (scale ? "±" + full(Number(scale.toPrecision(3))) : "all 0") + (ten ? `; shown × ${raised(ten)}` : ""))),
      make("div", { class: "pan" }, grid));
  }

  // -- the sum: its rows add up exactly as they are printed, to the last digit

  function factors(term) {
    const parts = term.cells.map((cell, place) => [place ? " · " : "", make("span", { class: "name", title: cell.name }, cell.short ?? cell.name), " ", brief(cell.value)]);
    const factor = term.what ? [term.cells.length ? " · " : "", make("span", { class: "name" }, term.what)] : [];
    return [...parts.flat(), ...factor, term.note ? make("span", { class: "name" }, "  ← " + term.note) : ""];
  }

  // One scale and one number of decimals for all rows; in these units every row is a whole number.
  function units(values) {
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const power = largest ? Math.floor(Math.log10(largest)) : 0;
    const ten = power < -3 || power > 5 ? power : 0;
    const whole = values.every(Number.isInteger) && !ten;
    const decimals = whole ? 0 : Math.max(0, 4 - (power - ten));
    const unit = 10 ** decimals;
    return { ten, whole: (value) => Math.round((value / 10 ** ten) * unit), text: (count) => sign((count / unit).toFixed(decimals)) };
  }

  // rows: [label, number as text, term or null]; if there are many terms, the largest, and the others in one row
  function rowsOf(found, most) {
    const adds = !found.how, total = found.sum;
    const parts = found.terms.map((term) => ({ term, value: Model.product(term) }));
    const zeros = adds && parts.length > 4 ? parts.filter((part) => part.value === 0).length : 0;
    let shown = zeros ? parts.filter((part) => part.value !== 0) : parts;
    const { whole: seen } = units([...shown.map((part) => part.value), total].filter(Number.isFinite));
    const tiny = adds && Number.isFinite(most) && shown.length > 4 ? shown.filter((part) => seen(part.value) === 0).length : 0;
    const order = [...shown].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    const kept = new Set(shown.length > most || tiny > 1 ? order.slice(0, Math.min(most - 1, shown.length - tiny)) : shown);
    const hidden = shown.length - kept.size;
    shown = shown.filter((part) => kept.has(part));
    const values = [...shown.map((part) => part.value), ...found.extra.map((part) => part.value), total];
    const finite = values.every(Number.isFinite);
    const { ten, whole, text } = finite ? units(values) : { ten: 0, whole: (value) => value, text: (value) => full(value) };
    const rows = shown.map((part) => [factors(part.term), text(whole(part.value)), part.term]);
    if (zeros) rows.push([`${zeros} product${zeros > 1 ? "s" : ""} of 0`, "0", null]);
    if (found.padding) rows.push([`${found.padding} × a zero of the padding`, "0", null]);
    if (found.around) rows.push([`${found.around} × a zero around dy`, "0", null]);
    for (const part of found.extra) rows.push([part.words, text(whole(part.value)), null]);
    if (!rows.length) rows.push(["nothing reaches this cell", "0", null]);
    if (adds) { // what is left: the other terms, or the rounding of these rows
      const left = whole(total) - [...shown, ...found.extra].reduce((sum, part) => sum + whole(part.value), 0);
      if (hidden) rows.push([`… and ${hidden} more`, finite ? text(left) : "…", null]);
      else if (finite && left) rows.push(["lost in rounding these rows", text(left), null]);
    } else if (hidden) rows.push([`… and ${hidden} more`, "", null]);
    return { rows, ten, hidden, total: text(whole(total)) };
  }

  function account(found, { most = Infinity, more = null, follow = [] } = {}) {
    const head = [make("h3", {}, `${found.name} = ${full(found.value)}`), make("p", { class: "title" }, found.title, found.anchor ? anchor(found.anchor) : "")];
    const links = follow.length ? [make("div", { class: "follow" }, follow)] : [];
    if (found.reach) return [...head, make("p", { class: "note words" }, found.words), ...links];
    const { rows, ten, hidden, total } = rowsOf(found, most);
    const body = rows.map(([label, number, term]) => make("tr", { class: term ? null : "other", "data-cells": term ? term.cells.map((cell) => `${cell.map}:${cell.r},${cell.c}`).join(" ") : null }, make("td", {}, label), make("td", { "data-part": number }, number)));
    const where = found.where + (ten ? `; products × ${raised(ten)}` : "");
    return [...head, make("div", { class: "formula" }, found.formula),
      make("div", { class: "terms", "data-adds": String(!found.how), "data-ten": ten }, make("table", {}, make("caption", {}, where), make("tbody", {}, body))),
      hidden && more ? make("button", { type: "button", class: "more" }, "show all terms") : "",
      make("div", { class: "total" }, make("span", {}, found.how ?? "sum"), make("span", { class: "mono", "data-sum": found.sum, "data-total": total }, total)),
      found.free ? make("p", { class: "note" }, found.free) : make("div", { class: "verdict " + (found.same ? "good" : "bad"), "data-library": found.value, "data-same": String(found.same) },
        make("span", {}, found.same ? "✓ the library’s number" : "✗ the library has a different number"), make("span", { class: "mono" }, full(found.value))),
      found.note ? make("p", { class: "note" }, found.note) : "", ...links];
  }

  function sentence(found) {
    if (found.reach) return `${found.name} is ${full(found.value)}: ${found.title}. ${found.words}`;
    const count = found.count; // of all channels and filters, not only of those that are shown
    const how = found.alone ? `by ${found.formula}` : `${found.how ?? "the sum"} of ${count} ${count === 1 ? "term" : "terms"}`;
    return `${found.name} is ${full(found.value)}, ${how}, equation ${found.anchor}. The library has ${found.same ? "the same number" : "a different number, " + full(found.value)}.`;
  }

  // -- the three spellings

  function mini([values, cols, name], room) {
    const scale = values.reduce((most, value) => Math.max(most, Math.abs(value) || 0), 0);
    const rows = Math.ceil(values.length / cols);
    const size = cols <= 9 && rows <= 5 ? 28 : Math.max(4, Math.min(15, Math.floor(room / cols) - 1));
    const grid = make("div", { class: "mini", "--size": size + "px", role: "img", "aria-label": name + ": " + values.slice(0, 25).map(full).join(", ") + (values.length > 25 ? " and so on" : "") },
      values.map((value) => painted("i", "", value, scale, {}, size >= 26 ? short(value) : "")));
    grid.style.gridTemplateColumns = `repeat(${cols}, ${size}px)`;
    return make("div", {}, grid, make("div", { class: "mini-name" }, name));
  }
  function card(spec) {
    const body = spec.minis ? make("div", { class: "minis" }, spec.minis.map((part) => (typeof part === "string" ? make("span", { class: "mono" }, part) : mini(part, 300))))
      : make("div", { class: "terms" }, make("table", {}, make("tbody", {}, spec.pairs.filter((term) => Model.product(term) !== 0).map((term) => make("tr", {}, make("td", {}, factors(term)), make("td", {}, brief(Model.product(term))))))));
    return make("article", { class: "card" }, make("h3", {}, spec.title, anchor(spec.anchor)), make("div", { class: "formula" }, spec.formula), make("p", {}, spec.words), body,
      spec.more ? make("div", { class: "others", "data-more": spec.more }, make("small", {}, spec.others), full(spec.more)) : null,
      make("div", { class: "result", "data-value": spec.value }, make("small", {}, "the number"), full(spec.value)));
  }

  return { make, map, scaleOf, cellsOf, lattice, rowsOf, account, card, sentence, full, short, painted };
})();
