"use strict";
// The story: four scenes on one small convolution, each a kernel that glides over a map while its sum builds up.
// Story.mount(root, view) needs a Convolution of Model and the elements of the story in root; it knows nothing else.
const Story = (() => {
  const { make, full, short } = Draw;
  const BEAT = 1100; // milliseconds from one place to the next

  // what a scene shows: result = source ⊗ kernel. `window` is where the kernel stands for an entry of the result.
  function scenes(view) {
    const [k1, k2] = view.window_, [P, Q] = view.grid, spec = (name, words, more) => ({ ...view.spec(name, words), of: "", ...more });
    const kernel = (name, words) => ({ name, words, of: "", rows: k1, cols: k2, kernel: true });
    return {
      forward: { result: spec("y", "the output"), source: spec("x", "the input"), kernel: kernel("w", "as it is stored"), window: [k1, k2], from: [0, 0],
        words: "Forward: lay the kernel, as it is stored, on a window of x. Multiply, and add up: that is one output." },
      arrives: { result: spec("dy", "the deltas"), source: spec("y", "the output"), window: [1, 1], from: [0, 0],
        words: "The delta arrives: for each output, the next layer reports how fast the loss E grows when that output grows. This is dy, the delta." },
      dx: { result: spec("dx", "gradient of the input"), source: spec("dy", "the deltas, with zeros around them", { zeros: view.spread() }), kernel: kernel("w", "read turned by 180°"), turned: true, window: [k1, k2], from: [1 - k1, 1 - k2],
        words: "dx (the gradient of the input): each input collects the deltas of the windows that read it, each times its weight. To write it as a correlation (⊗), you read the kernel turned by 180°." },
      dw: { result: kernel("dw", "gradient of the kernel"), source: spec("x", "the input"), kernel: spec("dy", "the deltas, as they are"), window: [P, Q], from: [0, 0],
        words: "dw (the gradient of the weights): each weight collects input times delta over all windows. The deltas glide over x, and nothing is turned." },
    };
  }

  // the products of one place, in the order in which the window is read; zeros around dy take part with 0
  function terms(view, scene, r, c) {
    const { name } = scene.result, list = [];
    const [rows, cols] = scene.window;
    for (let a = 0; a < rows; a++) for (let b = 0; b < cols; b++) {
      const u = r + a + scene.from[0], v = c + b + scene.from[1];
      const there = u >= 0 && v >= 0 && u < scene.source.rows && v < scene.source.cols;
      const read = there ? view.get(scene.source.name, u, v).value : 0;
      const by = scene.turned ? [rows - 1 - a, cols - 1 - b] : [a, b];
      list.push([read, view.get(scene.kernel.name, ...by).value]);
    }
    return { list, entry: `${name}[${r},${c}]`, value: view.get(name, r, c).value };
  }
  const factor = (value) => (value < 0 ? `(${short(value)})` : short(value));

  function mount(root, view, { say = () => {}, size = () => 40 } = {}) {
    const $ = (query) => root.querySelector(query);
    const all = scenes(view), state = { scene: "dx", place: 0, timer: 0 };
    const scene = () => all[state.scene];
    const count = () => scene().result.rows * scene().result.cols;
    const spot = () => [Math.floor(state.place / scene().result.cols), state.place % scene().result.cols];

    function draw() {
      const now = scene(), parts = [figure(now.result, "result"), sign("="), figure(now.source, "source")];
      if (now.kernel) parts.push(sign("⊗"), figure(now.kernel, "kernel", now.turned));
      else parts.splice(1, 1, sign("←"));
      const frame = make("span", { class: "glider", "aria-hidden": "true" });
      frame.style.gridTemplateColumns = `repeat(${now.window[1]}, var(--size))`;
      for (let a = 0; a < now.window[0]; a++) for (let b = 0; b < now.window[1]; b++) {
        const by = now.turned ? [now.window[0] - 1 - a, now.window[1] - 1 - b] : [a, b];
        frame.append(make("i", { "--at": a * now.window[1] + b }, now.kernel ? "×" + short(view.get(now.kernel.name, ...by).value) : ""));
      }
      $(".scene").replaceChildren(...parts);
      $(".scene").dataset.scene = state.scene;
      $(".scene .source .grid").append(frame);
      $(".story-words").textContent = now.words;
      const slider = $(".player input");
      slider.max = count() - 1;
      move(state.place);
    }
    function figure(spec, role, turned = false) {
      const drawn = Draw.map(view, spec, size());
      drawn.classList.add(role);
      drawn.classList.toggle("turned", turned);
      for (const cell of drawn.querySelectorAll(".cell")) cell.removeAttribute("tabindex");
      drawn.querySelector("small").remove();
      drawn.querySelector("br").remove();
      return drawn;
    }
    const sign = (text) => make("span", { class: "sign", "aria-hidden": "true" }, text);

    function move(place, building = false) {
      state.place = place;
      const now = scene(), [r, c] = spot(), slider = $(".player input");
      slider.value = place;
      const [top, left] = now.source.zeros ? [now.source.zeros.rows[0], now.source.zeros.cols[0]] : [0, 0];
      const step = size() + 1;
      const frame = $(".glider");
      frame.style.transform = `translate(${(c + now.from[1] - left) * step}px, ${(r + now.from[0] - top) * step}px)`;
      $(".scene").classList.toggle("building", building);
      for (const cell of $(".scene .result").querySelectorAll(".cell[data-map]")) {
        const q = Number(cell.dataset.r) * now.result.cols + Number(cell.dataset.c);
        cell.classList.toggle("here", q === place);
        cell.classList.toggle("later", building && q > place);
      }
      const told = sentence(r, c);
      $(".story-sum").replaceChildren(...told.parts);
      $(".story-sum").dataset.entry = told.entry;
      slider.setAttribute("aria-valuetext", told.text);
      return told.text;
    }
    function sentence(r, c) {
      const now = scene();
      if (!now.kernel) {
        const [y, dy] = [view.get("y", r, c).value, view.get("dy", r, c).value];
        const entry = `dy[${r},${c}]`, head = `${entry} = ${full(dy)}:`, much = full(Math.abs(dy));
        const words = `when y[${r},${c}] = ${full(y)} grows a little, E ${dy ? `${dy > 0 ? "grows" : "falls"} by ${much} times that` : "stays"}.`;
        return { entry, text: `${head} ${words}`, parts: [make("b", {}, head), make("span", {}, words)] };
      }
      const { list, entry, value } = terms(view, now, r, c);
      const words = list.map(([a, b]) => `${factor(a)}·${factor(b)}`);
      const parts = words.map((word, place) => make("span", { class: "term", "--at": place }, (place ? "+ " : "") + word));
      const bias = state.scene === "forward" && view.b ? view.b.data[0] : 0;
      if (bias) { words.push(factor(bias)); parts.push(make("span", { class: "term", "--at": words.length }, "+ " + factor(bias))); }
      return { entry, text: `${entry} = ${words.join(" + ")} = ${full(value)}`, parts: [make("b", {}, entry + " ="), ...parts, make("b", { class: "term", "--at": words.length, "data-value": value }, "= " + full(value))] };
    }

    // -- hands: choose a scene, move by slider, play

    function stop() {
      clearTimeout(state.timer);
      state.timer = 0;
      $(".play").textContent = "▶ Play";
      $(".scene").classList.remove("building");
      for (const cell of root.querySelectorAll(".later")) cell.classList.remove("later");
    }
    function play() {
      $(".play").textContent = "❚❚ Pause";
      if (state.place >= count() - 1) state.place = -1;
      const beat = () => {
        if (state.place >= count() - 1) { stop(); say($(".player input").getAttribute("aria-valuetext")); return; }
        move(state.place + 1, true);
        state.timer = setTimeout(beat, BEAT);
      };
      beat();
    }
    function open(name, place = name === "dx" || name === "forward" ? all[name].result.cols + 1 : 0) {
      stop();
      state.scene = name;
      state.place = Math.min(place, count() - 1);
      for (const radio of root.querySelectorAll("input[name=scene]")) radio.checked = radio.value === name;
      draw();
    }
    $(".player input").addEventListener("input", (event) => { stop(); move(Number(event.target.value)); });
    $(".play").addEventListener("click", () => (state.timer ? stop() : play()));
    $(".scene").addEventListener("click", (event) => {
      const cell = event.target.closest(".result .cell[data-map]");
      if (cell) { stop(); say(move(Number(cell.dataset.r) * scene().result.cols + Number(cell.dataset.c))); }
    });
    root.addEventListener("change", (event) => { if (event.target.name === "scene") { open(event.target.value); say(scene().words); } });
    open("dx");
    return { open, move, redraw: () => { stop(); draw(); } };
  }

  return { mount };
})();
