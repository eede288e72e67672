/* Photograph explorer: the reader's own photograph, the network in the browser, average and CSRA side by side. */

const RAMP = ["440154", "3b528b", "21918c", "5ec962", "fde725"].map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
const SHOWN = 8, SIDE = 480, MOST_PIXELS = 2 ** 24; // labels of a ranking; pixels of the image on the page; what a canvas takes everywhere
const VIEWS = [["maps", "maps"], ["light", "light"], ["image", "image alone"]];
const WARNING = " This browser disguises the pixels that a page reads, so the scores are off: allow it to read canvases here.";
const NETWORKS = (globalThis.csraLabNetworks ??= new Map()); // key -> promise: loaded once for all explorers of a page

function rampColour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1), low = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[low].map((v, i) => v + (place - low) * (RAMP[low + 1][i] - v));
}

/* The image, and over it a map from blue to yellow; or the image in the light of the map. */
function paintMap(canvas, image, heat, { h, w }, low, high, view) {
  setAttributes(canvas, { width: image.width, height: image.height });
  const pen = canvas.getContext("2d"), small = make("canvas", { width: w, height: h }), dots = small.getContext("2d").createImageData(w, h);
  pen.drawImage(image, 0, 0);
  if (view === "image") return;
  heat.forEach((v, k) => {
    const share = (v - low) / (high - low || 1), grey = 255 * (0.12 + 0.88 * share);
    dots.data.set([...(view === "light" ? [grey, grey, grey] : rampColour(share)), 255], 4 * k);
  });
  small.getContext("2d").putImageData(dots, 0, 0);
  if (view === "maps") {
    pen.globalCompositeOperation = "saturation";
    pen.fillStyle = "#808080";
    pen.fillRect(0, 0, canvas.width, canvas.height);
  }
  pen.globalCompositeOperation = view === "light" ? "multiply" : "source-over";
  pen.globalAlpha = view === "light" ? 1 : 0.6;
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  pen.globalAlpha = 1;
  pen.globalCompositeOperation = "source-over";
}

/* Some browsers disguise what a page reads of a canvas, so that it cannot be used to recognise a reader. */
function disguises() {
  const pen = make("canvas", { width: 16, height: 16 }).getContext("2d", { willReadFrequently: true }), image = pen.createImageData(16, 16);
  image.data.forEach((_, i) => { image.data[i] = i % 4 === 3 ? 255 : (i * 37) % 256; });
  pen.putImageData(image, 0, 0);
  return pen.getImageData(0, 0, 16, 16).data.some((v, i) => v !== image.data[i]);
}

/* A file as pixels: upright, over white, colours as the file has them. image: what the page shows of it. */
async function readImage(blob) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  const drawn = (most) => {
    const canvas = make("canvas", { width: Math.max(Math.round(bitmap.width * most), 1), height: Math.max(Math.round(bitmap.height * most), 1) });
    const pen = canvas.getContext("2d", { willReadFrequently: most === 1 });
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return canvas;
  };
  const whole = drawn(Math.min(1, Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height))));
  const image = drawn(Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height)));
  const pixels = whole.getContext("2d").getImageData(0, 0, whole.width, whole.height);
  bitmap.close();
  return { pixels, image, features: new Map() };
}

/* Score maps of a head on a photograph; what was computed once stays with the photograph. */
function mapsOf(photo, network, heads, head) {
  photo.maps[head] ??= (() => {
    const { size, mean, std } = heads[head], key = JSON.stringify([size, mean, std]);
    if (!photo.features.has(key)) {
      const { data, width, height } = photo.pixels;
      photo.features.set(key, network.features(resize(data, width, height, size), size, mean, std));
    }
    return network.scoreMaps(photo.features.get(key), head);
  })();
  return photo.maps[head];
}

const blobOf = (url) => new Blob([fromBase64(url.slice(url.indexOf(",") + 1))], { type: url.slice(5, url.indexOf(";")) });
const paint = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));

