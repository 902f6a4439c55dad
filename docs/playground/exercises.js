// The exercises of the zoo: read the task, mend the backward pass, and have it graded by the library's own witnesses.
import { Editor } from "./editor.js";
import { button, byId, make, stressed, tell } from "./parts.js";

const STORED = "dualnet-exercises"; // { name: { code, mended } }, in this browser's storage and nowhere else

function remembered() {
  try {
    const found = JSON.parse(localStorage.getItem(STORED) ?? "{}");
    return found !== null && typeof found === "object" && !Array.isArray(found) ? found : {};
  } catch {
    return {}; // a frame may have no storage, and others may have written there
  }
}

const scrolling = (name, ...text) => make("pre", { tabindex: 0, role: "region", "aria-label": name }, ...text);

export class Exercises {
  constructor(play) {
    this.play = play;
    this.rows = [];
    this.task = null;
    this.grading = false;
    this.menu = make("select", { id: "exercise", onchange: (event) => this.choose(event.target.value).catch((error) => { this.list(); play.trouble(error); }) });
    this.count = make("span", { class: "quiet", id: "mended" });
    this.words = make("div", { class: "task" });
    this.help = make("div", { class: "task-help", role: "status" });
    this.editor = new Editor("repair", () => this.edited(), (code) => play.python.ask("colours", { code }));
    this.label = make("label", { for: "repair" });
    this.keys = make("p", { class: "quiet", id: "repair-keys" }, "Tab indents, Shift+Tab unindents. To leave the editor, press Escape, then Tab. Ctrl+Enter grades.");
    this.editor.area.setAttribute("aria-describedby", this.keys.id);
    this.editor.area.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); this.grade(); } });
    this.go = button("Grade", () => this.grade(), { class: "main", id: "grade" });
    this.stop = button("Stop", () => play.restart(), { id: "stop-grading", hidden: true, title: "Stops a repair that never ends, by restarting Python. The training is lost, your code stays." });
    this.verdict = make("div", { class: "task-verdict", id: "verdict" });
    byId("exercises").append(
      make("p", { class: "quiet lead-in" }, "Each op has a correct forward pass and one mistake in its backward pass. Fix it; the witnesses of the library judge your repair. Your code stays in this browser."),
      make("div", { class: "bar" }, make("label", { for: "exercise" }, "Exercise"), this.menu, this.count, button("Forget my work", () => this.forget(), { id: "forget", class: "far small" })),
      make("div", { class: "exercise" },
        make("div", { class: "exercise-task" }, this.words,
          make("p", { class: "buttons" }, button("A hint", () => this.ask("hint", "A hint"), { id: "hint" }), button("What do the witnesses say?", () => this.ask("witnesses", "What the witnesses say about the code as it was"), { id: "witnesses" })),
          this.help),
        make("div", { class: "exercise-code" }, this.label, this.editor.element, this.keys,
          make("p", { class: "buttons" }, this.go, this.stop, button("Begin again", () => this.beginAgain(), { id: "begin-again" })),
          this.verdict)));
  }

  async refresh() { // the tab was opened, or Python has come
    if (byId("exercises").hidden || !this.play.awake || this.rows.length) return;
    try {
      this.rows = (await this.play.python.ask("exercises")).rows;
      const kept = remembered();
      if (this.wanted) byId("tabs").scrollIntoView();
      await this.choose(this.wanted ?? (this.rows.find((row) => !kept[row.name]?.mended) ?? this.rows[0]).name);
    } catch (error) {
      this.play.trouble(error);
      if (this.rows.length && !this.task) await this.choose(this.rows[0].name);
    }
  }

  open(name) { // as the address asks
    this.wanted = name;
    byId("tab-exercises").click();
  }

  list() {
    const kept = remembered(), mended = this.rows.filter((row) => kept[row.name]?.mended).length;
    this.menu.replaceChildren(...this.rows.map((row, i) => make("option", { value: row.name }, `${i + 1}. ${row.name}${kept[row.name]?.mended ? " ✓" : ""}`)));
    this.menu.value = this.task?.name ?? "";
    this.count.textContent = `${mended} of ${this.rows.length} mended`;
  }

  async choose(name) {
    this.task = await this.play.python.ask("exercise", { name });
    const { symptom, story, ask, anchors, op, code } = this.task;
    this.words.replaceChildren(make("h3", {}, name, " ", make("i", {}, anchors.join(", "))), make("p", {}, make("b", {}, symptom)), make("p", {}, ...stressed(story)), make("p", {}, ask));
    this.label.replaceChildren("Mend ", make("code", {}, op));
    this.editor.text = remembered()[name]?.code ?? code;
    this.help.replaceChildren();
    this.verdict.replaceChildren();
    this.list();
  }

  async ask(what, title) {
    const { name } = this.task;
    try {
      await this.play.pause();
      const { text } = await this.play.python.ask(what, { name });
      if (name !== this.task.name) return; // the reader has gone on to another exercise
      const told = what === "hint" ? make("p", {}, ...stressed(text)) : scrolling(title, text);
      this.help.replaceChildren(make("h3", {}, title), told);
    } catch (error) {
      this.play.trouble(error);
    }
  }

  // -- what is kept

  keep(more, task = this.task) {
    const kept = remembered(), { name, code } = task, entry = { ...kept[name], ...more };
    if (entry.code === code) delete entry.code;
    if (Object.keys(entry).length) kept[name] = entry; else delete kept[name];
    try { localStorage.setItem(STORED, JSON.stringify(kept)); } catch { /* it is not kept */ }
  }

  edited() {
    if (this.task) this.keep({ code: this.editor.text });
  }

  beginAgain() {
    if (!this.task || this.editor.text === this.task.code || !confirm("Put the code back as it was in the task? Your own is lost.")) return;
    this.editor.text = this.task.code;
    this.edited();
    this.verdict.replaceChildren();
    this.editor.area.focus();
  }

  forget() {
    if (!confirm("Forget your code and which exercises you have mended, in this browser?")) return;
    try { localStorage.removeItem(STORED); } catch { /* nothing was kept */ }
    if (this.task) this.choose(this.task.name);
    tell("Your work is forgotten.");
  }

  // -- the verdict

  async grade() {
    if (this.grading || !this.task) return;
    const { task } = this, code = this.editor.text; // the reader may choose another exercise meanwhile
    this.grading = true;
    this.go.setAttribute("aria-disabled", "true"); // and not "disabled", which would take the focus away
    this.stop.hidden = false;
    this.editor.mark(null);
    this.verdict.replaceChildren(make("p", { class: "quiet" }, "Asking the witnesses …"));
    try {
      await this.play.pause();
      const told = await this.play.python.ask("grade", { name: task.name, code });
      if (told.passed) this.keep({ mended: true }, task);
      if (task.name === this.task.name) this.told(told);
      else this.list();
    } catch (error) {
      if (task.name === this.task.name) this.verdict.replaceChildren(make("p", { class: "verdict bad" }, error.message));
      tell(error.message);
    } finally {
      this.grading = false;
      this.go.removeAttribute("aria-disabled");
      if (document.activeElement === this.stop) this.go.focus();
      this.stop.hidden = true;
    }
  }

  told(told) {
    const { name } = this.task, words = told.passed ? "Mended: every witness agrees." : told.line ? `Not mended yet: line ${told.line} raises an error.` : "Not mended yet.";
    const parts = [make("p", { class: told.passed ? "verdict good" : "verdict bad" }, words)];
    if (told.line) {
      this.editor.mark(told.line);
      parts.push(make("p", { class: "buttons" }, button(`Go to line ${told.line}`, () => this.editor.goTo(told.line), { id: "go-to-line" })));
    }
    const wrong = (line) => / {2}wrong {2}/.test(line) || line === `${name}: WRONG`;
    parts.push(scrolling("What the witnesses say", ...told.text.split("\n").flatMap((line) => [wrong(line) ? make("b", { class: "bad" }, line) : line, "\n"])));
    if (told.printed) parts.push(make("details", {}, make("summary", {}, "What your code printed"), scrolling("What your code printed", told.printed)));
    if (told.passed) {
      parts.push(make("p", {}, ...stressed(told.lesson)), make("p", {}, "Witnesses that miss this mistake, and why:"), make("ul", {}, ...Object.entries(told.blind).map(([witness, why]) => make("li", {}, make("b", {}, witness), `: ${why}`))),
        told.next ? make("p", { class: "buttons" }, button(`Next: ${told.next}`, () => this.choose(told.next).then(() => this.menu.focus(), (error) => this.play.trouble(error)), { id: "next-exercise" })) : make("p", {}, "That was the last one."));
    }
    this.verdict.replaceChildren(...parts);
    this.list();
    tell(told.line ? `${words} ${told.text}` : words);
  }
}
