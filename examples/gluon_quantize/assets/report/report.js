const data = JSON.parse(document.getElementById("data").textContent);
const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
const printed = matchMedia("print");
const drawn = new Map(); // element -> {spec, view}
let chosen = null;

// ---- charts: drawn when they come into sight

async function embed(element, spec) {
  drawn.set(element, { spec, view: null });
  // colours of texts and axes are the page's: light, dark and on paper
  const options = { actions: false, renderer: "svg", config: { background: "transparent",
    font: "system-ui, sans-serif", style: { cell: { stroke: "transparent" } } } };
  const { view } = await window.vegaEmbed(element, { ...spec, description: spec.title.text }, options);
  if (!drawn.has(element)) return;
  drawn.get(element).view = view;
  mark(view);
  view.addEventListener("click", (_, item) => {
    if (item && item.datum && nodes.has(item.datum.layer)) choose(nodes.get(item.datum.layer));
  });
}

function mark(view) {
  try { view.signal("chosen", nameOf(chosen)).runAsync(); } catch { /* this chart knows no layers */ }
}

function whenSeen(element, spec) {
  const observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) { observer.disconnect(); embed(element, spec); }
  }, { rootMargin: "400px" });
  observer.observe(element);
}

const waiting = [];
for (const [name, spec] of Object.entries(data.page)) {
  const element = document.getElementById("chart-" + name);
  if (element) { element.classList.add("used"); waiting.push([element, spec]); whenSeen(element, spec); }
}
window.addEventListener("beforeprint", () => {
  for (const [element, spec] of waiting) if (!drawn.has(element)) embed(element, spec);
});

// ---- the table: sorting and filtering

const table = document.getElementById("table");
const rows = table ? [...table.tBodies[0].rows] : [];
const titles = table ? [...table.tHead.rows[1].cells].map((cell) => cell.querySelector("button").dataset.full) : [];
const nodes = new Map(rows.map((row) => [row.cells[0].textContent.trim(), row.dataset.node]));

function nameOf(node) {
  const row = rows.find((item) => item.dataset.node === node);
  return row ? row.cells[0].textContent.trim() : "";
}

function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent.trim().toLowerCase() : Number(cell.dataset.value);
}

function compare(x, y, sign) {
  if (x === "" || y === "") return (x === "") - (y === ""); // what is not known stands last, whatever the order
  return sign * (typeof x === "number" && typeof y === "number" ? x - y
    : String(x).localeCompare(String(y), "en", { numeric: true }));
}

if (table) {
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const header = button.closest("th"), before = header.getAttribute("aria-sort");
    const order = before === "none" ? "ascending" : before === "ascending" ? "descending" : "none";
    for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", order);
    const column = Number(button.dataset.column), sign = order === "ascending" ? 1 : -1;
    const sorted = order === "none" ? rows
      : [...rows].sort((a, b) => compare(valueOf(a, column), valueOf(b, column), sign));
    table.tBodies[0].append(...sorted);
  });
  document.getElementById("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    document.getElementById("count").textContent = wanted ? `${shown} of ${rows.length} layers` : "";
  });
}

// ---- one layer, everywhere

function element(tag, text) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  return made;
}

function showFacts(row) {
  const facts = document.getElementById("facts");
  facts.replaceChildren();
  let start = 1;
  for (const group of table.tHead.rows[0].cells) {
    const end = group === table.tHead.rows[0].cells[0] ? group.colSpan : start + group.colSpan;
    const part = element("div"), list = element("dl");
    if (group.textContent) part.append(element("h4", group.textContent));
    for (let number = start; number < end; number++) {
      list.append(element("dt", titles[number]), element("dd", row.cells[number].textContent.trim() || "not known"));
    }
    part.append(list);
    facts.append(part);
    start = end;
  }
}

function showThresholds(node) {
  const place = document.getElementById("thresholds"), known = data.thresholds[node];
  place.hidden = !known;
  place.querySelector("tbody").replaceChildren(...(known || []).map((cells) => {
    const row = element("tr");
    cells.forEach((text, number) => {
      const cell = element(number ? "td" : "th", text);
      if (number) cell.className = "right"; else cell.scope = "row";
      row.append(cell);
    });
    return row;
  }));
}

function showCharts(node) {
  const charts = document.getElementById("layer-charts");
  for (const old of charts.children) drawn.delete(old);
  charts.replaceChildren();
  for (const spec of data.layers[node] || []) {
    const place = element("div");
    place.style.minHeight = "60px";
    charts.append(place);
    whenSeen(place, spec);
  }
}

// what scrolls within the page moves until something in it is seen; the page itself stays
function reveal(item) {
  const frame = item.closest(".network, .tall");
  if (!frame) return;
  const inner = item.getBoundingClientRect(), outer = frame.getBoundingClientRect();
  const moved = (low, high, first, last) => low < first || high > last ? (low + high - first - last) / 2 : 0;
  const [x, y] = item.matches("tr") ? [0, moved(inner.top, inner.bottom, outer.top + table.tHead.offsetHeight, outer.bottom)]
    : [moved(inner.left, inner.right, outer.left, outer.right), moved(inner.top, inner.bottom, outer.top, outer.bottom)];
  frame.scrollBy({ left: x, top: y, behavior: "instant" });
}

function choose(node, quietly, first) {
  const row = rows.find((item) => item.dataset.node === node);
  if (!row) return;
  chosen = node;
  for (const item of document.querySelectorAll("tr[data-node], .node.layer")) {
    const same = (item.dataset.node || item.dataset.choose) === node;
    item.classList.toggle("chosen", same);
    if (item.matches(".node")) item.setAttribute("aria-pressed", same);
    if (same && !first) reveal(item);
  }
  document.getElementById("which").value = node;
  document.getElementById("layer-title").textContent = nameOf(node);
  showFacts(row);
  showThresholds(node);
  showCharts(node);
  for (const { view } of drawn.values()) if (view) mark(view);
  if (quietly) return;
  document.getElementById("announced").textContent = `${nameOf(node)} is shown`;
  const title = document.getElementById("layer-title");
  title.focus({ preventScroll: true });
  title.scrollIntoView({ behavior: reduced || printed.matches ? "auto" : "smooth", block: "start" });
}

document.addEventListener("click", (event) => {
  const source = event.target.closest("[data-choose]");
  if (source) choose(source.dataset.choose);
});
document.addEventListener("keydown", (event) => {
  const source = event.target.closest && event.target.closest(".node.layer");
  if (source && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); choose(source.dataset.choose); }
});
const which = document.getElementById("which");
if (which) {
  which.addEventListener("change", () => choose(which.value, true));
  choose(data.first, true, true);
  const start = document.querySelector(".node");
  if (start) reveal(start);
}
