// What a page can do better with a script. Everything but passkeys works without.
"use strict";

// A page that opens this one under a double click must not get the second click (UI redressing without a frame):
// what grants something can be pressed only once the page has been in front for a moment.
for (const button of document.querySelectorAll("button[data-guard]")) {
  const wait = () => {
    if (document.activeElement === button) return;
    button.disabled = true;
    setTimeout(() => { button.disabled = false; }, 600);
  };
  wait();
  addEventListener("focus", (event) => { if (event.target === window) wait(); });
}

const decode = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
const encode = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

// JSON forms of WebAuthn level 3 (5.1.8, 5.1.9), written out because not every browser has them.
function forCreating(options) {
  const known = (options.excludeCredentials || []).map((one) => ({ ...one, id: decode(one.id) }));
  const user = { ...options.user, id: decode(options.user.id) };
  return { ...options, user, challenge: decode(options.challenge), excludeCredentials: known };
}
function forGetting(options) {
  const known = (options.allowCredentials || []).map((one) => ({ ...one, id: decode(one.id) }));
  return { ...options, challenge: decode(options.challenge), allowCredentials: known };
}
function answerOf(credential) {
  const { response } = credential;
  const told = { clientDataJSON: encode(response.clientDataJSON) };
  for (const name of ["attestationObject", "authenticatorData", "signature", "userHandle"]) {
    if (response[name]) told[name] = encode(response[name]);
  }
  if (response.getTransports) told.transports = response.getTransports();
  return {
    id: credential.id, rawId: encode(credential.rawId), type: credential.type, response: told,
    clientExtensionResults: credential.getClientExtensionResults(),
  };
}

for (const form of document.querySelectorAll("form[data-passkey]")) {
  if (!window.PublicKeyCredential) continue;
  for (let one = form; one; one = one.parentElement) one.hidden = false;
  form.addEventListener("submit", async (event) => {
    const field = form.querySelector("input[name=credential]");
    if (field.value) return;
    event.preventDefault();
    const told = form.querySelector("[role=alert]");
    told.textContent = "";
    try {
      const options = JSON.parse(form.dataset.options);
      const credential = form.dataset.passkey === "create"
        ? await navigator.credentials.create({ publicKey: forCreating(options) })
        : await navigator.credentials.get({ publicKey: forGetting(options) });
      field.value = JSON.stringify(answerOf(credential));
      form.requestSubmit();
    } catch (error) {
      told.textContent = error.name === "InvalidStateError"
        ? "This device has a passkey for your account already."
        : "No passkey was used. Try again, or sign in another way.";
    }
  });
}
