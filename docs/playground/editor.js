// An editor for a page of Python: a text area over the same text in colour, with the numbers of its lines.
import { make } from "./parts.js";

const INDENT = "    ";
const ANCHOR = /\b(E\d+)\b/;

export class Editor {
  constructor(id, changed, colours) { // colours: text -> a promise of its lines, each in pieces [kind, text]
    this.changed = changed;
    this.colours = colours;
    this.known = new Map(); // line -> its pieces
    this.wrong = null;
    this.under = make("pre", { class: "editor-lines", "aria-hidden": "true" });
    this.area = make("textarea", { id, wrap: "off", spellcheck: "false", autocapitalize: "off", autocomplete: "off",
      oninput: () => this.edited(), onkeydown: (event) => this.key(event) });
    this.element = make("div", { class: "editor" }, make("div", { class: "editor-stack" }, this.under, this.area));
  }

  get text() { return this.area.value; }

  set text(text) {
    this.area.value = text;
    this.wrong = null;
    this.paint();
    this.recolour();
    this.element.scrollTo(0, 0);
  }

  edited() {
    this.wrong = null;
    this.paint();
    this.changed();
    clearTimeout(this.later);
    this.later = setTimeout(() => this.recolour(), 250);
  }

  async recolour() { // lines that have not changed keep their colours meanwhile
    const text = this.text, { lines } = await this.colours(text).catch(() => ({ lines: [] }));
    text.split("\n").forEach((line, i) => { if (lines[i]) this.known.set(line, lines[i]); });
    if (text === this.text) this.paint(lines);
  }

  paint(lines = []) {
    if (this.wrong) this.area.setAttribute("aria-invalid", "true"); else this.area.removeAttribute("aria-invalid");
    this.under.replaceChildren(...this.text.split("\n").map((line, i) => make("span", { class: i + 1 === this.wrong ? "editor-line wrong" : "editor-line" },
      ...(lines[i] ?? this.known.get(line) ?? [["", line]]).flatMap(([kind, text]) => this.piece(kind, text)), "\n")));
  }

  piece(kind, text) {
    if (!kind) return [text];
    const parts = kind === "comment" ? text.split(ANCHOR).map((part, i) => (i % 2 ? make("b", {}, part) : part)) : [text];
    return [make("span", { class: `code-${kind}` }, ...parts)];
  }

  mark(line) { // the line of an error
    this.wrong = line;
    this.paint();
  }

  goTo(line) {
    const lines = this.text.split("\n"), from = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    this.area.focus();
    this.area.setSelectionRange(from, from + (lines[line - 1] ?? "").length);
    this.element.scrollLeft = 0;
  }

  key(event) {
    const bare = !event.ctrlKey && !event.metaKey && !event.altKey && !event.isComposing, leaving = this.leaving;
    this.leaving = event.key === "Escape" || (leaving && event.key === "Shift"); // Escape, then Tab: out of the editor, and on
    if (!bare) return;
    if (event.key === "Tab" && !leaving) { event.preventDefault(); this.shift(event.shiftKey); }
    else if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); this.newLine(); }
  }

  newLine() { // as far in as the line before, and further behind a colon
    const before = this.text.slice(0, this.area.selectionStart).split("\n").at(-1);
    this.insert(`\n${before.match(/^ */)[0]}${/:\s*(#.*)?$/.test(before) ? INDENT : ""}`);
  }

  shift(back) { // the chosen lines, four to the right or back
    const { selectionStart: from, selectionEnd: to } = this.area, text = this.text;
    const first = text.slice(0, from).lastIndexOf("\n") + 1;
    if (from === to && !back) {
      this.insert(INDENT.slice((from - first) % 4));
      return;
    }
    const end = text.indexOf("\n", Math.max(from, to - 1)), last = end < 0 ? text.length : end;
    const lines = text.slice(first, last).split("\n").map((line) => (back ? line.replace(/^ {1,4}/, "") : line && INDENT + line)).join("\n");
    if (lines === text.slice(first, last)) return; // to delete nothing would delete the line break
    this.area.setSelectionRange(first, last);
    this.insert(lines);
    if (from !== to) this.area.setSelectionRange(first, first + lines.length);
    else { const caret = Math.max(first, from - (last - first - lines.length)); this.area.setSelectionRange(caret, caret); }
  }

  insert(text) { // so that it can be undone with the keys
    if (!document.execCommand(text ? "insertText" : "delete", false, text)) {
      this.area.setRangeText(text, this.area.selectionStart, this.area.selectionEnd, "end");
      this.edited();
    }
  }
}
