/* The network in the browser: its numbers, the pixels it reads, and its score maps. photo_network.py writes the plan. */

/* Bilinear and antialiased, to the last bit as Pillow 13 does it: two passes with 8 bits in between, along the rows and
   then along the columns, or the columns first where that is cheaper. RGBA in and out; the alpha is left alone. */
function resize(pixels, width, height, side) {
  if (height > side && height - side > 2 * (width - side)) {
    return resizeLines(resizeLines(pixels, height, width, side, width, 1), width, side, side, 1, width);
  }
  return resizeLines(resizeLines(pixels, width, height, side, 1, width), height, side, side, side, 1);
}

/* Lines of `length` pixels become lines of `side`; from a pixel to the next, and from a line to the next. */
function resizeLines(pixels, length, lines, side, nextPixel, nextLine) {
  const out = new Uint8ClampedArray(4 * side * lines), scale = length / side, support = Math.max(scale, 1);
  for (let i = 0; i < side; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0), last = Math.min(Math.trunc(centre + support + 0.5), length);
    const weights = Array.from({ length: last - first }, (_, k) => Math.max(1 - Math.abs((k + first - centre + 0.5) / support), 0));
    const total = weights.reduce((sum, v) => sum + v, 0), whole = Int32Array.from(weights, (v) => Math.trunc(0.5 + (v / total) * 2 ** 22));
    for (let line = 0; line < lines; line++) {
      let r = 2 ** 21, g = 2 ** 21, b = 2 ** 21, at = 4 * (line * nextLine + first * nextPixel);
      for (let k = 0; k < whole.length; k++, at += 4 * nextPixel) {
        const weight = whole[k];
        r += weight * pixels[at];
        g += weight * pixels[at + 1];
        b += weight * pixels[at + 2];
      }
      const to = 4 * (nextPixel === 1 ? line * side + i : i * lines + line);
      out[to] = r >> 22;
      out[to + 1] = g >> 22;
      out[to + 2] = b >> 22;
    }
  }
  return out;
}

/* The parts of the network's numbers, one script each: a script can be loaded from file:// too. */
function scriptParts(manifest) {
  const waiting = new Map();
  globalThis.csraLabPart = (key, number, text) => { if (key === manifest.key) waiting.get(number)(text); };
  const base = new URL(`${document.documentElement.dataset.content_root ?? ""}_static/network/${manifest.key}/`, document.baseURI);
  return (number) => new Promise((resolve, reject) => {
    waiting.set(number, (text) => resolve(fromBase64(text)));
    const script = make("script", { src: new URL(`part-${number}.js`, base).href });
    script.onload = () => script.remove();
    script.onerror = () => {
      script.remove();
      reject(new Error("The network's numbers are not beside this page. Open the page where it was published, or run its cells in Jupyter."));
    };
    document.head.append(script);
  });
}

