/* Ranking explorer: one image, one slider, and the labels that change ranks. */

const ROW_HEIGHT = 34, SHOWN = 7; // pixels of a row; rows of the ranking

/* The map of a class over the image: the image in grey, the map from blue to yellow. */
const RAMP = ["440154", "3b528b", "21918c", "5ec962", "fde725"].map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
function rampColour(strength) {
  const place = Math.min(Math.max(strength, 0), 1) * (RAMP.length - 1), low = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[low].map((v, i) => v + (place - low) * (RAMP[low + 1][i] - v));
}

function render({ model, el }) {
  const data = model.get("data"), followed = model.get("label"), { shape: [, C, h, w], data: values } = unpack(data.models[0].maps[0]);
  const maps = Array.from({ length: C }, (_, c) => values.subarray(c * h * w, (c + 1) * h * w)), total = data.total ?? C;
  const byT = model.get("slider") === "T";
  const control = byT ? temperatureSlider(model) : slider("How much the best place counts, λ", { min: 0, max: 0.6, step: 0.01, shown: "lam" },
    (lam) => change(model, { lam }));
  const canvas = make("canvas", { class: "lab-canvas", role: "img", "aria-label": `${data.pictures[0].name}, and where the network sees ${data.classes[followed]}.` });
  const seen = make("input", { type: "checkbox", "data-control": "seen", onchange: () => paintImage() });
  const sentence = make("p", { class: "lab-sentence", "data-shown": "sentence" });
  const list = make("div", { class: "lab-race", role: "list", style: `height:${(SHOWN + 1.3) * ROW_HEIGHT}px` });
  const rows = new Map();
  let settling = 0;
  const { say } = frame(el, "Ranking explorer",
    make("div", { class: "lab-columns" },
      make("div", {}, canvas, make("label", { class: "lab-note" }, seen, ` show where the network sees “${data.classes[followed]}”`)),
      make("div", {}, control.element, sentence, list)));

  const image = new Image();
  function paintImage() {
    if (!image.complete || !image.naturalWidth) return;
    setAttributes(canvas, { width: image.naturalWidth, height: image.naturalHeight });
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    if (!seen.checked) return;
    const small = make("canvas", { width: w, height: h }), dots = small.getContext("2d").createImageData(w, h), map = maps[followed];
    const low = -largest(Array.from(map, (v) => -v)), high = largest(map);
    map.forEach((v, k) => dots.data.set([...rampColour((v - low) / (high - low || 1)), 255], 4 * k));
    small.getContext("2d").putImageData(dots, 0, 0);
    pen.globalCompositeOperation = "saturation";
    pen.fillStyle = "#808080";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.globalCompositeOperation = "source-over";
    pen.globalAlpha = 0.55;
    pen.imageSmoothingEnabled = true;
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);
    pen.globalAlpha = 1;
  }
  image.onload = paintImage;
  image.src = data.pictures[0].url;

  function draw() {
    const lam = model.get("lam"), T = byT ? asNumber(model.get("temperature")) : Infinity;
    const logits = maps.map((map) => csraLogit([map], [T], lam).logit), order = ranking(logits), place = order.indexOf(followed);
    const first = ranking(maps.map((map) => mean(map))).indexOf(followed);
    if (byT) control.update(T);
    else control.update(lam, number(lam, 2));
    const shown = order.slice(0, SHOWN), last = place >= SHOWN ? [followed] : [];
    for (const [c, row] of rows) if (![...shown, ...last].includes(c)) { row.element.remove(); rows.delete(c); }
    [...shown, ...last].forEach((c, i) => {
      if (!rows.has(c)) {
        const row = { place: make("span", { class: "lab-place" }), element: null };
        row.element = make("div", { class: "lab-racer", role: "listitem", "data-followed": c === followed }, row.place,
          make("span", { class: "lab-name" }, data.classes[c]));
        list.append(row.element);
        rows.set(c, row);
      }
      const row = rows.get(c);
      setText(row.place, String(order.indexOf(c) + 1));
      row.element.style.transform = `translateY(${(i === SHOWN ? SHOWN + 0.3 : i) * ROW_HEIGHT}px)`;
    });
    clearTimeout(settling); // read aloud in the order that is seen; moved at once, the rows would jump
    settling = setTimeout(() => list.replaceChildren(...[...shown, ...last].map((c) => rows.get(c).element)), 600);
    setText(sentence, place < first
      ? `“${data.classes[followed]}” climbs from rank ${first + 1} to rank ${place + 1} of ${total}.`
      : `“${data.classes[followed]}” has rank ${place + 1} of ${total}: averaged over the image, it is lost.`);
    say(sentence.textContent);
  }

  return connect(model, ["lam", "temperature"], draw, el);
}

export default { render };
