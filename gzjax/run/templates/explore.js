"use strict";
// The explorer: filters -> rows that fit, in order -> one page of the gallery, and the map.

const $ = (id) => document.getElementById(id);
const make = (tag, given = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), given);
  made.append(...children);
  return made;
};

const data = JSON.parse($("galaxies").textContent);
$("galaxies").remove();

function unpacked(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
}
for (const name of ["cumulative", "conditional", "asked", "low", "high", "places", "similarity"])
  if (data[name] !== null) data[name] = unpacked(data[name], Uint16Array);
for (const name of ["look", "neighbours"]) data[name] = unpacked(data[name], Uint32Array);

const NUMBER = data.ids.length, ONE = 65534, PAGE = 60, REACHED = 0.5;
const ANSWERS = data.questions.reduce((sum, question) => sum + question.answers.length, 0);
const NEAR = data.neighbours.length / NUMBER;
const whole = (number) => number.toLocaleString("en");
const fraction = (value) => (value > ONE ? NaN : value / ONE);
const percent = (value) => (value > ONE ? "–" : String(Math.round((100 * value) / ONE)));
const address = (row) => (data.pictures[row] ? data.prefix + data.pictures[row] : "");
const words = (row) => data.looks[data.look[row]].join(", ");

const state = { rows: new Uint32Array(0), fits: new Uint8Array(NUMBER), page: 0, one: -1 };
const selected = new Set();
const view = { x: 0.5, y: 0.5, zoom: 1 };

// --- filters ---

function wanted() {
  const looks = [...document.querySelectorAll("[name=look]:checked")].map((box) => box.value);
  const ranges = new Map();
  for (const slider of document.querySelectorAll("[data-column]")) {
    const range = ranges.get(slider.dataset.column) ?? {};
    range[slider.dataset.end] = Number(slider.value);
    ranges.set(slider.dataset.column, range);
  }
  const used = [...ranges].filter(([, range]) => range.least > 0 || range.most < 100);
  return { looks, ranges, used, search: $("search").value.trim().toLowerCase(), inside: $("inside").checked };
}

function apply() {
  const { looks, used, search, inside } = wanted();
  const like = data.looks.map((phrases) => looks.every((phrase) => phrases.includes(phrase)));
  // Half a unit of slack, for what was rounded to be sent.
  const bounds = used.map(([column, { least, most }]) => [
    Number(column), (least / 100) * ONE - 0.5, (most / 100) * ONE + 0.5]);
  const box = inside ? shownBox() : null;
  const fitting = [];
  for (let row = 0; row < NUMBER; row++) {
    let fits = like[data.look[row]];
    for (let n = 0; fits && n < bounds.length; n++) {
      const value = data.cumulative[row * ANSWERS + bounds[n][0]];
      fits = value <= ONE && value >= bounds[n][1] && value <= bounds[n][2];
    }
    if (fits && search) fits = data.ids[row].toLowerCase().includes(search);
    if (fits && box) {
      const x = data.places[2 * row], y = data.places[2 * row + 1];
      fits = x <= ONE && x >= box[0] && x <= box[1] && y >= box[2] && y <= box[3];
    }
    state.fits[row] = fits ? 1 : 0;
    if (fits) fitting.push(row);
  }
  const by = $("sort").value;
  if (by !== "") {
    const value = (row) => {
      const found = data.cumulative[row * ANSWERS + Number(by)];
      return found > ONE ? -1 : found; // what is not known comes last
    };
    const sign = $("reverse").checked ? -1 : 1;
    fitting.sort((a, b) => (value(a) < 0) - (value(b) < 0) || sign * (value(b) - value(a)) || a - b);
  } else if ($("reverse").checked) fitting.reverse();
  state.rows = Uint32Array.from(fitting);
  state.page = 0;
  gallery();
  drawMap();
}

function describeFilters() {
  const { ranges } = wanted();
  for (const [column, { least, most }] of ranges) $(`range-${column}`).value = `${least} to ${most}`;
  for (const group of document.querySelectorAll(".question-filter"))
    group.classList.toggle("used", [...group.querySelectorAll("input")].some(
      (slider) => slider.value !== slider.defaultValue));
}

// Once a frame, however often a slider moves.
let waiting = false;
function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; describeFilters(); apply(); });
}

