"use strict";
// Live figures over Server-Sent Events, and one image at a time to the model. All text is set as text, never as markup.

const $ = (id) => document.getElementById(id);
const root = document.documentElement;

function tag(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "share") made.style.setProperty("--share", value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function setText(place, text) {
  if (place.textContent !== text) place.textContent = text; // unchanged text is not read out again
}

function ms(value) {
  if (value === null || value === undefined) return "–";
  return `${value >= 100 ? Math.round(value) : value.toPrecision(value < 1 ? 2 : 3)}\u00a0ms`;
}

function bytes(value) {
  if (value === null || value === undefined) return "–";
  for (const [bound, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (value >= bound) return `${(value / bound).toPrecision(3)}\u00a0${unit}`;
  }
  return `${value} B`;
}

const badge = (kind, words) => tag("span", { class: `badge ${kind}` }, words);
const KINDS = ["network", "queue", "compute"];
const total = (one) => KINDS.reduce((sum, kind) => sum + (one[`${kind}_ms`] ?? 0), 0);

/** A bar of network, queue and compute; its length is its share of `most`. */
function split(one, most) {
  const bar = tag("div", { class: "split", "aria-hidden": "true" });
  for (const kind of KINDS) bar.append(tag("span", { class: kind, share: most ? (one[`${kind}_ms`] ?? 0) / most : 0 }));
  return bar;
}

const inWords = (one) => KINDS.map((kind) => `${kind} ${ms(one[`${kind}_ms`])}`).join(" · ");

// Nodes

function partOf(part, classes, most) {
  const known = part.compute_ms !== null;
  const box = tag("div", { class: "part" });
  const waiting = part.queued ? ` · ${part.queued} waiting` : "";
  box.append(
    tag("div", { class: "line" }, tag("strong", {}, part.part), tag("span", { class: "figure" }, known ? ms(total(part)) : "not asked yet")),
    split(part, most),
    tag("p", { class: "small" }, (known ? inWords(part) : "no answers from here so far") + waiting),
  );
  if (classes) box.append(tag("p", { class: "small" }, `classes ${classes.join(", ")}`));
  return box;
}

function cardOf(node, classes, most) {
  const card = tag("li", { class: `card ${node.state}`, "data-node": node.node, "data-state": node.state });
  card.append(tag("div", { class: "head" }, tag("h3", {}, node.node), badge(node.state, node.state)));
  const network = node.parts.map((part) => part.network_ms).filter((value) => value !== null);
  if (state.where === "fleet") {
    const far = node.state === "gone" ? "no link" : network.length ? ms(Math.max(...network)) : "linked";
    card.append(tag("p", { class: "wire" }, "this server ", tag("i"), far, tag("i"), ` ${node.node}`));
  }
  const facts = [node.machine, ...Object.entries(node.labels).map(([key, value]) => `${key}=${value}`)];
  if (node.memory_bytes !== null) facts.push(`${bytes(node.free_bytes)} of ${bytes(node.memory_bytes)} free`);
  if (node.load !== null) facts.push(`load\u00a0${node.load.toFixed(1)} per\u00a0core`);
  card.append(tag("p", { class: "small" }, facts.filter(Boolean).join(" · ")));
  for (const part of node.parts) card.append(partOf(part, classes[part.part], most));
  if (!node.parts.length) card.append(tag("p", { class: "note" }, node.state === "gone" ? "answers nothing" : "holds no sub-model of this one"));
  return card;
}

const drawn = new Map(); // node -> what its card was made from

function drawNodes(now) {
  const classes = Object.fromEntries(now.parts.map((part) => [part.part, part.classes]));
  const most = Math.max(0, ...now.nodes.flatMap((node) => node.parts.map(total)));
  const cards = $("cards");
  const seen = new Set(now.nodes.map((node) => node.node));
  for (const card of [...cards.children]) if (!seen.has(card.dataset.node)) card.remove();
  now.nodes.forEach((node, place) => {
    const made = JSON.stringify([node, most, classes]);
    const before = [...cards.children].find((card) => card.dataset.node === node.node);
    if (before && drawn.get(node.node) === made) return;
    drawn.set(node.node, made);
    const card = cardOf(node, classes, most);
    if (before) before.replaceWith(card);
    else cards.insertBefore(card, cards.children[place] ?? null);
  });
}

function drawParts(now) {
  const rows = now.parts.map((part) =>
    tag("tr", { "data-part": part.part },
      tag("th", { scope: "row" }, part.part),
      tag("td", {}, part.classes.join(", ")),
      part.nodes.length ? tag("td", {}, part.nodes.join(", ")) : tag("td", {}, badge("missing", "missing"))),
  );
  $("part-rows").replaceChildren(...rows);
  $("parts").hidden = !now.parts.length;
}

// Events

const WORDS = { joined: "joined", gone: "gone", ready: "ready", withdrawn: "withdrawn", silent: "silent", back: "back", degraded: "degraded", whole: "whole" };
const LOOKS = { joined: "up", ready: "up", back: "up", whole: "whole", gone: "gone", withdrawn: "silent", silent: "silent", degraded: "degraded" };
const ALOUD = ["joined", "gone", "silent", "back", "degraded", "whole"];
let newest = null;

function drawEvents(events) {
  const last = events.length ? events[events.length - 1].id : 0;
  if (newest === last) return;
  const fresh = newest === null ? [] : events.filter((one) => one.id > newest && ALOUD.includes(one.kind));
  newest = last;
  const list = [...events].reverse().map((one) => {
    const at = new Date(one.at * 1000);
    const time = tag("time", { datetime: at.toISOString() }, at.toLocaleTimeString([], { hour12: false }));
    return tag("li", {}, time, badge(LOOKS[one.kind] ?? "", WORDS[one.kind] ?? one.kind), tag("span", {}, one.said));
  });
  $("event-list").replaceChildren(...list);
  $("no-events").hidden = list.length > 0;
  if (fresh.length) setText($("said"), fresh.map((one) => one.said).join("; "));
}

// All of it

let state = { where: "embedded" };

function draw(now) {
  state = now;
  document.title = `${now.model} · edgevit`;
  setText($("model"), now.model);
  setText($("about"), `revision ${now.version} · ${now.where === "fleet" ? "answered by the nodes of a fleet" : "answered by this process"}`);
  const up = now.nodes.filter((node) => node.state !== "gone").length;
  const there = now.parts.filter((part) => part.nodes.length).length;
  setText($("n-nodes"), `${up}/${now.nodes.length}`);
  setText($("n-parts"), now.parts.length ? `${there}/${now.parts.length}` : "1/1");
  setText($("n-rate"), now.rate.toFixed(1));
  setText($("n-p50"), ms(now.p50_ms));
  setText($("n-degraded"), String(now.degraded));
  setText($("w-degraded"), `degraded of ${now.answered} answers` + (now.refused ? `, ${now.refused} refused` : ""));
  $("n-nodes").parentElement.classList.toggle("warn", up < now.nodes.length);
  $("n-parts").parentElement.classList.toggle("warn", there < now.parts.length);
  $("try").hidden = !now.takes_images;
  drawNodes(now);
  drawParts(now);
  drawEvents(now.events);
  root.dataset.live = "yes";
}

function linked(kind, words) {
  $("link").className = `badge ${kind}`;
  setText($("link"), words);
}

// The token of a gateway that others than its user look at: /#TOKEN. Kept by this page alone, in this tab.
function token() {
  if (location.hash.length > 1) {
    sessionStorage.setItem("token", location.hash.slice(1));
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token") ?? "";
}

function startLive() {
  const stream = new EventSource(token() ? `/events?token=${encodeURIComponent(token())}` : "/events");
  stream.onopen = () => linked("up", "live");
  stream.onmessage = (message) => draw(JSON.parse(message.data));
  stream.onerror = () => {
    linked("lost", stream.readyState === EventSource.CLOSED ? "no connection" : "reconnecting");
    if (stream.readyState === EventSource.CLOSED) setTimeout(startLive, 3000);
  };
}

// One image

const MAX_BYTES = 64 * 2 ** 20;
let turn = 0;

function refused(words) {
  $("answer").replaceChildren(tag("p", { class: "verdict" }, badge("failed", "no answer"), tag("span", {}, words)));
}

function answerOf(found) {
  const classes = (found.top || []).map((one) =>
    tag("li", {}, tag("span", {}, one.label), tag("span", { class: "share", share: one.probability, "aria-hidden": "true" }), tag("span", { class: "figure" }, `${(one.probability * 100).toFixed(1)} %`)));
  const most = Math.max(0, ...found.timings.map(total));
  const answered = found.timings.map((one) =>
    tag("tr", {}, tag("th", { scope: "row" }, one.part), tag("td", {}, one.node), tag("td", { class: "bars" }, split(one, most)), tag("td", { class: "figure" }, ms(total(one)))));
  const gone = found.missing.map((one) =>
    tag("tr", {}, tag("th", { scope: "row" }, one.part), tag("td", {}, badge("missing", "missing")), tag("td", { colspan: "2" }, `${one.reason}; classes ${one.classes.join(", ")}`)));
  const place = (row) => row.firstChild.textContent;
  const rows = [...answered, ...gone].sort((a, b) => place(a).localeCompare(place(b), "en", { numeric: true }));
  const head = tag("thead", {}, tag("tr", {}, ...["sub-model", "answered by", "network, queue, compute", ""].map((words) => tag("th", { scope: "col" }, words))));
  const verdict = found.degraded ? badge("degraded", "degraded") : badge("whole", "whole");
  return [
    tag("p", { class: "verdict" }, verdict, tag("span", {}, `${found.said} in ${ms(found.latency_ms)}`)),
    found.top ? tag("ol", { class: "classes", "aria-label": "Best classes" }, ...classes) : tag("p", {}, found.words),
    tag("div", { class: "scroll" }, tag("table", { class: "timings" }, head, tag("tbody", {}, ...rows))),
  ];
}

// The answer drawn, in place of the image that was asked about.
async function showDrawn(path, file, headers, mine) {
  const response = await fetch(`${path}/picture`, { method: "POST", body: file, headers });
  if (!response.ok) return;
  const drawn = await response.blob();
  if (mine !== turn) return;
  const preview = $("preview");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(drawn);
  preview.alt = "The answer as a picture";
  preview.hidden = false;
}

async function tryImage(file) {
  if (!file) return;
  const mine = (turn += 1);
  const preview = $("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = file.name ? `The chosen image, ${file.name}` : "The chosen image";
  preview.hidden = false;
  preview.onerror = () => (preview.hidden = true); // what the browser cannot show, the server may still read
  if (file.size > MAX_BYTES) return refused("the file is larger than 64 MB");
  setText($("drop-words"), "Drop another, paste one, or");
  try {
    const path = `/v2/models/${encodeURIComponent(state.model)}`;
    const headers = { "Content-Type": "application/octet-stream" };
    if (token()) headers.Authorization = `Bearer ${token()}`;
    const response = await fetch(`${path}/predict`, { method: "POST", body: file, headers });
    const found = await response.json();
    if (mine !== turn) return; // a newer image was chosen meanwhile
    if (!response.ok) return refused(found.error);
    $("answer").replaceChildren(...answerOf(found));
    if (state.draws) await showDrawn(path, file, headers, mine);
  } catch {
    if (mine === turn) refused("the server cannot be reached");
  }
}

function startTrying() {
  const drop = $("drop");
  $("choose").addEventListener("click", () => $("file").click());
  $("file").tabIndex = -1; // the button is its keyboard way in
  $("file").addEventListener("change", (event) => {
    tryImage(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  drop.addEventListener("dragleave", (event) => { if (!drop.contains(event.relatedTarget)) drop.classList.remove("over"); });
  for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault()); // beside the zone: do not leave the page
  drop.addEventListener("drop", (event) => { drop.classList.remove("over"); tryImage(event.dataTransfer.files[0]); });
  addEventListener("paste", (event) => tryImage([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
}

// Themes

const dark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
}

function nameTheme() {
  setText($("theme-name"), isDark() ? "Light" : "Dark");
  $("theme").setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
}

function startThemes() {
  const before = localStorage.getItem("edgevit-theme");
  if (before === "dark" || before === "light") root.dataset.theme = before;
  nameTheme();
  $("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("edgevit-theme", root.dataset.theme);
    nameTheme();
  });
  dark.addEventListener("change", nameTheme);
}

startThemes();
startTrying();
startLive();
