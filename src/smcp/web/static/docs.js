// The admin API's page. Everything shown comes from openapi.json; text is only ever set as text, never as markup.
// The key lives in the field on the page and nowhere else.

const $ = (id) => document.getElementById(id);
const values = {}; // what was typed for a path's parameters, so that a tenant is typed once
let openapi;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Follows a reference within the document: "#/components/<kind>/<name>".
const resolve = (one) => (one?.$ref ? one.$ref.split("/").slice(1).reduce((at, name) => at[name], openapi) : one) ?? {};

// Paragraphs, with `code` between backquotes: the little of Markdown that descriptions use.
function prose(text, attributes = {}) {
  return text.split(/\n{2,}/).map((part) => make("p", attributes, ...part.split("`").map((bit, place) =>
    place % 2 ? make("code", {}, bit) : bit.replaceAll("\n", " "))));
}

function typeName(schema) {
  const found = resolve(schema);
  if (found.enum) return found.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (found.anyOf) return found.anyOf.map(typeName).join(" or ");
  if (found.type === "array") return `list of ${typeName(found.items)}`;
  return [found.type].flat().join(" or ") || "any";
}

async function send(method, path, body) {
  const headers = {};
  const key = $("key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const began = performance.now();
  const answer = await fetch(path, { method, headers, body: body || undefined, cache: "no-store", redirect: "error" });
  const text = await answer.text();
  return { answer, text: pretty(text), ms: Math.round(performance.now() - began) };
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // metrics are not JSON
  }
}

function curl(method, path, body) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = ["curl -sS", method === "GET" ? "" : `-X ${method}`, quote(location.origin + path)];
  parts.push(`-H "Authorization: Bearer $SMCP_API_KEY"`);
  if (body) parts.push("-H 'Content-Type: application/json'", "-d", quote(body));
  return parts.filter(Boolean).join(" ");
}

function field(parameter, id) {
  const input = make("input", {
    id,
    name: parameter.name,
    required: parameter.required,
    autocomplete: "off",
    spellcheck: "false",
    autocapitalize: "none",
    placeholder: parameter.schema.default === undefined ? "" : String(parameter.schema.default),
  });
  if (parameter.in === "path") {
    input.dataset.shared = parameter.name;
    input.addEventListener("input", () => {
      values[parameter.name] = input.value;
      for (const other of document.querySelectorAll(`[data-shared="${parameter.name}"]`)) {
        if (other !== input) other.value = input.value;
      }
    });
  }
  return make("label", { for: id }, `${parameter.name}${parameter.required ? "" : " (optional)"}`, input,
    make("span", { class: "soft" }, parameter.description ?? ""));
}

function fieldsOf(schema) {
  const found = resolve(schema);
  const rows = Object.entries(found.properties ?? {}).map(([name, one]) =>
    make("tr", {}, make("td", {}, make("code", {}, name)),
      make("td", {}, typeName(one) + (found.required?.includes(name) ? "" : ", optional")),
      make("td", {}, ...prose(one.description ?? resolve(one).description ?? ""))));
  return rows.length ? make("table", {}, make("tbody", {}, ...rows)) : null;
}

function more(title, ...children) {
  const shown = children.filter(Boolean);
  return shown.length ? make("details", { class: "more" }, make("summary", {}, title), ...shown) : null;
}

function form(path, method, operation, id) {
  const parameters = operation.parameters ?? [];
  const content = operation.requestBody?.content["application/json"];
  const example = JSON.stringify(content?.example ?? {}, null, 2);
  const body = content && make("textarea", { id: `${id}-body`, rows: example.split("\n").length + 1, spellcheck: "false" });
  if (body) body.value = example;
  const result = make("div", { "aria-live": "polite" });
  const button = make("button", { class: "main", type: "submit" }, "Send");
  const made = make("form", {},
    make("div", { class: "fields" }, ...parameters.map((one) => field(one, `${id}-${one.name}`))),
    body && make("label", { class: "wide", for: body.id }, "Body (JSON)", body),
    content && more("What the body holds", fieldsOf(content.schema)),
    make("div", { class: "row" }, button, make("span", { class: "soft" }, "Ctrl+Enter")), result);
  const target = () => {
    const read = (one) => made.elements[one.name].value.trim();
    const query = new URLSearchParams(parameters.filter((one) => one.in === "query" && read(one)).map((one) => [one.name, read(one)]));
    const filled = path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(read({ name })));
    return filled + (query.size ? `?${query}` : "");
  };
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (method === "DELETE" && !confirm(`${operation.summary}: ${target()}?`)) return;
    button.disabled = true;
    try {
      show(result, await send(method, target(), body?.value.trim()), curl(method, target(), body?.value.trim()));
    } catch (error) {
      result.replaceChildren(make("p", { class: "bad" }, `No answer: ${error.message}`));
    }
    button.disabled = false;
  });
  made.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) made.requestSubmit();
  });
  return made;
}

