/* What the explorers share: elements, controls, drawing once a frame. Every string becomes text, never markup. */

const SVG_TAGS = new Set(["svg", "g", "rect", "line", "path", "circle", "text"]);

function make(tag, attributes = {}, ...children) {
  const element = SVG_TAGS.has(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children); // a string is appended as text
  return element;
}

/* Write only what changed: the browser lays out nothing else anew. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
function setAttributes(element, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    const text = String(value);
    if (element.getAttribute(key) !== text) element.setAttribute(key, text);
  }
}

const number = (value, digits = 3) => {
  if (Number.isNaN(value)) return "–";
  if (value === Infinity) return "∞";
  const text = value.toFixed(digits);
  return text.replace(/^-(?=.*[1-9])/, "−").replace(/^-/, ""); // a true minus, and no −0
};
const POINT = "Tap a place of the image, or choose it with the arrow keys, to see its best labels.";
const percent = (value) => (Number.isNaN(value) ? "–" : `${(100 * value).toFixed(1)} %`);

/* The root of an explorer, with a quiet line for screen readers: say(text) speaks when the reader pauses. */
function frame(el, name, ...children) {
  const status = make("p", { class: "lab-unseen", role: "status" });
  const root = make("div", { class: "lab-explorer", role: "group", "aria-label": name }, ...children, status);
  el.replaceChildren(root);
  let timer = 0;
  let before = null; // nothing is said of the state at the start
  const say = (text) => {
    if (before === null) before = text;
    if (before === text) return;
    before = text;
    clearTimeout(timer);
    timer = setTimeout(() => setText(status, text), 500);
  };
  return { root, say };
}

/* Bring an element to the top, and keep it there while what is above it still grows, or until the reader moves. */
function bringUp(el) {
  const sizes = new ResizeObserver(() => el.scrollIntoView({ block: "start", behavior: "instant" })); // at once, and again
  const stop = () => sizes.disconnect();
  sizes.observe(document.body);
  setTimeout(stop, 4000);
  for (const hand of ["pointerdown", "wheel", "touchstart", "keydown", "hashchange"]) addEventListener(hand, stop, { once: true, passive: true });
}

/* Draw now, and at most once a frame whenever one of these traits changes. Returns what stops it.

   In a published page (`el` lies in one) the state is also in the address, after "#lab:NUMBER?": a link to it shows the
   same. In Jupyter the address is Jupyter's. told(trait): whether it belongs there now. */
function connect(model, traits, draw, el, told = () => true) {
  const place = [...document.querySelectorAll("[data-explorer]")].indexOf(el?.closest?.("[data-explorer]"));
  const sign = `#lab:${place + 1}?`;
  const asked = () => place >= 0 && location.hash.startsWith(sign);
  const read = () => {
    const before = traits.map((trait) => [trait, model.get(trait)]);
    try {
      for (const [trait, text] of new URLSearchParams(location.hash.slice(sign.length))) {
        if (!traits.includes(trait)) continue;
        const value = JSON.parse(text), kind = typeof model.get(trait);
        const alike = typeof value === kind || trait === "temperature"; // a number or "inf"
        if (!alike || value === null || Math.abs(value) === Infinity) throw new TypeError(trait);
        model.set(trait, value);
      }
      draw();
    } catch { // not of our making: the explorer stays as it is
      before.forEach(([trait, value]) => model.set(trait, value));
    }
  };
  const follow = () => {
    if (!asked()) return;
    read();
    bringUp(el);
  };
  if (asked()) {
    const [{ type } = {}] = performance.getEntriesByType("navigation");
    if (type === "reload") read(); // and the reader stays at the same place of the page
    else follow();
  }
  addEventListener("hashchange", follow);
  let writing = 0;
  const write = () => {
    const state = new URLSearchParams(traits.filter(told).map((trait) => [trait, JSON.stringify(model.get(trait))]));
    history.replaceState(null, "", `${sign}${state}`);
  };
  let waiting = 0;
  const ask = () => {
    waiting ||= requestAnimationFrame(() => {
      waiting = 0;
      draw();
    });
    clearTimeout(writing);
    if (place >= 0) writing = setTimeout(write, 400);
  };
  traits.forEach((trait) => model.on(`change:${trait}`, ask));
  draw();
  return () => {
    traits.forEach((trait) => model.off(`change:${trait}`, ask));
    removeEventListener("hashchange", follow);
    cancelAnimationFrame(waiting);
    clearTimeout(writing);
  };
}

/* The place of a map that a click on its canvas means. */
function placeClicked(event, canvas, { h, w }) {
  const box = canvas.getBoundingClientRect();
  const at = (share, places) => Math.min(Math.max(Math.floor(share * places), 0), places - 1);
  return at((event.clientY - box.top) / box.height, h) * w + at((event.clientX - box.left) / box.width, w);
}

/* The place that a key leads to from another, or from none: the arrows begin in the middle, and Escape leaves (null).
   undefined for a key that means nothing here. */
