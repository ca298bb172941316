// The page of bt dashboard: asks its own server for the state once a second, and draws it.
// Everything that comes from peers is put in as text, never as HTML.
"use strict";
const $ = id => document.getElementById(id);
const STATES = {training: "green", pulling: "sky", pinging: "sky", idle: "soft", done: "blue", finished: "blue",
                leaving: "purple", gone: "vermillion", "no answer": "vermillion"};
const LINES = ["blue", "vermillion", "green", "purple", "orange", "sky", "yellow"];
const FEW = 12, LABELLED = 40, GLOW_S = 4;
const LABEL = 60;  // pixels of a name beside its peer, at most
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
let state = null, names = [], chosen = null, what = "dice", filter = "all", sortBy = null;
let glows = [], seenEvents = new Set(), colours = {}, failures = 0, spots = [];

const make = (tag, text, cls) => {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (cls) e.className = cls;
  return e;
};
const css = name => colours[name] ??= getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const number = (v, digits) => v === null || v === undefined ? "–" : v.toFixed(digits);
const median = values => { const s = [...values].sort((a, b) => a - b); return s.length ? s[s.length >> 1] : null; };
const bytes = n => n === null ? "–" : n >= 1e9 ? (n / 1e9).toFixed(2) + " GB" : (n / 1e6).toFixed(n < 1e7 ? 1 : 0) + " MB";
const ago = s => s < 60 ? `${Math.round(s)} s` : s < 3600 ? `${Math.floor(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
const version = p => (p.version[0] ? p.version[0] + "." : "") + p.version[1];
const bad = p => p.state === "gone" || p.state === "no answer";
const asideBy = p => Object.keys(p.set_aside_by);

function canvas(id, ratio) {  // its context, in CSS pixels, cleared
  const c = $(id), w = c.clientWidth, h = Math.round(ratio(w)), d = devicePixelRatio || 1;
  if (c.width !== Math.round(w * d) || c.height !== Math.round(h * d)) { c.width = w * d; c.height = h * d; }
  c.style.height = h + "px";
  const x = c.getContext("2d");
  x.setTransform(d, 0, 0, d, 0, 0);
  x.clearRect(0, 0, w, h);
  x.font = "12px system-ui, 'DejaVu Sans', sans-serif";
  return [x, w, h];
}

// --- the network

function place(i, w, h) {
  const angle = 2 * Math.PI * i / names.length - Math.PI / 2, labelled = names.length <= LABELLED;
  const r = Math.min(h / 2 - (labelled ? 46 : 16), w / 2 - (labelled ? 25 + LABEL : 16));
  return [w / 2 + r * Math.cos(angle), h / 2 + r * Math.sin(angle), angle];
}
function edge(x, from, to, w, h, colour, alpha, width, moving) {
  const [ax, ay] = place(from, w, h), [bx, by] = place(to, w, h), bend = 0.35;
  if (chosen && names[from] !== chosen && names[to] !== chosen) alpha *= 0.2;
  const cx = w / 2 * bend + (ax + bx) / 2 * (1 - bend), cy = h / 2 * bend + (ay + by) / 2 * (1 - bend);
  x.globalAlpha = alpha; x.strokeStyle = colour; x.lineWidth = width;
  x.beginPath(); x.moveTo(ax, ay); x.quadraticCurveTo(cx, cy, bx, by); x.stroke();
  if (moving !== undefined) {  // a model on its way
    const t = moving, u = 1 - t;
    x.globalAlpha = Math.min(1, alpha * 2.4); x.fillStyle = colour; x.beginPath();
    x.arc(u * u * ax + 2 * u * t * cx + t * t * bx, u * u * ay + 2 * u * t * cy + t * t * by, width + 2, 0, 7); x.fill();
  }
  x.globalAlpha = 1;
}
function drawGraph() {
  const [x, w, h] = canvas("graph", w => Math.min(w, 560)), now = performance.now() / 1000;
  const index = new Map(names.map((n, i) => [n, i])), few = names.length <= FEW;
  if (few || chosen) names.forEach((name, to) => {
    if (few ? false : name !== chosen) return;
    (state.late[name] || []).forEach((late, from) => late !== null && edge(x, from, to, w, h, css("soft"), 0.22, 1));
  });
  glows = glows.filter(g => now - g.at < GLOW_S);
  for (const g of glows) {
    const age = (now - g.at) / GLOW_S;
    edge(x, g.from, g.to, w, h, css("orange"), 0.75 * (1 - age), few ? 3.5 : 1.8, still ? undefined : Math.min(1, age * 2.5));
  }
  let moving = 0;
  for (const name of names) for (const other of state.peers[name].pulling) if (index.has(other)) {
    moving++;
    edge(x, index.get(other), index.get(name), w, h, css("sky"), names.length > 100 ? 0.35 : 0.8, few ? 2.5 : 1.1, still ? undefined : (now * 0.8 + moving * 0.37) % 1);
  }
  spots = names.map((name, i) => {
    const p = state.peers[name], [px, py, angle] = place(i, w, h);
    const r = names.length > 100 ? 4 : names.length > LABELLED ? 6 : few ? 15 : 9;
    x.fillStyle = bad(p) ? css("card") : css(STATES[p.state] || "soft");
    x.strokeStyle = css(STATES[p.state] || "soft"); x.lineWidth = 2;
    x.beginPath(); x.arc(px, py, r, 0, 7); x.fill(); if (bad(p)) x.stroke();
    if (asideBy(p).length) { x.strokeStyle = css("yellow"); x.lineWidth = 3; x.beginPath(); x.arc(px, py, r + 3, 0, 7); x.stroke(); }
    if (name === chosen) { x.strokeStyle = css("ink"); x.lineWidth = 2; x.beginPath(); x.arc(px, py, r + 5, 0, 7); x.stroke(); }
    if (few) {
      x.fillStyle = bad(p) ? css("vermillion") : css("card"); x.textAlign = "center"; x.textBaseline = "middle"; x.fillText(version(p), px, py);
    }
    if (names.length <= LABELLED) {
      const lx = px + (r + 8) * Math.cos(angle), ly = py + (r + 10) * Math.sin(angle);
      x.fillStyle = css("ink"); x.textBaseline = "middle";
      x.textAlign = Math.abs(Math.cos(angle)) < 0.3 ? "center" : Math.cos(angle) > 0 ? "left" : "right";
      x.fillText(few ? name : name.slice(-6), lx, ly, LABEL);
    }
    return {name, x: px, y: py, r: r + 5};
  });
  return moving + glows.length > 0 && !still;
}
let animating = false;
function animate() {
  if (animating || !state) return;
  animating = true;
  let last = 0;
  const frame = t => {
    if (t - last < 40) return requestAnimationFrame(frame);
    last = t;
    if (drawGraph() && !document.hidden) requestAnimationFrame(frame); else animating = false;
  };
  requestAnimationFrame(frame);
}

// --- learning curves: peers choose the numbers, so nothing here may take as long as a number is large

const extent = (points, i) => points.reduce(([least, most], p) => [Math.min(least, p[i]), Math.max(most, p[i])], [Infinity, -Infinity]);
function stepOf(span) {  // at least 0.01, and round; at most six fit into the span
  const ten = Math.max(0.01, 10 ** Math.floor(Math.log10(span / 6)));
  return [1, 2, 5, 10].map(s => s * ten).find(s => span / s <= 6);
}
function bandOf(lines) {  // [version, low, median, high] of the middle 80 %, where at least three have told
  const told = new Map();
  for (const [v, y] of lines.flat()) told.has(v) ? told.get(v).push(y) : told.set(v, [y]);
  return [...told].filter(([, ys]) => ys.length >= 3).sort(([a], [b]) => a - b).map(([v, ys]) => {
    ys.sort((a, b) => a - b);
    return [v, ys[Math.floor(ys.length * 0.1)], median(ys), ys[Math.ceil(ys.length * 0.9) - 1]];
  });
}
function drawCurves() {
  const [x, w, h] = canvas("curves", w => Math.min(520, Math.max(260, w * 0.62)));
  const at = what === "dice" ? 2 : 1, left = 44, bottom = 34, few = names.length <= FEW;
  const lines = names.map(n => state.peers[n].curve.filter(c => c[at] !== null).map(c => [c[0], c[at]]));
  const all = lines.flat();
  if (!all.length) { x.fillStyle = css("soft"); x.fillText("nobody has told of a fine-tune yet", left, h / 2); $("lines").replaceChildren(); return; }
  const versions = extent(all, 0), most = Math.max(2, versions[1]), least = Math.min(1, versions[0]);
  let [low, high] = extent(all, 1);
  const pad = Math.max(0.02, (high - low) * 0.06); low = Math.max(0, low - pad); high = what === "dice" ? Math.min(1, high + pad) : high + pad;
  const right = few ? 110 : 16;
  const sx = v => left + (v - least) / (most - least) * (w - left - right), sy = v => 8 + (high - v) / (high - low) * (h - bottom - 8);
  x.fillStyle = css("soft"); x.textBaseline = "middle";
  const step = stepOf(high - low);
  for (let v = Math.ceil(low / step) * step; v <= high; v += step) {
    x.strokeStyle = css("grid"); x.lineWidth = 1; x.beginPath(); x.moveTo(left, sy(v)); x.lineTo(w - right, sy(v)); x.stroke();
    x.textAlign = "right"; x.fillText(v.toFixed(step < 0.1 ? 2 : 1), left - 7, sy(v));
  }
  const stride = Math.max(1, Math.ceil((most - least) / 10));
  x.textAlign = "center";
  for (let v = least; v <= most; v += stride) x.fillText(v, sx(v), h - bottom + 13);
  x.fillText("version (fine-tunes done)", (left + w - right) / 2, h - 6);
  const draw = (line, colour, width, alpha) => {
    x.globalAlpha = alpha; x.strokeStyle = colour; x.lineWidth = width; x.lineJoin = "round"; x.beginPath();
    line.forEach((p, i) => i ? x.lineTo(sx(p[0]), sy(p[1])) : x.moveTo(sx(p[0]), sy(p[1])));
    x.stroke();
    if (few && line.length) { x.fillStyle = colour; for (const p of line) { x.beginPath(); x.arc(sx(p[0]), sy(p[1]), 2.6, 0, 7); x.fill(); } }
    x.globalAlpha = 1;
  };
  if (few) {
    lines.forEach((line, i) => draw(line, css(LINES[i % LINES.length]), names[i] === chosen ? 4 : 2, chosen && names[i] !== chosen ? 0.35 : 1));
    const ends = lines.map((line, i) => ({i, y: line.length ? sy(line.at(-1)[1]) : null, x: line.length ? sx(line.at(-1)[0]) : 0})).filter(e => e.y !== null).sort((a, b) => a.y - b.y);
    let lowest = 0;
    for (const e of ends) {  // names beside the ends, not over each other
      const y = Math.max(e.y, lowest + 14); lowest = y;
      x.fillStyle = css(LINES[e.i % LINES.length]); x.textAlign = "left"; x.textBaseline = "middle";
      x.fillText(names[e.i].slice(-12), Math.max(e.x + 8, w - right + 6), y);
    }
    $("lines").replaceChildren();
    return;
  }
  lines.forEach(line => draw(line, css("soft"), 1, Math.min(0.3, 14 / names.length)));
  const band = bandOf(lines);
  x.globalAlpha = 0.2; x.fillStyle = css("blue"); x.beginPath();
  band.forEach((b, i) => i ? x.lineTo(sx(b[0]), sy(b[3])) : x.moveTo(sx(b[0]), sy(b[3])));
  [...band].reverse().forEach(b => x.lineTo(sx(b[0]), sy(b[1])));
  x.fill(); x.globalAlpha = 1;
  draw(band.map(b => [b[0], b[2]]), css("blue"), 3, 1);
  const items = [["blue", "median of those at that version, and the middle 80 %"], ["soft", "each peer"]];
  if (chosen) { draw(lines[names.indexOf(chosen)] || [], css("vermillion"), 3, 1); items.push(["vermillion", chosen]); }
  legend("lines", items);
}

// --- who merged whom, at which version

const lateColour = late => late === null ? "never" : late === 0 ? "blue" : late <= 2 ? "late" : late <= 5 ? "yellow" : "vermillion";
let cell = 0, offset = 0, above = 0;
function drawMatrix() {
  const n = names.length, few = n <= 16;
  offset = few ? 64 : n <= LABELLED ? 50 : 4;
  above = few ? 24 : offset;
  const size = w => cell = Math.min(few ? 84 : 99, (Math.min(w, 560) - offset) / n);
  const [x] = canvas("vectors", w => above + size(w) * n);
  const gap = few ? 2 : n <= LABELLED ? 1 : 0;
  x.textBaseline = "middle";
  names.forEach((name, row) => {
    const late = state.late[name], y = above + row * cell;
    names.forEach((other, column) => {
      const own = row === column;
      const value = late ? late[column] : null;
      x.fillStyle = own ? css("soft") : css(late ? lateColour(value) : "card");
      x.globalAlpha = own ? 0.35 : chosen && name !== chosen && other !== chosen ? 0.45 : 1;
      x.fillRect(offset + column * cell, y, cell - gap, cell - gap);
      x.globalAlpha = 1;
      if (few && cell > 22 && (own || (late && value !== null))) {
        const p = state.peers[other];
        x.textAlign = "center"; x.fillStyle = own ? css("ink") : ["yellow", "late", "never"].includes(lateColour(value)) ? "#1f2328" : "#ffffff";
        x.fillText(own ? version(p) : p.version[1] - value, offset + (column + 0.5) * cell - gap / 2, y + cell / 2);
      }
    });
    if (n <= LABELLED) {
      x.fillStyle = css(name === chosen ? "ink" : "soft"); x.textAlign = "right"; x.fillText(name.slice(-8), offset - 6, y + cell / 2);
      x.save(); x.translate(offset + (row + 0.5) * cell, above - 6);
      if (!few) x.rotate(-Math.PI / 2);
      x.textAlign = few ? "center" : "left"; x.fillText(name.slice(few ? -8 : -6), 0, few ? -4 : 0); x.restore();
    }
  });
  $("matrixabout").textContent = few ? "row: who merged; the version it has of whom" : "row: who merged; column: whom";
}

// --- peers, events, tiles

const urgency = p => !p.asked ? 3 : bad(p) ? 0 : asideBy(p).length ? 1 : 2;
const COLUMNS = [
  ["peer", 0, (n, p) => n, (n, p) => n], ["state", 0, (n, p) => p.state, (n, p) => p.state],
  ["version", 0, (n, p) => p.version[1], (n, p) => p],
  ["behind", 1, (n, p) => -(p.versions_behind ?? -1), (n, p) => number(p.versions_behind, 1)],
  ["Dice", 1, (n, p) => p.dice ?? 2, (n, p) => number(p.dice, 3)], ["loss", 1, (n, p) => -(p.loss ?? -1), (n, p) => number(p.loss, 3)],
  ["merges", 1, (n, p) => p.merges ?? -1, (n, p) => p.merges ?? "–"], ["in", 1, (n, p) => -(p.bytes_in ?? -1), (n, p) => bytes(p.bytes_in)],
  ["MB/s", 1, (n, p) => -(p.bytes_in_per_s ?? -1), (n, p) => p.bytes_in_per_s ? (p.bytes_in_per_s / 1e6).toFixed(1) : ""],
];
function note(p) {
  if (p.no_answer) return p.no_answer;
  const by = asideBy(p);
  if (by.length) return `set aside by ${by.length > 2 ? by.length + " peers" : by.join(" and ")} for ${p.set_aside_by[by[0]][0]} s: ${p.set_aside_by[by[0]][1]}`;
  if (p.pulling.length) return `pulls ${p.pulling.join(", ")}`;
  const aside = Object.keys(p.set_aside);
  return aside.length ? `has set aside ${aside.join(", ")}` : "";
}
function drawPeers() {
  const head = document.querySelector("#peers thead tr");
  if (!head.children.length) COLUMNS.concat([["", 0]]).forEach(([title, right], i) => {
    const th = make("th", title, right ? "n" : ""); if (i < COLUMNS.length) th.onclick = () => { sortBy = sortBy === i ? null : i; drawPeers(); };
    head.append(th);
  });
  const order = [...names].sort((a, b) => {
    const p = state.peers[a], q = state.peers[b];
    if (sortBy === null) return urgency(p) - urgency(q) || (names.length > FEW ? (q.versions_behind ?? 0) - (p.versions_behind ?? 0) : 0) || (a < b ? -1 : 1);
    const u = COLUMNS[sortBy][2](a, p), v = COLUMNS[sortBy][2](b, q);
    return u < v ? -1 : u > v ? 1 : 0;
  });
  document.querySelector("#peers tbody").replaceChildren(...order.map(name => {
    const p = state.peers[name], row = make("tr", undefined, name === chosen ? "chosen" : "");
    for (const [title, right, , show] of COLUMNS) {
      const td = make("td", undefined, right ? "n" : "");
      if (title === "version") {
        const bar = make("span", undefined, "bar"), fill = make("i"); fill.style.width = (p.rounds ? Math.min(100, 100 * p.version[1] / p.rounds) : 0) + "%";
        bar.append(fill); td.append(bar, version(p) + (p.rounds ? "/" + p.rounds : ""));
      } else td.textContent = show(name, p);
      if (title === "state") td.style.color = css(STATES[p.state] || "soft");
      row.append(td);
    }
    const words = make("td", undefined, "note");
    words.append(make("div", note(p))); words.title = note(p);
    row.append(words);
    row.onclick = () => choose(name);
    return row;
  }));
}
const WORDS = {start: e => `starts at ${e.text}`, merge: e => `merged ${e.about} ${e.text}`, fit: e => `made ${e.text}`, reject: e => `set ${e.about ?? "a model"} aside: ${e.text}`,
               gone: e => `lost ${e.about}: ${e.text}`, limit: e => `answers ${e.about} no more often: ${e.text}`, end: e => `ends: ${e.text}`};
const PROBLEMS = ["reject", "gone", "limit"];
function drawEvents() {
  const shown = state.events.filter(e => (filter === "all" || PROBLEMS.includes(e.event)) && (!chosen || e.peer === chosen || e.about === chosen)).slice(-150).reverse();
  $("events").replaceChildren(...shown.map(e => {
    const li = make("li"), words = make("span", undefined, PROBLEMS.includes(e.event) ? "problem" : "");
    words.append(make("b", e.peer), " " + (WORDS[e.event] || (x => x.event))(e));
    li.append(make("time", ago(e.seconds_ago) + " ago"), words);
    return li;
  }));
}
function drawTiles() {
  const peers = names.map(n => state.peers[n]).filter(p => p.asked), more = names.length - peers.length, there = peers.filter(p => !bad(p));
  const counts = peers.map(p => p.version[1]), rounds = Math.max(0, ...peers.map(p => p.rounds || 0));
  const dice = peers.map(p => p.dice).filter(v => v !== null), behind = peers.map(p => p.versions_behind).filter(v => v !== null);
  const rates = peers.map(p => p.bytes_in_per_s).filter(v => v !== null), aside = peers.filter(p => asideBy(p).length);
  const range = (v, d) => v.length ? `${Math.min(...v).toFixed(d)} to ${Math.max(...v).toFixed(d)}` : "";
  const tiles = [
    [`${there.length} / ${peers.length}`, "peers up or finished" + (more ? `; they tell of ${more} more` : ""), there.length < peers.length],
    [number(median(counts), 0) + (rounds ? ` / ${rounds}` : ""), `version, median; ${range(counts, 0)}`],
    [number(median(dice), 3), `Dice, median; ${range(dice, 3)}`],
    [number(median(behind), 1), "versions behind, median" + (behind.length ? `; at most ${Math.max(...behind).toFixed(1)}` : "")],
    [rates.length ? (rates.reduce((a, b) => a + b, 0) / 1e6).toFixed(1) + " MB/s" : "–", "now; " + bytes(peers.reduce((a, p) => a + (p.bytes_in || 0), 0)) + " so far"],
    [aside.length, "set aside by others", aside.length > 0],
  ];
  $("tiles").replaceChildren(...tiles.map(([value, about, alarm]) => { const t = make("div", undefined, alarm ? "tile bad" : "tile"); t.append(make("b", value), make("span", about, "soft")); return t; }));
}
function legend(id, items) {
  $(id).replaceChildren(...items.map(([colour, text]) => { const s = make("span"), i = make("i"); i.style.background = colour.startsWith("#") ? colour : css(colour); s.append(i, text); return s; }));
}

// --- all of it

function draw() {
  if (!state) return;
  drawTiles(); drawCurves(); drawMatrix(); drawPeers(); drawEvents(); drawGraph(); animate();
  legend("states", Object.entries(STATES).filter(([s]) => names.some(n => state.peers[n].state === s)).map(([s, c]) => [c, `${s} ${names.filter(n => state.peers[n].state === s).length}`])
    .concat(names.some(n => asideBy(state.peers[n]).length) ? [["yellow", "ring: set aside"]] : [], [["sky", "line: being pulled"], ["orange", "line: just merged"]]));
  legend("lags", [["blue", "up to date"], ["late", "1–2 behind"], ["yellow", "3–5"], ["vermillion", "more"], ["never", "never merged"]]);
}
function choose(name) { chosen = chosen === name ? null : name; draw(); }
function take(next) {
  const first = state === null, index = new Map(Object.keys(next.peers).map((n, i) => [n, i])), now = performance.now() / 1000;
  for (const e of next.events) {
    if (e.event !== "merge" || seenEvents.has(e.id)) continue;
    seenEvents.add(e.id);
    if (!first && index.has(e.about)) glows.push({from: index.get(e.about), to: index.get(e.peer), at: now - Math.random() * 0.5});
  }
  if (first) for (const e of next.events) if (e.event === "merge" && e.seconds_ago < 6 && index.has(e.about)) glows.push({from: index.get(e.about), to: index.get(e.peer), at: now - Math.random() * 2});
  if (seenEvents.size > 5000) seenEvents = new Set(next.events.map(e => e.id));
  state = next; names = Object.keys(state.peers);
  $("label").textContent = state.label; $("simulated").hidden = !state.simulated; document.title = `BrainTorrent: ${state.label}`;
  if (!names.includes(chosen)) chosen = null;
  draw();
  if (state.slices) showSlices(state.slices);
}
async function poll() {
  try {
    const answer = await fetch("state", {cache: "no-store"});
    if (!answer.ok) throw new Error(answer.status);
    const next = await answer.json();
    failures = 0;
    if (next.peers && Object.keys(next.peers).length) { take(next); $("state").textContent = next.problem || "live"; } else $("state").textContent = next.problem || "asking …";
    $("state").className = next.problem ? "lost" : "";
  } catch { if (++failures > 1) { $("state").textContent = "bt dashboard does not answer: is it still running?"; $("state").className = "lost"; } }
  setTimeout(poll, document.hidden ? 5000 : 1000);
}

// --- slices

let shownSlices = null;
function showSlices(s) {
  $("slices").hidden = false;
  $("sliceabout").textContent = s.about;
  legend("structures", s.structures || []);
  if (s.number === shownSlices || !s.planes) return;
  const fresh = shownSlices === null;
  shownSlices = s.number;
  const scale = Math.min(380 / Math.max(...s.planes.map(p => p.mm[1])), ($("planes").clientWidth - 30) / s.planes.reduce((a, p) => a + p.mm[0], 0));
  if (fresh) $("planes").style.gridTemplateColumns = s.planes.map(p => `minmax(110px, ${Math.round(p.mm[0] * scale)}px)`).join(" ");
  if (fresh) $("planes").replaceChildren(...s.planes.map(plane => {
    const f = make("figure"), img = make("img"), slider = make("input"), caption = make("figcaption", `${plane.name}: ${plane.ends[0]} is left, ${plane.ends[2]} is up`, "soft");
    slider.type = "range"; slider.min = 0; slider.max = plane.slices - 1; slider.value = plane.at; slider.setAttribute("aria-label", plane.name + " slice");
    img.alt = `${plane.name} slice with structures in colour`;
    img.refresh = () => { img.src = `slice/${shownSlices}/${plane.name}/${slider.value}/${$("overlay").value}.png`; };
    slider.oninput = img.refresh; img.style.aspectRatio = `${plane.mm[0]} / ${plane.mm[1]}`;
    f.append(img, slider, caption);
    return f;
  }));
  document.querySelectorAll("#planes img").forEach(i => i.refresh());
}
$("overlay").onchange = () => document.querySelectorAll("#planes img").forEach(i => i.refresh());

// --- what a person does

function tip(event, text) {
  const t = $("tip");
  t.style.display = text ? "block" : "none";
  if (text) { t.textContent = text; t.style.left = Math.min(event.clientX + 14, innerWidth - 330) + "px"; t.style.top = event.clientY + 14 + "px"; }
}
const near = event => { const b = $("graph").getBoundingClientRect(), x = event.clientX - b.left, y = event.clientY - b.top; return spots.find(s => Math.hypot(s.x - x, s.y - y) <= s.r + 2); };
const about = name => { const p = state.peers[name]; return `${name}: ${p.state}, version ${version(p)}${p.rounds ? " of " + p.rounds : ""}\nDice ${number(p.dice, 3)}, ${number(p.versions_behind, 1)} versions behind\n${note(p)}`.trim(); };
$("graph").onmousemove = e => { const s = near(e); tip(e, s && about(s.name)); };
$("graph").onclick = e => { const s = near(e); if (s || chosen) choose(s ? s.name : chosen); };
$("graph").onmouseleave = $("vectors").onmouseleave = e => tip(e, "");
const at = event => { const b = $("vectors").getBoundingClientRect(); return [names[Math.floor((event.clientY - b.top - above) / cell)], names[Math.floor((event.clientX - b.left - offset) / cell)]]; };
$("vectors").onmousemove = e => {
  const [who, whom] = state ? at(e) : [];
  if (!who || !whom) return tip(e, "");
  if (who === whom) return tip(e, about(who));
  const late = state.late[who]?.[names.indexOf(whom)], p = state.peers[whom];
  tip(e, !state.late[who] ? `${who} has not told` : late === null ? `${who} never merged ${whom}` : `${who} has merged version ${p.version[1] - late} of ${whom}; newest ${version(p)}`);
};
$("vectors").onclick = e => { const [who] = state ? at(e) : []; if (who) choose(who); };
document.querySelectorAll("[data-what]").forEach(b => b.onclick = () => { what = b.dataset.what; press("[data-what]", b); drawCurves(); });
document.querySelectorAll("[data-filter]").forEach(b => b.onclick = () => { filter = b.dataset.filter; press("[data-filter]", b); drawEvents(); });
const press = (all, one) => document.querySelectorAll(all).forEach(b => b.setAttribute("aria-pressed", b === one));
function theme(name) { document.documentElement.dataset.theme = name; colours = {}; draw(); }
$("theme").onclick = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
addEventListener("resize", draw);
poll();
