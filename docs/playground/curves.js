// Loss and accuracy over the steps, of this run and of one that was kept.
const TALL = 176, LEFT = 40, RIGHT = 50, TOP = 10, BOTTOM = 22;
const POINTS = 320;

const svg = (tag, attributes, text = "") => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
};

export function smoothed(losses, points = POINTS) { // the mean of every few steps
  const width = Math.max(1, Math.ceil(losses.length / points)), found = [];
  for (let i = 0; i < losses.length; i += width) {
    const part = losses.slice(i, i + width).filter(Number.isFinite);
    if (part.length) found.push([i + part.length / 2 + 0.5, part.reduce((a, b) => a + b, 0) / part.length]);
  }
  return found;
}

const lastOf = (run, kept) => Math.max(20, ...[kept, run].filter(Boolean).map((each) => each.losses.length));

// The slider stands below the steps that it goes to, in the scale of the picture.
export function under(slider, run, kept) {
  slider.style.width = `${(100 * run.losses.length) / lastOf(run, kept)}%`;
}

export function draw(picture, run, kept, step) {
  const WIDE = Math.max(260, Math.round(picture.clientWidth));
  picture.setAttribute("viewBox", `0 0 ${WIDE} ${TALL}`);
  const runs = [kept, run].filter(Boolean);
  const last = lastOf(run, kept);
  const firsts = runs.map((each) => each.losses.find(Number.isFinite) ?? 1);
  const most = Math.max(0.5, ...runs.flatMap((each, i) => smoothed(each.losses).map(([, y]) => Math.min(y, 1.5 * firsts[i]))));
  const x = (at) => LEFT + ((WIDE - LEFT - RIGHT) * at) / last;
  const loss = (value) => TOP + (TALL - TOP - BOTTOM) * (1 - Math.min(value / most, 1));
  const share = (value) => TOP + (TALL - TOP - BOTTOM) * (1 - value);
  const path = (points, y) => points.map(([at, value], i) => `${i ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const parts = [];
  for (const part of [0, 0.5, 1]) {
    const y = share(part);
    parts.push(svg("line", { x1: LEFT, x2: WIDE - RIGHT, y1: y, y2: y, class: "rule" }));
    parts.push(svg("text", { x: LEFT - 6, y: y + 4, class: "loss", "text-anchor": "end" }, (part * most).toPrecision(2)));
    parts.push(svg("text", { x: WIDE - RIGHT + 6, y: y + 4, class: "accuracy" }, `${100 * part} %`));
  }
  for (const at of [0, last]) parts.push(svg("text", { x: x(at), y: TALL - 6, "text-anchor": at ? "end" : "start" }, at ? `step ${last}` : "0"));
  for (const each of runs) {
    const kind = each === run ? "" : " kept";
    parts.push(svg("path", { d: path(smoothed(each.losses), loss), class: `loss${kind}` }));
    const trials = each.trials.map((trial) => [trial.step, trial.accuracy]);
    parts.push(svg("path", { d: path(trials, share), class: `accuracy${kind}` }));
    if (trials.length === 1) parts.push(svg("circle", { cx: x(trials[0][0]), cy: share(trials[0][1]), r: 2.5, class: `accuracy${kind}` }));
  }
  if (!runs.some((each) => each.losses.length)) parts.push(svg("text", { x: (LEFT + WIDE - RIGHT) / 2, y: share(0.75) + 4, "text-anchor": "middle" }, "The curves appear here once you train."));
  for (const [i, [at, words]] of run.marks.entries()) { // words of marks that are close stand below each other
    parts.push(svg("line", { x1: x(at), x2: x(at), y1: TOP, y2: TALL - BOTTOM, class: "event" }));
    parts.push(svg("text", { x: x(at) + (at > last / 2 ? -4 : 4), y: TOP + 44 + 15 * (i % 3), class: "event", "text-anchor": at > last / 2 ? "end" : "start" }, words));
  }
  if (step < run.losses.length) parts.push(svg("line", { x1: x(step), x2: x(step), y1: TOP, y2: TALL - BOTTOM, class: "here" }));
  picture.replaceChildren(...parts);
}
