/* Head composer: six poolings of the same score maps, and the labels that each ranks above the threshold. */

const CARDS = [
  ["average", "Average", "mean"],
  ["max", "Maximum", "max"],
  ["spatial", "Spatial only", "Σ a · s"],
  ["csra", "Both (CSRA)", "mean + λ Σ a · s"],
  ["lse", "Log-sum-exp", "log(mean exp(r s)) / r"],
  ["topk", "Top-k mean", "mean of the k largest"],
];

function render({ model, el }) {
  const data = model.get("data");
  const maps = data.models.map((m) => m.maps.map((packed) => { // [model][picture] -> { N, of(class) }
    const { shape: [, , h, w], data: values } = unpack(packed), N = h * w;
    return { N, of: (c) => values.subarray(c * N, (c + 1) * N) };
  }));
  const places = Math.max(...maps.flat().map((map) => map.N));

  const picture = choice("Image", "picture", (value) => change(model, { picture: Number(value) }));
  const network = choice("Score maps of", "model", (value) => change(model, { model: Number(value) }));
  const limit = slider("Threshold", { min: 0.05, max: 0.95, step: 0.05, shown: "threshold" }, (threshold) =>
    change(model, { threshold }));
  const sharpness = slider("r of log-sum-exp", { min: 0.1, max: 10, step: 0.1, shown: "r" }, (r) => change(model, { r }));
  const count = slider("k of top-k", { min: 1, max: places, shown: "k" }, (k) => change(model, { k }));
  const warmth = temperatureSlider(model), weight = lambdaSlider(model);
  const image = make("img", { class: "lab-photo", alt: "" });
  const truth = make("p", { class: "lab-note" });
  const cards = CARDS.map(([kind, title, formula]) => {
    const list = make("ol", { class: "lab-list" }), verdict = make("p", { class: "lab-note" }), lines = [];
    const element = make("section", { class: "lab-card", "aria-label": title, "data-pooling": kind },
      make("p", { class: "lab-title" }, title, make("span", { class: "lab-formula" }, formula)), verdict, list);
    return { kind, title, element, list, verdict, lines };
  });
  const { say } = frame(el, "Head composer",
    make("div", { class: "lab-controls" }, picture.element, network.element, limit.element, warmth.element, weight.element,
      sharpness.element, count.element),
    make("div", { class: "lab-columns lab-narrow-first" }, make("div", {}, image, truth),
      make("div", { class: "lab-cards" }, ...cards.map((card) => card.element))));

  function draw() {
    const at = Math.min(model.get("picture"), data.pictures.length - 1);
    const which = Math.min(model.get("model"), data.models.length - 1), map = maps[which][at];
    const T = asNumber(model.get("temperature")), lam = model.get("lam"), r = model.get("r"), k = model.get("k");
    const threshold = model.get("threshold"), { name, url, targets } = data.pictures[at];
    const there = targets ? data.classes.filter((_, c) => targets[c] === 1) : [];

    picture.update(data.pictures.map((p, i) => [String(i), p.name]), at);
    network.update(data.models.map((m, i) => [String(i), m.name]), which);
    limit.update(threshold, number(threshold, 2));
    warmth.update(T);
    weight.update(lam);
    sharpness.update(r, number(r, 1));
    count.update(k, String(k));
    if (image.getAttribute("src") !== url) setAttributes(image, { src: url, alt: name });
    setText(truth, targets ? `In the image: ${there.join(", ") || "none of the labels"}.` : name);

    for (const card of cards) {
      const chances = data.classes.map((_, c) => sigmoid(POOLINGS[card.kind](map.of(c), { T, lam, r, k })));
      const named = ranking(chances).filter((c) => chances[c] >= threshold);
      const right = named.filter((c) => targets?.[c] === 1).length;
      const wrong = named.filter((c) => targets?.[c] === 0).length;
      setText(card.verdict, targets ? `${right} of ${there.length} found, ${wrong} wrong` : `${named.length} named`);
      while (card.lines.length < named.length) card.lines.push(make("li", {}));
      named.forEach((c, i) => {
        const mark = !targets ? "" : targets[c] === 1 ? " ✓" : targets[c] === 0 ? " ✗" : " ?";
        setText(card.lines[i], `${data.classes[c]} ${number(chances[c], 2)}${mark}`);
      });
      if (card.list.childElementCount !== named.length) card.list.replaceChildren(...card.lines.slice(0, named.length));
    }
    say(cards.map((card) => `${card.title}: ${card.verdict.textContent}`).join(". "));
  }

  return connect(model, ["picture", "model", "threshold", "temperature", "lam", "r", "k"], draw, el);
}

export default { render };
