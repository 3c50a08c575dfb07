// The page: state, tools and keys. The server computes every mask; this page shows them.

import { Prompts, request, session, stream } from "./api.js";
import { COLORS, decodeRuns, encodeRuns, paint, stamp } from "./masks.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const view = new View($("canvas"));
const state = { images: [], image: null, objects: [], tool: "click", texts: false };
let object = newObject();       // the object that is being segmented
let everything = [];            // masks of the last "everything"
let hovered = -1, selected = null, drag = null, answered = 0;

function newObject(parent = null) {
  return { steps: [], candidates: [], best: 0, mask: null, painted: false, started: 0, waiting: 0,
    parent, history: [] };
}

function tell(text) { $("status").textContent = text; }

function complain(error) {
  $("toast").textContent = error.message || String(error);
  $("toast").hidden = false;
  clearTimeout(complain.timer);
  complain.timer = setTimeout(() => { $("toast").hidden = true; }, 6000);
}

const guarded = (work) => async (...values) => {
  try { return await work(...values); } catch (error) { complain(error); }
};

// ---- Masks on the canvas ----

function size() { return [state.image.width, state.image.height]; }

function render(preview = null) {
  if (!state.image) return;
  const [width, height] = size();
  const layers = state.objects.filter((one) => one.id !== object.parent).map((one) => one.layer);
  if (everything.length && hovered >= 0) layers.push(everything[hovered].bright);
  if (everything.length) layers.push(everything.layer);
  if (object.mask) layers.push(paint(object.mask, width, height, [255, 213, 79], 130));
  else if (preview) layers.push(paint(preview, width, height, [255, 255, 255], 90));
  view.layers = layers;
  const last = object.steps.at(-1);
  view.points = last ? last.points : [];
  view.box = drag?.box || (last && last.box) || null;
  view.draw();
}

function showCandidates() {
  $("candidates").replaceChildren(...object.candidates.map((one, index) => {
    const button = document.createElement("button");
    button.textContent = `${index + 1}: ${one.score.toFixed(2)}`;
    button.setAttribute("aria-pressed", String(index === object.best));
    button.onclick = () => choose(index);
    return button;
  }));
}

function choose(index) {
  if (index >= object.candidates.length) return;
  object.best = index;
  object.steps.at(-1).choice = index;
  object.mask = object.candidates[index].mask;
  object.painted = false;
  showCandidates();
  render();
}

// ---- Prompts ----

const prompts = new Prompts(onAnswer, (open) => tell(open ? "" : "connecting ..."));

function onAnswer(answer) {
  if (answer.error) { complain(answer); return; }
  if (!state.image || answer.image !== state.image.id) return;
  const [width, height] = size();
  if (answer.hover) {
    if (!object.mask && !object.waiting && !drag) render(decodeRuns(answer.masks[0], width * height));
    document.body.dataset.previews = ++answered;
    return;
  }
  if (answer.request !== object.waiting) return;    // an older prompt of this object
  object.waiting = 0;
  object.candidates = answer.masks.map((runs, index) => (
    { mask: decodeRuns(runs, width * height), score: answer.scores[index] }));
  object.best = answer.best;
  object.steps.at(-1).choice = answer.best;
  object.mask = object.candidates[answer.best].mask;
  object.painted = false;
  document.body.dataset.answer = answer.request;
  showCandidates();
  render();
}

function addStep(change) {
  const last = object.steps.at(-1) || { points: [], box: null, text: null };
  object.history.push({ ...object });
  object.started ||= Date.now();
  object.steps = [...object.steps, { ...last, choice: null, ...change(last) }];
  object.waiting = prompts.send(state.image.id, object.steps);
  render();
}

function click(point, label) {
  if (label && everything.length && hovered >= 0 && !object.steps.length) { take(hovered); return; }
  addStep((last) => ({ points: [...last.points, [...point, label]] }));
}

function undo() {
  const before = object.history.pop();
  if (before) Object.assign(object, before, { waiting: 0 });
  showCandidates();
  render();
}

function reset() {
  object = newObject();
  selected = null;
  showCandidates();
  listObjects();
  render();
}

// ---- Everything ----