$("filters").addEventListener("input", soon);
$("filters").addEventListener("reset", () => setTimeout(soon));
$("filters").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["sort", "reverse", "inside"]) $(id).addEventListener("change", soon);

// --- gallery ---

function thumb(row, caption) {
  const picture = address(row)
    ? make("img", { src: address(row), alt: "", width: 96, height: 96, decoding: "async" })
    : make("i", {}, "no image");
  const button = make("button", { type: "button", className: "thumb" }, picture, caption);
  button.setAttribute("aria-label", `Galaxy ${data.ids[row]}, ${words(row) || "not described"}. ${caption}`);
  button.dataset.row = row;
  if (row === state.one) button.setAttribute("aria-current", "true");
  button.addEventListener("click", () => open(row, true));
  return button;
}

function gallery() {
  const by = $("sort").value, pages = Math.max(1, Math.ceil(state.rows.length / PAGE));
  const cards = [...state.rows.subarray(state.page * PAGE, (state.page + 1) * PAGE)].map((row) => {
    const value = by === "" ? "" : ` ${percent(data.cumulative[row * ANSWERS + Number(by)])} %`;
    const box = make("input", { type: "checkbox", checked: selected.has(row) });
    box.setAttribute("aria-label", `Select ${data.ids[row]}`);
    box.addEventListener("change", () => select([row], box.checked));
    return make("li", {}, thumb(row, data.ids[row] + value), box);
  });
  $("cards").replaceChildren(...cards);
  $("nothing").hidden = cards.length > 0;
  $("status").textContent = `${whole(state.rows.length)} of ${whole(NUMBER)} galaxies`;
  $("page").textContent = `Page ${whole(state.page + 1)} of ${whole(pages)}`;
  $("previous").disabled = state.page === 0;
  $("next").disabled = state.page === pages - 1;
}

function turn(by) {
  state.page += by;
  gallery();
  $("gallery").scrollIntoView();
}
$("previous").addEventListener("click", () => turn(-1));
$("next").addEventListener("click", () => turn(1));

// --- selection ---

function select(rows, on) {
  for (const row of rows) on ? selected.add(row) : selected.delete(row);
  $("selected").textContent = `${whole(selected.size)} selected`;
  $("download").disabled = selected.size === 0;
  $("choose").checked = selected.has(state.one);
  gallery();
  drawMap();
}
$("select").addEventListener("click", () => select(state.rows, true));
$("unselect").addEventListener("click", () => select([...selected], false));
$("choose").addEventListener("change", () => select([state.one], $("choose").checked));

