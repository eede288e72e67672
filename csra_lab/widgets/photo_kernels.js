/* The two loops in which the network spends its time, as WebAssembly that is written here, byte by byte.

   No compiler and no binary file: a WebAssembly function is a list of bytes, and the helpers below name the few that
   are needed. All numbers are float32 in one memory, images lie as (row, column, channel), and addresses are in bytes.

   product: out[n, m] = clip(bias[m] + sum over k of x[n, k] * w[k, m] + add[n, m]), the 1x1 convolutions. The weights
   lie in panels of 8 outputs, (m / 8, k, 8). k is a multiple of 4 and m of 8; `add` is 0 for none.
   depthwise: a k x k filter for each channel, (k, k, channels), clipped to 0..high. Channels are a multiple of 16. */

const PANEL = 8, UNROLLED = 4; // outputs of a panel; steps of k in one turn of the inner loop
const I32 = 0x7f, F32 = 0x7d, V128 = 0x7b, NOTHING = 0x40;

const leb = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...leb(n >>> 7)]);
const list = (items) => [...leb(items.length), ...items.flat()];
const section = (id, items) => { const content = list(items); return [id, ...leb(content.length), ...content]; };
const bytesOf = (text) => list([...text].map((c) => [c.charCodeAt(0)]));

const get = (v) => [0x20, ...leb(v)];
const set = (v, value) => [...value, 0x21, ...leb(v)];
const constant = (n) => [0x41, ...(n < 64 ? [n] : [(n & 127) | 128, n >> 7])]; // 0 to 8191
const add = (a, b) => [...a, ...b, 0x6a];
const sub = (a, b) => [...a, ...b, 0x6b];
const mul = (a, b) => [...a, ...b, 0x6c];
const below = (a, b) => [...a, ...b, 0x48];
const either = (a, b, condition) => [...a, ...b, ...condition, 0x1b]; // condition ? a : b
const step = (v, by) => set(v, add(get(v), typeof by === "number" ? constant(by) : by));
const loop = (body, again) => [0x03, NOTHING, ...body, ...again, 0x0d, 0, 0x0b]; // at least once, as long as `again`
const when = (condition, body) => [...condition, 0x04, NOTHING, ...body, 0x0b];

const load = (address, offset = 0) => [...address, 0xfd, 0x00, 2, ...leb(offset)];
const loadSplat = (address, offset) => [...address, 0xfd, 0x09, 2, ...leb(offset)]; // one number four times
const store = (address, offset, value) => [...address, ...value, 0xfd, 0x0b, 2, ...leb(offset)];
const splat = (value) => [...value, 0xfd, 0x13];
const plus = (a, b) => [...a, ...b, 0xfd, ...leb(0xe4)];
const clip = (value, low, high) => [...value, ...high, 0xfd, ...leb(0xea), ...low, 0xfd, ...leb(0xeb)];
const MULTIPLY_ADD = {
  fused: (a, b, sum) => [...a, ...b, ...sum, 0xfd, ...leb(0x105)], // relaxed SIMD: one instruction where there is one
  plain: (a, b, sum) => [...sum, ...a, ...b, 0xfd, ...leb(0xe6), 0xfd, ...leb(0xe4)],
};

/* A function: the types of its parameters, then its body, for which `local(type)` makes variables. */
function define(parameters, write) {
  const locals = [];
  const local = (type) => parameters.length + locals.push(type) - 1;
  const body = write(parameters.map((_, i) => i), local);
  const code = [...list(locals.map((type) => [1, type])), ...body, 0x0b];
  return { type: [0x60, ...list(parameters.map((p) => [p])), 0], code: [...leb(code.length), ...code] };
}

