"use strict";
// Maps, sums and cards as elements of the page. Nothing here knows what the reader chose.
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

  // -- colours: blue below 0, orange above, each map on its own scale

  function paint(value, scale) {
    const share = scale ? Math.min(Math.abs(value) / scale, 1) : 0;
    return { "--hue": value < 0 ? "var(--neg)" : "var(--pos)", "--much": (share * 100).toFixed(1) + "%" };
  }
  function painted(tag, name, value, scale, attributes, ...children) {
    return make(tag, { class: name, ...paint(value, scale), ...attributes }, ...children);
  }

  // -- a map

  function map(view, spec, size, bare, marks) {
    const pad = spec.pad ?? { top: 0, bottom: 0, left: 0, right: 0 };
    let scale = 0;
    for (let r = 0; r < spec.rows; r++) for (let c = 0; c < spec.cols; c++) {
      const value = Math.abs(view.get(spec.name, r, c).value);
      if (Number.isFinite(value)) scale = Math.max(scale, value);
    }
    const rows = [];
    for (let r = -pad.top; r < spec.rows + pad.bottom; r++) {
      const row = make("div", { role: "row" });
      for (let c = -pad.left; c < spec.cols + pad.right; c++) {
        if (r < 0 || c < 0 || r >= spec.rows || c >= spec.cols) {
          row.append(make("div", { class: "cell pad", "data-r": r, "data-c": c, "aria-hidden": "true" }));
          continue;
        }
        const cell = view.get(spec.name, r, c);
        const name = "cell" + (spec.name === "w" && r === 0 && c === 0 ? " first" : "") + (marks?.has(r + "," + c) ? " won" : "");
        const label = `${cell.name} = ${full(cell.value)}` + (marks?.has(r + "," + c) ? ", a winner" : "");
        row.append(painted("div", name, cell.value, scale, { role: "gridcell", tabindex: "-1", "data-map": spec.name, "data-r": r, "data-c": c, "aria-label": label, title: label }, make("span", { "aria-hidden": "true" }, short(cell.value))));
      }
      rows.push(row);
    }
    const grid = make("div", { class: "grid", role: "grid", "aria-label": `${spec.name}, ${spec.words}, ${spec.of}: ${spec.rows} by ${spec.cols}`, "aria-rowcount": spec.rows, "aria-colcount": spec.cols }, rows);
    grid.style.gridTemplateColumns = `repeat(${spec.cols + pad.left + pad.right}, var(--size))`;
    return make("figure", { class: "map" + (bare ? " bare" : ""), "data-name": spec.name, "data-column": spec.column, "data-row": spec.row, "--size": size + "px" },
      make("figcaption", {}, make("b", {}, spec.name), " ", make("span", { class: "turn" }, spec.words), make("br"), `${spec.of}, ` + (scale ? "±" + full(Number(scale.toPrecision(3))) : "all 0")),
      grid);
  }

  // -- the sum

  function factors(term) {
    const parts = term.cells.map((cell, place) => [place ? " · " : "", make("span", { class: "name", title: cell.name }, cell.short ?? cell.name), " ", brief(cell.value)]);
    const factor = term.what ? [" · ", make("span", { class: "name" }, term.what)] : [];
    return [...parts.flat(), ...factor, term.note ? make("span", { class: "name" }, "  ← " + term.note) : ""];
  }

  function account(found, how) {
    const head = [make("h2", {}, `${found.name} = ${full(found.value)}`), make("p", { class: "title" }, found.title, found.anchor ? make("span", { class: "anchor" }, found.anchor) : "")];
    if (found.reach) return [...head, make("p", { class: "note words" }, found.words)];
    const rows = [], plain = !found.how;
    let zeros = 0;
    for (const term of found.terms) {
      const value = Model.product(term);
      if (plain && value === 0 && found.terms.length > 4) { zeros++; continue; }
      rows.push(make("tr", { "data-cells": term.cells.map((cell) => `${cell.map}:${cell.r},${cell.c}`).join(" ") }, make("td", {}, factors(term)), make("td", { title: full(value) }, brief(value))));
    }
    const other = (words, value) => make("tr", { class: "other" }, make("td", {}, words), make("td", {}, value));
    if (zeros) rows.push(other(`${zeros} product${zeros > 1 ? "s that are" : " that is"} 0`, "0"));
    if (found.padding) rows.push(other(`${found.padding} read the padding`, "0"));
    for (const part of found.extra) rows.push(other(part.words, brief(part.value)));
    if (!rows.length) rows.push(other("nothing reaches this cell", "0"));
    const apart = Math.abs(found.sum - found.value);
    return [...head, make("div", { class: "formula" }, found.formula),
      make("div", { class: "terms", tabindex: "0", role: "region", "aria-label": "The terms" }, make("table", {}, make("caption", {}, found.where), make("tbody", {}, rows))),
      make("div", { class: "total" }, make("span", {}, found.how ?? "sum"), make("span", { class: "mono", "data-sum": found.sum }, full(found.sum))),
      make("div", { class: "verdict " + (found.same ? "good" : "bad"), "data-library": found.value, "data-same": String(found.same) },
        make("span", {}, found.same ? "✓ the library’s number" : "✗ the library has another number"), make("span", { class: "mono" }, full(found.value))),
      found.note ? make("p", { class: "note" }, found.note) : ""];
  }

  function sentence(found) {
    if (found.reach) return `${found.name} is ${full(found.value)}: ${found.title}. ${found.words}`;
    const count = found.terms.length;
    return `${found.name} is ${full(found.value)}, ${found.how ?? "the sum"} of ${count} ${count === 1 ? "term" : "terms"}, equation ${found.anchor}. The library has ${found.same ? "the same number" : "another number, " + full(found.value)}.`;
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
    return make("article", { class: "card" }, make("h3", {}, spec.title, make("span", { class: "anchor" }, spec.anchor)), make("div", { class: "formula" }, spec.formula), make("p", {}, spec.words), body,
      make("div", { class: "result", "data-value": spec.value }, make("small", {}, "the number"), full(spec.value)));
  }

  return { make, map, account, card, sentence, full, short };
})();
