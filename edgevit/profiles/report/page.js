"use strict";
// Sorting, filters, themes and plots. The page reads without any of it: all numbers are in the tables.

const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const table = $("rows");

// The table. Rows move within their own group only: groups are not ranked against each other.

let order = { column: "", descending: false };

function valueOf(row, column) {
  const cell = row.querySelector(`[data-col="${column}"]`);
  const raw = cell ? cell.dataset.order : undefined;
  if (raw === undefined || raw === "") return null;
  return column === "name" ? raw.toLowerCase() : Number(raw);
}

function compare(a, b) {
  const [x, y] = [valueOf(a, order.column), valueOf(b, order.column)];
  if (x === null || y === null) return (x === null) - (y === null); // what is missing comes last either way
  const sign = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
  return order.descending ? -sign : sign;
}

function sortBy(column, descending) {
  order = { column, descending };
  for (const body of table.tBodies) {
    const rows = [...body.querySelectorAll("tr.row")];
    const before = (a, b) => Number(a.dataset.place) - Number(b.dataset.place);
    rows.sort(column ? (a, b) => compare(a, b) || before(a, b) : before);
    body.append(...rows);
  }
  for (const head of table.tHead.querySelectorAll("th")) {
    const here = head.dataset.col === column;
    head.setAttribute("aria-sort", here ? (descending ? "descending" : "ascending") : "none");
  }
  $("order").value = column;
}

function filter() {
  const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [verdict, target] = [$("verdict").value, $("target").value];
  let seen = 0, total = 0;
  for (const body of table.tBodies) {
    let here = 0;
    for (const row of body.querySelectorAll("tr.row")) {
      const fits =
        words.every((word) => row.dataset.words.includes(word)) &&
        (!verdict || row.dataset.verdict === verdict) &&
        (!target || row.dataset.target === target);
      row.hidden = !fits;
      here += fits;
      total += 1;
    }
    body.hidden = here === 0;
    seen += here;
  }
  const rows = total === 1 ? "row" : "rows";
  $("count").textContent = seen === total ? `${total} ${rows}` : `${seen} of ${total} ${rows}`;
}

function startTable() {
  [...table.querySelectorAll("tr.row")].forEach((row, place) => (row.dataset.place = place));
  for (const button of table.tHead.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const column = button.dataset.sort;
      sortBy(column, order.column === column && !order.descending);
    });
  }
  $("order").addEventListener("change", (event) => sortBy(event.target.value, false));
  for (const id of ["words", "verdict", "target"]) $(id).addEventListener("input", filter);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("controls").hidden = false;
}

// Themes. Plots take their colours from the page's own properties, so that there is one palette.

const dark = matchMedia("(prefers-color-scheme: dark)");
const printing = matchMedia("print");
const probe = document.createElement("span");

function isDark() {
  const chosen = root.dataset.theme;
  return !printing.matches && (chosen ? chosen === "dark" : dark.matches);
}

function remembered(value) {
  try {
    if (value !== undefined) localStorage.setItem("edgevit-report-theme", value);
    return localStorage.getItem("edgevit-report-theme");
  } catch {
    return null; // a page opened from a file may have no storage
  }
}

function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/** A copy of a figure's part with "@name" in every colour replaced by that property's value. */
function paint(part) {
  if (Array.isArray(part)) return part.map(paint);
  if (part === null || typeof part !== "object") return part;
  return Object.fromEntries(
    Object.entries(part).map(([key, value]) => {
      const named = /color$/.test(key) && typeof value === "string" && value[0] === "@";
      return [key, named ? colour(value.slice(1)) : paint(value)];
    }),
  );
}

function nameTheme() {
  $("theme-name").textContent = isDark() ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
}

function startThemes() {
  document.body.append(probe);
  probe.hidden = true;
  const before = remembered();
  if (before === "dark" || before === "light") root.dataset.theme = before;
  $("theme").hidden = false;
  nameTheme();
  $("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered(root.dataset.theme);
    nameTheme();
    redraw();
  });
  dark.addEventListener("change", () => { nameTheme(); redraw(); });
}

// Plots. Drawn when they come near the screen, and all of them before printing.

const figures = JSON.parse($("figures").textContent);
const CONFIG = { displaylogo: false, responsive: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
const PRINT_WIDTH = 330, PRINT_WIDE = 690; // CSS px on A4
const drawn = new Set();

function axisOf(given) {
  const line = colour("grid");
  const own = { gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, automargin: true };
  const title = { ...given.title, standoff: 8 };
  return { ...own, ...given, title };
}

function layoutOf(figure, width) {
  const given = paint(figure.layout);
  const narrow = width < 480;
  const ink = colour("ink"), paper = colour("paper");
  const legends = given.showlegend ? { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", ...given.legend } : {};
  return {
    ...given,
    width,
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 48, r: 16, t: 12, b: 44, ...given.margin },
    xaxis: axisOf(given.xaxis),
    yaxis: axisOf(given.yaxis),
    legend: legends,
    hoverlabel: { bgcolor: paper, bordercolor: colour("muted"), font: { color: ink }, namelength: -1 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: ink },
    dragmode: narrow ? false : "zoom", // a finger on a phone scrolls the page
  };
}

function widthOf(place) {
  if (!printing.matches) return place.clientWidth;
  return place.closest(".wide") ? PRINT_WIDE : PRINT_WIDTH;
}

function draw(place) {
  const figure = figures[place.dataset.figure];
  drawn.add(place);
  place.dataset.drawn = place.dataset.figure;
  place.dataset.width = widthOf(place);
  return Plotly.react(place, paint(figure.data), layoutOf(figure, widthOf(place)), CONFIG);
}

function redraw(all = false) {
  if (typeof Plotly === "undefined") return;
  for (const place of document.querySelectorAll(".plot")) if (all || drawn.has(place)) draw(place);
}

async function unpack() {
  const packed = Uint8Array.from(atob($("library").textContent), (char) => char.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  if (typeof Plotly === "undefined") throw new Error("the plotting library did not start");
}

function startPlots() {
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        near.unobserve(entry.target);
        draw(entry.target);
      }
    },
    { rootMargin: "600px" },
  );
  const sizes = new ResizeObserver((entries) => {
    if (printing.matches) return;
    for (const { target } of entries) {
      if (drawn.has(target) && Math.abs(target.clientWidth - Number(target.dataset.width)) > 1) draw(target);
    }
  });
  for (const place of document.querySelectorAll(".plot")) {
    near.observe(place);
    sizes.observe(place);
  }
  for (const button of document.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => {
      const whole = button.closest("figure"), place = whole.querySelector(".plot");
      for (const other of whole.querySelectorAll("[data-show]")) other.setAttribute("aria-pressed", other === button);
      place.dataset.figure = button.dataset.show;
      place.setAttribute("aria-label", button.dataset.said);
      draw(place);
    });
  }
  printing.addEventListener("change", () => redraw(true));
  root.dataset.plots = "ready";
}

startTable();
startThemes();
addEventListener("beforeprint", () => document.querySelectorAll("details.origin").forEach((part) => (part.open = true)));
unpack().then(startPlots, (error) => {
  $("no-plots").textContent = `The plots cannot be drawn here: ${error.message}. Every number is in the tables.`;
  $("no-plots").hidden = false;
});