const runEverything = guarded(async () => {
  if (!state.image) return;
  const id = state.image.id;
  const names = state.names ? state.classes : [];
  $("progress").hidden = false;
  try {
    await stream(`api/images/${id}/everything`, { names }, (line) => {
      if (line.error) throw new Error(line.error);
      if (line.total) $("progress").value = line.done / line.total;
      if (line.masks && state.image.id === id) showEverything(line.masks);
    });
  } finally { $("progress").hidden = true; }
});

function showEverything(masks) {
  const [width, height] = size();
  const all = new OffscreenCanvas(width, height), context = all.getContext("2d");
  everything = masks.map((one, index) => {
    const mask = decodeRuns(one.runs, width * height), color = COLORS[index % COLORS.length];
    context.drawImage(paint(mask, width, height, color, 60), 0, 0);
    return { ...one, mask, bright: paint(mask, width, height, color, 190) };
  });
  everything.layer = all;
  $("hide").hidden = false;
  tell(`${masks.length} masks; click one to take it`);
  document.body.dataset.everything = masks.length;
  render();
}

function take(index) {
  const one = everything[index];
  object = newObject();
  Object.assign(object, { mask: one.mask.slice(), painted: true, started: Date.now() });
  if (one.name) $("class").value = one.name;
  showCandidates();
  render();
}

function hideEverything() {
  everything = [];
  hovered = -1;
  $("hide").hidden = true;
  render();
}

// ---- Objects ----

function showImage(answer) {
  const [width, height] = [answer.width, answer.height];
  state.image = { ...state.image, ...answer };
  state.objects = answer.objects.map((one, index) => {
    const mask = decodeRuns(one.runs, width * height), color = COLORS[index % COLORS.length];
    return { ...one, mask, color, layer: paint(mask, width, height, color) };
  });
  $("done").checked = answer.done;
  document.body.dataset.objects = state.objects.length;
  listObjects();
  render();
}

function listObjects() {
  $("objects").replaceChildren(...state.objects.map((one) => {
    const row = document.createElement("li");
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.background = `rgb(${one.color})`;
    const name = Object.assign(document.createElement("span"), { className: "name", textContent: one.class || "object" });
    const cut = Object.assign(document.createElement("a"), { className: "button", textContent: "cut out",
      href: `api/images/${state.image.id}/objects/${one.id}.png`, download: `${one.class || "object"}.png` });
    const remove = Object.assign(document.createElement("button"), { textContent: "remove", onclick: (event) => {
      event.stopPropagation();
      removeObject(one);
    } });
    row.setAttribute("aria-selected", String(selected === one.id));
    row.onclick = () => edit(one);
    row.append(swatch, name, cut, remove);
    return row;
  }));
}

function edit(one) {
  selected = one.id;
  object = newObject(one.id);
  Object.assign(object, { mask: one.mask.slice(), painted: true, started: Date.now() });
  $("class").value = one.class;
  showCandidates();
  listObjects();
  render();
}

function about() {
  return { session, annotator: $("annotator").value, version: state.image.version };
}

const send = async (path, body) => {
  try {
    showImage(await request(`api/images/${state.image.id}/${path}`, { ...about(), ...body }));
  } catch (error) {
    if (error.status === 409) await refresh();     // shows what the other person did
    throw error;
  }
};

const commit = guarded(async () => {
  if (!object.mask || object.waiting) return;
  const body = { class: $("class").value, parent: object.parent, steps: object.steps,
    seconds: (Date.now() - object.started) / 1000 };
  if (object.painted) body.runs = encodeRuns(object.mask);
  await send("objects", body);
  const name = body.class;
  if (name && !state.classes.includes(name)) { state.classes.push(name); listClasses(); }
  reset();
  tell("committed");
});

const removeObject = guarded((one) => send("objects", { parent: one.id, deleted: true }));

// ---- Images ----

async function refresh() {
  showImage(await request(`api/images/${state.image.id}`, about()));
}

const load = guarded(async (id) => {
  const entry = state.images.find((one) => one.id === id);
  if (!entry) return;
  tell("opening ...");
  hideEverything();
  const picture = new Image();
  picture.src = `api/images/${id}/image.jpg`;
  const answer = request(`api/images/${id}`, { session, annotator: $("annotator").value });
  const [opened] = await Promise.all([answer, picture.decode()]);
  state.image = opened;
  location.hash = id;
  $("images").value = id;
  view.setImage(picture);
  reset();
  showImage(opened);
  document.body.dataset.image = id;
  renew();
  const notes = opened.holder ? [`${opened.holder} works on this image; commits are refused`] : opened.notes;
  tell(notes.join("; "));
});

