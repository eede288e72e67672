/* Metrics explorer: drag the threshold; precision, recall and F1 follow. Three areas under one curve are all called AP. */

const NAMES = ["CP", "CR", "CF1", "CF1_macro", "OP", "OR", "OF1"];
const KINDS = [["average", "not interpolated"], ["voc11", "11 points (VOC2007)"], ["envelope", "envelope (VOC2010)"]];
const WIDE = 360, HIGH = 240, LEFT = 34, BINS = 40, STRIP = 90;

function render({ model, el }) {
  const sets = model.get("data").sets.map((set) => ({ ...set, C: set.classes.length, targets: unpack(set.targets).data,
    scores: set.methods.map((m) => unpack(m.scores).data) }));
  const ways = sets.flatMap((set, s) => set.methods.map((m, i) => ({ set: s, method: i, text: `${m.name}, ${set.name}` })));

  const way = choice("Scores", "scores", (value) => change(model, { scores: Number(value) }));
  const label = choice("Label", "label", (value) => change(model, { label: Number(value) }));
  const kind = choice("Average precision", "ap", (value) => change(model, { ap: value }));
  const limit = slider("Threshold", { min: 0, max: 1, step: 0.01, shown: "threshold" }, (threshold) =>
    change(model, { threshold }));

  const px = (recall) => LEFT + (WIDE - LEFT - 8) * recall, py = (precision) => 20 + (HIGH - 20) * (1 - precision);
  const area = make("path", { class: "lab-area" }), curve = make("path", { class: "lab-path" });
  const here = make("circle", { class: "lab-here", r: 6 });
  const chart = make("svg", { viewBox: `0 0 ${WIDE} ${HIGH + 32}`, class: "lab-drawing", role: "img" },
    ...[0, 0.5, 1].flatMap((v) => [make("line", { class: "lab-grid", x1: LEFT, x2: WIDE - 8, y1: py(v), y2: py(v) }),
      make("text", { class: "lab-tick", x: LEFT - 6, y: py(v) + 4 }, String(v)),
      make("text", { class: "lab-tick lab-middle", x: px(v), y: HIGH + 15 }, String(v))]),
    make("text", { class: "lab-tick lab-middle", x: (LEFT + WIDE) / 2, y: HIGH + 29 }, "recall"),
    make("text", { class: "lab-tick lab-left", x: LEFT - 12, y: 10 }, "precision"), area, curve, here);
  const side = (v) => LEFT + (WIDE - LEFT - 8) * v;
  const bins = [0, 1].map((which) => Array.from({ length: BINS }, () => make("rect", { class: `lab-bin lab-bin-${which}` })));
  const now = make("line", { class: "lab-now", y1: 0, y2: STRIP }), grip = make("rect", { class: "lab-hit", x: LEFT, y: 0,
    width: WIDE - LEFT - 8, height: STRIP, "data-control": "strip" });
  const strip = make("svg", { viewBox: `0 0 ${WIDE} ${STRIP + 16}`, class: "lab-drawing lab-draggable-across", role: "img",
    "aria-label": "How many images have which probability, with the label above the line and without it below." },
    make("line", { class: "lab-axis", x1: LEFT, x2: WIDE - 8, y1: STRIP / 2, y2: STRIP / 2 }), ...bins.flat(),
    ...[0, 0.5, 1].map((v) => make("text", { class: "lab-tick lab-middle", x: side(v), y: STRIP + 14 }, String(v))), now, grip);
  onDrag(grip, (event) => {
    const box = strip.getBoundingClientRect(), units = (event.clientX - box.left) * (WIDE / box.width);
    const value = (units - LEFT) / (WIDE - LEFT - 8);
    change(model, { threshold: Math.min(1, Math.max(0, Math.round(100 * value) / 100)) });
  });

  const counts = make("p", { class: "lab-note", "data-shown": "counts" });
  const whole = numbers(NAMES.map((name) => [name, name.replace("_macro", ", mean of F1s")]));
  const areas = numbers(KINDS.map(([key, text]) => [`AP-${key}`, text]));
  const means = numbers(KINDS.map(([key, text]) => [`mAP-${key}`, text]));
  const one = make("span", {});
  const { say } = frame(el, "Metrics explorer",
    make("div", { class: "lab-controls" }, way.element, label.element, kind.element, limit.element),
    make("div", { class: "lab-columns" },
      make("div", {}, make("p", { class: "lab-note" }, "Images by the probability of the label, ",
        make("span", { class: "lab-key" }, "with it"), " above and ", make("span", { class: "lab-key lab-key-2" }, "without it"),
        " below the line. Drag here, or use the slider."), strip, counts, make("p", { class: "lab-title" }, "All labels at this threshold"),
        whole.element),
      make("div", {}, chart, make("p", { class: "lab-title" }, "AP of ", one), areas.element,
        make("p", { class: "lab-title" }, "Mean over the labels (mAP)"), means.element)));

  /* Curves and areas do not depend on the threshold: computed once for each set of scores. */
  const kept = new Map();
  function curvesOf(index) {
    if (!kept.has(index)) {
      const { set, method } = ways[index], { C, targets } = sets[set], scores = sets[set].scores[method];
      const column = (values, c) => Array.from({ length: values.length / C }, (_, i) => values[i * C + c]);
      const curves = sets[set].classes.map((_, c) => rankingCurve(column(scores, c), column(targets, c)));
      const precisions = curves.map(averagePrecisions), there = precisions.filter((p) => !Number.isNaN(p.average));
      const overall = Object.fromEntries(KINDS.map(([key]) => [`mAP-${key}`, percent(mean(there.map((p) => p[key])))]));
      kept.set(index, { curves, precisions, overall });
    }
    return kept.get(index);
  }

  function drawCurve({ points, positives }, { heights }, ap) {
    const path = (list) => list.map(([x, y], i) => `${i ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("");
    let left = 0;
    const steps = ap === "voc11"
      ? heights.flatMap((h, i) => [[i / 11, h], [(i + 1) / 11, h]])
      : points.filter((p) => p.here).flatMap((p) => {
        const from = left, height = ap === "envelope" ? p.envelope : p.precision;
        left = p.recall;
        return [[from, height], [p.recall, height]];
      });
    setAttributes(area, { d: positives ? `${path([[0, 0], ...steps, [steps.at(-1)[0], 0]])}Z` : "" });
    setAttributes(curve, { d: positives ? path(points.map((p) => [p.recall, p.precision])) : "" });
  }

  function drawStrip(scores, targets, C, c) {
    const heights = [new Array(BINS).fill(0), new Array(BINS).fill(0)];
    for (let i = c; i < scores.length; i += C) {
      if (targets[i] !== -1) heights[1 - targets[i]][Math.min(BINS - 1, Math.floor(BINS * scores[i]))]++;
    }
    const most = Math.sqrt(Math.max(...heights.flat(), 1)), width = (WIDE - LEFT - 8) / BINS;
    heights.forEach((list, which) => list.forEach((n, b) => {
      const height = (Math.sqrt(n) / most) * (STRIP / 2 - 3); // square roots, so that a single picture can be seen
      setAttributes(bins[which][b], { x: (LEFT + b * width).toFixed(2), width: (width - 0.8).toFixed(2),
        y: (which ? STRIP / 2 : STRIP / 2 - height).toFixed(2), height: height.toFixed(2) });
    }));
  }

  let drawn = "";
  function draw() {
    const index = Math.min(model.get("scores"), ways.length - 1), { set, method } = ways[index];
    const { classes, C, targets, scores: all } = sets[set], scores = all[method];
    const c = Math.min(model.get("label"), C - 1), ap = model.get("ap"), threshold = model.get("threshold");
    const { curves, precisions, overall } = curvesOf(index), counted = countLabels(scores, targets, C, threshold);
    const { predicted, correct, positives } = counted[c], found = labelMetrics(counted);

    way.update(ways.map((w, i) => [String(i), w.text]), index);
    label.update(classes.map((name, i) => [String(i), name]), c);
    kind.update(KINDS, ap);
    limit.update(threshold, number(threshold, 2));
    if (drawn !== `${index} ${c} ${ap}`) {
      drawn = `${index} ${c} ${ap}`;
      drawCurve(curves[c], precisions[c], ap);
      drawStrip(scores, targets, C, c);
      setText(one, `“${classes[c]}”`);
      areas.update(Object.fromEntries(KINDS.map(([key]) => [`AP-${key}`, percent(precisions[c][key])])));
      means.update(overall);
      setAttributes(chart, { "aria-label": `Precision against recall of ${classes[c]}, with the area of ${ap} AP.` });
    }
    setAttributes(now, { x1: side(threshold), x2: side(threshold) });
    const precision = correct / Math.max(predicted, 1), recall = correct / Math.max(positives, 1);
    setAttributes(here, { cx: px(recall), cy: py(precision) });
    setText(counts, `“${classes[c]}”: ${predicted} named, ${correct} of them right; ${positives} have it. ` +
      `Precision ${percent(precision)}, recall ${percent(recall)}.`);
    whole.update(Object.fromEntries(NAMES.map((name) => [name, percent(found[name])])));
    say(`OF1 ${percent(found.OF1)}, CF1 ${percent(found.CF1)} at threshold ${number(threshold, 2)}.`);
  }

  return connect(model, ["scores", "label", "ap", "threshold"], draw, el);
}

export default { render };