function table(rows) {
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const columns = data.questions.flatMap((question) => question.columns);
  const lines = rows.map((row) => [data.ids[row], words(row), ...columns.map((_, answer) => {
    const value = fraction(data.cumulative[row * ANSWERS + answer]);
    return Number.isNaN(value) ? "" : value.toFixed(4);
  })]);
  return [["GalaxyID", "looks", ...columns], ...lines].map((line) => line.map(cell).join(",") + "\n").join("");
}
$("download").addEventListener("click", () => {
  const rows = [...selected].sort((a, b) => a - b);
  const href = URL.createObjectURL(new Blob([table(rows)], { type: "text/csv" }));
  make("a", { href, download: "selected.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
});

// --- one galaxy ---

function answers(row, question, number) {
  const asked = fraction(data.asked[row * data.questions.length + number]);
  const heading = make("caption", {}, `${question.name} `, make("small", {},
    Number.isNaN(asked) ? "" : `asked of ${Math.round(100 * asked)} %`));
  const lines = question.answers.map((answer, place) => {
    const at = row * ANSWERS + question.first + place, value = data.conditional[at];
    const bar = make("td", { className: "whisker" });
    bar.style.setProperty("--v", `${100 * (fraction(value) || 0)}%`);
    if (data.low && data.low[at] <= ONE) {
      bar.classList.add("known");
      bar.style.setProperty("--l", `${100 * fraction(data.low[at])}%`);
      bar.style.setProperty("--h", `${100 * fraction(data.high[at])}%`);
      bar.title = `90 % interval: ${percent(data.low[at])} to ${percent(data.high[at])}`;
      bar.append(make("span", { className: "unseen" }, bar.title));
    }
    return make("tr", {}, make("th", { scope: "row" }, answer), bar,
      make("td", { className: "number" }, percent(value)));
  });
  return make("table", {}, heading, make("tbody", {}, ...lines));
}

function open(row, focus) {
  state.one = row;
  $("hint").hidden = true;
  $("one").hidden = false;
  $("detail-title").textContent = data.ids[row];
  $("picture").hidden = !address(row);
  if (address(row)) $("picture").src = address(row);
  $("picture").alt = `Galaxy ${data.ids[row]}`;
  $("words").textContent = words(row);
  $("choose").checked = selected.has(row);
  $("whiskers").hidden = !data.low;
  const tables = { reached: [], others: [] };
  data.questions.forEach((question, number) => {
    const asked = fraction(data.asked[row * data.questions.length + number]);
    tables[asked >= REACHED ? "reached" : "others"].push(answers(row, question, number));
  });
  $("reached").replaceChildren(...tables.reached);
  $("others").replaceChildren(...tables.others);
  $("others").parentElement.hidden = tables.others.length === 0;
  const near = [...data.neighbours.subarray(row * NEAR, (row + 1) * NEAR)];
  const buttons = near.flatMap((other, place) => other >= NUMBER ? [] : [make("li", {},
    thumb(other, fraction(data.similarity[row * NEAR + place]).toFixed(3)))]);
  $("neighbours").replaceChildren(...buttons);
  const place = state.rows.indexOf(row);
  $("before").disabled = place <= 0;
  $("after").disabled = place < 0 || place === state.rows.length - 1;
  for (const button of document.querySelectorAll("#cards .thumb"))
    Number(button.dataset.row) === row ? button.setAttribute("aria-current", "true")
      : button.removeAttribute("aria-current");
  drawMap();
  if (focus) $("detail-title").focus();
}

function step(by) {
  const place = state.rows.indexOf(state.one) + by;
  if (place < 0 || place >= state.rows.length) return;
  if (Math.floor(place / PAGE) !== state.page) {
    state.page = Math.floor(place / PAGE);
    gallery();
  }
  open(state.rows[place], false);
}
$("before").addEventListener("click", () => step(-1));
$("after").addEventListener("click", () => step(1));

// --- map ---

const canvas = $("map"), pen = canvas.getContext("2d");
const MARGIN = 16, LEVELS = 6, NEAREST = 14;

const scale = () => Math.max(1, Math.min(canvas.clientWidth, canvas.clientHeight) - 2 * MARGIN) * view.zoom;

// row -> where it is on the canvas, in CSS pixels; the layout is asked once, not for each galaxy.
function projection() {
  const size = scale(), middleX = canvas.clientWidth / 2, middleY = canvas.clientHeight / 2;
  return {
    x: (row) => (data.places[2 * row] / ONE - view.x) * size + middleX,
    y: (row) => (view.y - data.places[2 * row + 1] / ONE) * size + middleY, // up is up
  };
}

function shownBox() {
  const width = canvas.clientWidth / 2 / scale(), height = canvas.clientHeight / 2 / scale();
  return [view.x - width, view.x + width, view.y - height, view.y + height].map((end) => end * ONE);
}

let drawing = false;
function drawMap() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; paint(); });
}

function paint() {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const at = projection(), right = canvas.clientWidth + 9, bottom = canvas.clientHeight + 9; // CSS pixels
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  const colours = getComputedStyle(document.documentElement);
  const colour = (name) => colours.getPropertyValue(`--${name}`).trim();
  const by = $("colour").value, size = Math.min(7, 2 + view.zoom / 2);
  // What does not fit first, then the others from the faintest to the strongest: few changes of colour.
  const layers = Array.from({ length: LEVELS + 1 }, () => []);
  for (let row = 0; row < NUMBER; row++) {
    if (data.places[2 * row] > ONE) continue;
    let layer = 0;
    if (state.fits[row]) {
      const value = by === "" ? 1 : fraction(data.cumulative[row * ANSWERS + Number(by)]) || 0;
      layer = 1 + Math.min(LEVELS - 1, Math.floor(value * LEVELS));
    }
    layers[layer].push(row);
  }
  layers.forEach((rows, layer) => {
    pen.fillStyle = layer ? colour("network") : colour("faint");
    pen.globalAlpha = layer ? 0.15 + (0.75 * layer) / LEVELS : 0.15;
    for (const row of rows) {
      const x = at.x(row), y = at.y(row);
      if (x > -9 && y > -9 && x < right && y < bottom) pen.fillRect(x - size / 2, y - size / 2, size, size);
    }
  });
  pen.globalAlpha = 1;
  const ring = (row, name, radius) => {
    if (data.places[2 * row] > ONE) return;
    pen.strokeStyle = colour(name);
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(at.x(row), at.y(row), radius, 0, 7);
    pen.stroke();
  };
  for (const row of selected) ring(row, "crowd", size);
  if (state.one >= 0) ring(state.one, "ink", size + 4);
}

