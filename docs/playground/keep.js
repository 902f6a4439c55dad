// Keep: the settings as a link, the network as a file, the run as a notebook.
import { button, byId, bytesOf, make, textOf } from "./parts.js";

export class Keep {
  constructor(play) {
    this.play = play;
    this.link = make("input", { readonly: true, id: "link" });
    this.told = make("p", { class: "quiet", role: "status" });
    const row = (title, words, ...actions) => make("div", { class: "kept-row" }, make("h3", {}, title), make("p", { class: "quiet" }, words), make("p", { class: "buttons" }, ...actions));
    byId("keep").append(
      make("div", { class: "kept-rows" },
        row("The settings", "The address of this page holds the drawing and the settings of the training. Your own images and what was learned are not in it.", make("label", { for: "link", class: "hidden" }, "Address"), this.link, button("Copy the address", () => this.copy())),
        row("The network", "The same file that net.save writes and dn.load reads in Python.", button("Save model.npz", () => this.save("save")), make("label", { class: "file" }, "Open a file", make("input", { type: "file", accept: ".npz", onchange: (event) => this.open(event.target) }))),
        row("The run", "The same network, the same batches, the same steps, as code: the weights come out the same.", button("Save as a notebook", () => this.save("notebook")), button("Save the images", () => this.save("images")))),
      this.told);
  }

  refresh() {
    this.link.value = location.href;
  }

  async copy() {
    this.link.select();
    try {
      await navigator.clipboard.writeText(this.link.value);
      this.told.textContent = "The address is copied.";
    } catch {
      this.told.textContent = "The address is selected: copy it with the keys.";
    }
  }

  async save(what) {
    try {
      const file = await this.play.python.ask(what);
      this.play.save(file.name, file.text ?? bytesOf(file.bytes));
      this.told.textContent = `${file.name} is saved.`;
    } catch (error) {
      this.play.trouble(error);
    }
  }

  async open(input) {
    const [file] = input.files;
    input.value = "";
    try {
      await this.play.pause();
      const told = await this.play.python.ask("load", { data: await textOf(file), name: file.name });
      this.play.beginWith(told);
      this.told.textContent = `${file.name} is open; its training begins at step 0.`;
    } catch (error) {
      this.play.trouble(error);
    }
  }
}