function render({ model, el }) {
  const data = model.get("data"), manifest = data.network, heads = manifest.heads, megabytes = Math.ceil((manifest.bytes * (model.send ? 1 : 4 / 3)) / 1e6);
  const fetchPart = model.send ? kernelParts(model) : scriptParts(manifest);
  const opening = { head: model.get("head"), label: model.get("label") }; // of the first example
  let photo = null, network = null, latest = 0, pointed = null, dragged = 0; // latest: the photograph asked for last

  const fileButton = (text, name, more) => {
    const input = make("input", { type: "file", accept: "image/*", class: "lab-unseen", "data-control": name, ...more, onchange: () => {
      if (input.files[0]) open(input.files[0], input.files[0].name);
      input.value = ""; // the same file can be chosen again
    } });
    return make("label", { class: "lab-button lab-file" }, input, text);
  };
  const thumbs = data.examples.map(({ name, url }, i) => make("button", { type: "button", class: "lab-example", "aria-pressed": false, title: name,
    "data-control": `example-${i}`, onclick: () => open(blobOf(url), name, i, i === 0 ? cameWithPage() : []) }, make("img", { src: url, alt: `Example: ${name}` })));
  const message = make("p", { class: "lab-note", "data-shown": "message", role: "status" });
  const bar = make("progress", { max: 1, value: 0, hidden: true, "aria-label": "Loading the network" });
  const head = choice("Classifier", "head", (value) => change(model, { head: Number(value), label: first(Number(value)) }));
  const label = choice("Label", "label", (value) => change(model, { label: Number(value) }));
  const many = choice("Temperatures", "temperatures", (value) => change(model, { temperatures: value }));
  const view = choice("Show", "view", (value) => change(model, { view: value }));
  const warmth = temperatureSlider(model), weight = lambdaSlider(model);
  const trained = make("button", { type: "button", class: "lab-button", "data-control": "trained", onclick: () => {
    const { lam, temperatures } = heads[model.get("head")];
    change(model, { lam, temperature: temperatures[0] ?? model.get("temperature"), temperatures: "trained" });
  } }, "as it was trained");

  /* One side: the image with its map, a sentence, and the labels ranked first. */
  const side = (key, title) => {
    const canvas = make("canvas", { class: "lab-canvas", role: "application", tabindex: 0, "data-control": `place-${key}`,
      "aria-roledescription": "image with a map of places", onclick: (event) => point(placeClicked(event, canvas, photo.maps[model.get("head")])),
      onkeydown: (event) => point(placeByKey(event, pointed, photo.maps[model.get("head")])) });
    const ring = make("span", { class: "lab-ring", hidden: true }), sentence = make("p", { class: "lab-note", "data-shown": `${key}-sentence` });
    const rows = Array.from({ length: SHOWN }, () => {
      const row = { place: make("span", { class: "lab-place" }), name: make("span", { class: "lab-name" }), score: make("span", { class: "lab-chance" }), label: 0 };
      row.element = make("button", { type: "button", class: "lab-row", onclick: () => change(model, { label: row.label }) }, row.place, row.name, row.score);
      return row;
    });
    return { canvas, ring, sentence, rows,
      picture: make("div", { class: "lab-side" }, make("p", { class: "lab-title" }, title), make("div", { class: "lab-pointed" }, canvas, ring), sentence),
      ranking: make("div", { class: "lab-side", role: "group", "aria-label": `Labels by ${title}`, "data-ranking": key },
        make("p", { class: "lab-title" }, title), make("div", {}, ...rows.map((row) => row.element))) };
  };
  const average = side("average", "Average"), csra = side("csra", "CSRA"), sides = [average, csra];
  const best = make("p", { class: "lab-note", "data-shown": "best", "aria-live": "polite" });

  const { root, say } = frame(el, "Photograph explorer",
    make("div", { class: "lab-open" },
      make("div", { class: "lab-files" }, fileButton("Choose a photograph", "file", {}), fileButton("Take one", "camera", { capture: "environment" })),
      make("div", { class: "lab-examples", role: "group", "aria-label": "Examples" }, ...thumbs),
      make("p", { class: "lab-note" }, `Or drop one here. It stays in your browser: nothing is sent anywhere. The network comes to the photograph, ${megabytes} MB, once.`),
      message, bar),
    make("div", { class: "lab-sides lab-sticky" }, average.picture, csra.picture), best,
    make("div", { class: "lab-controls" }, head.element, label.element, many.element, warmth.element, weight.element, view.element, trained),
    make("div", { class: "lab-sides" }, average.ranking, csra.ranking));

  function point(place) {
    if (place === undefined) return;
    pointed = place;
    draw();
  }

  /* The network; asked for once, and again after it failed. */
  async function ready() {
    if (!NETWORKS.has(manifest.key)) {
      bar.hidden = false;
      const loading = loadNetwork(manifest, fetchPart, (share) => {
        bar.value = share;
        setText(message, `Loading the network: ${Math.round(share * megabytes)} of ${megabytes} MB.`);
      }, model.get("engine"));
      NETWORKS.set(manifest.key, loading);
      loading.catch(() => NETWORKS.delete(manifest.key));
    } else if (!network) setText(message, "Waiting for the network.");
    try {
      return await NETWORKS.get(manifest.key);
    } finally {
      bar.hidden = true;
    }
  }

  /* Score maps of the first example: it is there without the network, and the same whenever it is opened. */
  const cameWithPage = () => data.examples[0].maps.map((packed) => {
    const { shape: [, , h, w], data: values } = unpack(packed);
    return { h, w, values };
  });

  async function open(blob, name, example = -1, maps = []) {
    const turn = ++latest, computed = maps.length > 0;
    setText(message, `Reading “${name}”.`);
    let opened;
    try {
      opened = await readImage(blob);
    } catch {
      if (turn === latest) setText(message, `“${name}” cannot be read as an image. JPEG, PNG and WebP work everywhere; HEIC and others in some browsers only.`);
      return;
    }
    Object.assign(opened, { name, example, maps });
    try {
      if (!computed) network = await ready();
      if (turn !== latest) return;
      if (!computed) setText(message, "Computing.");
      await paint();
      const before = performance.now();
      mapsOf(opened, network, heads, Math.min(model.get("head"), heads.length - 1));
      const seconds = (performance.now() - before) / 1000;
      setText(message, computed ? `Example: ${name}. Its score maps came with the page.`
        : `${example < 0 ? "" : "Example: "}${name}, ${opened.pixels.width} × ${opened.pixels.height} pixels. Computed here in ${number(seconds, 2)} s.${disguises() ? WARNING : ""}`);
      root.dataset.engine = computed ? "" : network.engine;
    } catch (error) {
      if (turn === latest) setText(message, error.message);
      return;
    }
    if (turn !== latest) return;
    const another = photo !== null && photo.example !== example;
    photo = opened;
    pointed = null;
    thumbs.forEach((thumb, i) => setAttributes(thumb, { "aria-pressed": i === example }));
    const which = model.get("head");
    if (!computed || (another && which !== opening.head)) change(model, { label: first(which) });
    else if (another) change(model, { label: opening.label });
    draw();
  }

  function settings(which) {
    const { num_heads: H, temperatures } = heads[which], T = asNumber(model.get("temperature"));
    const fixed = H > 1 && model.get("temperatures") === "trained";
    return { T, fixed, lam: model.get("lam"), temperatures: fixed ? temperatures.map(asNumber) : Array(H).fill(T) };
  }
  function logitsOf(which) {
    const { classes, num_heads: H } = heads[which], { values, h, w } = mapsOf(photo, network, heads, which), N = h * w, { temperatures, lam } = settings(which);
    const of = (c) => Array.from({ length: H }, (_, i) => values.subarray((i * classes.length + c) * N, (i * classes.length + c + 1) * N));
    return { h, w, of, logits: classes.map((_, c) => csraLogit(of(c), temperatures, lam)) };
  }
  const first = (which) => (photo ? ranking(logitsOf(which).logits.map((p) => p.logit))[0] : 0);

  function draw() {
    if (!photo) return;
    const which = Math.min(model.get("head"), heads.length - 1), { classes, num_heads: H, multilabel } = heads[which];
    const c = Math.min(model.get("label"), classes.length - 1), { T, fixed, lam, temperatures } = settings(which);
    const { logits, of, ...grid } = logitsOf(which), maps = of(c), { logit, average: plain, residual } = logits[c], total = classes.length;
    const orders = [ranking(logits.map((p) => p.average)), ranking(logits.map((p) => p.logit))], values = [(p) => p.average, (p) => p.logit];
    const places = orders.map((order) => order.indexOf(c) + 1), texts = temperatures.map(temperatureText).join(", ");

    head.update(heads.map((each, i) => [String(i), each.title]), which);
    label.update(classes.map((name, i) => [String(i), name]).sort((a, b) => (a[1].toLowerCase() < b[1].toLowerCase() ? -1 : 1)), c);
    many.update(H > 1 ? [["one", "one T for all heads"], ["trained", `as trained: ${heads[which].temperatures.map(asNumber).map(temperatureText).join(", ")}`]] : [], fixed ? "trained" : "one");
    view.update(VIEWS, model.get("view"));
    warmth.update(T, fixed ? texts : undefined, fixed ? "set by Temperatures" : "");
    weight.update(lam);

    const scores = maps[0].map((_, k) => maps.reduce((sum, map) => sum + map[k], 0));
    const attention = maps[0].map(() => 0);
    maps.forEach((map, i) => attentionScores(map, temperatures[i]).forEach((a, k) => { attention[k] += a / H; }));
    const low = -largest(Array.from(scores, (v) => -v)), high = largest(scores), most = largest(attention);
    paintMap(average.canvas, photo.image, scores, grid, low, high, model.get("view"));
    paintMap(csra.canvas, photo.image, attention, grid, 0, most, model.get("view"));
    const ends = (from, to) => (model.get("view") === "light" ? `${number(from, 2)} is dark, ${number(to, 2)} bright` : `${number(from, 2)} is blue, ${number(to, 2)} yellow`);
    setText(average.sentence, `Scores of “${classes[c]}” on ${grid.h} × ${grid.w} places: ${ends(low, high)}. Their mean is the logit, ${number(plain)}: rank ${places[0]} of ${total}.`);
    setText(csra.sentence, `Attention at T = ${texts}: ${ends(0, most)}. Mean ${number(plain)} + residual ${number(residual)} = ${number(logit)}: rank ${places[1]} of ${total}.`);
    setAttributes(average.canvas, { "aria-label": `${photo.name}. ${average.sentence.textContent}` });
    setAttributes(csra.canvas, { "aria-label": `${photo.name}. ${csra.sentence.textContent}`, "data-largest": most });

    sides.forEach(({ rows }, i) => {
      const shown = orders[i].slice(0, Math.min(SHOWN, total));
      if (!shown.includes(c)) shown[shown.length - 1] = c;
      const of = values[i], top = Math.max(...shown.map((k) => of(logits[k]))), bottom = Math.min(0, ...shown.map((k) => of(logits[k])));
      rows.forEach((row, at) => {
        row.element.hidden = at >= shown.length;
        if (row.element.hidden) return;
        const k = shown[at], place = orders[i].indexOf(k) + 1, won = i ? orders[0].indexOf(k) + 1 - place : 0;
        row.label = k;
        setText(row.place, `${place}${won > 0 ? ` ▲${won}` : won < 0 ? ` ▼${-won}` : ""}`);
        setText(row.name, classes[k]);
        setText(row.score, number(of(logits[k]), 2));
        row.element.style.setProperty("--share", `${(100 * (of(logits[k]) - bottom)) / (top - bottom || 1)}%`);
        setAttributes(row.element, { "aria-pressed": k === c, "data-found": multilabel && of(logits[k]) >= 0 });
      });
    });

    const place = pointed === null ? null : Math.min(pointed, grid.h * grid.w - 1);
    for (const { ring } of sides) {
      ring.hidden = place === null;
      if (place === null) continue;
      ring.style.left = `${(100 * ((place % grid.w) + 0.5)) / grid.w}%`;
      ring.style.top = `${(100 * (Math.floor(place / grid.w) + 0.5)) / grid.h}%`;
    }
    if (place === null) setText(best, POINT);
    else {
      const here = classes.map((_, k) => of(k).reduce((sum, map) => sum + map[place], 0));
      setText(best, `Row ${Math.floor(place / grid.w) + 1}, column ${(place % grid.w) + 1}: ` +
        `${ranking(here).slice(0, 5).map((k) => `${classes[k]} ${number(here[k], 2)}`).join(", ")}.`);
    }
    say(`${classes[c]}: rank ${places[0]} by the average, rank ${places[1]} by CSRA, of ${total}.`);
  }

  /* A file that is dropped, or pasted in a published page. */
  const imageIn = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? transfer?.files?.[0];
  const dragging = (on) => { root.toggleAttribute("data-dragging", on); };
  root.addEventListener("dragenter", () => dragging(++dragged > 0));
  root.addEventListener("dragleave", () => dragging(--dragged > 0));
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    dragging((dragged = 0) > 0);
    const file = imageIn(event.dataTransfer);
    if (file) open(file, file.name);
    else setText(message, "That is no file. Save the image first, then drop or choose it.");
  });
  const pasted = (event) => {
    const file = imageIn(event.clipboardData);
    if (file) open(file, file.name);
  };
  if (el.closest("[data-explorer]")) document.addEventListener("paste", pasted);

  const start = data.examples[0];
  open(blobOf(start.url), start.name, 0, cameWithPage());
  const told = (trait) => !["head", "label"].includes(trait) || (photo?.example ?? 0) === 0; // a page opens on the first example
  const disconnect = connect(model, ["head", "label", "temperatures", "temperature", "lam", "view"], draw, el, told);
  return () => {
    disconnect();
    document.removeEventListener("paste", pasted);
  };
}

export const network = { resize, loadNetwork, scriptParts, kernelParts, mapsOf, readImage };
export default { render };
