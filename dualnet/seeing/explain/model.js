"use strict";
// The sums of the page, from the numbers of the network. Nothing here knows the page.
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

    // a cell by its place on a map, with the name it has in the library
    cell(map, r, c, channel = this.channelOf(map)) {
      const array = this[map];
      const value = array.shape.length === 3 ? at(array, r, c, channel) : at(array, channel);
      return { map, r, c, value, short: `${map}[${r},${c}]`, name: `${map}[${[this.image, r, c, this.idOf(map, channel)].join(",")}]` };
    }
    channelOf(map) { return map === "y" || map === "dy" ? this.outputs() : this.c; }
    outputs() { return this.form === "convolution" ? this.d : this.c; }
    idOf(map, channel) { return (map === "y" || map === "dy") && this.ds ? this.ds[channel] : this.cs[channel]; }

    // E6: the taps of the window at i, j, and what each reads; off the map that is the padding
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
      const where = `image ${this.image}, channel ${this.cs[this.c]}` + (this.ds ? `, filter ${this.ds[this.d]}` : "");
      return { ...account, where, terms, extra, sum, limit, lit, same: Math.abs(sum - account.value) <= limit || Object.is(sum, account.value) };
    }
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

    maps(pass) {
      const ring = { top: this.pads[0][0], bottom: this.pads[0][1], left: this.pads[1][0], right: this.pads[1][1] };
      const reach = (side) => Math.min(side, 4);
      const pad = { top: reach(ring.top), bottom: reach(ring.bottom), left: reach(ring.left), right: reach(ring.right) };
      const [H, W] = this.size, [P, Q] = this.grid, [k1, k2] = this.window_;
      const c = this.cs[this.c], d = this.ds[this.d];
      const maps = [
        { name: "x", words: "the input", of: `channel ${c}`, rows: H, cols: W, column: 0, row: 0, pad },
        { name: "w", words: "the kernel", of: `filter ${d}`, rows: k1, cols: k2, column: 1, row: 0, kernel: true },
      ];
      if (pass === "forward") maps.push({ name: "y", words: "the output", of: `filter ${d}`, rows: P, cols: Q, column: 2, row: 0 });
      else maps.push(
        { name: "dy", words: "the delta", of: `filter ${d}`, rows: P, cols: Q, column: 2, row: 0 },
        { name: "dx", words: "gradient of the input", of: `channel ${c}`, rows: H, cols: W, column: 0, row: 1 },
        { name: "dw", words: "gradient of the kernel", of: `filter ${d}`, rows: k1, cols: k2, column: 1, row: 1, kernel: true });
      if (pass === "backward" && this.db) maps.push({ name: "db", words: "gradient of the bias", of: `filter ${d}`, rows: 1, cols: 1, column: 2, row: 1, kernel: true });
      return maps;
    }
    get(map, r, c) {
      if (map === "w" || map === "dw") return this.stored(r, c, this.c, this.d, map);
      if (map === "db") return { map, r: 0, c: 0, value: at(this.db, this.d), name: `db[${this.ds[this.d]}]` };
      return this.cell(map, r, c);
    }

    explain(map, r, c, pass) { return this.finish(this["of_" + map](r, c, pass)); }

    of_y(i, j) {
      const terms = [], extra = [], pads = [];
      for (let channel = 0; channel < this.cs.length; channel++) {
        if (!this.linked(channel, this.d)) continue;
        const part = [];
        for (const { m, n, r, c, there } of this.window(i, j)) {
          if (there) part.push({ cells: [this.weight(m, n, channel), this.cell("x", r, c, channel)] });
          else if (channel === this.c) pads.push(["x", r, c]);
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
      let outside = 0;
      const [s1, s2] = this.stride, [r1, r2] = this.dilation, [[top], [left]] = this.pads;
      if (this.linked(this.c, this.d)) for (const [i, j] of this.all()) {
        const r = i * s1 + m * r1 - top, c = j * s2 + n * r2 - left;
        if (inside(r, this.size[0]) && inside(c, this.size[1])) terms.push({ cells: [this.cell("dy", i, j), this.cell("x", r, c)] });
        else outside++;
      }
      if (this.restDw) extra.push({ words: "the other images of the batch", value: at(this.restDw, tm, tn, this.c, this.d) });
      let [row, column] = this.rows();
      if (this.turns) { row = row.replace("m", "(k1−1−m)"); column = column.replace("n", "(k2−1−n)"); }
      const dw = this.stored(tm, tn, this.c, this.d, "dw");
      return { name: dw.name, value: dw.value, anchor: "E11", title: "backward: the input correlated with the deltas", terms, extra, padding: outside,
        twin: ["w", tm, tn], formula: `dw[m,n,c,d] = Σ dy[k,i,j,d] · x[k,${row},${column},c]` };
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
      const dx = this.cell("dx", r, c);
      return { name: dx.name, value: dx.value, anchor: "E13", title: "backward: full convolution of the deltas with the kernel", terms, extra, twin: ["x", r, c],
        formula: `dx[k,i,j,c] = Σ dy[k,${row},${column},d] · w[${tap},c,d]` };
    }
    of_db() {
      const terms = [...this.all()].map(([i, j]) => ({ cells: [this.cell("dy", i, j)] }));
      const extra = this.restDb ? [{ words: "the other images of the batch", value: at(this.restDb, this.d) }] : [];
      const db = this.get("db");
      return { name: db.name, value: db.value, anchor: "E12", title: "backward: every delta of the filter", terms, extra, formula: "db[d] = Σ dy[k,i,j,d]" };
    }
    // the given numbers, x, w and dy: where they go
    of_x(r, c, pass) {
      const x = this.cell("x", r, c), readers = [...this.readers(r, c)];
      const to = pass === "forward" ? "y" : "dy";
      return { ...x, reach: true, title: `read by ${readers.length} window(s)`, lit: light(readers.flatMap(({ m, n, i, j }) => {
        const [tm, tn] = this.tap(m, n);
        return pass === "forward" ? [[to, i, j], ["w", tm, tn]] : [[to, i, j], ["dw", tm, tn], ["dx", r, c]];
      })), words: pass === "forward" ? "Each window that reads this cell multiplies it by another tap of the kernel." : "It meets the delta of each window that read it, once for each tap: these products go into dw." };
    }
    of_w(tm, tn, pass) {
      const [m, n] = this.tap(tm, tn), lit = [];
      const [s1, s2] = this.stride, [r1, r2] = this.dilation, [[top], [left]] = this.pads;
      for (const [i, j] of this.all()) {
        const r = i * s1 + m * r1 - top, c = j * s2 + n * r2 - left;
        if (!inside(r, this.size[0]) || !inside(c, this.size[1])) continue;
        lit.push(...(pass === "forward" ? [["x", r, c], ["y", i, j]] : [["dx", r, c], ["dy", i, j], ["dw", tm, tn]]));
      }
      return { ...this.stored(tm, tn), reach: true, title: "one weight, shared by all windows", lit: light(lit),
        words: pass === "forward" ? "It meets these cells of x, one in each window." : "It sends every delta back to the cell that it read." };
    }
    of_dy(i, j) {
      const cells = [...this.window(i, j)].filter((tap) => tap.there);
      return { ...this.cell("dy", i, j), reach: true, title: "the delta that the next layer sent", lit: light([...cells.flatMap(({ m, n, r, c }) => [["dx", r, c], ["dw", ...this.tap(m, n)], ["x", r, c]]), ["db", 0, 0]]),
        words: "It goes back to every cell that its window read, times the kernel; and to every weight, times the input." };
    }

    // the same entry in three spellings, each really computed so
    spellings(map, r, c, pass) {
      if (map === "y") return this.spelled_y(r, c);
      if (map === "dw") return this.spelled_dw(r, c);
      if (map === "dx") return this.spelled_dx(r, c);
      return null;
    }
    beside(account) { return account.extra.reduce((total, part) => total + part.value, 0); }
    spelled_y(i, j) {
      const account = this.explain("y", i, j), more = this.beside(account);
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
        { title: "Loops: cross-correlation", anchor: "E4", formula: `y[i,j] = Σ_m Σ_n w[${tap}] · x[${row}, ${column}]`, words: "The sum as printed: window and kernel, index by index.", minis: [[patch, k2, "window of x"], "·", [kernel, k2, this.turns ? "rot180(w)" : "w"]], value: loops + more },
        { title: "Flipped: true convolution", anchor: "E3", formula: this.turns ? "y = x ∗ w" : "y = x ∗ rot180(w)", words: "A convolution reads the kernel backwards: window and kernel meet from opposite ends.", minis: [[patch, k2, "window of x"], "∗", [turned, k2, this.turns ? "w" : "rot180(w)"]], value: flipped + more },
        { title: "One product of matrices", anchor: "E4", formula: "Y = X W + b", words: `The window as a row of X, the kernel as a column of W.`, minis: [[patch, patch.length, `row ${i * this.grid[1] + j} of X`], [kernel, kernel.length, `column ${this.ds[this.d]} of W`]], value: gemm + more },
      ] };
    }
    spelled_dw(tm, tn) {
      const account = this.explain("dw", tm, tn), more = this.beside(account), [m, n] = this.tap(tm, tn);
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
        { title: "Loops: x correlated with dy", anchor: "E11", formula: `dw[m,n] = Σ_i Σ_j dy[i,j] · x[${row}, ${column}]`, words: "Each delta times the input that this weight met there.", minis: [[met, Q, "what the tap read"], "·", [deltas, Q, "dy"]], value: loops + more },
        { title: "Flipped: x convolved with rot180(dy)", anchor: "E11", formula: this.turns ? "dw = rot180(x ∗ rot180(dy))" : "dw = x ∗ rot180(dy)", words: "The article's form: the deltas are turned by 180°, and the convolution turns them back.", minis: [[met, Q, "what the tap read"], "∗", [turned, Q, "rot180(dy)"]], value: flipped + more },
        { title: "One product of matrices", anchor: "E11", formula: "dW = Xᵀ dY", words: "What runs: the tap's row of Xᵀ times the filter's column of dY.", minis: [[met, Math.min(met.length, P * Q), `row ${m * this.window_[1] + n} of Xᵀ`], [deltas, Math.min(deltas.length, P * Q), `column ${this.ds[this.d]} of dY`]], value: gemm + more },
      ] };
    }
    spelled_dx(r, c) {
      const account = this.explain("dx", r, c), more = this.beside(account), [k1, k2] = this.window_;
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
        { title: "Loops: full convolution", anchor: "E13", formula: `dx[i,j] = Σ_m Σ_n dy[${back.join(", ")}] · w[${tap}]`, words: "The indices run backwards: each window that read the cell sends its delta back.", pairs: account.terms, value: loops + more },
        { title: `Flipped: correlation with ${flip}`, anchor: "E13", formula: `dx = dy ⊗ ${flip}, “full”`, words: this.turns ? "The layer turns its kernel going forward; the way back turns it once more, so it is used as stored." : "This is why people say that the kernel is flipped in the backward pass.", minis: [[patch, k2, "dy, padded"], "·", [turned, k2, flip]], value: flipped + more },
        { title: "One product of matrices", anchor: "E13", formula: "dX = dY Wᵀ, then col2im", words: "What runs: no kernel is turned. col2im adds up what was read from this cell.", minis: [[gathered.map((entry) => entry[2]), Math.max(gathered.length, 1), gathered.length ? `dX rows ${gathered.map((entry) => entry[0]).join(", ")}` : "none"]], value: gemm + more },
      ] };
    }
  }

  function summary(words, part) {
    return { words: `${words}: ${part.length} products`, count: part.length, value: part.reduce((total, term) => total + product(term), 0), size: part.reduce((total, term) => total + Math.abs(product(term)), 0) };
  }

  // -- pooling

  class Pooling extends View {
    constructor(view, layer) { super(view, layer); this.window_ = view.window; delete this.window; }
    maps(pass) {
      const [H, W] = this.size, [P, Q] = this.grid, of = `channel ${this.cs[this.c]}`;
      const words = { x: "the input", y: "the output", dx: "gradient of the input", dy: "the delta" };
      const names = pass === "forward" ? ["x", "y"] : this.how === "average" ? ["dx", "dy"] : ["x", "dx", "dy"];
      // an output is drawn as large as the step of its window, so that the maps match
      return names.map((name, column) => (name === "y" || name === "dy" ? { name, words: words[name], of, rows: P, cols: Q, column, row: 0, zoom: Math.max(1, Math.min(this.stride[0], W / Q)) } : { name, words: words[name], of, rows: H, cols: W, column, row: 0 }));
    }
    get(map, r, c) { return this.cell(map, r, c); }
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
    explain(map, r, c, pass) { return this.finish(this["of_" + map](r, c, pass)); }
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
      const common = { name: dx.name, value: dx.value, anchor: "E15", twin: ["x", r, c] };
      if (this.how === "max") {
        const won = readers.filter(({ i, j }) => { const best = this.winner(i, j); return best && best.r === r && best.c === c; });
        return { ...common, title: won.length ? "backward: the winner takes the whole error" : "backward: it won no window, so it learns nothing", formula: "dx = Σ dy over the windows that it won",
          terms: won.map(({ i, j }) => ({ cells: [this.cell("dy", i, j)], note: "won" })), lit: light(won.map(({ i, j }) => ["dy", i, j])), note: `${readers.length} window(s) read x[${r},${c}]; it won ${won.length}.` };
      }
      if (this.how === "l2") return { ...common, title: "backward: the delta times x / y", formula: "dx = Σ dy · x / y", terms: readers.map(({ i, j }) => {
        const y = this.cell("y", i, j).value;
        return { cells: [this.cell("dy", i, j), this.cell("x", r, c)], factor: y ? 1 / y : 0, what: `1/y[${i},${j}]` };
      }) };
      return { ...common, title: "backward: an equal share of the error", formula: "dx = Σ dy / M", terms: readers.map(({ i, j }) => ({ cells: [this.cell("dy", i, j)], factor: 1 / at(this.M, i, j), what: "1/" + at(this.M, i, j) })) };
    }
    of_x(r, c, pass) {
      const readers = [...this.readers(r, c)];
      if (pass === "backward") return { ...this.cell("x", r, c), reach: true, title: `read by ${readers.length} window(s)`, words: "It was read in the forward pass; its gradient is dx.", lit: light([["dx", r, c], ...readers.map(({ i, j }) => ["dy", i, j])]) };
      return { ...this.cell("x", r, c), reach: true, title: `read by ${readers.length} window(s)`, words: "Each window that reads this unit makes one output.", lit: light(readers.map(({ i, j }) => ["y", i, j])) };
    }
    of_dy(i, j) {
      const best = this.how === "max" ? this.winner(i, j) : null;
      const to = best ? [["dx", best.r, best.c]] : this.units(i, j).map(({ r, c }) => ["dx", r, c]);
      return { ...this.cell("dy", i, j), reach: true, title: "the delta that the next layer sent", words: best ? `All of it goes to the winner, dx[${this.image},${best.r},${best.c},${this.cs[this.c]}].` : "The units of its window share it.", lit: light(to) };
    }
    spellings() { return null; }
  }

  // -- activations

  class Activation extends View {
    constructor(view, layer) { super(view, layer); this.grid = this.size; }
    maps(pass) {
      const [H, W] = this.size, of = `channel ${this.cs[this.c]}`;
      const all = { x: "the input", y: "the output", dx: "gradient of the input", slope: "f'(x), the slope", dy: "the delta" };
      return (pass === "forward" ? ["x", "y"] : ["dx", "slope", "dy"]).map((name, column) => ({ name, words: all[name], of, rows: H, cols: W, column, row: 0 }));
    }
    get(map, r, c) { return map === "slope" ? { map, r, c, value: at(this.slope, r, c, this.c), short: `f'(x[${r},${c}])`, name: `f'(x[${[this.image, r, c, this.cs[this.c]].join(",")}])` } : this.cell(map, r, c); }
    explain(map, r, c) {
      const cell = this.get(map, r, c);
      if (map === "y") return this.finish({ ...cell, anchor: "E7", title: "forward: each number by itself", formula: `y = ${this.formula}`, how: "f of it", terms: [{ cells: [this.cell("x", r, c)] }], sum: at(this.f, r, c, this.c), size: 2 * Math.abs(cell.value) });
      if (map === "dx") return this.finish({ ...cell, anchor: "E14", title: "backward: the delta times the slope", formula: `dx = f'(x) · dy,  f' = ${this.words}`, terms: [{ cells: [this.cell("dy", r, c), this.get("slope", r, c)] }], size: Math.abs(this.cell("dy", r, c).value) });
      const to = { x: ["y"], dy: ["dx", "slope"], slope: ["dx", "dy"] }[map];
      return this.finish({ ...cell, reach: true, title: "each number goes its own way", words: map === "slope" ? `The slope of f at x[${r},${c}] = ${this.cell("x", r, c).value.toPrecision(4)}.` : "It has one place to go to.", lit: light(to.map((name) => [name, r, c])) });
    }
    spellings() { return null; }
  }

  const FORMS = { convolution: Convolution, pooling: Pooling, activation: Activation };
  return { make: (layer) => new FORMS[layer.view.form](layer.view, layer), product, key };
})();
