// The way to the worker: questions with answers, and events while it loads and trains.
import { plainly } from "./parts.js";

const WORKER = new URL("worker.js", import.meta.url).href;

export class Interpreter extends EventTarget {
  constructor(pyodide) {
    super();
    this.pyodide = pyodide;
    this.start();
  }

  start() {
    this.waiting = new Map();
    this.pausing = [];
    this.number = 0;
    this.training = false;
    // A worker from a blob has this page's security policy; from a file it would have none.
    const source = new Blob([`import ${JSON.stringify(WORKER)};`], { type: "text/javascript" });
    this.source = URL.createObjectURL(source);
    this.worker = new Worker(this.source, { type: "module" });
    this.worker.onmessage = ({ data }) => this.heard(data);
    this.worker.onerror = (event) => this.tell("failed", { words: event.message || "The worker could not be started." });
  }

  heard(data) {
    if (data.event === "here") {
      URL.revokeObjectURL(this.source);
      this.worker.postMessage({ event: "start", pyodide: this.pyodide });
    } else if (data.event === "answer") {
      const { resolve, reject } = this.waiting.get(data.number);
      this.waiting.delete(data.number);
      if (data.told.error) reject(new Error(plainly(data.told.error))); else resolve(data.told.answer);
    } else {
      if (data.event === "stopped") this.training = false;
      this.tell(data.event, data);
      if (data.event === "stopped") this.pausing.splice(0).forEach(({ resolve }) => resolve());
    }
  }

  tell(event, data) {
    this.dispatchEvent(Object.assign(new Event(event), { data }));
  }

  ask(method, given = {}) {
    this.number += 1;
    const number = this.number;
    return new Promise((resolve, reject) => {
      this.waiting.set(number, { resolve, reject });
      this.worker.postMessage({ number, method, given });
    });
  }

  train(until) {
    this.training = true;
    this.worker.postMessage({ event: "train", until });
  }

  pause() {
    if (!this.training) return Promise.resolve();
    this.worker.postMessage({ event: "pause" });
    return new Promise((resolve, reject) => this.pausing.push({ resolve, reject }));
  }

  restart() { // a program that never ends is ended with its interpreter
    this.worker.terminate();
    for (const { reject } of [...this.pausing, ...this.waiting.values()]) reject(new Error("Python was restarted."));
    this.start();
  }
}
