/* Attention explorer: where a classifier looks, the logit in two parts, and the ranking of labels as it changes. */

const VIRIDIS = ("440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b " +
  "addc30 d8e219 fde725").split(" ").map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
const ROWS = 12; // labels of the ranking that are shown
const VIEWS = [["attention", "attention"], ["light", "attention as light"], ["scores", "score map"], ["picture", "image alone"]];

function colour(strength) {
  const place = strength * (VIRIDIS.length - 1), low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[low].map((v, i) => v + (place - low) * (VIRIDIS[low + 1][i] - v));
}
const COLOURS = Array.from({ length: 256 }, (_, i) => colour(i / 255));

/* For each pixel of a side the two places of the map it lies between, and how far it is on the way. */
function between(pixels, places) {
  return Array.from({ length: pixels }, (_, i) => {
    const at = Math.min(Math.max(((i + 0.5) * places) / pixels - 0.5, 0), places - 1);
    const low = Math.min(Math.floor(at), Math.max(places - 2, 0));
    return [low, Math.min(low + 1, places - 1), at - low];
  });
}

/* The picture in grey under the map (bilinear, blue to yellow), as plots.overlay does it. grey: one byte a pixel. */
function paint(image, grey, heat, h, w, low, high) {
  const rows = between(image.height, h), columns = between(image.width, w), scale = high > low ? 255 / (high - low) : 0;
  let pixel = 0;
  for (const [y0, y1, dy] of rows) {
    for (const [x0, x1, dx] of columns) {
      const top = heat[y0 * w + x0] * (1 - dx) + heat[y0 * w + x1] * dx;
      const bottom = heat[y1 * w + x0] * (1 - dx) + heat[y1 * w + x1] * dx;
      const strength = scale ? Math.round((top * (1 - dy) + bottom * dy - low) * scale) : 128;
      const rgb = COLOURS[Math.min(Math.max(strength, 0), 255)], base = 0.45 * grey[pixel];
      image.data[4 * pixel] = base + 0.55 * rgb[0];
      image.data[4 * pixel + 1] = base + 0.55 * rgb[1];
      image.data[4 * pixel + 2] = base + 0.55 * rgb[2];
      image.data[4 * pixel + 3] = 255;
      pixel++;
    }
  }
}

/* The image in its own colours, dark where the map is low. */
function light(image, colours, heat, h, w, high) {
  const rows = between(image.height, h), columns = between(image.width, w);
  let pixel = 0;
  for (const [y0, y1, dy] of rows) {
    for (const [x0, x1, dx] of columns) {
      const top = heat[y0 * w + x0] * (1 - dx) + heat[y0 * w + x1] * dx;
      const bottom = heat[y1 * w + x0] * (1 - dx) + heat[y1 * w + x1] * dx;
      const share = 0.12 + 0.88 * Math.min(Math.max((top * (1 - dy) + bottom * dy) / (high || 1), 0), 1);
      for (let i = 0; i < 3; i++) image.data[4 * pixel + i] = colours.data[4 * pixel + i] * share;
      image.data[4 * pixel + 3] = 255;
      pixel++;
    }
  }
}

/* What the heads control offers for a model, in order: key -> maps and temperatures, from the slider's T. The first is
   taken where the key that is chosen is another model's. */
function headOptions(model, lists) {
  const own = model.temperatures.map(asNumber), H = model.heads;
  const text = (ts) => ts.map(temperatureText).join(", ");
  if (H > 1) {
    return new Map([
      ["trained", { text: `all ${H} heads, T = ${text(own)}`, of: () => own.map((T, h) => [h, T]), fixed: text(own) }],
      ...own.map((_, h) => [`head-${h + 1}`, { text: `head ${h + 1} alone`, of: (T) => [[h, T]] }]),
    ]);
  }
  const several = Object.entries(lists).filter(([count]) => count !== "1").map(([count, list]) => {
    const ts = list.map(asNumber);
    return [count, { text: `${count} temperatures: ${text(ts)}`, of: () => ts.map((T) => [0, T]), fixed: text(ts) }];
  });
  return new Map([["one", { text: "one head", of: (T) => [[0, T]] }], ...several]); // an object would put "2" first
}

