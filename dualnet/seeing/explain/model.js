"use strict";
// The sums of the page, from the numbers of the network. Nothing here depends on the page. Each class is a kind of layer:
// sums(spelling) lists its equations, maps(sum) the maps of one equation, explain(map, r, c, sum) explains one entry.
const Model = (() => {
  // -- arrays: decoded from bytes, read by index

  function decoded(packed) {
    const bytes = Uint8Array.from(atob(packed.bytes), (letter) => letter.charCodeAt(0));
    const data = packed.dtype === "float64" ? new Float64Array(bytes.buffer) : new Float32Array(bytes.buffer);
    return { data, shape: packed.shape };
  }

  function at(array, ...index) {
    let place = 0;
    index.forEach((i, axis) => { place = place * array.shape[axis] + i; });
    return array.data[place];
  }

  function gridOf(count) { // a vector of this many numbers, in rows: [rows, columns]
    if (count <= 5) return [1, count];
    const wish = Math.sqrt(2 * count);
    let cols = Math.min(Math.ceil(wish), 32);
    for (let each = Math.floor(Math.min(1.5 * wish, 32)); each > wish / 1.6; each--) if (count % each === 0) { cols = each; break; }
    return [Math.ceil(count / cols), cols];
  }

  const rate = { now: 0 }; // η of E17, as the reader chose it
  const inside = (i, n) => i >= 0 && i < n;
  const key = (r, c) => r + "," + c;
  const product = (term) => term.cells.reduce((total, cell) => total * cell.value, term.factor ?? 1);

  class View {
    constructor(view, layer) {
      Object.assign(this, view);
      this.layer = layer;
      for (const [name, value] of Object.entries(view)) if (value && value.bytes) this[name] = decoded(value);
      this.c = 0; this.d = 0; // positions among the channels and filters that are shown
    }

    // a cell by its place on a map, with the name it has in the library; a vector is drawn in rows
    cell(map, r, c, channel = this.channelOf(map)) {
      const array = this[map];
      if (array.shape.length === 1) {
        const q = this.placeOf(map, r, c), id = this.ds && (map === "y" || map === "dy") ? this.ds[q] : q;
        return { map, r, c, value: array.data[q], short: `${map}[${id}]`, name: `${map}[${this.image},${id}]`, index: [id] };
      }
      const id = this.idOf(map, channel);
      if (this.flat && (map === "y" || map === "dy")) return { map, r, c, value: at(array, r, c, channel), short: `${map}[${id}]`, name: `${map}[${this.image},${id}]`, index: [id] };
      return { map, r, c, value: at(array, r, c, channel), short: `${map}[${r},${c}]`, name: `${map}[${[this.image, r, c, id].join(",")}]`, index: [r, c, id] };
    }
    placeOf(map, r, c) { return r * gridOf(this[map].shape[0])[1] + c; }
    // the place of one of the library's entries, after the map has switched to its channel; null if it is not on the page
    locate(map, index) {
      const array = this[map], id = index.at(-1), output = map === "y" || map === "dy";
      if (!array) return null;
      if (array.shape.length === 1) {
        const q = this.ds && output ? this.ds.indexOf(id) : id, [r, c] = this.placed(map, q);
        return q < 0 || q >= array.shape[0] ? null : { r, c };
      }
      const place = (this.ds && output ? this.ds : this.cs).indexOf(id);
      if (place < 0) return null;
      this.show(this.ds && output ? "d" : "c", place);
      return index.length === 1 ? { r: 0, c: 0 } : { r: index[0], c: index[1] };
    }
    show(which, place) { this[which] = place; }
    placed(map, q) { const cols = gridOf(this[map].shape[0])[1]; return [Math.floor(q / cols), q % cols]; }
    get vector() { return this.x.shape.length === 1; }
    get(map, r, c) { return this.cell(map, r, c); }
    explain(map, r, c, sum) { return this.finish(this["of_" + map](r, c, sum)); }
    get of() { return this.vector ? counted(this.x.shape[0], "number") : `channel ${this.cs[this.c]}`; }
    // what Draw.map needs to know about a map
    spec(name, words, more = {}) {
      const { shape } = this[name];
      if (shape.length !== 1) return { name, words, of: this.of, rows: shape[0], cols: shape[1], ...more };
      const [rows, cols] = gridOf(shape[0]);
      return { name, words, of: counted(shape[0], "number"), rows, cols, count: shape[0], ...more };
    }
    stepped() { return rate.now && this.w ? [["new", "w ← w − η · dw", "E17"]] : []; }
    of_new(r, c) {
      const w = this.get("w", r, c), dw = this.get("dw", r, c), value = this.get("new", r, c).value;
      return { ...w, name: w.name + " after the step", value, anchor: "E17", title: "one step of gradient descent", formula: "w ← w − η · dw", terms: [{ cells: [w] }, { cells: [dw], factor: -rate.now, what: `(−η = −${rate.now})` }], free: "The loss above is what the library finds after this step, with all weights moved.", lit: light([["w", r, c], ["dw", r, c]]) };
    }
    after(w, dw) { return { ...w, map: "new", value: w.value - rate.now * dw.value }; }
    slices() { return []; } // maps that change when another entry is chosen
    turned() { return null; } // the map that this spelling draws turned by 180°
    spellings() { return null; }
    channelOf(map) { return map === "y" || map === "dy" ? this.outputs() : this.c; }
    outputs() { return this.form === "convolution" ? this.d : this.c; }
    idOf(map, channel) { return (map === "y" || map === "dy") && this.ds ? this.ds[channel] : this.cs[channel]; }

    // E6: the taps of the window at i, j, and the cell that each reads; beyond the map that is the padding
    *window(i, j) {
      const [s1, s2] = this.stride, [r1, r2] = this.dilation, [[top], [left]] = this.pads;
      for (let m = 0; m < this.window_[0]; m++) for (let n = 0; n < this.window_[1]; n++) {
        const r = i * s1 + m * r1 - top, c = j * s2 + n * r2 - left;
        yield { m, n, r, c, there: inside(r, this.size[0]) && inside(c, this.size[1]) };
      }
    }
    *readers(r, c) {
      const [s1, s2] = this.stride, [r1, r2] = this.dilation, [[top], [left]] = this.pads;
      for (let m = 0; m < this.window_[0]; m++) for (let n = 0; n < this.window_[1]; n++) {
        const i = (r + top - m * r1) / s1, j = (c + left - n * r2) / s2;
        if (Number.isInteger(i) && Number.isInteger(j) && inside(i, this.grid[0]) && inside(j, this.grid[1])) yield { m, n, i, j };
      }
    }
    *all() { for (let i = 0; i < this.grid[0]; i++) for (let j = 0; j < this.grid[1]; j++) yield [i, j]; }

    // the sum of an entry: its terms, what the hidden channels add, the library's number, the cells that it came from
    finish(account) {
      const terms = account.terms ?? [], extra = account.extra ?? [];
      const plain = terms.reduce((total, term) => total + product(term), 0) + extra.reduce((total, part) => total + part.value, 0);
      const sum = account.sum ?? plain;
      const size = account.size ?? terms.reduce((total, term) => total + Math.abs(product(term)), 0) + extra.reduce((total, part) => total + (part.size ?? Math.abs(part.value)), 0);
      const count = terms.length + extra.reduce((total, part) => total + (part.count ?? 1), 0);
      const limit = this.u * (8 + 4 * Math.sqrt(Math.max(count, 1))) * size + 1e-37;
      const lit = account.lit ?? lightOf(terms);
      const where = `image ${this.image}` + (this.vector ? "" : `, channel ${this.cs[this.c]}`) + (this.form === "convolution" ? `, filter ${this.ds[this.d]}` : "");
      return { ...account, where, count, terms, extra, sum, limit, lit, same: Math.abs(sum - account.value) <= limit || Object.is(sum, account.value) };
    }
  }

  // zeros around a map: the rows and columns to draw, at most four outside; the map's own cells stand a step apart
  function around(ranges, size, step = [1, 1]) {
    const [rows, cols] = ranges.map(([low, high], axis) => {
      const last = (size[axis] - 1) * step[axis];
      return [Math.max(Math.min(low, 0), -4), Math.min(Math.max(high, last), last + 4)];
    });
    return { rows, cols, step };
  }

  function lightOf(terms) {
    const lit = {};
    for (const term of terms) for (const cell of term.cells) (lit[cell.map] ??= new Set()).add(key(cell.r, cell.c));
    return lit;
  }
  function light(pairs) {
    const lit = {};
    for (const [map, r, c] of pairs) (lit[map] ??= new Set()).add(key(r, c));
    return lit;
  }

  // -- convolution

  class Convolution extends View {
    constructor(view, layer) { super(view, layer); this.window_ = view.window; delete this.window; }
    get turns() { return this.mode === "convolution"; }
    tap(m, n) { return this.turns ? [this.window_[0] - 1 - m, this.window_[1] - 1 - n] : [m, n]; }
    linked(c, d) { return Math.floor(this.cs[c] / this.perGroup[0]) === Math.floor(this.ds[d] / this.perGroup[1]); }
    weight(m, n, c = this.c, d = this.d, name = "w") {
      const [tm, tn] = this.tap(m, n);
      return this.stored(tm, tn, c, d, name);
    }
    stored(tm, tn, c = this.c, d = this.d, name = "w") {
      return { map: name, r: tm, c: tn, value: at(this[name], tm, tn, c, d), short: `${name}[${tm},${tn}]`,
        name: `${name}[${[tm, tn, this.cs[c] % this.perGroup[0], this.ds[d]].join(",")}]` };
    }
    show(which, place) { // the other map follows, so that the two are of one group
      this[which] = place;
      if (this.linked(this.c, this.d)) return;
      if (which === "c") this.d = Math.max(this.ds.findIndex((_, d) => this.linked(this.c, d)), 0);
      else this.c = Math.max(this.cs.findIndex((_, c) => this.linked(c, this.d)), 0);
    }
    aim(name, index) { // at an entry of dw or db
      this.show("d", Math.max(this.ds.indexOf(index.at(-1)), 0));
      if (name === "dw") this.c = Math.max(this.cs.findIndex((c, place) => this.linked(place, this.d) && c % this.perGroup[0] === index[2]), 0);
    }
    rows() {
      const place = (i, m, axis) => {
        const s = this.stride[axis], r = this.dilation[axis], p = this.pads[axis][0];
        return i + (s > 1 ? "·" + s : "") + "+" + m + (r > 1 ? "·" + r : "") + (p ? "−" + p : "");
      };
      return [place("i", "m", 0), place("j", "n", 1)];
    }
    back() {
      return [["i", "m", 0], ["j", "n", 1]].map(([i, m, axis]) => {
        const s = this.stride[axis], r = this.dilation[axis], p = this.pads[axis][0];
        const top = i + (p ? "+" + p : "") + "−" + m + (r > 1 ? "·" + r : "");
        return s > 1 ? `(${top})/${s}` : top;
      });
    }

    sums(spelling) {
      const sign = spelling === "convolution" ? "∗" : "⊗", w = (sum) => (this.turned(sum, spelling) === "w" ? "rot180(w)" : "w");
      const dw = spelling === "convolution" ? "x ∗ rot180(dy)" : "x ⊗ dy";
      const list = [["y", `y = x ${sign} ${w("y")}${this.b ? " + b" : ""}`, "E4"], ["dx", `dx = dy ${sign} ${w("dx")}`, "E13"], ["dw", this.turns ? `dw = rot180(${dw})` : `dw = ${dw}`, "E11"]];
      return [...list, ...(this.db ? [["db", "db = Σ dy", "E12"]] : []), ...this.stepped()];
    }
    turned(sum, spelling) {
      const flipped = spelling === "convolution";
      if (sum === "dw") return flipped ? "dy" : null;
      if (sum === "db" || sum === "new") return null;
      return (this.turns !== flipped) !== (sum === "dx") ? "w" : null;
    }
    words(sum, spelling) {
      const is = this.turned(sum, spelling) === "w" ? "turned by 180°" : "as it is stored";
      if (sum === "y") return `The kernel, read ${is}, stands on one window of x after the other.`;
      if (sum === "dx") return `The deltas come back through the kernel, read ${is}. The stored weights do not move.`;
      if (sum === "dw") return this.turned(sum, spelling) ? "A convolution reads dy backwards; so dy is turned first, and each delta meets the input that the weight read." : "Each delta meets the input that the weight read. Nothing is turned.";
      return sum === "db" ? "The bias was added everywhere, so it collects every delta." : "Each weight takes a small step downhill, against its gradient.";
    }
    maps(sum) {
      const c = `channel ${this.cs[this.c]}`, d = `filter ${this.ds[this.d]}`;
      const x = () => this.spec("x", "the input", { of: c, zeros: around([0, 1].map((axis) => [-this.pads[axis][0], this.size[axis] - 1 + this.pads[axis][1]]), this.size) });
      const w = (name, words) => ({ name, words, of: d, rows: this.window_[0], cols: this.window_[1], kernel: true });
      const dy = (more) => this.spec("dy", "the deltas", { of: d, ...more });
      if (sum === "y") return [this.spec("y", "the output", { of: d }), x(), w("w", "the kernel")];
      if (sum === "dx") return [this.spec("dx", "gradient of the input", { of: c }), dy({ zeros: this.spread() }), w("w", "the kernel")];
      if (sum === "dw") return [w("dw", "gradient of the kernel"), x(), dy()];
      if (sum === "new") return [w("new", "after the step"), w("w", "the kernel"), w("dw", "its gradient")];
      return [{ name: "db", words: "gradient of the bias", of: d, rows: 1, cols: 1, kernel: true }, dy()];
    }
    // the full correlation reads zeros around the deltas, and between them if the stride is larger than 1
    spread() {
      const ranges = [0, 1].map((axis) => [this.pads[axis][0] - (this.window_[axis] - 1) * this.dilation[axis], this.size[axis] - 1 + this.pads[axis][0]]);
      return around(ranges, this.grid, this.stride);
    }
    get(map, r, c) {
      if (map === "w" || map === "dw") return this.stored(r, c, this.c, this.d, map);
      if (map === "new") return this.after(this.get("w", r, c), this.get("dw", r, c));
      if (map === "db") return { map, r: 0, c: 0, value: at(this.db, this.d), name: `db[${this.ds[this.d]}]` };
      return this.cell(map, r, c);
    }

    of_y(i, j) {
      const terms = [], extra = [], pads = [];
      for (let channel = 0; channel < this.cs.length; channel++) {
        if (!this.linked(channel, this.d)) continue;
        const part = [];
        for (const { m, n, r, c, there } of this.window(i, j)) {
          if (there) part.push({ cells: [this.weight(m, n, channel), this.cell("x", r, c, channel)] });
          else if (channel === this.c) pads.push(["x", "z" + r, c]);
        }
        if (channel === this.c) terms.push(...part);
        else extra.push(summary(`channel ${this.cs[channel]}`, part));
      }
      if (this.restY) extra.push({ words: "channels that are not shown", value: at(this.restY, i, j, this.d) });
      if (this.b) extra.push({ words: `bias b[${this.ds[this.d]}]`, value: at(this.b, this.d) });
      const lit = lightOf(terms), [row, column] = this.rows();
      for (const [name, r, c] of pads) (lit[name] ??= new Set()).add(key(r, c));
      if (!lit.w) lit.w = new Set();
      const tap = this.turns ? "k1−1−m,k2−1−n" : "m,n";
      const y = this.cell("y", i, j);
      return { name: y.name, value: y.value, anchor: "E4", title: "forward: a window of the input times the kernel", terms, extra, lit, padding: pads.length,
        formula: `y[k,i,j,d] = ${this.b ? "b[d] + " : ""}Σ w[${tap},c,d] · x[k,${row},${column},c]` };
    }
    of_dw(tm, tn) {
      const [m, n] = this.tap(tm, tn), terms = [], extra = [];
      const pads = [];
      const [s1, s2] = this.stride, [r1, r2] = this.dilation, [[top], [left]] = this.pads;
      if (this.linked(this.c, this.d)) for (const [i, j] of this.all()) {
        const r = i * s1 + m * r1 - top, c = j * s2 + n * r2 - left;
        if (inside(r, this.size[0]) && inside(c, this.size[1])) terms.push({ cells: [this.cell("dy", i, j), this.cell("x", r, c)] });
        else pads.push(["x", "z" + r, c], ["dy", i, j]);
      }
      if (this.restDw) extra.push({ words: "the other images of the batch", value: at(this.restDw, tm, tn, this.c, this.d) });
      let [row, column] = this.rows();
      if (this.turns) { row = row.replace("m", "(k1−1−m)"); column = column.replace("n", "(k2−1−n)"); }
      const dw = this.stored(tm, tn, this.c, this.d, "dw"), lit = lightOf(terms);
      for (const [name, r, c] of pads) (lit[name] ??= new Set()).add(key(r, c));
      return { name: dw.name, value: dw.value, anchor: "E11", title: "backward: the input correlated with the deltas", terms, extra, lit, padding: pads.length / 2,
        formula: `dw[m,n,c,d] = Σ dy[k,i,j,d] · x[k,${row},${column},c]` };
    }
    of_dx(r, c) {
      const terms = [], extra = [];
      for (let filter = 0; filter < this.ds.length; filter++) {
        if (!this.linked(this.c, filter)) continue;
        const part = [];
        for (const { m, n, i, j } of this.readers(r, c)) part.push({ cells: [this.cell("dy", i, j, filter), this.weight(m, n, this.c, filter)] });
        if (filter === this.d) terms.push(...part);
        else extra.push(summary(`filter ${this.ds[filter]}`, part));
      }
      if (this.restDx) extra.push({ words: "filters that are not shown", value: at(this.restDx, r, c, this.c) });
      const [row, column] = this.back(), tap = this.turns ? "k1−1−m,k2−1−n" : "m,n";
      const dx = this.cell("dx", r, c), lit = lightOf(terms), zeros = this.read_zeros(r, c);
      for (const [u, v] of zeros) (lit.dy ??= new Set()).add(key("z" + u, v));
      if (zeros.length) lit.w = new Set(Array.from({ length: this.window_[0] * this.window_[1] }, (_, q) => key(Math.floor(q / this.window_[1]), q % this.window_[1])));
      return { name: dx.name, value: dx.value, anchor: "E13", title: "backward: every window that read the cell sends its delta back", terms, extra, lit, index: dx.index, around: zeros.length,
        formula: `dx[k,i,j,c] = Σ dy[k,${row},${column},d] · w[${tap},c,d]` };
    }
    read_zeros(r, c) { // where the full correlation reads a zero around or between the deltas
      const [s1, s2] = this.stride, [r1, r2] = this.dilation, [[top], [left]] = this.pads, found = [];
      for (let m = 0; m < this.window_[0]; m++) for (let n = 0; n < this.window_[1]; n++) {
        const u = r + top - m * r1, v = c + left - n * r2;
        if (u % s1 || v % s2 || !inside(u / s1, this.grid[0]) || !inside(v / s2, this.grid[1])) found.push([u, v]);
      }
      return found;
    }
    of_db() {
      const terms = [...this.all()].map(([i, j]) => ({ cells: [this.cell("dy", i, j)] }));
      const extra = this.restDb ? [{ words: "the other images of the batch", value: at(this.restDb, this.d) }] : [];
      const db = this.get("db");
      return { name: db.name, value: db.value, anchor: "E12", title: "backward: every delta of the filter", terms, extra, formula: "db[d] = Σ dy[k,i,j,d]" };
    }
    // the inputs of a sum, x, w and dy: the results that they take part in
    of_x(r, c, sum) {
      const readers = [...this.readers(r, c)];
      const lit = readers.flatMap(({ m, n, i, j }) => (sum === "y" ? [["y", i, j], ["w", ...this.tap(m, n)]] : [["dy", i, j], ["dw", ...this.tap(m, n)]]));
      return { ...this.cell("x", r, c), reach: true, title: `read by ${counted(readers.length, "window")}`, lit: light(lit),
        words: sum === "y" ? "Each window that reads this cell multiplies it by a different weight of the kernel." : "It meets the delta of each window that read it, once for each weight." };
    }
    of_w(tm, tn, sum) {
      if (sum === "new") return { ...this.stored(tm, tn), reach: true, title: "a weight before the step", words: "Its gradient decides which way it moves.", lit: light([["new", tm, tn], ["dw", tm, tn]]) };
      const [m, n] = this.tap(tm, tn), lit = [];
      const [s1, s2] = this.stride, [r1, r2] = this.dilation, [[top], [left]] = this.pads;
      for (const [i, j] of this.all()) {
        const r = i * s1 + m * r1 - top, c = j * s2 + n * r2 - left;
        if (inside(r, this.size[0]) && inside(c, this.size[1])) lit.push(...(sum === "y" ? [["x", r, c], ["y", i, j]] : [["dx", r, c], ["dy", i, j]]));
      }
      return { ...this.stored(tm, tn), reach: true, title: "one weight, shared by all windows", lit: light(lit),
        words: sum === "y" ? "It meets these cells of x, one in each window." : "It sends every delta back to the cell that it read." };
    }
    of_dy(i, j, sum) {
      const cells = [...this.window(i, j)].filter((tap) => tap.there);
      const lit = cells.flatMap(({ m, n, r, c }) => (sum === "dx" ? [["dx", r, c], ["w", ...this.tap(m, n)]] : sum === "dw" ? [["dw", ...this.tap(m, n)], ["x", r, c]] : [["db", 0, 0]]));
      const words = { dx: "It goes back to every cell that its window read, each time by the weight that read it.", dw: "It goes to every weight, times the input which that weight read.", db: "It is one term of the bias’s gradient." };
      return { ...this.cell("dy", i, j), reach: true, title: "the delta that the next layer sent", lit: light(lit), words: words[sum] };
    }

    // the same entry in three spellings, each computed in its own way
    spellings(map, r, c) {
      if (map === "y") return this.spelled_y(r, c);
      if (map === "dw") return this.spelled_dw(r, c);
      if (map === "dx") return this.spelled_dx(r, c);
      return null;
    }
    others(account) { // the part of the sum that a card does not show, in a row of its own
      const more = this.beside(account), one = account.extra.length === 1 && account.extra[0].words;
      return { more, others: one ? one.replace(/: .*/, "") : account.extra.length && account.anchor === "E13" ? "the other filters" : "the other channels" + (this.b ? " and the bias" : "") };
    }
    beside(account) { return account.extra.reduce((total, part) => total + part.value, 0); }
    spelled_y(i, j) {
      const account = this.explain("y", i, j), more = this.beside(account), beside = this.others(account);
      const patch = [], kernel = [], turned = [];
      for (const { m, n, r, c, there } of this.window(i, j)) {
        patch.push(there ? this.cell("x", r, c).value : 0); kernel.push(this.weight(m, n).value);
      }
      for (let q = kernel.length - 1; q >= 0; q--) turned.push(kernel[q]);
      const [, k2] = this.window_;
      const loops = account.terms.reduce((total, term) => total + product(term), 0);
      const [row, column] = this.rows(), tap = this.turns ? "k1−1−m, k2−1−n" : "m, n";
      let flipped = 0;
      for (let q = 0; q < patch.length; q++) flipped += patch[q] * turned[patch.length - 1 - q]; // the indices run against each other
      const gemm = patch.reduce((total, value, q) => total + value * kernel[q], 0);
      return { value: account.value, more, cards: [
        { title: "Loops: cross-correlation", anchor: "E4", formula: `y[i,j] = Σ_m Σ_n w[${tap}] · x[${row}, ${column}]`, words: "The sum as printed: window and kernel, index by index.", minis: [[patch, k2, "window of x"], "·", [kernel, k2, this.turns ? "rot180(w)" : "w"]], value: loops + more, ...beside },
        { title: "Flipped: true convolution", anchor: "E3", formula: this.turns ? "y = x ∗ w" : "y = x ∗ rot180(w)", words: "A convolution reads the kernel backwards: window and kernel meet from opposite ends.", minis: [[patch, k2, "window of x"], "∗", [turned, k2, this.turns ? "w" : "rot180(w)"]], value: flipped + more, ...beside },
        { title: "One product of matrices", anchor: "E4", formula: "Y = X W + b", words: `The window as a row of X, the kernel as a column of W.`, minis: [[patch, patch.length, `row ${i * this.grid[1] + j} of X`], [kernel, kernel.length, `column ${this.ds[this.d]} of W`]], value: gemm + more, ...beside },
      ] };
    }
    spelled_dw(tm, tn) {
      const account = this.explain("dw", tm, tn), more = this.beside(account), beside = this.others(account), [m, n] = this.tap(tm, tn);
      const [s1, s2] = this.stride, [r1, r2] = this.dilation, [[top], [left]] = this.pads, [P, Q] = this.grid;
      const met = [], deltas = [];
      for (const [i, j] of this.all()) {
        const r = i * s1 + m * r1 - top, c = j * s2 + n * r2 - left;
        met.push(inside(r, this.size[0]) && inside(c, this.size[1]) && this.linked(this.c, this.d) ? this.cell("x", r, c).value : 0);
        deltas.push(this.cell("dy", i, j).value);
      }
      let [row, column] = this.rows();
      if (this.turns) { row = row.replace("m", "(k1−1−m)"); column = column.replace("n", "(k2−1−n)"); }
      const turned = [...deltas].reverse(), last = deltas.length - 1;
      const loops = account.terms.reduce((total, term) => total + product(term), 0);
      let flipped = 0;
      for (let q = 0; q <= last; q++) flipped += turned[last - q] * met[q];
      const gemm = met.reduce((total, value, q) => total + value * deltas[q], 0);
      return { value: account.value, more, cards: [
        { title: "Loops: x correlated with dy", anchor: "E11", formula: `dw[m,n] = Σ_i Σ_j dy[i,j] · x[${row}, ${column}]`, words: "Each delta times the input that this weight met there.", minis: [[met, Q, "what the tap read"], "·", [deltas, Q, "dy"]], value: loops + more, ...beside },
        { title: "Flipped: x convolved with rot180(dy)", anchor: "E11", formula: this.turns ? "dw = rot180(x ∗ rot180(dy))" : "dw = x ∗ rot180(dy)", words: "The article's form: the deltas are turned by 180°, and the convolution turns them back.", minis: [[met, Q, "what the tap read"], "∗", [turned, Q, "rot180(dy)"]], value: flipped + more, ...beside },
        { title: "One product of matrices", anchor: "E11", formula: "dW = Xᵀ dY", words: "What runs: the tap's row of Xᵀ times the filter's column of dY.", minis: [[met, Math.min(met.length, P * Q), `row ${m * this.window_[1] + n} of Xᵀ`], [deltas, Math.min(deltas.length, P * Q), `column ${this.ds[this.d]} of dY`]], value: gemm + more, ...beside },
      ] };
    }
    spelled_dx(r, c) {
      const account = this.explain("dx", r, c), more = this.beside(account), beside = this.others(account), [k1, k2] = this.window_;
      const loops = account.terms.reduce((total, term) => total + product(term), 0);
      // full correlation: the deltas with zeros between and around them, under the kernel turned by 180°
      const patch = Array(k1 * k2).fill(0), turned = Array(k1 * k2).fill(0), gathered = [];
      for (let m = 0; m < k1; m++) for (let n = 0; n < k2; n++) turned[(k1 - 1 - m) * k2 + (k2 - 1 - n)] = this.weight(m, n).value;
      for (const { m, n, i, j } of this.readers(r, c)) {
        patch[(k1 - 1 - m) * k2 + (k2 - 1 - n)] = this.cell("dy", i, j).value;
        gathered.push([i * this.grid[1] + j, m * k2 + n, this.cell("dy", i, j).value * this.weight(m, n).value]);
      }
      const back = this.back(), tap = this.turns ? "k1−1−m, k2−1−n" : "m, n", flip = this.turns ? "w" : "rot180(w)";
      const linked = this.linked(this.c, this.d) ? 1 : 0;
      const flipped = linked * patch.reduce((total, value, q) => total + value * turned[q], 0);
      const gemm = linked * gathered.sort((a, b) => a[0] - b[0]).reduce((total, entry) => total + entry[2], 0);
      return { value: account.value, more, cards: [
        { title: "Loops: full convolution", anchor: "E13", formula: `dx[i,j] = Σ_m Σ_n dy[${back.join(", ")}] · w[${tap}]`, words: "The indices run backwards: each window that read the cell sends its delta back.", pairs: account.terms, value: loops + more, ...beside },
        { title: `Flipped: correlation with ${flip}`, anchor: "E13", formula: `dx = dy ⊗ ${flip}, “full”`, words: this.turns ? "The layer turns its kernel in the forward pass; the backward pass turns it once more, so it is used as stored." : "This is why people say that the kernel is flipped in the backward pass.", minis: [[patch, k2, "dy, padded"], "·", [turned, k2, flip]], value: flipped + more, ...beside },
        { title: "One product of matrices", anchor: "E13", formula: "dX = dY Wᵀ, then col2im", words: "What runs: no kernel is turned. col2im adds up what was read from this cell.", minis: [[gathered.map((entry) => entry[2]), Math.max(gathered.length, 1), gathered.length ? `dX rows ${gathered.map((entry) => entry[0]).join(", ")}` : "none"]], value: gemm + more, ...beside },
      ] };
    }
  }

  const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  function summary(words, part) {
    return { words: `${words}: ${part.length} products`, count: part.length, value: part.reduce((total, term) => total + product(term), 0), size: part.reduce((total, term) => total + Math.abs(product(term)), 0) };
  }

  // -- pooling

  class Pooling extends View {
    constructor(view, layer) { super(view, layer); this.window_ = view.window; delete this.window; }
    sums() {
      const how = { max: ["y = max(window)", "dx = dy, to the winner"], average: ["y = Σ window / M", "dx = Σ dy / M"], l2: ["y = √ Σ window²", "dx = Σ dy · x / y"] }[this.how];
      return [["y", how[0], "E8"], ["dx", how[1], "E15"]];
    }
    words(sum) {
      if (sum === "y") return "Each window becomes one number.";
      return this.how === "max" ? "The dots are the winners: each takes the whole delta of its window, and the others get nothing." : "Each unit of a window gets its share of the delta.";
    }
    maps(sum) {
      const zoom = Math.max(1, Math.min(this.stride[0], this.size[1] / this.grid[1])); // an output is as large as the step of its window
      const grid = (name, words) => ({ name, words, of: this.of, rows: this.grid[0], cols: this.grid[1], zoom });
      if (sum === "y") return [grid("y", "the output"), this.spec("x", "the input")];
      const list = [this.spec("dx", "gradient of the input"), grid("dy", "the deltas")];
      return this.how === "average" ? list : [...list, this.spec("x", "the input")];
    }
    units(i, j) { return [...this.window(i, j)].filter((tap) => tap.there); }
    winner(i, j) { // the first among equals, row by row; a NaN wins over any number
      let best = null;
      for (const { r, c } of this.units(i, j)) {
        const value = this.cell("x", r, c).value;
        if (!best || value > best.value || (Number.isNaN(value) && !Number.isNaN(best.value))) best = { r, c, value };
      }
      return best;
    }
    winners() { return new Set([...this.all()].map(([i, j]) => this.winner(i, j)).filter(Boolean).map(({ r, c }) => key(r, c))); }
    routes() { return this.how === "max" ? [...this.all()].map(([i, j]) => ({ from: [i, j], to: this.winner(i, j) })) : []; }
    of_y(i, j) {
      const y = this.cell("y", i, j), cells = this.units(i, j).map(({ r, c }) => this.cell("x", r, c));
      const common = { name: y.name, value: y.value, anchor: "E8", lit: light(cells.map(({ r, c }) => ["x", r, c])) };
      if (this.how === "max") {
        const best = this.winner(i, j);
        return { ...common, title: "forward: the largest unit of the window", formula: "y[k,i,j,c] = max(window of x)", how: "largest", sum: best.value, size: 0,
          terms: cells.map((cell) => ({ cells: [cell], note: cell.r === best.r && cell.c === best.c ? "the winner" : "" })) };
      }
      if (this.how === "l2") return { ...common, title: "forward: the length of the window", formula: "y[k,i,j,c] = √ Σ x²", how: "root of the sum",
        terms: cells.map((cell) => ({ cells: [cell, cell] })), sum: Math.hypot(...cells.map((cell) => cell.value)), size: Math.abs(y.value) };
      const M = at(this.M, i, j);
      return { ...common, title: "forward: the mean of the window", formula: "y[k,i,j,c] = Σ x / M", terms: cells.map((cell) => ({ cells: [cell], factor: 1 / M, what: "1/" + M })) };
    }
    of_dx(r, c) {
      const dx = this.cell("dx", r, c), readers = [...this.readers(r, c)];
      const common = { name: dx.name, value: dx.value, index: dx.index, anchor: "E15", twin: this.how === "max" ? ["x", r, c] : null };
      if (this.how === "max") {
        const won = readers.filter(({ i, j }) => { const best = this.winner(i, j); return best && best.r === r && best.c === c; });
        return { ...common, title: won.length ? "backward: the winner takes the whole delta" : "backward: it won no window, so it learns nothing", formula: "dx = Σ dy over the windows that it won",
          terms: won.map(({ i, j }) => ({ cells: [this.cell("dy", i, j)], note: "won" })), lit: light(won.map(({ i, j }) => ["dy", i, j])), note: `${counted(readers.length, "window")} read x[${r},${c}]; it won ${won.length}.` };
      }
      if (this.how === "l2") return { ...common, title: "backward: the delta times x / y", formula: "dx = Σ dy · x / y", terms: readers.map(({ i, j }) => {
        const y = this.cell("y", i, j).value;
        return { cells: [this.cell("dy", i, j), this.cell("x", r, c)], factor: y ? 1 / y : 0, what: `1/y[${i},${j}]` };
      }) };
      return { ...common, title: "backward: an equal share of the delta", formula: "dx = Σ dy / M", terms: readers.map(({ i, j }) => ({ cells: [this.cell("dy", i, j)], factor: 1 / at(this.M, i, j), what: "1/" + at(this.M, i, j) })) };
    }
    of_x(r, c, sum) {
      const readers = [...this.readers(r, c)];
      if (sum !== "y") return { ...this.cell("x", r, c), reach: true, title: `read by ${counted(readers.length, "window")}`, words: "It was read in the forward pass; its gradient is dx.", lit: light([["dx", r, c], ...readers.map(({ i, j }) => ["dy", i, j])]) };
      return { ...this.cell("x", r, c), reach: true, title: `read by ${counted(readers.length, "window")}`, words: "Each window that reads this unit makes one output.", lit: light(readers.map(({ i, j }) => ["y", i, j])) };
    }
    of_dy(i, j) {
      const best = this.how === "max" ? this.winner(i, j) : null;
      const to = best ? [["dx", best.r, best.c]] : this.units(i, j).map(({ r, c }) => ["dx", r, c]);
      return { ...this.cell("dy", i, j), reach: true, title: "the delta that the next layer sent", words: best ? `All of it goes to the winner, dx[${this.image},${best.r},${best.c},${this.cs[this.c]}].` : "The units of its window share it.", lit: light(to) };
    }
  }

  // -- activations

  class Activation extends View {
    constructor(view, layer) { super(view, layer); this.grid = this.size; }
    sums() { return [["y", `y = ${this.formula}`, "E7"], ["dx", "dx = f'(x) · dy", "E14"]]; }
    words(sum) { return sum === "y" ? "One function, applied to each number by itself." : "Each delta is scaled by the slope at its unit."; }
    maps(sum) {
      if (sum === "y") return [this.spec("y", "the output"), this.spec("x", "the input")];
      return [this.spec("dx", "gradient of the input"), this.spec("dy", "the deltas"), this.spec("slope", "f'(x), the slope")];
    }
    get(map, r, c) {
      const cell = this.cell(map, r, c);
      return map === "slope" ? { ...cell, short: cell.short.replace("slope", "f'(x") + ")", name: cell.name.replace("slope", "f'(x") + ")" } : cell;
    }
    of_y(r, c) {
      const cell = this.cell("y", r, c);
      return { ...cell, anchor: "E7", title: "forward: each number by itself", formula: `y = ${this.formula}`, how: this.formula, alone: true, terms: [{ cells: [this.cell("x", r, c)] }], sum: this.cell("f", r, c).value, size: 2 * Math.abs(cell.value) };
    }
    of_dx(r, c) {
      return { ...this.cell("dx", r, c), anchor: "E14", title: "backward: the delta times the slope", formula: `dx = f'(x) · dy,  f' = ${this.slopes}`, terms: [{ cells: [this.cell("dy", r, c), this.get("slope", r, c)] }], size: Math.abs(this.cell("dy", r, c).value) };
    }
    of_x(r, c) { return this.alone("x", r, c, ["y"], "It becomes one output."); }
    of_dy(r, c) { return this.alone("dy", r, c, ["dx", "slope"], "It goes to one place."); }
    of_slope(r, c) { return this.alone("slope", r, c, ["dx", "dy"], `The slope of f at ${this.cell("x", r, c).short} = ${this.cell("x", r, c).value.toPrecision(4)}.`); }
    alone(map, r, c, to, words) { return { ...this.get(map, r, c), reach: true, title: "each number by itself", words, lit: light(to.map((name) => [name, r, c])) }; }
  }

  const FORMS = { convolution: Convolution, pooling: Pooling, activation: Activation }; // units.js adds more
  return { make: (layer) => new FORMS[layer.view.form](layer.view, layer), product, key, rate, light, lightOf, gridOf, at, View, Activation, FORMS };
})();