function move(step) {
  const index = state.images.findIndex((one) => one.id === state.image?.id);
  const next = state.images[index + step];
  if (next) load(next.id);
}

const readState = guarded(async () => {
  const answer = await request(`api/state?session=${session}`);
  Object.assign(state, { images: answer.images, classes: answer.classes, texts: answer.texts, names: answer.names });
  $("images").replaceChildren(...answer.images.map((one) => {
    const marks = `${one.done ? " \u2713" : ""}${one.objects ? ` (${one.objects})` : ""}${one.holder ? ` \u2013 ${one.holder}` : ""}`;
    return Object.assign(document.createElement("option"), { value: one.id, textContent: one.name + marks });
  }));
  if (state.image) $("images").value = state.image.id;
  $("empty").hidden = answer.images.length > 0;
  $("words").hidden = !answer.texts;
  listClasses();
});

function listClasses() {
  $("classes").replaceChildren(...state.classes.map((name) => Object.assign(document.createElement("option"), { value: name })));
}

const addFiles = guarded(async (files) => {
  let last = null;
  for (const file of files) {
    if (!file.type.startsWith("image/")) throw new Error(`${file.name} is no image`);
    const path = `api/images?name=${encodeURIComponent(file.name || "pasted.png")}`;
    last = await request(path, undefined, { method: "POST", body: file });
  }
  await readState();
  if (last) await load(last.id);
});

// ---- Pointer ----

const canvas = $("canvas");

canvas.addEventListener("pointermove", (event) => {
  if (!state.image) return;
  const at = view.locate(event);
  if (drag?.pan) { view.pan((event.clientX - drag.pan[0]) * view.ratio, (event.clientY - drag.pan[1]) * view.ratio); drag.pan = [event.clientX, event.clientY]; return; }
  if (drag?.box) { drag.box = [drag.box[0], drag.box[1], ...at]; render(); return; }
  const painting = state.tool === "brush" || state.tool === "erase";
  view.circle = painting ? [...at, Number($("radius").value)] : null;
  if (drag?.brush) { brush(drag.last, at); drag.last = at; return; }
  if (painting) { view.draw(); return; }
  if (!view.isInside(at)) { hovered = -1; return; }
  if (everything.length) {
    const pixel = Math.floor(at[1]) * state.image.width + Math.floor(at[0]);
    let found = -1;
    everything.forEach((one, index) => { if (one.mask[pixel]) found = index; });   // the smallest is last
    if (found !== hovered) { hovered = found; render(); }
    if (found >= 0 && everything[found].name) tell(`${everything[found].name} ${everything[found].name_score.toFixed(2)}`);
  } else if (state.tool === "click" && !object.mask && !object.waiting) {
    prompts.send(state.image.id, [{ points: [[...at, 1]] }], true);
  }
});

function brush(from, to) {
  const [width, height] = size(), radius = Number($("radius").value);
  object.mask ||= new Uint8Array(width * height);
  const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
  const count = Math.max(1, Math.ceil(length / Math.max(1, radius / 2)));
  for (let i = 0; i <= count; i++) {
    const share = i / count;
    stamp(object.mask, width, height, from[0] + (to[0] - from[0]) * share, from[1] + (to[1] - from[1]) * share,
      radius, state.tool === "brush" ? 1 : 0);
  }
  render();
}

canvas.addEventListener("pointerdown", (event) => {
  if (!state.image) return;
  canvas.setPointerCapture(event.pointerId);
  canvas.focus();
  const at = view.locate(event);
  if (event.button === 1 || event.altKey) { drag = { pan: [event.clientX, event.clientY] }; return; }
  if (!view.isInside(at)) return;
  prompts.cancelPreview();
  if (state.tool === "box" && event.button === 0) { drag = { box: [...at, ...at] }; return; }
  if (state.tool === "brush" || state.tool === "erase") {
    object.history.push({ ...object, mask: object.mask?.slice() });
    object.mask = object.mask ? object.mask.slice() : null;
    object.painted = true;
    object.started ||= Date.now();
    drag = { brush: true, last: at };
    brush(at, at);
    return;
  }
  click(at, event.button === 2 || event.shiftKey ? 0 : 1);
});