function render({ model, el }) {
  const data = model.get("data"), total = data.total ?? data.classes.length;
  const named = data.multilabel === false; // its logits name one thing of many, and a sigmoid of them is no probability
  const sorted = data.classes.map((_, i) => i).sort((a, b) => data.classes[a].localeCompare(data.classes[b]));
  const maps = data.models.map((m) => m.maps.map((packed) => { // [model][picture] -> { h, w, of(head, class) }
    const { shape: [, classes, h, w], data: values } = unpack(packed), N = h * w;
    return { h, w, of: (head, c) => values.subarray((head * classes + c) * N, (head * classes + c + 1) * N) };
  }));

  const picture = choice("Image", "picture", (value) => change(model, { picture: Number(value), label: presentIn(Number(value)) }));
  const network = choice("Model", "model", (value) => change(model, { model: Number(value) }));
  const label = choice("Label", "label", (value) => change(model, { label: Number(value) }));
  const heads = choice("Heads", "heads", (value) => change(model, { heads: value }));
  const view = choice("Show", "view", (value) => change(model, { view: value }));
  const warmth = temperatureSlider(model), weight = lambdaSlider(model);
  const trained = make("button", { type: "button", class: "lab-button", "data-control": "trained", onclick: () => {
    const chosen = data.models[model.get("model")];
    const T = chosen.temperatures[0] ?? model.get("temperature");
    change(model, { lam: chosen.lam, temperature: T, heads: chosen.heads > 1 ? "trained" : "one" });
  } }, "as it was trained");

  const canvas = make("canvas", { class: "lab-canvas", role: "application", tabindex: 0, "data-control": "place",
    "aria-roledescription": "image with a map of places", onclick: (event) => point(placeClicked(event, canvas, current.map)),
    onkeydown: (event) => point(placeByKey(event, pointed, current.map)) });
  const ring = make("span", { class: "lab-ring", hidden: true });
  const legend = make("p", { class: "lab-note" });
  const best = make("p", { class: "lab-note", "data-shown": "best", "aria-live": "polite" }, POINT);
  const thumbs = make("div", { class: "lab-thumbs" });
  let pointed = null, pinned = null, current = null; // the place clicked; the settings kept as A; what is drawn now
  function point(place) {
    if (place === undefined) return;
    pointed = place;
    draw();
  }
  const pin = make("button", { type: "button", class: "lab-button", "data-control": "pin", onclick: () => {
    pinned = pinned ? null : { ...current.settings };
    draw();
  } }, "keep as A");
  const canvasA = make("canvas", { class: "lab-canvas", role: "img", "aria-label": "A" }), captionA = make("p", { class: "lab-note", "data-shown": "A" });
  const sideA = make("div", { class: "lab-side lab-first", hidden: true }, make("p", { class: "lab-title" }, "A"), canvasA, captionA);
  const titleB = make("p", { class: "lab-title", hidden: true }, "B");

  /* A class that the image has: the one ranked first of those that are there, so that there is something to see. */
  function presentIn(at) {
    const { targets } = data.pictures[at], map = maps[Math.min(model.get("model"), data.models.length - 1)][at];
    const there = data.classes.map((_, c) => c).filter((c) => targets?.[c] === 1);
    if (!there.length) return model.get("label");
    return there.reduce((a, b) => (mean(map.of(0, b)) > mean(map.of(0, a)) ? b : a));
  }
  const parts = numbers([
    ["average", "average part"], ["residual", "residual part"], ["logit", "logit"],
    ...(named ? [] : [["probability", "probability"]]), ["rank", "rank"],
  ]);
  const rows = Array.from({ length: Math.min(ROWS, data.classes.length) }, () => {
    const row = { place: make("span", { class: "lab-place" }), name: make("span", { class: "lab-name" }),
      first: make("span", { class: "lab-bar" }), second: make("span", { class: "lab-bar lab-bar-2" }),
      zero: make("span", { class: "lab-zero" }), chance: make("span", { class: "lab-chance" }), label: 0 };
    row.element = make("button", { type: "button", class: "lab-rank", onclick: () => change(model, { label: row.label }) },
      row.place, row.name, make("span", { class: "lab-bars", "aria-hidden": "true" }, row.zero, row.first, row.second),
      row.chance);
    return row;
  });
  const { root, say } = frame(el, "Attention explorer",
    make("div", { class: "lab-controls" }, picture.element, network.element, label.element, heads.element,
      warmth.element, weight.element, view.element, make("div", { class: "lab-pair" }, trained, pin)),
    make("div", { class: "lab-columns" },
      make("div", { class: "lab-stage" }, make("div", { class: "lab-sides" },
        make("div", { class: "lab-side" }, titleB, make("div", { class: "lab-pointed" }, canvas, ring), legend), sideA), thumbs, best),
      make("div", {}, parts.element,
        make("p", { class: "lab-note" }, "Ranking of the labels by logit: ", make("span", { class: "lab-key" }, "average part"),
          ", ", make("span", { class: "lab-key lab-key-2" }, "residual part"),
          `. At the right the ${named ? "logit" : "probability"}. ▲▼: ranks won or lost by the residual.`, data.note ? ` ${data.note}` : ""),
        make("div", { class: "lab-ranking", role: "group", "aria-label": "Ranking of the labels" },
          ...rows.map((row) => row.element)))));

  /* Pictures are decoded once; the grey copy lies under the map. */
  const grey = new Map();
  function loadPicture(index) {
    if (grey.has(index)) return grey.get(index);
    grey.set(index, null);
    const image = new Image();
    image.onload = () => {
      const scratch = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
      const pen = scratch.getContext("2d", { willReadFrequently: true });
      pen.drawImage(image, 0, 0);
      const colours = pen.getImageData(0, 0, scratch.width, scratch.height), bytes = new Uint8Array(scratch.width * scratch.height);
      bytes.forEach((_, i) => {
        bytes[i] = 0.299 * colours.data[4 * i] + 0.587 * colours.data[4 * i + 1] + 0.114 * colours.data[4 * i + 2];
      });
      grey.set(index, { colours, bytes, image: new ImageData(scratch.width, scratch.height) });
      draw();
    };
    image.src = data.pictures[index].url;
    return null;
  }

  function draw() {
    const at = Math.min(model.get("picture"), data.pictures.length - 1);
    const which = Math.min(model.get("model"), data.models.length - 1);
    const c = Math.min(model.get("label"), data.classes.length - 1);
    const lam = model.get("lam"), T = asNumber(model.get("temperature")), chosen = data.models[which];
    const options = headOptions(chosen, data.temperatures), map = maps[which][at];
    const key = options.has(model.get("heads")) ? model.get("heads") : options.keys().next().value;
    const { of, fixed } = options.get(key), pairs = of(T), temperatures = pairs.map((pair) => pair[1]);
    current = { map, settings: { which, key, T, lam, view: model.get("view") } };

    const logits = data.classes.map((_, i) => csraLogit(pairs.map(([head]) => map.of(head, i)), temperatures, lam));
    const order = ranking(logits.map((p) => p.logit)), before = ranking(logits.map((p) => p.average));
    const place = order.indexOf(c), targets = data.pictures[at].targets;

    picture.update(data.pictures.map((p, i) => [String(i), p.name]), at);
    network.update(data.models.map((m, i) => [String(i), m.name]), which);
    label.update(sorted.map((i) => [String(i), data.classes[i] + (targets?.[i] === 1 ? " ●" : "")]), c);
    heads.update([...options].map(([k, option]) => [k, option.text]), key);
    view.update(VIEWS, model.get("view"));
    warmth.update(T, fixed, fixed ? "set by Heads" : "");
    weight.update(lam);
    const { average, residual, logit } = logits[c];
    parts.update({ average: number(average), residual: number(residual), logit: number(logit),
      ...(named ? {} : { probability: number(sigmoid(logit)) }), rank: `${place + 1} of ${total}` });
    drawRanking(logits, order, before, c, targets);
    drawMap(canvas, legend, at, map, pairs, c, model.get("view"));
    drawThumbs(at, map, pairs, c);
    drawPlace(map);
    drawKept(at, c);
    say(`${data.classes[c]}: logit ${number(logit, 2)}, rank ${place + 1} of ${total}.`);
  }

  function drawRanking(logits, order, before, chosen, targets) {
    const shown = order.slice(0, rows.length);
    if (!shown.includes(chosen)) shown[shown.length - 1] = chosen;
    const ends = logits.flatMap((p) => [p.average, p.logit]);
    const low = Math.min(0, Math.floor(Math.min(...ends))), high = Math.max(1, Math.ceil(Math.max(...ends)));
    const x = (value) => (100 * (value - low)) / (high - low);
    const bar = (element, from, to) => {
      element.style.left = `${x(Math.min(from, to))}%`;
      element.style.width = `${x(Math.max(from, to)) - x(Math.min(from, to))}%`;
    };
    shown.forEach((c, i) => {
      const row = rows[i], { average, logit } = logits[c], place = order.indexOf(c), won = before.indexOf(c) - place;
      row.label = c;
      setText(row.place, `${place + 1}${won > 0 ? ` ▲${won}` : won < 0 ? ` ▼${-won}` : ""}`);
      setText(row.name, data.classes[c] + (targets?.[c] === 1 ? " ●" : targets?.[c] === -1 ? " ?" : ""));
      setText(row.chance, number(named ? logit : sigmoid(logit), 2));
      row.zero.style.left = `${x(0)}%`;
      bar(row.first, 0, average);
      bar(row.second, average, logit);
      setAttributes(row.element, { "aria-pressed": c === chosen, "data-found": logit >= 0 });
    });
  }

  function drawMap(canvas, legend, at, map, pairs, c, view) {
    const loaded = loadPicture(at), name = data.classes[c], looks = view === "attention" || view === "light";
    let heat = null;
    if (looks) {
      heat = new Float64Array(map.h * map.w);
      for (const [head, T] of pairs) attentionScores(map.of(head, c), T).forEach((a, k) => { heat[k] += a / pairs.length; });
    } else if (view === "scores") {
      heat = new Float64Array(map.h * map.w);
      for (const [head] of pairs) map.of(head, c).forEach((s, k) => { heat[k] += s / pairs.length; });
    }
    const low = looks ? 0 : heat && -largest(Array.from(heat, (v) => -v)), high = heat && largest(heat);
    const ends = view === "light" ? `${number(high)} is bright.` : `${number(low)} is blue, ${number(high)} is yellow.`;
    const said = heat ? `${looks ? "Attention" : "Scores"} of “${name}” on ${map.h} × ${map.w} places: ${ends}` : "The image.";
    if (legend) setText(legend, said);
    setAttributes(canvas, { "aria-label": `${data.pictures[at].name}. ${said}`, "data-largest": heat ? high : "" });
    if (!loaded) return;
    const { colours, bytes, image } = loaded;
    if (canvas.width !== image.width || canvas.height !== image.height) setAttributes(canvas, { width: image.width, height: image.height });
    if (heat && view === "light") light(image, colours, heat, map.h, map.w, high);
    else if (heat) paint(image, bytes, heat, map.h, map.w, low, high);
    canvas.getContext("2d").putImageData(heat ? image : colours, 0, 0);
  }

  /* A small map for each of several heads. */
  function drawThumbs(at, map, pairs, c) {
    const wanted = pairs.length > 1 ? pairs : [];
    while (thumbs.childElementCount > wanted.length) thumbs.lastChild.remove();
    wanted.forEach((pair, i) => {
      if (!thumbs.children[i]) {
        thumbs.append(make("figure", {}, make("canvas", { role: "img" }), make("figcaption", { class: "lab-note" })));
      }
      const [small, caption] = thumbs.children[i].children;
      setText(caption, `T = ${temperatureText(pair[1])}`);
      drawMap(small, null, at, map, [pair], c, "attention");
    });
  }

  /* The best labels of the place that was clicked, over all heads. */
  function drawPlace(map) {
    ring.hidden = pointed === null;
    if (pointed === null) return setText(best, POINT);
    const H = data.models[current.settings.which].heads, place = Math.min(pointed, map.h * map.w - 1);
    const row = Math.floor(place / map.w), column = place % map.w;
    const scores = data.classes.map((_, c) => {
      let sum = 0;
      for (let head = 0; head < H; head++) sum += map.of(head, c)[place];
      return sum;
    });
    const named = ranking(scores).slice(0, 5).map((c) => `${data.classes[c]} ${number(scores[c], 2)}`);
    setText(best, `Row ${row + 1}, column ${column + 1}: ${named.join(", ")}.`);
    ring.style.left = `${(100 * (column + 0.5)) / map.w}%`;
    ring.style.top = `${(100 * (row + 0.5)) / map.h}%`;
  }

  /* A: the settings that were kept, on the image and label of now. */
  function drawKept(at, c) {
    sideA.hidden = titleB.hidden = !pinned;
    setText(pin, pinned ? "drop A" : "keep as A");
    if (!pinned) return;
    const { which, key, T, lam, view } = pinned, chosen = data.models[which], map = maps[which][at];
    const pairs = headOptions(chosen, data.temperatures).get(key).of(T), ts = pairs.map((pair) => pair[1]);
    const logits = data.classes.map((_, i) => csraLogit(pairs.map(([head]) => map.of(head, i)), ts, lam).logit);
    drawMap(canvasA, null, at, map, pairs, c, view);
    setText(captionA, `${chosen.name}, T = ${ts.map(temperatureText).join(", ")}, λ = ${number(lam, 2)}: logit ${number(logits[c])}, ` +
      `rank ${ranking(logits).indexOf(c) + 1} of ${total}.`);
  }

  return connect(model, ["picture", "model", "label", "heads", "view", "temperature", "lam"], draw, el);
}

export default { render };
