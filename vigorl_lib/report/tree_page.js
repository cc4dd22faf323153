"use strict";
// Draws the tree of the page's data: an overview on a canvas, a list that holds only the rows in sight, and the
// details of one node. Texts come from models and data sets, so they are set as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const nodes = data.nodes.map((node, index) => ({ ...node, index, children: [], depth: 0, folded: false }));
for (const node of nodes) {
  if (node.parent === null) continue;
  const parent = nodes[node.parent];
  parent.children.push(node);
  node.depth = parent.depth + 1;
}
const list = document.getElementById("list"), space = document.getElementById("space");
const detail = document.getElementById("detail"), map = document.getElementById("map");
const ROW = 30, INDENT = 16;
let rows = [], chosen = nodes[0];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") made.style.cssText = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const number = (value) => value.toFixed(2);

function path(node) {
  const found = [];
  for (let at = node; at; at = at.parent === null ? null : nodes[at.parent]) found.unshift(at);
  return found;
}

// The list

function flatten() {
  rows = [];
  const open = [nodes[0]];
  while (open.length) {
    const node = open.pop();
    node.row = rows.push(node) - 1;
    if (!node.folded) for (let k = node.children.length - 1; k >= 0; k--) open.push(node.children[k]);
  }
  space.style.height = `${rows.length * ROW}px`;
}

function summary(node) {
  if (!node.turn) return "the question";
  const { action, says, thought } = node.turn;
  const does = { zoom: `zooms to ${says}`, answer: `answers ${says}`, malformed: `malformed, ${says}` }[action];
  return does ? `${does}. ${thought}` : thought;
}

function row(node) {
  const sign = node.children.length ? (node.folded ? "▸" : "▾") : "";
  const siblings = node.parent === null ? [node] : nodes[node.parent].children;
  const made = element("div", {
    class: node.best ? "row best" : "row", role: "treeitem", id: `row-${node.index}`, "data-index": node.index,
    "aria-level": node.depth + 1, "aria-selected": node === chosen,
    "aria-setsize": siblings.length, "aria-posinset": siblings.indexOf(node) + 1,
    "aria-label": `node ${node.index}, ${node.visits} visits, value ${number(node.value)}: ${summary(node)}`,
    style: `top:${node.row * ROW}px;padding-left:${10 + node.depth * INDENT}px`,
  });
  if (node.children.length) made.setAttribute("aria-expanded", !node.folded);
  made.append(
    element("span", { class: "fold" }, sign),
    element("span", { class: "name" }, String(node.index)),
    element("span", { class: "visits" }, `${node.visits}×`),
    element("span", { class: "value" }, element("i", { style: `width:${100 * node.value}%` })),
    element("span", { class: "visits" }, number(node.value)),
    element("span", { class: node.error ? "text error" : "text" }, node.error || summary(node)),
  );
  return made;
}

function paintRows() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(rows.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
  const shown = rows.slice(first, last);
  // The chosen row stays in the document, since the list names it as the active one.
  if (chosen.row !== undefined && rows[chosen.row] === chosen && !shown.includes(chosen)) shown.push(chosen);
  space.replaceChildren(...shown.map(row));
  list.setAttribute("aria-activedescendant", `row-${chosen.index}`);
}

function choose(node) {
  const hidden = path(node).slice(0, -1).filter((ancestor) => ancestor.folded);
  for (const ancestor of hidden) ancestor.folded = false;
  chosen = node;
  if (hidden.length) flatten();
  const top = node.row * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  paintRows();
  paintMap();
  paintDetail();
}

function fold(node, folded) {
  node.folded = folded;
  flatten();
  paintRows();
  paintMap();
}

