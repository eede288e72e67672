/* Temperature explorer: scores as bars to drag, their softmax weights, and the logit on its way from mean to maximum. */

const LIMIT = 4; // scores run from -4 to 4
const PRESETS = {
  "a small object": [-0.6, 0.2, -1.1, 0.4, 2.6, -0.3, 0.1, -0.8],
  "a large object": [1.4, 1.7, 1.2, 1.6, 1.5, -0.9, 1.3, -1.2],
  "a tie": [0.5, 2, -1, 2, 0, -0.5, 2, 0.2],
  "all below zero": [-1.5, -0.4, -2.2, -3, -1, -1.8, -2.6, -0.9],
  "one place": [1.2],
};
const WIDE = 360, TOP = 18, SCORES = 170, WEIGHTS = 70, LEFT = 34; // of the drawing, in its own units

function render({ model, el }) {
  const preset = choice("Scores", "preset", (name) => PRESETS[name] && change(model, { scores: PRESETS[name] }));
  const places = slider("Places N", { min: 1, max: 12, shown: "N" }, (N) => {
    const scores = model.get("scores");
    change(model, { scores: Array.from({ length: N }, (_, k) => scores[k] ?? -0.5) });
  });
  const warmth = temperatureSlider(model), weight = lambdaSlider(model);
  const y = (score) => TOP + ((SCORES - TOP - 10) * (LIMIT - score)) / (2 * LIMIT);
  const bottom = SCORES + 20 + WEIGHTS;
  const lines = ["mean", "attended", "max"].map((name) => make("line", { class: `lab-line lab-line-${name}`, x1: LEFT, x2: WIDE }));
  const bars = make("g", {});
  const drawing = make("svg", { viewBox: `0 0 ${WIDE} ${bottom + 16}`, class: "lab-drawing lab-draggable", role: "group",
    "aria-label": "Scores of the places, and their weights" },
    make("line", { class: "lab-axis", x1: LEFT, x2: WIDE, y1: y(0), y2: y(0) }),
    make("line", { class: "lab-axis", x1: LEFT, x2: WIDE, y1: bottom, y2: bottom }),
    ...[-LIMIT, 0, LIMIT].map((s) => make("text", { class: "lab-tick", x: LEFT - 6, y: y(s) + 4 }, number(s, 0))),
    ...[0, 1].map((w) => make("text", { class: "lab-tick", x: LEFT - 6, y: bottom - w * WEIGHTS + 4 }, String(w))),
    make("text", { class: "lab-tick lab-left", x: LEFT + 2, y: 9 }, "scores"),
    make("text", { class: "lab-tick lab-left", x: LEFT + 2, y: SCORES + 16 }, "weights"),
    bars, ...lines);
  const columns = [];

  function setScore(k, score) {
    const scores = model.get("scores").slice();
    scores[k] = Math.min(LIMIT, Math.max(-LIMIT, Math.round(20 * score) / 20));
    change(model, { scores });
  }

  function column(k) {
    const score = make("rect", { class: "lab-score" }), share = make("rect", { class: "lab-weight" });
    const hit = make("rect", { class: "lab-hit", y: 0, height: bottom });
    const element = make("g", { role: "slider", tabindex: 0, "aria-label": `Score of place ${k + 1}`, "aria-valuemin": -LIMIT,
      "aria-valuemax": LIMIT, "aria-orientation": "vertical", "data-control": `score-${k}`, onkeydown: (event) => {
        const now = model.get("scores")[k];
        const moves = { ArrowUp: now + 0.1, ArrowRight: now + 0.1, ArrowDown: now - 0.1, ArrowLeft: now - 0.1,
          PageUp: now + 1, PageDown: now - 1, Home: -LIMIT, End: LIMIT };
        if (event.key in moves) {
          event.preventDefault();
          setScore(k, moves[event.key]);
        }
      } }, score, share, hit);
    onDrag(hit, (event) => {
      const box = drawing.getBoundingClientRect(), units = (event.clientY - box.top) * (WIDE / box.width);
      setScore(k, LIMIT - ((units - TOP) * 2 * LIMIT) / (SCORES - TOP - 10));
      element.focus({ preventScroll: true });
    });
    return { element, score, share, hit };
  }

  /* Gap and bound against T, both axes logarithmic. */
  const HIGH = 150, TS = Array.from({ length: 61 }, (_, i) => 0.1 * 10 ** (i / 20));
  const px = (T) => LEFT + ((WIDE - LEFT - 14) * Math.log10(T / 0.1)) / 3;
  const py = (gap) => 8 + ((HIGH - 8) * (1 - Math.log10(Math.min(Math.max(gap, 1e-4), 10)))) / 5;
  const gapPath = make("path", { class: "lab-path" }), boundPath = make("path", { class: "lab-path lab-path-2" });
  const now = make("line", { class: "lab-now", y1: 8, y2: HIGH });
  const chart = make("svg", { viewBox: `0 0 ${WIDE} ${HIGH + 32}`, class: "lab-drawing", role: "img",
    "aria-label": "Gap to the maximum and its bound against the temperature; both fall, the bound stays above." },
    ...[10, 1, 0.1, 0.01, 0.001, 0.0001].flatMap((g) => [
      make("line", { class: "lab-grid", x1: LEFT, x2: WIDE - 14, y1: py(g), y2: py(g) }),
      make("text", { class: "lab-tick", x: LEFT - 6, y: py(g) + 4 }, g < 0.01 ? `10${g === 0.001 ? "⁻³" : "⁻⁴"}` : String(g))]),
    ...[0.1, 1, 10, 100].map((T) => make("text", { class: "lab-tick lab-middle", x: px(T), y: HIGH + 15 }, String(T))),
    make("text", { class: "lab-tick lab-middle", x: (LEFT + WIDE) / 2, y: HIGH + 29 }, "inverse temperature T"),
    boundPath, gapPath, now);
  const shown = numbers([["mean", "mean"], ["attended", "attended score"], ["max", "maximum"], ["gap", "gap to the maximum"],
    ["bound", "bound on the gap"], ["logit", "logit: mean + λ · attended"]]);
  const { say } = frame(el, "Temperature explorer",
    make("div", { class: "lab-controls" }, preset.element, places.element, warmth.element, weight.element),
    make("div", { class: "lab-columns" },
      make("div", {}, make("p", { class: "lab-note" }, "Drag a bar, or choose it with Tab and press the arrow keys. Lines: ",
        make("span", { class: "lab-key lab-key-3" }, "mean"), ", ", make("span", { class: "lab-key lab-key-2" }, "attended score"),
        ", ", make("span", { class: "lab-key lab-key-4" }, "maximum"), "."), drawing),
      make("div", {}, shown.element, make("p", { class: "lab-note" }, make("span", { class: "lab-key" }, "gap to the maximum"), " and ",
        make("span", { class: "lab-key lab-key-2" }, "its bound"), " against T"), chart)));

  let drawn = ""; // the scores of the curves as they stand
  function draw() {
    const scores = model.get("scores"), T = asNumber(model.get("temperature")), lam = model.get("lam"), N = scores.length;
    const weights = attentionScores(scores, T), attended = attendedScore(scores, T), best = largest(scores);
    const pitch = (WIDE - LEFT) / N, thick = Math.min(0.7 * pitch, 40), margin = marginOf(scores);
    while (columns.length < N) columns.push(column(columns.length));
    if (bars.childElementCount !== N) bars.replaceChildren(...columns.slice(0, N).map((c) => c.element));
    scores.forEach((s, k) => {
      const { element, score, share, hit } = columns[k], x = LEFT + (k + 0.5) * pitch - thick / 2;
      setAttributes(score, { x, width: thick, y: Math.min(y(s), y(0)), height: Math.abs(y(s) - y(0)) });
      setAttributes(share, { x, width: thick, y: bottom - weights[k] * WEIGHTS, height: weights[k] * WEIGHTS });
      setAttributes(hit, { x: LEFT + k * pitch, width: pitch });
      setAttributes(element, { "aria-valuenow": s, "aria-valuetext": `${number(s, 2)}, weight ${number(weights[k], 2)}` });
    });
    [mean(scores), attended, best].forEach((value, i) => setAttributes(lines[i], { y1: y(value), y2: y(value) }));

    const named = Object.entries(PRESETS).find(([, list]) => JSON.stringify(list) === JSON.stringify(scores));
    preset.update([...Object.keys(PRESETS), "your own"].map((name) => [name, name]), named ? named[0] : "your own");
    places.update(N, String(N));
    warmth.update(T);
    weight.update(lam);
    const gap = gapToMax(scores, T), bound = gapBound(margin, N, T), logit = mean(scores) + lam * attended;
    shown.update({ mean: number(mean(scores)), attended: number(attended), max: number(best), gap: number(gap, 4),
      bound: number(bound, 4), logit: number(logit) });
    if (drawn !== scores.join()) {
      drawn = scores.join();
      const path = (f) => TS.map((t, i) => `${i ? "L" : "M"}${px(t).toFixed(1)} ${py(f(t)).toFixed(1)}`).join("");
      setAttributes(gapPath, { d: path((t) => gapToMax(scores, t)) });
      setAttributes(boundPath, { d: path((t) => gapBound(margin, N, t)) });
    }
    const at = px(Math.min(Math.max(T, 0.1), 100));
    setAttributes(now, { x1: at, x2: at });
    say(`Attended score ${number(attended, 2)}, mean ${number(mean(scores), 2)}, maximum ${number(best, 2)}.`);
  }

  return connect(model, ["scores", "temperature", "lam"], draw, el);
}

export default { render };