function product(rows, multiplyAdd) {
  return define([...Array(8).fill(I32), F32, F32], ([x, w, b, out, n, k4, panels, more, low, high], local) => {
    const [row, base, end, p, wp, bp, o, q, m, stride] = Array.from({ length: 10 }, () => local(I32));
    const xs = Array.from({ length: rows }, () => local(I32));
    const sums = Array.from({ length: rows }, () => [local(V128), local(V128)]);
    const [w0, w1, value, least, most] = Array.from({ length: 5 }, () => local(V128));
    const turns = Array.from({ length: UNROLLED }, (_, u) => [
      set(w0, load(get(wp), 32 * u)), set(w1, load(get(wp), 32 * u + 16)),
      xs.map((xp, r) => [
        set(value, loadSplat(get(xp), 4 * u)),
        set(sums[r][0], multiplyAdd(get(value), get(w0), get(sums[r][0]))),
        set(sums[r][1], multiplyAdd(get(value), get(w1), get(sums[r][1]))),
      ]),
    ]);
    const panel = [
      set(xs[0], get(base)), xs.slice(1).map((xp, r) => set(xp, add(get(xs[r]), get(k4)))),
      sums.map(([s0, s1]) => [set(s0, load(get(bp))), set(s1, load(get(bp), 16))]),
      loop([turns, step(wp, 32 * UNROLLED), xs.map((xp) => step(xp, 4 * UNROLLED))].flat(9), below(get(xs[0]), get(end))),
      when(get(more), [set(q, get(m)), sums.map(([s0, s1]) => [
        set(s0, plus(get(s0), load(get(q)))), set(s1, plus(get(s1), load(get(q), 16))), step(q, get(stride)),
      ])].flat(9)),
      set(q, get(o)), sums.map(([s0, s1]) => [
        store(get(q), 0, clip(get(s0), get(least), get(most))), store(get(q), 16, clip(get(s1), get(least), get(most))),
        step(q, get(stride)),
      ]),
      step(bp, 32), step(o, 32), step(m, 32), set(p, sub(get(p), constant(1))),
    ];
    const block = [ // the last rows: as many as the others, so that some are computed twice
      set(row, either(sub(get(n), constant(rows)), get(row), below(sub(get(n), constant(rows)), get(row)))),
      set(base, add(get(x), mul(get(row), get(k4)))), set(end, add(get(base), get(k4))),
      set(o, add(get(out), mul(get(row), get(stride)))), set(m, add(get(more), mul(get(row), get(stride)))),
      set(wp, get(w)), set(bp, get(b)), set(p, get(panels)),
      loop(panel.flat(9), get(p)), step(row, rows),
    ];
    return [set(stride, mul(get(panels), constant(32))), set(least, splat(get(low))), set(most, splat(get(high))),
      loop(block.flat(9), below(get(row), get(n)))].flat(9);
  });
}

function depthwise(multiplyAdd) {
  const parameters = [...Array(12).fill(I32), F32];
  return define(parameters, ([x, w, b, out, height, width, c4, k, stride, pad, outHeight, outWidth, high], local) => {
    const [oy, ox, y, y0, y1, xx, x0, x1, ky, kx, c, xp, wp, rowBytes, o] = Array.from({ length: 15 }, () => local(I32));
    const sums = Array.from({ length: 4 }, () => local(V128)), [zero, most] = [local(V128), local(V128)];
    /* From which tap to which the filter lies inside the image. */
    const inside = (at, first, last, outer, size) => [
      set(at, sub(mul(get(outer), get(stride)), get(pad))),
      set(first, either(sub(constant(0), get(at)), constant(0), below(get(at), constant(0)))),
      set(last, sub(get(size), get(at))), set(last, either(get(k), get(last), below(get(k), get(last)))),
    ];
    const taps = [sums.map((sum, i) => set(sum, multiplyAdd(load(get(xp), 16 * i), load(get(wp), 16 * i), get(sum)))),
      step(xp, get(c4)), step(wp, get(c4)), step(kx, 1)];
    const line = [
      set(xp, add(add(add(get(x), get(c)), mul(add(get(y), get(ky)), get(rowBytes))), mul(add(get(xx), get(x0)), get(c4)))),
      set(wp, add(add(get(w), get(c)), mul(add(mul(get(ky), get(k)), get(x0)), get(c4)))),
      set(kx, get(x0)), loop(taps.flat(9), below(get(kx), get(x1))), step(ky, 1),
    ];
    const channels = [
      sums.map((sum, i) => set(sum, load(add(get(b), get(c)), 16 * i))),
      set(ky, get(y0)), loop(line.flat(9), below(get(ky), get(y1))),
      sums.map((sum, i) => store(get(o), 16 * i, clip(get(sum), get(zero), get(most)))), step(o, 64), step(c, 64),
    ];
    const column = [inside(xx, x0, x1, ox, width), set(c, constant(0)), loop(channels.flat(9), below(get(c), get(c4))), step(ox, 1)];
    const row = [inside(y, y0, y1, oy, height), set(ox, constant(0)), loop(column.flat(9), below(get(ox), get(outWidth))), step(oy, 1)];
    return [set(rowBytes, mul(get(width), get(c4))), set(o, get(out)), set(most, splat(get(high))), set(oy, constant(0)),
      loop(row.flat(9), below(get(oy), get(outHeight)))].flat(9);
  });
}

