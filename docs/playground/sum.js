// A sum from dn.explain, written out: its formula, its terms, what they come to, and the library's number.
import { make, number } from "./parts.js";

const factor = (name, value) => make("td", {}, make("i", {}, name), ` ${number(value)}`);

function row(term, wide) { // its factors in columns, and their product
  const parts = term.cells.map(([name, index, value]) => factor(`${name}[${index.join()}]`, value));
  if (term.factor) parts.push(factor(...term.factor));
  parts.at(-1).colSpan = wide - parts.length + 1;
  return make("tr", {}, ...parts, make("td", {}, number(term.value)));
}

export function written(why) {
  const wide = Math.max(1, ...why.terms.map((term) => term.cells.length + (term.factor ? 1 : 0)));
  const rows = why.terms.map((term) => row(term, wide));
  if (why.others) rows.push(make("tr", { class: "others" }, make("td", { colspan: wide }, `… and ${why.others} ${why.zeros ? "that are 0" : "smaller"}`), make("td", {}, number(why.rest))));
  return [
    make("h3", {}, `${why.target} = ${number(why.value, 6)}`),
    make("p", { class: "quiet" }, `${why.title} (${why.anchor})`),
    make("p", { class: "formula" }, why.formula),
    make("div", { class: "terms" },
      make("table", {}, make("caption", { class: "hidden" }, "Terms and their products"), make("tbody", {}, ...rows))),
    make("p", { class: "total" }, make("span", {}, why.how), make("b", {}, number(why.sum, 6))),
    make("p", { class: why.ok ? "verdict good" : "verdict bad" }, `The library's number is ${number(why.value, 6)}: ${why.verdict}.`),
    ...why.notes.map((note) => make("p", { class: "note" }, note)),
  ];
}

export const spoken = (why) => `${why.target} is ${number(why.value)}, a sum of ${why.terms.length + why.others} terms. ${why.verdict}.`;