function nearest(x, y, most) {
  const at = projection();
  let best = -1, least = most * most;
  for (let row = 0; row < NUMBER; row++) {
    if (!state.fits[row] || data.places[2 * row] > ONE) continue;
    const distance = (at.x(row) - x) ** 2 + (at.y(row) - y) ** 2;
    if (distance < least) [best, least] = [row, distance];
  }
  return best;
}

function moved() {
  view.zoom = Math.min(200, Math.max(1, view.zoom));
  for (const axis of ["x", "y"]) view[axis] = Math.min(1, Math.max(0, view[axis]));
  drawMap();
  if ($("inside").checked) soon();
}

function zoom(by, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  if (by === 0) Object.assign(view, { x: 0.5, y: 0.5, zoom: 1 });
  const right = (x - canvas.clientWidth / 2) / scale(), up = (canvas.clientHeight / 2 - y) / scale();
  const before = view.zoom;
  view.zoom = Math.min(200, Math.max(1, view.zoom * (by || 1)));
  const kept = 1 - before / view.zoom; // what is under the pointer stays there
  view.x += right * kept;
  view.y += up * kept;
  moved();
}

let grip = null;
canvas.addEventListener("pointerdown", (event) => {
  grip = { x: event.offsetX, y: event.offsetY, far: 0 };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  const { offsetX: x, offsetY: y } = event;
  if (grip) {
    grip.far += Math.abs(x - grip.x) + Math.abs(y - grip.y);
    view.x -= (x - grip.x) / scale();
    view.y += (y - grip.y) / scale();
    Object.assign(grip, { x, y });
    moved();
  }
  const row = grip ? -1 : nearest(x, y, NEAREST), shown = $("hover");
  shown.hidden = row < 0;
  if (row < 0) return;
  shown.firstElementChild.hidden = !address(row);
  if (address(row)) shown.firstElementChild.src = address(row);
  shown.lastElementChild.textContent = data.ids[row];
  shown.style.left = `${Math.max(0, Math.min(x + 12, canvas.clientWidth - 112))}px`;
  shown.style.top = `${Math.max(0, Math.min(y + 12, canvas.clientHeight - 140))}px`;
});
canvas.addEventListener("pointerleave", () => { $("hover").hidden = true; });
canvas.addEventListener("pointercancel", () => { grip = null; });
canvas.addEventListener("pointerup", (event) => {
  const row = grip && grip.far < 5 ? nearest(event.offsetX, event.offsetY, NEAREST) : -1;
  grip = null;
  if (row >= 0) open(row, false);
});
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const by = 40 / scale();
  const moves = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, by], ArrowDown: [0, -by] };
  if (moves[event.key]) {
    view.x += moves[event.key][0];
    view.y += moves[event.key][1];
    moved();
  } else if (event.key === "+" || event.key === "=") zoom(1.5);
  else if (event.key === "-") zoom(1 / 1.5);
  else if (event.key === "Enter") {
    const row = nearest(canvas.clientWidth / 2, canvas.clientHeight / 2, Infinity);
    if (row >= 0) open(row, true);
  } else return;
  event.preventDefault();
});
for (const button of document.querySelectorAll("[data-zoom]"))
  button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));
$("colour").addEventListener("change", drawMap);
window.addEventListener("resize", drawMap);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
$("map-section").firstElementChild.addEventListener("toggle", drawMap);

// --- at the start ---

for (const list of [$("sort"), $("colour")])
  for (const question of data.questions)
    question.answers.forEach((answer, place) => list.append(
      make("option", { value: String(question.first + place) }, `${question.name}: ${answer}`)));
$("selected").textContent = "0 selected";
$("download").disabled = true;
soon();
