// The worker: it owns the interpreter, answers the page's questions one after the other, and trains in between.
import { start } from "./python.js";

const PICTURE = 0.12; // seconds from one picture of a training to the next
let training = false;
let ask = null;
let loaded = null;
let turn = new Promise((resolve) => { loaded = resolve; }); // questions wait for Python, for each other, and for the steps that are being made

function question(method, given) {
  const answer = turn.then(() => {
    if (!ask) throw new Error("Python could not be loaded.");
    return ask(method, given);
  });
  turn = answer.catch(() => null);
  return answer;
}

async function train(until) {
  training = true;
  let steps = 1;
  while (training) {
    const begun = performance.now();
    const told = await question("advance", { steps, until });
    const seconds = (performance.now() - begun) / 1000;
    if (!told.error) postMessage({ event: "trained", told: told.answer });
    else postMessage({ event: "trouble", words: told.error });
    if (told.error || !told.answer.fine || told.answer.step >= until) training = false;
    steps = Math.max(1, Math.min(200, Math.round((steps * PICTURE) / Math.max(seconds, 0.001))));
    await new Promise((resolve) => setTimeout(resolve)); // lets a "pause" in
  }
  postMessage({ event: "stopped" });
}

onmessage = async ({ data }) => {
  if (data.event === "train") {
    if (!training) train(data.until);
  } else if (data.event === "pause") {
    training = false;
  } else if (data.event === "start") {
    try {
      ask = await start(data.pyodide, (words) => postMessage({ event: "loading", words }));
      postMessage({ event: "ready" });
    } catch (error) {
      postMessage({ event: "failed", words: String(error.message ?? error) });
    }
    loaded();
  } else {
    const told = await question(data.method, data.given).catch((error) => ({ error: String(error.message ?? error) }));
    postMessage({ event: "answer", number: data.number, told });
  }
};
postMessage({ event: "here" });
