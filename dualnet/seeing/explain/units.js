"use strict";
// More kinds of layers: dense, numbers that only move, normalisation, softmax, and the loss. As in model.js, nothing here
// knows the page.
(() => {
  const { View, light, product, at } = Model;
  const around = (map, count, cols) => Array.from({ length: count }, (_, q) => [map, Math.floor(q / cols), q % cols]);

  // -- dense: E9 and E16. `w` shows what takes part: a column of it in the shape of x, or a row in the shape of y

  class Dense extends View {
    constructor(view, layer) { super(view, layer); this.q = 0; this.sum = "y"; }
    sums() {
      const list = [["y", `y = x · w${this.b ? " + b" : ""}`, "E9"], ["dx", "dx = dy · wᵀ", "E16"], ["dw", "dw = xᵀ · dy", "E16"]];
      return [...list, ...(this.db ? [["db", "db = dy", "E16"]] : []), ...this.stepped()];
    }
    words(sum) {
      return { y: "Each output is all of x times one column of w.", dx: "Each input collects all deltas, each times the weight that carried it.", dw: "Each weight: the input that it read, times the delta that came back.", db: "The bias was added, so it takes the delta as it is.", new: "Each weight moves a little against its slope." }[sum];
    }
    choose({ map, r, c }) { // the row or column of w that the entry needs
      const q = this.placeOf(map === "new" || map === "w" || map === "dw" ? (this.sum === "dx" ? "dy" : "x") : map === "db" ? "y" : map, r, c);
      const [which, now] = this.sum === "y" && map === "y" ? ["d", q] : this.sum === "dx" && map === "dx" ? ["q", q] : [null, 0];
      if (!which || this[which] === now) return false;
      this[which] = now;
      return true;
    }
    slices(sum) { return sum === "y" || sum === "dx" ? ["w"] : []; }
    maps(sum) {
      this.sum = sum;
      const out = `output ${this.ds[this.d]}`, column = (name, words) => ({ ...this.spec("x", words), name, of: out }), row = { ...this.spec("dy", "a row of the weights"), name: "w", of: `input ${this.q}` };
      if (sum === "y") return [this.spec("y", "the output"), this.spec("x", "the input"), column("w", "a column of the weights")];
      if (sum === "dx") return [this.spec("dx", "gradient of the input"), this.spec("dy", "the deltas"), row];
      if (sum === "dw") return [column("dw", "gradient of the weights"), this.spec("x", "the input"), this.spec("dy", "the deltas")];
      if (sum === "db") return [{ ...this.spec("y", "gradient of the bias"), name: "db" }, this.spec("dy", "the deltas")];
      return [column("new", "after the step"), column("w", "the weights"), column("dw", "their gradient")];
    }
    weight(q, d, name = "w") {
      const [r, c] = this.sum === "dx" ? this.placed("dy", d) : this.placed("x", q);
      return { map: name, r, c, value: at(this[name], q, d), short: `${name}[${q},${this.ds[d]}]`, name: `${name}[${q},${this.ds[d]}]` };
    }
    get(map, r, c) {
      if (map === "w" || map === "dw") return this.sum === "dx" ? this.weight(this.q, this.placeOf("dy", r, c), map) : this.weight(this.placeOf("x", r, c), this.d, map);
      if (map === "new") return this.after(this.get("w", r, c), this.get("dw", r, c));
      if (map === "db") { const d = this.placeOf("y", r, c); return { map, r, c, value: at(this.db, d), short: `db[${this.ds[d]}]`, name: `db[${this.ds[d]}]` }; }
      return this.cell(map, r, c);
    }
    placedAt(name, index) { // of an entry of dw or db
      this.d = Math.max(this.ds.indexOf(index.at(-1)), 0);
      const [r, c] = name === "dw" ? this.placed("x", index[0]) : this.placed("y", this.d);
      return { r, c };
    }
    each(map) { return Array.from({ length: this[map].shape[0] }, (_, q) => q); }
    of_y(r, c) {
      const d = this.placeOf("y", r, c), b = this.b ? [{ words: `bias b[${this.ds[d]}]`, value: at(this.b, d) }] : [];
      return { ...this.cell("y", r, c), anchor: "E9", title: "forward: the input times a column of the weights", formula: `y[k,d] = ${this.b ? "b[d] + " : ""}Σ_q x[k,q] · w[q,d]`, extra: b,
        terms: this.each("x").map((q) => ({ cells: [this.cell("x", ...this.placed("x", q)), this.weight(q, d)] })) };
    }
    of_dx(r, c) {
      const q = this.placeOf("dx", r, c);
      return { ...this.cell("dx", r, c), anchor: "E16", title: "backward: the deltas times a row of the weights", formula: "dx[k,q] = Σ_d dy[k,d] · w[q,d]",
        extra: this.restDx ? [{ words: "outputs that are not shown", value: at(this.restDx, q) }] : [],
        terms: this.each("dy").map((d) => ({ cells: [this.cell("dy", ...this.placed("dy", d)), this.weight(q, d)] })) };
    }
    of_dw(r, c, sum) {
      if (sum === "new") return { ...this.get("dw", r, c), reach: true, title: "the gradient of a weight", words: "The step goes against it.", lit: light([["new", r, c], ["w", r, c]]) };
      const q = this.placeOf("x", r, c);
      return { ...this.get("dw", r, c), anchor: "E16", title: "backward: the input times the delta", formula: "dw[q,d] = Σ_k dy[k,d] · x[k,q]", extra: this.restDw ? [{ words: "the other images of the batch", value: at(this.restDw, q, this.d) }] : [],
        terms: [{ cells: [this.cell("dy", ...this.placed("dy", this.d)), this.cell("x", r, c)] }] };
    }
    of_db(r, c) {
      const extra = this.restDb ? [{ words: "the other images of the batch", value: at(this.restDb, this.placeOf("y", r, c)) }] : [];
      return { ...this.get("db", r, c), anchor: "E16", title: "backward: the delta itself", formula: "db[d] = Σ_k dy[k,d]", terms: [{ cells: [this.cell("dy", r, c)] }], extra };
    }
    all(map) { return around(map, this[map].shape[0], Model.gridOf(this[map].shape[0])[1]); }
    of_x(r, c, sum) { return { ...this.cell("x", r, c), reach: true, title: "one of the inputs", words: sum === "y" ? "It goes into every output, each time through a different weight." : "It meets each delta once.", lit: light(sum === "y" ? [...this.all("y"), ["w", r, c]] : [["dw", r, c]]) }; }
    of_dy(r, c, sum) { return { ...this.cell("dy", r, c), reach: true, title: "the delta that the next layer sent", words: sum === "dx" ? "It goes back to every input, each time by the weight that read it." : "It goes to each weight of its output, and to its bias.", lit: light(sum === "dx" ? [...this.all("dx"), ["w", r, c]] : sum === "dw" ? this.all("x").map(([, i, j]) => ["dw", i, j]) : [["db", r, c]]) }; }
    of_w(r, c, sum) { return { ...this.get("w", r, c), reach: true, title: "one weight", words: "It joins one input and one output.", lit: light(sum === "y" ? [["x", r, c], ["y", ...this.placed("y", this.d)]] : sum === "dx" ? [["dy", r, c], ["dx", ...this.placed("x", this.q)]] : [["new", r, c]]) }; }
  }

  // -- flatten, identity, dropout: numbers that move, or are kept or dropped

  class Moved extends View {
    sums() { return this.factor ? [["y", "y = x · m / (1 − rate)", "E7"], ["dx", "dx = dy · m / (1 − rate)", "E14"]] : this.folds ? [["y", "y = x, in one row", "E9"], ["dx", "dx = dy, folded back", "E9"]] : [["y", "y = x", "E7"], ["dx", "dx = dy", "E14"]]; }
    words() { return this.factor ? "Each number is kept or dropped, and its delta with it. What is kept is enlarged, so that the sum stays about the same." : "Nothing is computed: every number moves to its place, and every delta back."; }
    maps(sum) {
      const mask = this.factor ? [this.spec("factor", "m / (1 − rate)")] : [];
      return sum === "y" ? [this.spec("y", "the output"), this.spec("x", "the input"), ...mask] : [this.spec("dx", "gradient of the input"), this.spec("dy", "the deltas"), ...mask];
    }
    get folds() { return !this.vector && this.y.shape.length === 1; }
    across(map, r, c) { // the place on the other side
      if (!this.folds) return [r, c];
      const [, W, C] = this.x.shape;
      if (map === "x" || map === "dx") return this.placed("y", (r * W + c) * C + this.c);
      const q = this.placeOf("y", r, c);
      return [Math.floor(q / (W * C)), Math.floor(q / C) % W];
    }
    choose({ map, r, c }) { // the channel of an entry of the row
      if (!this.folds || (map !== "y" && map !== "dy")) return false;
      const channel = this.placeOf("y", r, c) % this.x.shape[2], before = this.c;
      this.c = channel;
      return channel !== before;
    }
    slices(sum) { return this.folds ? [sum === "y" ? "x" : "dx"] : []; }
    one(map, from, r, c) {
      const place = this.across(map, r, c), factor = this.factor ? this.cell("factor", r, c).value : 1;
      return { ...this.cell(map, r, c), anchor: this.folds ? "E9" : map === "y" ? "E7" : "E14", title: this.factor && !factor ? "this unit was dropped" : "one number", formula: this.sums()[map === "y" ? 0 : 1][1], terms: [{ cells: [this.cell(from, ...place)], factor, what: this.factor ? Draw.full(factor) : "" }], lit: light([[from, ...place], ["factor", r, c]]) };
    }
    of_y(r, c) { return this.one("y", "x", r, c); }
    of_dx(r, c) { return this.one("dx", "dy", r, c); }
    goes(map, to, r, c) { const place = this.across(map, r, c); return { ...this.cell(map, r, c), reach: true, title: "one number", words: `It goes to ${this.cell(to, ...place).short}.`, lit: light([[to, ...place]]) }; }
    of_x(r, c) { return this.goes("x", "y", r, c); }
    of_dy(r, c) { return this.goes("dy", "dx", r, c); }
    of_factor(r, c, sum) { return { ...this.cell("factor", r, c), reach: true, title: "kept or dropped", words: "It is drawn afresh at each training step.", lit: light([[sum, r, c], [sum === "y" ? "x" : "dy", r, c]]) }; }
  }

  // -- normalisation: each number within the set that it belongs to

  class Normal extends View {
    sums() { return [["y", "y = γ · x̂ + β", "E7"], ["dx", "dx = (g − ḡ − x̂ · mean(g x̂)) / s", "E14"], ...(this.dgamma ? [["dgamma", "dγ = Σ dy · x̂", "E12"], ["dbeta", "dβ = Σ dy", "E12"]] : [])]; }
    words(sum) { return { y: "x̂ = (x − μ) / s: the number, measured in the spread of its set. γ and β are learned.", dx: "With g = dy · γ: a delta that moves all of the set alike does nothing, nor one that only spreads it. Both parts are taken away.", dgamma: "γ scales all places of a channel, so it collects from all of them.", dbeta: "β was added to all places of a channel, so it collects every delta." }[sum]; }
    maps(sum) {
      const one = (name, words) => ({ name, words, of: this.of, rows: 1, cols: 1, kernel: true });
      if (sum === "y") return [this.spec("y", "the output"), this.spec("xhat", "x̂, the number in its set"), this.spec("x", "the input")];
      if (sum === "dx") return [this.spec("dx", "gradient of the input"), this.spec("dy", "the deltas"), this.spec("xhat", "x̂")];
      if (this.vector) return [{ ...this.spec("dy", "the gradient"), name: sum }, this.spec("dy", "the deltas"), ...(sum === "dgamma" ? [this.spec("xhat", "x̂")] : [])];
      return [one(sum, "the gradient"), this.spec("dy", "the deltas"), ...(sum === "dgamma" ? [this.spec("xhat", "x̂")] : [])];
    }
    get(map, r, c) {
      if (map === "dgamma" || map === "dbeta") {
        const q = this.vector ? this.placeOf("x", r, c) : this.c, id = this.vector ? q : this.cs[q];
        return { map, r, c, value: at(this[map], q), short: `${map}[${id}]`, name: `${map}[${id}]` };
      }
      const cell = this.cell(map, r, c);
      return map === "xhat" ? { ...cell, short: cell.short.replace("xhat", "x̂"), name: cell.name.replace("xhat", "x̂") } : cell;
    }
    value(map, r, c) { return this.cell(map, r, c).value; }
    of_y(r, c) {
      const gamma = this.value("gamma", r, c), size = Math.abs(this.value("beta", r, c)) + Math.abs(gamma) * (Math.abs(this.value("xhat", r, c)) + this.value("shift", r, c));
      return { ...this.cell("y", r, c), anchor: "E7", title: "forward: each number within its set", formula: "y = β + γ · x̂,  x̂ = (x − μ) / s", size, extra: [{ words: "β", value: this.value("beta", r, c) }], terms: [{ cells: [this.get("xhat", r, c)], factor: gamma, what: `γ ${Draw.full(gamma)}` }], lit: light([["xhat", r, c], ["x", r, c]]) };
    }
    of_dx(r, c) {
      const s = this.value("s", r, c), gamma = this.value("gamma", r, c), mean = this.value("meanG", r, c), along = this.value("meanGX", r, c);
      return { ...this.cell("dx", r, c), anchor: "E14", title: "backward: the delta, less what moves or spreads the whole set", formula: "dx = (g − ḡ − x̂ · mean(g x̂)) / s,  g = dy · γ", size: this.value("size", r, c),
        terms: [{ cells: [this.cell("dy", r, c)], factor: gamma / s, what: `γ/s ${Draw.full(gamma / s)}` }, { cells: [], factor: -mean / s, what: "−ḡ/s: moves all of the set" }, { cells: [this.get("xhat", r, c)], factor: -along / s, what: "(−mean(g x̂)/s): spreads it" }], note: `In this set s = ${Draw.full(s)}, the mean of g is ${Draw.full(mean)}, and that of g x̂ ${Draw.full(along)}.` };
    }
    over(map, r, c, cells) {
      const places = this.vector ? [[r, c]] : around("", this.x.shape[0] * this.x.shape[1], this.x.shape[1]).map(([, i, j]) => [i, j]);
      const rest = this["rest_" + map], q = this.vector ? this.placeOf("x", r, c) : this.c;
      const terms = places.map((place) => ({ cells: cells.map((name) => this.get(name, ...place)) }));
      const size = terms.reduce((sum, term) => sum + Math.abs(product(term)) + this.value("shift", ...places[0]) * Math.abs(term.cells[0].value), rest ? 4 * Math.abs(at(rest, q)) : 0);
      return { ...this.get(map, r, c), anchor: "E12", title: "backward: over all places of the channel", formula: this.sums().find(([name]) => name === map)[1], extra: rest ? [{ words: "the other images of the batch", value: at(rest, q) }] : [], terms, size };
    }
    of_dgamma(r, c) { return this.over("dgamma", r, c, ["dy", "xhat"]); }
    of_dbeta(r, c) { return this.over("dbeta", r, c, ["dy"]); }
    given(map, r, c, sum, words) { return { ...this.get(map, r, c), reach: true, title: "one number of its set", words, lit: light(sum === "dgamma" || sum === "dbeta" ? [[sum, ...(this.vector ? [r, c] : [0, 0])]] : [[sum, r, c]]) }; }
    of_x(r, c, sum) { return this.given("x", r, c, sum, "It also moves the mean and the spread of its set, so all of the set feels it."); }
    of_xhat(r, c, sum) { return this.given("xhat", r, c, sum, "x̂ = (x − μ) / s"); }
    of_dy(r, c, sum) {
      const found = this.given("dy", r, c, sum, "Its own place gets most of it; the others of its set get a little, since the mean and the spread moved.");
      return found;
    }
  }

  // -- softmax: all numbers of a row together

  class Softmax extends View {
    sums() { return [["y", this.log ? "y = x − log Σ eˣ" : "y = eˣ / Σ eˣ", "E7"], ["dx", this.log ? "dx = Σ dy · ([q=i] − eʸ)" : "dx = Σ dy · y · ([q=i] − y)", "E14"]]; }
    words(sum) { return sum === "y" ? "All numbers of the row share one total." : "When one number grows, the shares of the others fall: so each x hears every delta."; }
    maps(sum) { return sum === "y" ? [this.spec("y", "the output"), this.spec("x", "the input")] : [this.spec("dx", "gradient of the input"), this.spec("dy", "the deltas"), this.spec("y", "the output")]; }
    shares() {
      const x = [...this.x.data], top = Math.max(...x), powers = x.map((value) => Math.exp(value - top)), total = powers.reduce((sum, value) => sum + value, 0);
      return { x, top, total, p: powers.map((value) => value / total) };
    }
    every(map) { return around(map, this.x.shape[0], Model.gridOf(this.x.shape[0])[1]).map(([, r, c]) => this.cell(map, r, c)); }
    of_y(r, c) {
      const i = this.placeOf("y", r, c), { x, top, total, p } = this.shares(), sum = this.log ? x[i] - top - Math.log(total) : p[i];
      return { ...this.cell("y", r, c), anchor: "E7", title: "forward: its share of the whole", formula: this.sums()[0][1], how: this.log ? "x − log Σ eˣ" : "eˣ / Σ eˣ", alone: true, sum, size: 1 + Math.abs(sum), terms: this.every("x").map((cell, q) => ({ cells: [cell], note: q === i ? "this one" : "" })) };
    }
    of_dx(r, c) {
      const i = this.placeOf("dx", r, c), { p } = this.shares();
      const terms = this.every("dy").map((cell, q) => ({ cells: [cell], factor: this.log ? (q === i) - p[i] : p[i] * ((q === i) - p[q]), what: `∂y[${q}]/∂x[${i}]` }));
      const size = terms.reduce((sum, term) => sum + Math.abs(term.cells[0].value), 0) * (this.log ? 1 : p[i]);
      return { ...this.cell("dx", r, c), anchor: "E14", title: "backward: every delta, by how much its output moves", formula: this.sums()[1][1], terms, size };
    }
    to(map, to, r, c) { return { ...this.cell(map, r, c), reach: true, title: "one number of the row", words: "All of the row depends on it.", lit: light(this.every(to).map((cell) => [to, cell.r, cell.c])) }; }
    of_x(r, c) { return this.to("x", "y", r, c); }
    of_dy(r, c) { return this.to("dy", "dx", r, c); }
  }

  // -- the loss: E10. Here the deltas begin

  const softplus = (v) => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v))); // log(1 + eᵛ)

  class Loss extends View {
    sums() {
      if (this.how === "other") return [["dy", "dy = ∂E/∂y", "E10"]];
      const [E, dy] = { softmax: ["−Σ t · log p", "p − t"], squared: ["½ Σ (y − t)²", "y − t"], binary: ["−Σ log(p or 1 − p)", "p − t"], huber: ["Σ (½ r² if |r| ≤ 1, else |r| − ½)", "y − t, cut at ±1"] }[this.how];
      return [["E", `E = ${E}${this.divided}`, "E10"], ["dy", `dy = ${this.divided ? `(${dy})${this.divided}` : dy}`, "E10"]];
    }
    words(sum) { return sum === "E" ? `One number says how wrong the network is.${this.how === "huber" ? " Here r = y − t." : ""}` : "The deltas begin here: how fast E grows when an output grows."; }
    maps(sum) {
      const from = this.p ? this.spec("p", this.how === "softmax" ? "softmax of y, the network’s odds" : "σ(y): how likely the answer is yes") : this.spec("y", "the output");
      if (sum === "E") return [{ name: "E", words: "the loss", of: "one number", rows: 1, cols: 1, kernel: true }, this.spec("t", "the target"), from];
      const dy = this.spec("dy", "the first deltas");
      return this.how === "other" ? [dy, from] : [dy, from, this.spec("t", "the target")];
    }
    get vector() { return true; }
    get(map, r, c) { return map === "E" ? { map, r: 0, c: 0, value: this.E, short: "E", name: "E" } : this.cell(map, r, c); }
    places() { return around("", this.y.shape[0], Model.gridOf(this.y.shape[0])[1]).map(([, r, c]) => [r, c]); }
    get part() { return 1 / this.over; }
    get divided() { return this.over === 1 ? "" : ` / ${this.over}`; }
    of_E() {
      const rest = this.restE !== undefined && this.shape[0][0] > 1 ? [{ words: "the other images of the batch", value: this.restE }] : [];
      const common = { ...this.get("E"), anchor: "E10", extra: rest, size: 1 + Math.abs(this.E) };
      if (this.how === "softmax") return { ...common, title: "how surprised the network is by the right answer", formula: `${this.sums()[0][1]},  p = softmax(y)`, terms: this.places().map((place) => ({ cells: [this.cell("t", ...place)], factor: this.surprised(this.cell("y", ...place)) * this.part, what: `(−log ${this.cell("p", ...place).short}${this.divided})`, at: place })).filter((term) => term.cells[0].value) };
      const [title, one] = { squared: ["half the square of the difference", this.square], binary: ["how surprised the network is by each answer", this.surprise], huber: ["squared near the target, linear far from it", this.bent] }[this.how];
      const terms = this.places().map((place) => { const [value, what] = one.call(this, ...["y", "t", ...(this.p ? ["p"] : [])].map((map) => this.cell(map, ...place))); return { cells: [], factor: value * this.part, what: what + this.divided }; });
      return { ...common, title, formula: { squared: this.sums()[0][1], binary: `E = −Σ (t log p + (1 − t) log(1 − p))${this.divided}`, huber: `${this.sums()[0][1]},  r = y − t` }[this.how], lit: light(this.places().flatMap((place) => [[this.p ? "p" : "y", ...place], ["t", ...place]])), terms };
    }
    surprised(y) { // −log p from y itself: p alone may have been rounded to 0
      const row = [...this.y.data], top = Math.max(...row);
      return top - y.value + Math.log(row.reduce((sum, value) => sum + Math.exp(value - top), 0));
    }
    // what one output adds to E, before it is divided: the number, and how it is written
    square(y, t) { return [(y.value - t.value) ** 2 / 2, `½ (${y.short} − ${t.short})²`]; }
    bent(y, t) { const far = Math.abs(y.value - t.value); return far <= 1 ? this.square(y, t) : [far - 0.5, `(|${y.short} − ${t.short}| − ½)`]; }
    surprise(y, t, p) { // log σ(y) and log(1 − σ(y)) from y itself: p alone may have been rounded to 0 or 1
      const yes = softplus(-y.value), no = softplus(y.value);
      if (t.value === 1 || t.value === 0) return t.value ? [yes, `−log ${p.short}`] : [no, `−log(1 − ${p.short})`];
      return [t.value * yes + (1 - t.value) * no, `−(${t.short} log ${p.short} + (1 − ${t.short}) log(1 − ${p.short}))`];
    }
    of_dy(r, c) {
      const dy = { ...this.cell("dy", r, c), anchor: "E10", title: "the delta of one output" };
      if (this.how === "other") return { ...dy, reach: true, words: `This is the slope of ${this.loss} at this output.${this.ours ? ` Its formula is in the help of dn.losses.${this.loss}.` : ""}`, lit: light([["y", r, c]]) };
      const from = this.p ? "p" : "y", factor = this.part, [y, t] = [this.cell("y", r, c), this.cell("t", r, c)];
      if (this.how === "huber" && Math.abs(y.value - t.value) > 1) return { ...dy, formula: this.sums()[1][1], lit: light([["y", r, c], ["t", r, c]]), terms: [{ cells: [], factor: Math.sign(y.value - t.value) * factor, what: `${y.value > t.value ? "+" : "−"}1${this.divided}: ${y.short} − ${t.short}, cut` }] };
      const what = (sign) => (factor === 1 ? (sign < 0 ? "(−1)" : "") : `(${sign < 0 ? "−" : ""}1${this.divided})`);
      return { ...dy, formula: this.sums()[1][1], terms: [{ cells: [this.cell(from, r, c)], factor, what: what(1) }, { cells: [this.cell("t", r, c)], factor: -factor, what: what(-1) }] };
    }
    given(map, r, c, sum) { return { ...this.cell(map, r, c), reach: true, title: "it takes part in the loss", words: "", lit: light([sum === "E" ? ["E", 0, 0] : ["dy", r, c]]) }; }
    of_y(r, c, sum) { return this.given("y", r, c, sum); }
    of_p(r, c, sum) { return this.given("p", r, c, sum); }
    of_t(r, c, sum) { return this.given("t", r, c, sum); }
  }

  Object.assign(Model.FORMS, { dense: Dense, moved: Moved, normal: Normal, softmax: Softmax, loss: Loss });
})();