/* In Jupyter the kernel sends them, one after the other. */
function kernelParts(model) {
  const waiting = new Map();
  let last = Promise.resolve();
  model.on("msg:custom", (message, buffers) => waiting.get(message.part)?.(new Uint8Array(buffers[0].buffer, buffers[0].byteOffset, buffers[0].byteLength)));
  const ask = (number) => new Promise((resolve, reject) => {
    const late = () => reject(new Error("The network's numbers did not come: the kernel is busy or gone. Run the cell again, then choose the photograph."));
    const timer = setTimeout(late, 60000);
    waiting.set(number, (bytes) => {
      clearTimeout(timer);
      resolve(bytes);
    });
    model.send({ part: number });
  });
  return (number) => {
    const answer = last.then(() => ask(number));
    answer.catch(() => { last = Promise.resolve(); }); // those that wait behind it fail too; the next attempt starts anew
    last = answer;
    return answer;
  };
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/* The network, ready to run. fetchPart(number) gives the bytes of a part; progress(share) is told of each. */
async function loadNetwork(manifest, fetchPart, progress, engine = "") {
  const content = new Uint8Array(4 * Math.ceil(manifest.bytes / 4));
  let arrived = 0;
  await Promise.all(Array.from({ length: manifest.parts }, async (_, number) => {
    const bytes = await fetchPart(number);
    content.set(bytes, number * manifest.partBytes);
    arrived += bytes.length;
    progress(arrived / manifest.bytes);
  }));
  if (arrived !== manifest.bytes) throw new Error("The network's numbers did not arrive whole; reload the page.");

  const classifier = (head) => ({ kind: "product", kernel: 1, stride: 1, inputs: manifest.layers.at(-1).outputs, high: null,
    outputs: head.num_heads * head.classes.length });
  const layers = manifest.layers.map((layer) => ({ ...layer })), classifiers = manifest.heads.map(classifier);
  const largest = Math.max(...manifest.heads.map((head) => largestMap(layers, head.size)));
  let numbers = 0; // float32 in memory: weights and biases, then three feature maps
  for (const layer of [...layers, ...classifiers]) {
    layer.depth = layer.kind === "depthwise" ? layer.kernel ** 2 : 4 * Math.ceil((layer.kernel ** 2 * layer.inputs) / 4);
    layer.width = PANEL * Math.ceil(layer.outputs / PANEL);
    layer.bias = 4 * numbers;
    layer.weights = 4 * (numbers += layer.width);
    numbers += layer.depth * layer.width;
  }
  numbers = 4 * Math.ceil(numbers / 4);
  const maps = [0, 1, 2].map((i) => 4 * (numbers + i * largest));
  const kernels = await makeKernels(4 * (numbers + 3 * largest), engine), { memory } = kernels;

  let at = 0;
  for (const layer of [...layers, ...classifiers]) {
    const { depth, width } = layer, scales = new Float32Array(content.buffer, at, width);
    memory.set(new Float32Array(content.buffer, at + 4 * width, width), layer.bias / 4);
    const weights = new Int16Array(content.buffer, at + 8 * width, depth * width), lanes = layer.kind === "depthwise" ? width : PANEL;
    let to = layer.weights / 4, i = 0;
    for (let panel = 0; panel < width; panel += lanes) {
      for (let k = 0; k < depth; k++) for (let lane = panel; lane < panel + lanes; lane++) memory[to++] = weights[i++] * scales[lane];
    }
    at += 8 * width + 2 * depth * width;
  }
  return new Network(layers, classifiers, kernels, maps);
}

/* Numbers of the largest feature map, the one of 3 x 3 pixels before the first layer included. */
function largestMap(layers, size) {
  let side = size, largest = 0;
  for (const { stride, outputs, kind } of layers) {
    side = Math.ceil(side / stride);
    largest = Math.max(largest, side * side * (kind === "stem" ? Math.max(outputs, 28) : outputs));
  }
  return 16 * Math.ceil((largest + 8 * 1024 * side * side) / 16); // and room for the score maps of some thousand labels
}

class Network {
  constructor(layers, classifiers, kernels, buffers) {
    Object.assign(this, { layers, classifiers, kernels, buffers, engine: kernels.name });
  }

  /* RGBA of size x size pixels -> features, Float32Array of (h, w, d) with its sides. */
  features(pixels, size, mean, std) {
    const { kernels, buffers } = this;
    let side = size, x = buffers[0], opened = x;
    for (const layer of this.layers) {
      const { kernel, stride, inputs, outputs, depth, width, high } = layer, next = Math.ceil(side / stride);
      const pad = Math.max((next - 1) * stride + kernel - side, 0) >> 1;
      if (layer.kind === "stem") this.patches(x, pixels, side, next, kernel, stride, pad, depth, mean, std);
      if (layer.opens) opened = x;
      const out = buffers.find((buffer) => buffer !== x && buffer !== opened);
      if (layer.kind === "depthwise") {
        kernels.depthwise(x, layer.weights, layer.bias, out, side, side, 4 * inputs, kernel, stride, pad, next, next, high ?? Infinity);
      } else {
        kernels.product(x, layer.weights, layer.bias, out, next * next, 4 * depth, width / PANEL, layer.adds ? opened : 0,
          high === null ? -Infinity : 0, high ?? Infinity);
      }
      x = out;
      side = next;
    }
    const d = this.layers.at(-1).outputs;
    return { side, values: kernels.memory.slice(x / 4, x / 4 + side * side * d) };
  }

  /* The pixels under the first filter, at each place; outside the image they are 0. */
  patches(to, pixels, side, next, kernel, stride, pad, depth, mean, std) {
    const { memory } = this.kernels, ready = mean.map((m, c) => Float32Array.from({ length: 256 }, (_, v) => (v / 255 - m) / std[c]));
    let at = to / 4;
    for (let oy = 0; oy < next; oy++) {
      for (let ox = 0; ox < next; ox++, at += depth) {
        memory.fill(0, at, at + depth);
        for (let ky = 0; ky < kernel; ky++) {
          const y = oy * stride - pad + ky;
          for (let kx = 0; kx < kernel && y >= 0 && y < side; kx++) {
            const column = ox * stride - pad + kx, from = 4 * (y * side + column);
            if (column >= 0 && column < side) for (let c = 0; c < 3; c++) memory[at + 3 * (ky * kernel + kx) + c] = ready[c][pixels[from + c]];
          }
        }
      }
    }
  }

  /* Score maps of a head on features: { h, w, values } with values of (num_heads * C, h, w). */
  scoreMaps({ side, values }, head) {
    const { kernels, buffers: [x, out] } = this, { weights, bias, depth, width, outputs } = this.classifiers[head], N = side * side;
    kernels.memory.set(values, x / 4);
    kernels.product(x, weights, bias, out, N, 4 * depth, width / PANEL, 0, -Infinity, Infinity);
    const maps = new Float32Array(outputs * N);
    for (let c = 0; c < outputs; c++) for (let n = 0; n < N; n++) maps[c * N + n] = kernels.memory[out / 4 + n * width + c];
    return { h: side, w: side, values: maps };
  }
}