canvas.addEventListener("pointerup", () => {
  if (drag?.box) {
    const [x1, y1, x2, y2] = drag.box, [width, height] = size();
    const clip = (value, most) => Math.min(Math.max(value, 0), most);
    const box = [clip(Math.min(x1, x2), width), clip(Math.min(y1, y2), height), clip(Math.max(x1, x2), width), clip(Math.max(y1, y2), height)];
    drag = null;
    if (box[2] - box[0] > 2 && box[3] - box[1] > 2) addStep(() => ({ box }));
  }
  drag = null;
});
canvas.addEventListener("pointercancel", () => { drag = null; });
canvas.addEventListener("pointerleave", () => { view.circle = null; hovered = -1; prompts.cancelPreview(); if (!object.mask) render(); });
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const frame = canvas.getBoundingClientRect();
  view.zoom(Math.exp(-event.deltaY / 400), [(event.clientX - frame.left) * view.ratio, (event.clientY - frame.top) * view.ratio]);
}, { passive: false });

// ---- Buttons and keys ----

function setTool(tool) {
  state.tool = tool;
  view.circle = null;
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
}

for (const button of document.querySelectorAll("[data-tool]")) button.onclick = () => setTool(button.dataset.tool);
$("undo").onclick = undo;
$("reset").onclick = reset;
$("commit").onclick = commit;
$("everything").onclick = runEverything;
$("hide").onclick = hideEverything;
$("previous").onclick = () => move(-1);
$("next").onclick = () => move(1);
$("images").onchange = () => load($("images").value);
$("done").onchange = guarded(() => send("done", { done: $("done").checked }));
$("find").onclick = () => { if ($("text").value.trim()) addStep(() => ({ text: $("text").value.trim() })); };
$("upload").onclick = () => $("file").click();
$("file").onchange = () => addFiles($("file").files);
$("annotator").value = localStorage.getItem("annotator") || "";
$("annotator").onchange = () => localStorage.setItem("annotator", $("annotator").value);

const keys = {
  c: () => setTool("click"), b: () => setTool("box"), d: () => setTool("brush"), x: () => setTool("erase"),
  "[": () => { $("radius").stepDown(2); }, "]": () => { $("radius").stepUp(2); },
  1: () => choose(0), 2: () => choose(1), 3: () => choose(2), z: undo, Escape: reset, Enter: commit,
  e: runEverything, h: hideEverything, n: () => move(1), p: () => move(-1),
  "+": () => view.zoom(1.25), "=": () => view.zoom(1.25), "-": () => view.zoom(0.8), 0: () => view.fit(),
  ArrowLeft: () => view.pan(60, 0), ArrowRight: () => view.pan(-60, 0), ArrowUp: () => view.pan(0, 60), ArrowDown: () => view.pan(0, -60),
  Delete: () => { const one = state.objects.find((row) => row.id === selected); if (one) { reset(); removeObject(one); } },
};
addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=checkbox]):not([type=range]), select");
  if (typing && event.key !== "Enter" && event.key !== "Escape") return;
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("button, a, summary") && event.key === "Enter") return;
  if (event.target.id === "text" && event.key === "Enter") { $("find").click(); return; }
  if (keys[event.key]) {
    event.preventDefault();
    if (event.target.matches("input")) event.target.blur();
    keys[event.key]();
  }
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => { event.preventDefault(); addFiles(event.dataTransfer.files); });
addEventListener("paste", (event) => { if (event.clipboardData.files.length) addFiles(event.clipboardData.files); });

// ---- Start ----

setInterval(() => {
  const found = prompts.latency();
  if (found) $("latency").textContent = `hover: p50 ${found.p50.toFixed(0)} ms, p95 ${found.p95.toFixed(0)} ms of ${found.count}`;
}, 1000);
// A sign of life for the lease, which also embeds the next image
const renew = guarded(async () => {
  if (state.image) await request(`api/images/${state.image.id}/lease`, { session, annotator: $("annotator").value });
});
setInterval(renew, 20000);
window.segjax = { state, view, prompts, everything: () => everything };   // for tests and the console

setTool("click");
await readState();
const first = state.images.find((one) => `#${one.id}` === location.hash) || state.images[0];
if (first) await load(first.id);
