// The service's own OpenAPI description, readable; without a library from elsewhere.
"use strict";

const EXAMPLES = {
  "POST /predict": ["curl -F file=@photo.jpg {at}/predict?top_k=3", "curl --data-binary @photo.jpg {at}/predict"],
  "POST /predict/batch": ["curl -F file=@one.jpg -F file=@two.png {at}/predict/batch"],
};

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

function endpoint(verb, path, said) {
  const section = make("section", undefined, "endpoint");
  const title = make("h2");
  title.append(make("code", verb, "verb"), make("code", path));
  const list = make("dl");
  for (const each of said.parameters || []) {
    list.append(make("dt", `?${each.name}`), make("dd", each.description || each.schema.type));
  }
  for (const [kind] of Object.entries(said.requestBody?.content || {})) list.append(make("dt", "body"), make("dd", kind));
  for (const [status, each] of Object.entries(said.responses)) list.append(make("dt", status), make("dd", each.description.replace("Successful Response", "Done")));
  section.append(title, make("p", said.summary, "note"), list);
  const examples = EXAMPLES[`${verb} ${path}`] || [`curl {at}${path}`];
  section.append(make("pre", examples.join("\n").replaceAll("{at}", location.origin)));
  return section;
}

fetch("/openapi.json").then((answer) => answer.json()).then((description) => {
  const sections = Object.entries(description.paths).flatMap(([path, verbs]) =>
    Object.entries(verbs).map(([verb, said]) => endpoint(verb.toUpperCase(), path, said)));
  document.getElementById("endpoints").replaceChildren(...sections);
});
