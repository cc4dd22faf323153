"use strict";
// Collects the marks of one annotator: kept in this browser while they are made, saved as a file in the end.

const page = document.body.dataset.page;
const annotator = document.getElementById("annotator"), told = document.getElementById("told");
const items = [...document.querySelectorAll(".item")];
const KEY = `vigorl-annotation-${page}`;

function* places() {
  for (const item of items) {
    for (const place of item.querySelectorAll(".place")) yield [item.dataset.trajectory, place.dataset.point, place];
  }
}

const chosen = (place, name) => place.querySelector(`input[data-of="${name}"]:checked`)?.value;

function collect() {
  const marks = [];
  for (const [trajectory, point, place] of places()) {
    const right = chosen(place, "right"), helpful = chosen(place, "helpful");
    if (!right && !helpful) continue;
    marks.push({ trajectory, point, ...(right && { right }), ...(helpful && { helpful: Number(helpful) }) });
  }
  return { version: 1, page, annotator: annotator.value.trim(), marks };
}

function fill(annotation) {
  const marks = new Map(annotation.marks.map((mark) => [`${mark.trajectory}\n${mark.point}`, mark]));
  annotator.value = annotation.annotator;
  for (const [trajectory, point, place] of places()) {
    const mark = marks.get(`${trajectory}\n${point}`) ?? {};
    for (const input of place.querySelectorAll("input")) input.checked = input.value === String(mark[input.dataset.of]);
  }
  show();
}

function show() {
  let done = 0;
  for (const item of items) {
    const all = [...item.querySelectorAll(".place")].every((place) => chosen(place, "right") && chosen(place, "helpful"));
    item.classList.toggle("done", all);
    done += all;
  }
  document.getElementById("progress").textContent = `${done} of ${items.length} done`;
}

function keep() {
  try {
    localStorage.setItem(KEY, JSON.stringify(collect()));
    told.textContent = "";
  } catch {
    told.textContent = "This browser keeps nothing: save before you close the page.";
  }
  show();
}

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(KEY));
  } catch {
    return null; // What the browser does not keep, or what is damaged, is begun anew; `keep` tells the former.
  }
}

document.addEventListener("change", (event) => { if (event.target.id !== "open") keep(); });

document.getElementById("save").addEventListener("click", () => {
  const annotation = collect();
  if (!annotation.annotator) {
    told.textContent = "Please write your name first.";
    annotator.focus();
    return;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(annotation, null, 2)], { type: "application/json" }));
  link.download = `annotation-${annotation.annotator.replace(/[^A-Za-z0-9_-]+/g, "_")}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
});

document.getElementById("open").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  try {
    const annotation = JSON.parse(await file.text());
    if (annotation.page !== page) throw new Error("it is of another page");
    fill(annotation);
    keep();
  } catch (error) {
    told.textContent = `${file.name} cannot be used: ${error.message}`;
  }
});

const before = remembered();
if (before) fill(before); else show();
