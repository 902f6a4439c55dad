// A console: Python beside the training.
import { button, byId, make } from "./parts.js";

export class Console {
  constructor(play) {
    this.play = play;
    this.past = [];
    this.at = 0;
    this.log = make("pre", { class: "log", role: "log", tabindex: 0, "aria-label": "What Python answered" });
    this.line = make("textarea", { id: "code", rows: 3, spellcheck: "false", autocapitalize: "off", "aria-describedby": "code-help", onkeydown: (event) => this.key(event) });
    this.line.value = "print(net.summary())";
    byId("console").append(
      make("p", { class: "quiet", id: "code-help" }, "The interpreter of this page. ", ...["net", "x", "t", "xv", "tv", "optimizer", "dn", "np"].flatMap((name, i) => [i ? ", " : "", make("code", {}, name)]), " are there. Enter runs, Shift+Enter makes a new line, and the arrow up on the first line brings back what you ran before."),
      this.log,
      make("form", { class: "code", onsubmit: (event) => { event.preventDefault(); this.run(); } }, make("label", { for: "code", class: "hidden" }, "Python"), this.line, make("p", { class: "buttons" }, make("button", { type: "submit", class: "main" }, "Run"), button("Restart Python", () => this.play.restart(), { title: "Stops a program that never ends. The run is lost, the drawing stays." }))));
  }

  key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.run();
    } else if (event.key === "ArrowUp" && !this.line.value.slice(0, this.line.selectionStart).includes("\n") && this.at > 0) {
      event.preventDefault();
      this.at -= 1;
      this.line.value = this.past[this.at];
    }
  }

  async run() {
    const code = this.line.value.trimEnd();
    if (!code) return;
    this.past.push(code);
    this.at = this.past.length;
    this.line.value = "";
    const answer = make("span", {}, "…\n");
    this.log.append(make("b", {}, `>>> ${code.replaceAll("\n", "\n... ")}\n`), answer);
    try {
      await this.play.pause();
      const told = await this.play.python.ask("run", { code });
      answer.textContent = told.text && !told.text.endsWith("\n") ? `${told.text}\n` : told.text;
      answer.className = told.ok ? "" : "bad";
      this.play.refresh();
    } catch (error) {
      answer.textContent = `${error.message}\n`;
      answer.className = "bad";
    }
    this.log.scrollTop = this.log.scrollHeight;
  }
}