list.addEventListener("scroll", paintRows);
list.addEventListener("click", (event) => {
  const made = event.target.closest(".row");
  if (!made) return;
  const node = nodes[made.dataset.index];
  if (event.target.classList.contains("fold") && node.children.length) fold(node, !node.folded);
  choose(node);
});
list.addEventListener("keydown", (event) => {
  const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
  const line = nodes.filter((node) => node.best);
  const to = {
    ArrowDown: () => rows[Math.min(rows.length - 1, chosen.row + 1)],
    ArrowUp: () => rows[Math.max(0, chosen.row - 1)],
    PageDown: () => rows[Math.min(rows.length - 1, chosen.row + page)],
    PageUp: () => rows[Math.max(0, chosen.row - page)],
    Home: () => rows[0],
    End: () => rows[rows.length - 1],
    b: () => line[(line.indexOf(chosen) + 1) % line.length],
    ArrowRight: () => {
      if (chosen.folded) fold(chosen, false); else if (chosen.children.length) return chosen.children[0];
      return chosen;
    },
    ArrowLeft: () => {
      if (chosen.children.length && !chosen.folded) fold(chosen, true);
      else if (chosen.parent !== null) return nodes[chosen.parent];
      return chosen;
    },
  }[event.key];
  if (!to || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  choose(to());
});

// The overview

function place() {
  // Leaves side by side, a parent in the middle of its children; unit 1 is the whole width.
  const order = [], open = [nodes[0]];
  while (open.length) {
    const node = open.pop();
    order.push(node);
    for (let k = node.children.length - 1; k >= 0; k--) open.push(node.children[k]);
  }
  const leaves = order.filter((node) => !node.children.length);
  leaves.forEach((node, k) => { node.x = (k + 0.5) / leaves.length; });
  for (const node of order.reverse()) {
    if (node.children.length) node.x = (node.children[0].x + node.children[node.children.length - 1].x) / 2;
  }
  const deepest = Math.max(1, ...nodes.map((node) => node.depth));
  for (const node of nodes) node.y = node.depth / deepest;
}

function positions() {
  const { width, height } = map.getBoundingClientRect();
  return (node) => [16 + node.x * (width - 32), 18 + node.y * (height - 36)];
}

function radius(node) {
  return 2.5 + 6.5 * Math.sqrt(node.visits / Math.max(1, nodes[0].visits));
}

function paintMap() {
  const style = getComputedStyle(document.documentElement), color = (name) => style.getPropertyValue(`--${name}`).trim();
  const { width, height } = map.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  map.width = width * ratio;
  map.height = height * ratio;
  const pen = map.getContext("2d"), at = positions(), way = new Set(path(chosen));
  pen.scale(ratio, ratio);
  for (const node of nodes) {
    if (node.parent === null) continue;
    const [x0, y0] = at(nodes[node.parent]), [x1, y1] = at(node), middle = (y0 + y1) / 2;
    pen.strokeStyle = way.has(node) ? color("accent") : node.best ? color("good") : color("soft");
    pen.globalAlpha = way.has(node) || node.best ? 1 : 0.35;
    pen.lineWidth = way.has(node) ? 2 : 1;
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.bezierCurveTo(x0, middle, x1, middle, x1, y1);
    pen.stroke();
  }
  pen.globalAlpha = 1;
  for (const node of nodes) {
    const [x, y] = at(node);
    pen.beginPath();
    pen.arc(x, y, radius(node), 0, 2 * Math.PI);
    pen.fillStyle = color("bad");
    pen.fill();
    pen.globalAlpha = node.value;
    pen.fillStyle = color("good");
    pen.fill();
    pen.globalAlpha = 1;
    if (node !== chosen) continue;
    pen.beginPath();
    pen.arc(x, y, radius(node) + 3, 0, 2 * Math.PI);
    pen.strokeStyle = color("accent");
    pen.lineWidth = 2.5;
    pen.stroke();
  }
}

map.addEventListener("click", (event) => {
  const box = map.getBoundingClientRect(), at = positions();
  const distance = (node) => {
    const [x, y] = at(node);
    return Math.hypot(x - (event.clientX - box.left), y - (event.clientY - box.top));
  };
  choose(nodes.reduce((nearest, node) => (distance(node) < distance(nearest) ? node : nearest)));
  list.focus();
});

// The details

function shape(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function box(svg, [x, y, width, height], style) {
  for (const name of ["halo", style]) {
    svg.append(shape("rect", { x: 1000 * x, y: 1000 * y, width: 1000 * width, height: 1000 * height, class: name }));
  }
}

function spot([, , x, y], label, style = "") {
  const made = element("i", { class: style, style: `left:${100 * x}%;top:${100 * y}%` });
  if (label) made.append(element("span", {}, label));
  return made;
}

function cited(turn) {
  const points = turn.zoom ? [...turn.points, turn.zoom] : turn.points;
  return points.filter((point, k) => points.findIndex((other) => other[0] === point[0] && other[1] === point[1]) === k);
}

function scene(node) {
  const svg = shape("svg", { viewBox: "0 0 1000 1000", preserveAspectRatio: "none", "aria-hidden": "true" });
  const overlay = element("div", { class: "overlay" });
  const turn = node.turn, points = turn ? cited(turn) : [];
  const alt = `The picture. This node points at ${points.map(([x, y]) => `(${x}, ${y})`).join(", ") || "nothing"}.`;
  overlay.append(element("img", { src: data.scene, alt }), svg);
  for (const target of data.targets) box(svg, target, "target");
  for (const earlier of path(node).slice(1, -1)) {
    if (earlier.turn.window) box(svg, earlier.turn.window, "earlier");
    for (const point of cited(earlier.turn)) overlay.append(spot(point, "", "earlier"));
  }
  if (turn && turn.window) box(svg, turn.window, "window");
  points.forEach((point, k) => overlay.append(spot(point, String(k + 1))));
  const legend = "green: target · white: what the zoom shows · dashed and small: earlier on this path";
  return element("figure", {}, overlay, element("figcaption", {}, legend));
}

function crop(digest, caption) {
  const image = element("img", { src: data.images[digest], alt: caption });
  return element("figure", { class: "crop" }, image, element("figcaption", {}, caption));
}

function thought(text) {
  const made = element("p", { class: "thought" });
  for (const part of text.split(/(\(\s*-?\d+(?:\.\d+)?\s*,\s*-?\d+(?:\.\d+)?\s*\))/)) {
    made.append(part.startsWith("(") && /\d/.test(part) ? element("span", { class: "point" }, part) : part);
  }
  return made;
}

function action(turn) {
  const words = { zoom: "zooms to ", answer: "answers ", thought: "thinks on", malformed: "malformed: " }[turn.action];
  return element("p", { class: "action" }, words, element("b", {}, turn.says));
}

function chip(good, text) {
  return element("span", { class: `chip ${good ? "good" : "bad"}` }, `${good ? "✓" : "✗"} ${text}`);
}

function rollout(one, number) {
  const parts = Object.entries(one.parts).map(([name, value]) => `${name} ${value}`).join(", ");
  const reward = one.reward === null ? "not scored" : `reward ${one.reward.toFixed(2)}${parts ? ` (${parts})` : ""}`;
  const said = one.answer === null ? one.stop.replaceAll("_", " ") : one.answer;
  const line = element("summary", {}, `rollout ${number}`, chip(one.value >= 1, said), element("small", {}, reward));
  if (one.error) line.append(element("span", { class: "problem" }, one.error));
  const turns = one.turns.map((turn) => {
    const made = element("li", {}, thought(turn.thought), action(turn));
    if (turn.invalid) made.append(element("p", { class: "problem" }, turn.invalid));
    if (turn.crop) made.append(element("img", { src: data.images[turn.crop], alt: `crop around ${turn.says}` }));
    return made;
  });
  const body = turns.length ? element("ol", {}, ...turns) : element("p", { class: "seen" }, "The node itself is the end.");
  return element("details", { class: "rollout" }, line, body);
}

function crumbs(node) {
  const made = element("p", { class: "crumbs" });
  for (const ancestor of path(node)) {
    const button = element("button", { type: "button" }, ancestor.index ? String(ancestor.index) : "root");
    button.addEventListener("click", () => choose(ancestor));
    made.append(ancestor.parent === null ? "" : " › ", button);
  }
  return made;
}

function paintDetail() {
  const node = chosen, turn = node.turn;
  const state = [node.stop && `ends: ${node.stop.replaceAll("_", " ")}`, node.exhausted && "exhausted"].filter(Boolean);
  const made = [
    crumbs(node),
    element("h2", {}, turn ? `Node ${node.index}` : "The question"),
    element("p", { class: "visits" }, [`${node.visits} visits`, `value ${number(node.value)}`, ...state].join(" · ")),
  ];
  if (turn) made.push(thought(turn.thought), action(turn)); else made.push(thought(data.question));
  if (turn && turn.invalid) made.push(element("p", { class: "problem" }, turn.invalid));
  if (node.error) made.push(element("p", { class: "problem" }, node.error));
  const pictures = element("div", { class: "pictures" }, scene(node));
  if (turn && turn.crop) pictures.append(crop(turn.crop, `what the zoom to ${turn.says} shows`));
  made.push(pictures);
  if (node.rollouts.length) made.push(element("h3", {}, "Rollouts from here"));
  node.rollouts.forEach((one, k) => made.push(rollout(one, k + 1)));
  detail.replaceChildren(...made);
  detail.scrollTop = 0;
}

function paintHead() {
  document.getElementById("where").textContent = `${data.tree} · policy ${data.policy}`;
  document.getElementById("question").textContent = data.question;
  const figures = {
    "truth": data.truth || "–", "outcome": data.state, "end": data.end || "unfinished",
    "simulations": data.simulations, "nodes": nodes.length, "rollouts": data.rollouts,
  };
  for (const [name, value] of Object.entries(figures)) {
    const pair = element("div", {}, element("dt", {}, name), element("dd", {}, String(value)));
    document.getElementById("figures").append(pair);
  }
}

paintHead();
place();
flatten();
// A link that ends in #node-12 opens that node.
const linked = /^#node-(\d+)$/.exec(location.hash);
choose(nodes[linked ? Number(linked[1]) : 0] || nodes[0]);
new ResizeObserver(() => { paintRows(); paintMap(); }).observe(list);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintMap);
