// Drop, paste or choose images; each is sent by itself, a few at a time, and its card says what came back.
"use strict";

const AT_ONCE = 4; // requests under way
const SHOWN = 5; // labels of an image
const SVG = "http://www.w3.org/2000/svg";
const find = (id) => document.getElementById(id);
const queue = [];
let running = 0;
let key = "";
let limits = null;

const percent = (value) => {
  const text = (100 * value).toFixed(1);
  return value < 1 && text === "100.0" ? "> 99.9 %" : value > 0 && text === "0.0" ? "< 0.1 %" : `${text} %`;
};

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

// ------------------------------------------------------------------------------------------------------------ asking

async function ask(path, options = {}) {
  const headers = key ? { "X-API-Key": key } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  } catch {
    throw new Error("The service cannot be reached. Is it still running?");
  }
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said;
  if (answer.status === 401) askForKey(key !== "");
  const error = new Error(sentence(said.detail) || `The service answered ${answer.status}.`);
  error.status = answer.status;
  error.again = answer.headers.get("Retry-After");
  throw error;
}

// Say again what the service said, as a sentence for people.
function sentence(text) {
  if (!text) return "";
  return text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

function askForKey(wasWrong) {
  find("key").hidden = false;
  find("drop").hidden = true;
  if (wasWrong) complain("That key is not the right one.");
  find("key-text").focus();
}

function complain(text) {
  find("trouble").textContent = text;
  find("trouble").hidden = !text;
}

// ------------------------------------------------------------------------------------------------------------ results

function add(files) {
  for (const file of files) {
    const card = find("card").content.cloneNode(true).firstElementChild;
    card.querySelector(".name bdi").textContent = file.name || "pasted image";
    card.querySelector(".name").title = file.name;
    const image = card.querySelector("img");
    image.addEventListener("load", () => URL.revokeObjectURL(image.src));
    image.addEventListener("error", () => {
      image.hidden = true;
      card.querySelector(".no-picture").hidden = false;
    });
    image.src = URL.createObjectURL(file);
    find("results").prepend(card);
    queue.push([file, card]);
  }
  if (!files.length) return;
  find("found").hidden = false;
  find("drop").classList.add("small");
  next();
}

function next() {
  while (running < AT_ONCE && queue.length) {
    running += 1;
    const [file, card] = queue.shift();
    classify(file, card).finally(() => {
      running -= 1;
      next();
    });
  }
}

async function classify(file, card) {
  try {
    if (limits && file.size > limits.max_bytes) {
      throw new Error(`This file is larger than ${(limits.max_bytes / 1e6).toFixed(0)} MB.`);
    }
    const began = performance.now();
    show(card, await send(file), performance.now() - began);
  } catch (error) {
    fail(card, error.message);
  }
}

async function send(file, attempts = 4) {
  const form = new FormData();
  form.append("file", file, file.name || "image");
  try {
    return await ask(`/predict?top_k=${SHOWN}`, { method: "POST", body: form });
  } catch (error) {
    if (error.status !== 503 || !error.again || attempts <= 1) throw error;
    await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(5, Number(error.again) || 1)));
    return send(file, attempts - 1);
  }
}

function show(card, said, milliseconds) {
  const label = card.querySelector(".label");
  label.dataset.state = "done";
  label.firstElementChild.textContent = said.label;
  card.querySelector("img").alt = `${card.querySelector(".name").textContent}: ${said.label}`;
  card.querySelector(".bars").append(...said.top_k.map(bar));
  card.querySelector(".time").textContent = `${milliseconds.toFixed(0)} ms, with the way there and back`;
  find("said").textContent = `${card.querySelector(".name").textContent}: ${said.label}, ${percent(said.confidence)}`;
}

function bar({ label, confidence }) {
  const row = make("li");
  const name = make("bdi", label);
  name.title = label;
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", "0 0 100 10");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("aria-hidden", "true");
  for (const [kind, width] of [["track", 100], ["value", 100 * confidence]]) {
    const part = document.createElementNS(SVG, "rect");
    part.setAttribute("class", kind);
    part.setAttribute("width", String(width));
    part.setAttribute("height", "10");
    picture.append(part);
  }
  row.append(name, picture, make("span", percent(confidence), "number"));
  return row;
}

function fail(card, text) {
  const label = card.querySelector(".label");
  label.dataset.state = "failed";
  label.firstElementChild.textContent = text;
  card.classList.add("failed");
  find("said").textContent = `${card.querySelector(".name").textContent}: ${text}`;
}

// -------------------------------------------------------------------------------------------------------------- model

async function introduce() {
  try {
    const model = await ask("/info");
    complain("");
    find("key").hidden = true;
    find("drop").hidden = false;
    describe(model);
  } catch (error) {
    if (error.status === 401) return;
    complain(error.message);
    setTimeout(introduce, 5000); // The model may appear later.
  }
}

function describe(model) {
  limits = model.limits;
  const [height, width] = model.input.size;
  const facts = [
    ["Model", model.facts.run || model.model],
    ["Classes", String(model.num_classes)],
    ["Input", `${width} × ${height} pixels`],
    ["Runs on", model.device === "cuda" ? "GPU" : "CPU"],
    ["Precision", model.facts.precision || "fp32"],
    ["File", model.sha256.slice(0, 12)],
    ...Object.entries(model.facts.metrics || {}).map(([split, score]) => [
      split === "val" ? "Right in validation" : "Right in the test",
      `${(100 * score.acc_top1).toFixed(1)} % of ${score.n} images`,
    ]),
  ];
  find("facts").replaceChildren(
    ...facts.map(([name, value]) => {
      const row = make("div");
      const said = make("dd");
      said.append(make("bdi", value));
      row.append(make("dt", name), said);
      return row;
    }),
  );
  find("classes-title").textContent = `${model.num_classes} ${model.num_classes === 1 ? "class" : "classes"}`;
  find("classes").replaceChildren(
    ...model.classes.map((name) => {
      const chip = make("li");
      chip.append(make("bdi", name));
      return chip;
    }),
  );
  find("raw").textContent = JSON.stringify(model, null, 2);
  find("version").textContent = model.versions.clf;
  find("formats").textContent = `; up to ${(model.limits.max_bytes / 1e6).toFixed(0)} MB each`;
  find("model").hidden = false;
}

// ------------------------------------------------------------------------------------------------------------- events

find("pick").addEventListener("click", () => find("files").click());
find("files").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = "";
});
find("clear").addEventListener("click", () => {
  queue.length = 0;
  find("results").replaceChildren();
  find("found").hidden = true;
  find("drop").classList.remove("small");
  find("pick").focus();
});
find("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key = find("key-text").value;
  introduce();
});
let inside = 0; // dragenter and dragleave come for every element that is crossed
addEventListener("dragenter", (event) => {
  event.preventDefault();
  inside += 1;
  find("drop").classList.add("over");
});
addEventListener("dragleave", () => {
  inside -= 1;
  if (inside <= 0) find("drop").classList.remove("over");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  find("drop").classList.remove("over");
  if (!find("drop").hidden) add([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length && !find("drop").hidden) add(files);
});
introduce();
