// Small tools of all parts: elements, numbers in words, files.
export const byId = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// An error's words. What the page itself refuses needs no name in front of it.
export const plainly = (words) => words.replace(/^playground: (\w)/, (_, first) => first.toUpperCase());

// Words in which what is stressed stands between asterisks, as in the lessons of the zoo.
export const stressed = (words) => words.split(/\*(\w|\w[^*]*\w)\*/).map((part, i) => (i % 2 ? make("em", {}, part) : part));

// Words in which code stands between backticks.
export const worded = (words) => words.split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));

export const button = (words, onclick, more = {}) => make("button", { type: "button", onclick, ...more }, words);

const minus = (text) => text.replace("-", "−");

export function number(value, digits = 4) {
  if (value === null || value === undefined) return "no number";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e-4 && size < 1e6 ? String(Number(value.toPrecision(digits))) : value.toExponential(2);
  return minus(text.replace("e-", "e−").replace("e+", "e"));
}

// A layer as code, as short as it can be read.
export const brief = (code) => code.replace("dn.", "").replace(/\b(filters|kernel_size|pool_size|units|rate)=/g, "");

export const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)} %`);

export const shape = (extents) => extents.join(" × ");

let telling = 0;
export function tell(words) { // to screen readers, once it has become quiet
  clearTimeout(telling);
  telling = setTimeout(() => { byId("live").textContent = words; }, 300);
}

export function save(name, content) {
  const url = URL.createObjectURL(new Blob([content]));
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

export const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

export async function textOf(file) { // as base64
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}