function show(where, { answer, text, ms }, command) {
  const id = answer.headers.get("SMCP-Request-Id");
  where.replaceChildren(
    make("h3", { class: answer.ok ? "" : "bad" }, `${answer.status} ${answer.statusText} · ${ms} ms · ${id ?? ""}`),
    make("pre", { tabindex: 0, "aria-label": "Answer" }, text || "(no body)"),
    more("The same with curl", make("pre", { tabindex: 0 }, command)));
}

function card(path, method, operation) {
  const id = operation.operationId;
  const action = operation["x-smcp-action"] ?? (operation["x-smcp-open"] ? "open" : "any credential");
  const roles = operation["x-smcp-roles"];
  const success = Object.entries(operation.responses).find(([status]) => status.startsWith("2"));
  const sample = success[1].content?.["application/json"];
  const told = (one) => resolve(one).description.split("\n").filter((line) => {
    const code = line.match(/^`(\w+)`/)?.[1];
    return !code || operation["x-smcp-errors"].includes(code);
  });
  const rows = Object.entries(operation.responses).map(([status, one]) =>
    make("tr", {}, make("td", {}, status), make("td", {}, ...told(one).flatMap((line) => prose(line)))));
  const made = make("details", { class: "operation", id },
    make("summary", {}, make("span", { class: `method ${method}` }, method), make("code", {}, path),
      make("span", { class: "soft" }, operation.summary)));
  made.dataset.words = `${method} ${path} ${action} ${operation.summary} ${operation.description}`.toLowerCase();
  made.addEventListener("toggle", () => {
    if (!made.open || made.childElementCount > 1) return;
    made.append(make("div", { class: "inside" },
      ...prose(operation.description),
      make("p", { class: "soft" }, `Action: ${action}`, roles ? ` · roles: ${roles.join(", ")}` : ""),
      form(path, method, operation, id),
      more("Answers", make("table", {}, make("tbody", {}, ...rows)),
        sample?.example && make("pre", { tabindex: 0, "aria-label": "Example" }, JSON.stringify(sample.example, null, 2)),
        sample && fieldsOf(sample.schema))));
    for (const input of made.querySelectorAll("[data-shared]")) input.value = values[input.dataset.shared] ?? "";
  });
  return made;
}

function list() {
  const groups = new Map(openapi.tags.map((tag) => [tag.name, []]));
  for (const [path, operations] of Object.entries(openapi.paths)) {
    for (const [method, one] of Object.entries(operations)) groups.get(one.tags[0]).push(card(path, method.toUpperCase(), one));
  }
  for (const [name, cards] of groups) {
    $("operations").append(make("section", {}, make("h2", {}, name), ...cards));
    $("index").append(make("li", { class: "group" }, name),
      ...cards.map((one) => make("li", {}, make("a", { href: `#${one.id}` }, one.querySelector(".soft").textContent))));
  }
}

function find() {
  const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const one of document.querySelectorAll("details.operation")) {
    one.hidden = !words.every((word) => one.dataset.words.includes(word));
    const link = $("index").querySelector(`[href="#${CSS.escape(one.id)}"]`);
    link.parentElement.hidden = one.hidden;
  }
  for (const section of document.querySelectorAll("section")) {
    section.hidden = !section.querySelector("details.operation:not([hidden])");
  }
}

async function whoami() {
  const said = $("who");
  said.className = "";
  if (!$("key").value.trim()) return void (said.textContent = "Kept in this page's memory only; gone when you leave.");
  const { answer, text } = await send("GET", "/api/v1/whoami");
  const told = JSON.parse(text);
  said.className = answer.ok ? "good" : "bad";
  said.textContent = answer.ok ? `${told.id} of ${told.tenant}: ${told.roles.join(", ")}` : told.error.message;
  if (answer.ok && told.tenant !== "platform" && !values.tenant) {
    values.tenant = told.tenant;
    for (const input of document.querySelectorAll('[data-shared="tenant"]')) input.value = told.tenant;
  }
}

function jump() {
  const target = $(decodeURIComponent(location.hash.slice(1)));
  if (target?.matches("details")) {
    target.open = true;
    target.scrollIntoView({ behavior: "instant" });
    target.querySelector("summary").focus({ preventScroll: true });
  }
}

async function start() {
  try {
    const answer = await fetch("/api/v1/openapi.json");
    openapi = await answer.json();
  } catch (error) {
    $("about").textContent = `The API's document can't be read: ${error.message}`;
    return;
  }
  $("version").textContent = openapi.info.version;
  $("about").replaceWith(...prose(openapi.info.description, { class: "about" }));
  list();
  jump();
}

$("key").addEventListener("change", whoami);
$("find").addEventListener("input", find);
addEventListener("hashchange", jump);
addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.matches("input, textarea")) {
    event.preventDefault();
    $("find").focus();
  }
});
start();
