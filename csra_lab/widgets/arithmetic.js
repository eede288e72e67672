/* The arithmetic of csra_lab, in the browser. tests/widgets runs both on the same numbers.

   scores: an array of N numbers, the score map of one class. T: 0 to Infinity. Names are those of the Python functions. */

const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;
const largest = (values) => values.reduce((best, v) => Math.max(best, v), -Infinity);
const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));

/* Eq. 2: softmax of T * scores; at T = Infinity all weight is on the first best place. */
function attentionScores(scores, T) {
  const best = largest(scores);
  if (T === Infinity) {
    const first = scores.indexOf(best);
    return Array.from(scores, (_, k) => (k === first ? 1 : 0));
  }
  const powers = Array.from(scores, (s) => Math.exp(T * (s - best)));
  const total = powers.reduce((sum, v) => sum + v, 0);
  return powers.map((v) => v / total);
}

/* The mean score under the attention; the second sum of Eq. 8. */
function attendedScore(scores, T) {
  const best = largest(scores);
  if (T === Infinity) return best;
  let total = 0, sum = 0;
  for (const s of scores) {
    const power = Math.exp(T * (s - best));
    total += power;
    sum += power * s;
  }
  return sum / total;
}

/* Eq. 7, 8, 13: the two parts of a logit. maps: a score map for each head, with its temperature. */
function csraLogit(maps, temperatures, lam) {
  let average = 0, residual = 0;
  maps.forEach((scores, h) => {
    average += mean(scores);
    if (lam !== 0) residual += lam * attendedScore(scores, temperatures[h]);
  });
  return { average, residual, logit: average + residual };
}

/* The poolings of heads.py on one score map. */
const POOLINGS = {
  average: (scores) => mean(scores),
  max: (scores) => largest(scores),
  spatial: (scores, { T }) => attendedScore(scores, T),
  csra: (scores, { T, lam }) => csraLogit([scores], [T], lam).logit,
  lse: (scores, { r }) => {
    const best = largest(scores);
    return best + Math.log1p(mean(Array.from(scores, (s) => Math.expm1(r * (s - best))))) / r;
  },
  topk: (scores, { k }) => mean(Array.from(scores).sort((a, b) => b - a).slice(0, k)),
};

/* How far the attended score lies below the maximum. */
function gapToMax(scores, T) {
  const best = largest(scores);
  return attentionScores(scores, T).reduce((sum, a, k) => sum + a * (best - scores[k]), 0);
}

/* Lambert's W of x >= 0, the w with w exp(w) = x, by Newton's method. */
function lambertW(x) {
  let w = Math.log1p(x);
  for (let i = 0; i < 30; i++) {
    const power = Math.exp(w), step = (w * power - x) / (power * (w + 1));
    w -= step;
    if (Math.abs(step) <= 1e-15 * w) break;
  }
  return w;
}

/* The largest gap that this margin and this number of places allow; see gap_bound. */
function gapBound(margin, places, T) {
  if (T === Infinity || places === 1) return 0;
  const worst = lambertW((places - 1) / Math.E);
  if (T * margin < 1 + worst) return worst / T;
  const tail = (places - 1) * Math.exp(-T * margin);
  return (margin * tail) / (1 + tail);
}

/* Best minus second-best score; 0 where there is one place only. */
function marginOf(scores) {
  const [best, second] = Array.from(scores).sort((a, b) => b - a);
  return second === undefined ? 0 : best - second;
}

/* Indices, best value first; of equal values the first. */
const ranking = (values) => Array.from(values.keys()).sort((a, b) => values[b] - values[a] || a - b);

/* The precision-recall curve of one class: a point for each distinct score, best first. Targets: 1, 0, -1 (ignored). */
function rankingCurve(scores, targets) {
  const entries = [];
  scores.forEach((score, i) => { if (targets[i] !== -1) entries.push([score, targets[i]]); });
  entries.sort((a, b) => b[0] - a[0]);
  const points = []; // { hits, seen, here }: of all that score as high or higher; here: positives at this very score
  let hits = 0, here = 0;
  entries.forEach(([score, target], i) => {
    hits += target;
    here += target;
    if (i + 1 === entries.length || entries[i + 1][0] !== score) {
      points.push({ hits, seen: i + 1, here, precision: hits / (i + 1) });
      here = 0;
    }
  });
  points.forEach((p) => { p.recall = hits ? p.hits / hits : 0; });
  let best = 0;
  for (const p of points.slice().reverse()) p.envelope = best = Math.max(best, p.precision);
  return { points, positives: hits };
}

/* The three average precisions of metrics.py, and the 11 heights of VOC2007's; NaN where nothing is positive. */
function averagePrecisions({ points, positives }) {
  if (!positives) return { average: NaN, voc11: NaN, envelope: NaN, heights: [] };
  const area = (key) => points.reduce((sum, p) => sum + p.here * p[key], 0) / positives;
  const heights = Array.from({ length: 11 }, (_, tenths) =>
    points.reduce((best, p) => (10 * p.hits >= tenths * positives ? Math.max(best, p.precision) : best), 0));
  return { average: area("precision"), voc11: mean(heights), envelope: area("envelope"), heights };
}

/* Predicted, correct and true labels of each class at a threshold. scores, targets: (N x C), row by row. */
function countLabels(scores, targets, classes, threshold) {
  const counts = Array.from({ length: classes }, () => ({ predicted: 0, correct: 0, positives: 0 }));
  const limit = scores instanceof Float32Array ? Math.fround(threshold) : threshold; // as NumPy compares
  for (let i = 0; i < scores.length; i++) {
    if (targets[i] === -1) continue;
    const count = counts[i % classes], positive = targets[i] === 1, predicted = scores[i] >= limit;
    if (positive) count.positives++;
    if (predicted) count.predicted++;
    if (positive && predicted) count.correct++;
  }
  return counts;
}

/* CP CR CF1 CF1_macro OP OR OF1 as in multilabel_metrics: classes without a positive leave the means over classes. */
function labelMetrics(counts) {
  const counted = counts.filter((c) => c.positives > 0);
  const all = (key) => counts.reduce((sum, c) => sum + c[key], 0);
  const CP = mean(counted.map((c) => c.correct / Math.max(c.predicted, 1)));
  const CR = mean(counted.map((c) => c.correct / c.positives));
  return {
    CP, CR,
    CF1: CP + CR ? (2 * CP * CR) / (CP + CR) : 0,
    CF1_macro: mean(counted.map((c) => (2 * c.correct) / (c.predicted + c.positives))),
    OP: all("correct") / Math.max(all("predicted"), 1),
    OR: all("correct") / all("positives"),
    OF1: (2 * all("correct")) / (all("predicted") + all("positives")),
  };
}

/* Numbers as Python's `packed` wrote them: { shape, data }. Half precision becomes doubles. */
function unpack({ dtype, shape, base64 }) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  if (dtype === "float16") return { shape, data: Float64Array.from(new Uint16Array(bytes.buffer), half) };
  const Kind = { float32: Float32Array, int8: Int8Array }[dtype];
  return { shape, data: new Kind(bytes.buffer) };
}

function half(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

export const arithmetic = {
  attentionScores, attendedScore, csraLogit, POOLINGS, gapToMax, gapBound, marginOf, ranking, rankingCurve,
  averagePrecisions, countLabels, labelMetrics, unpack, sigmoid,
};
