"use strict";
const specs = JSON.parse(document.getElementById("specs").textContent);
const histogram = JSON.parse(document.getElementById("histogram").textContent);
const views = {};

function draw(place, spec) {
  const view = new vega.View(vega.parse(vegaLite.compile(spec).spec), { container: place, renderer: "svg", hover: true });
  return view.runAsync();
}

for (const place of document.querySelectorAll("[data-chart]")) {
  const name = place.dataset.chart;
  draw(place, specs[name]).then((view) => { views[name] = view; });
}

// Zooming by keyboard: the scales that a drag or the wheel moves are moved by buttons as well.
for (const group of document.querySelectorAll("[data-zoom]")) {
  const name = group.dataset.zoom;
  let whole = null;
  group.addEventListener("click", (event) => {
    const view = views[name];
    if (!event.target.dataset.factor || !view) return;
    const signals = Object.keys(view.getState().signals).filter((key) => /^zoom_/.test(key) && !/_(x|y|tuple|toggle|modify|translate|zoom)/.test(key));
    const factor = Number(event.target.dataset.factor);
    whole = whole || { x: view.scale("x").domain(), y: view.scale("y").domain() };
    for (const key of signals) {
      const axis = key === signals[0] ? "x" : "y";
      const scale = view.scale(axis);
      const [low, high] = scale.domain();
      const middle = (low + high) / 2, half = ((high - low) / 2) * factor;
      view.signal(key, factor ? [middle - half, middle + half] : null);
    }
    view.runAsync();
  });
}

function toggle(button) {
  const anchor = button.dataset.more;
  const answer = anchor.split("-layer-")[0];
  const open = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", String(!open));
  document.getElementById(anchor).classList.toggle("open", !open);
  const known = document.getElementById(anchor + "-histogram");
  if (open) { known.remove(); return; }
  const data = JSON.parse(document.querySelector(`[data-histograms="${answer}"]`).textContent)[anchor];
  const row = document.createElement("tr");
  row.id = anchor + "-histogram";
  const cell = document.createElement("td");
  cell.colSpan = document.getElementById(anchor).cells.length;
  const text = document.createElement("p");
  text.textContent = "Grey: the values by magnitude. Blue: from half of the smallest unit, below which they round to zero, to the largest value, beyond which they saturate.";
  const chart = document.createElement("div");
  cell.append(text, chart);
  row.append(cell);
  document.getElementById(anchor).after(row);
  const spec = structuredClone(histogram);
  spec.data.values = data.flatMap((one) => [
    { place: one.place, kind: "format", from: one.from, to: one.to },
    ...one.shares.map((share, i) => ({ place: one.place, kind: "values", from: one.octave + i / 2, to: one.octave + (i + 1) / 2, share })),
  ]);
  spec.facet.sort = data.map((one) => one.place);
  spec.columns = Math.max(1, Math.min(4, Math.floor(document.documentElement.clientWidth / 340)));
  draw(chart, spec);
}

for (const button of document.querySelectorAll("[data-more]")) button.addEventListener("click", () => toggle(button));

function follow() {
  const button = document.querySelector(`[data-more="${CSS.escape(location.hash.slice(1))}"]`);
  if (button && button.getAttribute("aria-expanded") === "false") toggle(button);
}
addEventListener("hashchange", follow);
follow();

for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
    for (const open of body.querySelectorAll('[aria-expanded="true"]')) toggle(open);
    const descending = header.getAttribute("aria-sort") !== "descending" && button.dataset.sort !== "order";
    for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
    if (button.dataset.sort !== "order") header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const column = Array.from(header.parentNode.children).indexOf(header);
    const key = (row) => {
      if (button.dataset.sort === "order") return Number(row.dataset.order);
      const text = row.cells[column].textContent;
      return text === "" ? -Infinity : Number.isNaN(Number(text)) ? text : Number(text);
    };
    const rows = Array.from(body.rows).sort((a, b) => {
      const x = key(a), y = key(b);
      return (x < y ? -1 : x > y ? 1 : 0) * (descending ? -1 : 1);
    });
    body.append(...rows);
  });
}
