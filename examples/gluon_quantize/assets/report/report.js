const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
const drawn = new Map();

function embed(element, spec) {
  drawn.set(element, spec);
  const label = spec.title && spec.title.text ? spec.title.text : "chart";
  const options = { actions: false, renderer: "svg", theme: dark.matches ? "dark" : undefined,
                    config: { background: "transparent", aria: true } };
  return window.vegaEmbed(element, { ...spec, description: label }, options);
}

function whenSeen(element, spec) {
  const observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) { observer.disconnect(); embed(element, spec); }
  }, { rootMargin: "400px" });
  observer.observe(element);
}

for (const [name, spec] of Object.entries(data.page)) {
  const element = document.getElementById("chart-" + name);
  if (element) whenSeen(element, spec);
}
dark.addEventListener("change", () => { for (const [element, spec] of drawn) embed(element, spec); });
window.addEventListener("beforeprint", () => {
  for (const [name, spec] of Object.entries(data.page)) {
    const element = document.getElementById("chart-" + name);
    if (element && !drawn.has(element)) embed(element, spec);
  }
});

const table = document.getElementById("table");
if (table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const count = document.getElementById("count");

  function valueOf(row, column) {
    const cell = row.cells[column];
    const number = cell.dataset.value;
    if (number !== undefined && number !== "") return Number(number);
    return cell.textContent.trim().toLowerCase();
  }

  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const header = button.closest("th");
    const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of table.tHead.querySelectorAll("th")) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", order);
    const column = Number(button.dataset.column), sign = order === "ascending" ? 1 : -1;
    const sorted = [...original].sort((a, b) => {
      const x = valueOf(a, column), y = valueOf(b, column);
      if (x === "" || y === "") return (x === "") - (y === "");  // what is not known stands last, whatever the order
      return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
    });
    body.append(...sorted);
  });

  document.getElementById("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    let shown = 0;
    for (const row of original) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    count.textContent = wanted ? `${shown} of ${original.length} layers` : "";
  });
}

function choose(node) {
  for (const element of document.querySelectorAll("[data-node]")) element.classList.remove("chosen");
  for (const element of document.querySelectorAll("[data-node]")) {
    if (element.dataset.node === node) element.classList.add("chosen");
  }
  const row = [...table.tBodies[0].rows].find((item) => item.dataset.node === node);
  const facts = document.getElementById("layer-facts"), charts = document.getElementById("layer-charts");
  document.getElementById("layer").hidden = false;
  const title = document.getElementById("layer-title");
  title.textContent = row.cells[0].textContent.trim();
  facts.replaceChildren();
  const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  [...row.cells].forEach((cell, number) => {
    const name = document.createElement("dt"), value = document.createElement("dd");
    name.textContent = titles[number];
    value.textContent = cell.textContent.trim() || "not known";
    if (number) facts.append(name, value);
  });
  for (const old of charts.children) drawn.delete(old);
  charts.replaceChildren();
  for (const spec of data.layers[node] || []) {
    const element = document.createElement("div");
    charts.append(element);
    embed(element, spec);
  }
  title.focus({ preventScroll: true });
  document.getElementById("layer").scrollIntoView({ behavior: reduced ? "auto" : "smooth", block: "nearest" });
}

document.addEventListener("click", (event) => {
  const element = event.target.closest("#table tbody button[data-node], .node.layer");
  if (element) choose(element.dataset.node);
});
document.addEventListener("keydown", (event) => {
  const element = event.target.closest && event.target.closest(".node.layer");
  if (element && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); choose(element.dataset.node); }
});