function wasmModule(rows, multiplyAdd) {
  const functions = [product(rows, multiplyAdd), depthwise(multiplyAdd)];
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, functions.map((f) => f.type)),
    ...section(2, [[...bytesOf("lab"), ...bytesOf("memory"), 2, 0, 0]]),
    ...section(3, functions.map((_, i) => [i])),
    ...section(7, ["product", "depthwise"].map((name, i) => [...bytesOf(name), 0, i])),
    ...section(10, functions.map((f) => f.code)),
  ]);
}

/* The same in JavaScript, for browsers without vectors in WebAssembly. About ten times slower. */
const plainKernels = (memory) => ({
  product(x, w, b, out, n, k4, panels, more, low, high) {
    const K = k4 / 4, M = PANEL * panels, sums = new Float32Array(PANEL);
    for (let row = 0; row < n; row++) {
      for (let panel = 0; panel < panels; panel++) {
        const at = row * M + panel * PANEL;
        for (let j = 0; j < PANEL; j++) sums[j] = memory[b / 4 + panel * PANEL + j] + (more ? memory[more / 4 + at + j] : 0);
        for (let k = 0, wi = w / 4 + panel * K * PANEL; k < K; k++, wi += PANEL) {
          const value = memory[x / 4 + row * K + k];
          for (let j = 0; j < PANEL; j++) sums[j] += value * memory[wi + j];
        }
        for (let j = 0; j < PANEL; j++) memory[out / 4 + at + j] = Math.min(Math.max(sums[j], low), high);
      }
    }
  },
  depthwise(x, w, b, out, height, width, c4, k, stride, pad, outHeight, outWidth, high) {
    const C = c4 / 4, sums = new Float32Array(C);
    for (let oy = 0, o = out / 4; oy < outHeight; oy++) {
      for (let ox = 0; ox < outWidth; ox++, o += C) {
        sums.set(memory.subarray(b / 4, b / 4 + C));
        for (let ky = 0; ky < k; ky++) {
          const y = oy * stride - pad + ky;
          for (let kx = 0; kx < k && y >= 0 && y < height; kx++) {
            const column = ox * stride - pad + kx, xi = x / 4 + (y * width + column) * C, wi = w / 4 + (ky * k + kx) * C;
            if (column >= 0 && column < width) for (let c = 0; c < C; c++) sums[c] += memory[xi + c] * memory[wi + c];
          }
        }
        for (let c = 0; c < C; c++) memory[o + c] = Math.min(Math.max(sums[c], 0), high);
      }
    }
  },
});

/* The fastest kernels that this browser takes, and the memory they work on. engine: "" for that, or one by name. */
async function makeKernels(bytes, engine = "") {
  for (const [name, rows] of [["fused", 6], ["plain", 4]]) {
    if (engine && engine !== name) continue;
    try {
      const module = await WebAssembly.compile(wasmModule(rows, MULTIPLY_ADD[name]));
      const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) });
      const { exports } = await WebAssembly.instantiate(module, { lab: { memory } });
      return { name, memory: new Float32Array(memory.buffer), ...exports };
    } catch { /* the next one */ }
  }
  const memory = new Float32Array(Math.ceil(bytes / 4));
  return { name: "script", memory, ...plainKernels(memory) };
}
