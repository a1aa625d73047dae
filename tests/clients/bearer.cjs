// Puts a bearer key on every request that a Node program sends to one origin, for programs without an option for it.
//
//   NODE_OPTIONS="--require …/bearer.cjs" SMCP_TEST_ORIGIN=http://127.0.0.1:8080 SMCP_TEST_BEARER=… node program.js
//
// Three ways out of Node are covered: the global fetch, `request` of the package undici, and node:http. A request
// that already has an Authorization header, or that goes to another origin, is left as it is.
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const { createRequire, syncBuiltinESMExports } = require("node:module");

const origin = process.env.SMCP_TEST_ORIGIN;
const bearer = process.env.SMCP_TEST_BEARER;

function authorise(headers) {
  const all = new Headers(headers);
  if (!all.has("authorization")) all.set("authorization", `Bearer ${bearer}`);
  return all;
}

// node:http and undici take an object, or a flat list of names and values (in which a name may come twice).
function withBearer(headers) {
  if (Array.isArray(headers)) {
    const names = headers.filter((_, index) => index % 2 === 0).map((name) => String(name).toLowerCase());
    return names.includes("authorization") ? headers : [...headers, "Authorization", `Bearer ${bearer}`];
  }
  const given = headers ?? {};
  const has = Object.keys(given).some((name) => name.toLowerCase() === "authorization");
  return has ? given : { ...given, Authorization: `Bearer ${bearer}` };
}

function patchFetch() {
  const original = globalThis.fetch;
  globalThis.fetch = function fetch(input, init) {
    const url = new URL(input instanceof Request ? input.url : input);
    if (url.origin !== origin) return original(input, init);
    const headers = init?.headers ?? (input instanceof Request ? input.headers : undefined);
    return original(input, { ...init, headers: authorise(headers) });
  };
}

function patchUndici() {
  // The one that the program gets, which need not be the one beside this file.
  const undici = createRequire(fs.realpathSync(process.argv[1]))("undici");
  const original = undici.request;
  undici.request = function request(url, options) {
    if (new URL(url).origin !== origin) return original(url, options);
    return original(url, { ...options, headers: withBearer(options?.headers) });
  };
}

function patchHttp() {
  const original = http.request;
  http.request = function request(...given) {
    const options = given.find((value) => typeof value === "object" && !(value instanceof URL));
    const url = given.find((value) => typeof value === "string" || value instanceof URL);
    const host = options?.hostname ?? options?.host ?? "localhost";
    const target = url ? new URL(url).origin : new URL(`http://${host}:${options?.port ?? 80}`).origin;
    if (target !== origin) return original.apply(this, given);
    if (options) {
      const changed = { ...options, headers: withBearer(options.headers) };
      return original.apply(this, given.map((value) => (value === options ? changed : value)));
    }
    return original.call(this, given[0], { headers: withBearer() }, ...given.slice(1));
  };
  syncBuiltinESMExports();
}

if (origin && bearer) {
  patchFetch();
  patchUndici();
  patchHttp();
}