function placeByKey(event, place, { h, w }) {
  if (event.key === "Escape") return null;
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!step) return undefined;
  event.preventDefault();
  if (place === null) return Math.floor(h / 2) * w + Math.floor(w / 2);
  const row = Math.floor(place / w) + step[0], column = (place % w) + step[1];
  return Math.min(Math.max(row, 0), h - 1) * w + Math.min(Math.max(column, 0), w - 1);
}

function change(model, values) {
  for (const [trait, value] of Object.entries(values)) model.set(trait, value);
  model.save_changes();
}

/* A labelled native slider. update(value, text, why) moves it; `why` is given where it is off, and said beside it. */
function slider(label, { min, max, step = 1, shown }, changed) {
  const value = make("span", { class: "lab-value", "data-shown": shown });
  const input = make("input", {
    type: "range", min, max, step, "aria-label": label, "data-control": shown, oninput: () => changed(Number(input.value)),
  });
  const reason = make("span", { class: "lab-why" });
  const element = make("label", { class: "lab-control" }, make("span", {}, `${label} `, value, reason), input);
  const update = (position, text, why = "") => {
    if (Number(input.value) !== position) input.value = position;
    input.disabled = why !== "";
    setAttributes(input, { "aria-valuetext": text });
    setText(value, text);
    setText(reason, why && ` (${why})`);
  };
  return { element, update };
}

/* A labelled native list of [key, text] pairs; hidden where there is nothing to choose. */
function choice(label, shown, changed) {
  const select = make("select", { "data-control": shown, onchange: () => changed(select.value) });
  const element = make("label", { class: "lab-control" }, make("span", {}, label), select);
  let known = "";
  const update = (pairs, chosen) => {
    if (JSON.stringify(pairs) !== known) {
      known = JSON.stringify(pairs);
      select.replaceChildren(...pairs.map(([key, text]) => make("option", { value: key }, text)));
      element.hidden = pairs.length < 2;
    }
    if (select.value !== String(chosen)) select.value = String(chosen);
  };
  return { element, update };
}

/* Temperatures are a number or "inf" in the traits, since JSON has no infinity. The slider starts at 0, where all places
   count the same; from its second step on it is logarithmic, and it ends at infinity, the maximum. */
const LAST = 62;
const asNumber = (temperature) => (temperature === "inf" ? Infinity : temperature);
const temperatureText = (T) => (T === Infinity ? "∞" : String(Number(T.toPrecision(3))));
const temperatureAt = (position) =>
  position === LAST ? "inf" : position === 0 ? 0 : Number((0.1 * 10 ** ((position - 1) / 20)).toPrecision(3));
const positionOf = (T) =>
  T === Infinity ? LAST : T === 0 ? 0 : Math.min(LAST - 1, Math.max(1, 1 + Math.round(20 * Math.log10(T / 0.1))));

function temperatureSlider(model) {
  const move = (position) => change(model, { temperature: temperatureAt(position) });
  const control = slider("Inverse temperature T", { min: 0, max: LAST, shown: "T" }, (position) => {
    stop();
    move(position);
  });
  let ticking = 0, off = false;
  const play = make("button", { type: "button", class: "lab-play", "data-control": "play-T",
    onclick: () => (ticking ? stop() : start()) });
  const says = (sign, label) => {
    setText(play, sign);
    setAttributes(play, { "aria-label": label });
  };
  function stop() {
    clearInterval(ticking);
    ticking = 0;
    says("▶", "Play T from 0 to infinity");
  }
  function start() {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches, step = calm ? 12 : 1;
    let position = 0;
    says("■", "Stop");
    move(position);
    ticking = setInterval(() => {
      const now = positionOf(asNumber(model.get("temperature"))); // another control may have set it
      if (!play.isConnected || off || now !== position || position === LAST) return stop();
      move(position = Math.min(position + step, LAST));
    }, calm ? 900 : 70);
  }
  stop();
  const update = (T, text = temperatureText(T), why = "") => {
    off = why !== "";
    play.disabled = off;
    control.update(positionOf(T), text, why);
  };
  return { element: make("div", { class: "lab-with-play" }, control.element, play), update };
}

function lambdaSlider(model) {
  const control = slider("Residual λ", { min: 0, max: 2, step: 0.05, shown: "lam" }, (lam) => change(model, { lam }));
  return { element: control.element, update: (lam) => control.update(lam, number(lam, 2)) };
}

/* Dragging with mouse, pen or finger: moved(event) while the pointer is down on the element. */
function onDrag(element, moved) {
  let down = false;
  element.addEventListener("pointerdown", (event) => {
    down = true;
    element.setPointerCapture(event.pointerId);
    moved(event);
  });
  element.addEventListener("pointermove", (event) => { if (down) moved(event); });
  for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => { down = false; });
}

/* A list of named numbers. rows: [key, name]; update({ key: text }). */
function numbers(rows) {
  const cells = Object.fromEntries(rows.map(([key]) => [key, make("dd", { "data-shown": key })]));
  const element = make("dl", { class: "lab-numbers" },
    ...rows.map(([key, name]) => make("div", {}, make("dt", {}, name), cells[key])));
  return { element, update: (texts) => Object.entries(texts).forEach(([key, text]) => setText(cells[key], text)) };
}
