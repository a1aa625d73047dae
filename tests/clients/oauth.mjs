// Logs in with @modelcontextprotocol/client 2.x and uses a server: `node oauth.mjs <url> <redirect> [document]`.
// With a document's address that is the client's id, else it registers itself. It says what it wants as lines of JSON on
// standard output, and is told on standard input:
//   {"open": address}     a person is to go there; what came back is sent here as {"came": query}
//   {"done": step, …}     a step is over; {"do": step} begins the next one: call, expire, narrow, end
import readline from "node:readline";

import { Client, StreamableHTTPClientTransport, UnauthorizedError } from "@modelcontextprotocol/client";

const [url, redirect, document] = process.argv.slice(2);
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const told = async () => JSON.parse((await lines.next()).value);
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

const kept = {};
const provider = {
  get redirectUrl() {
    return redirect;
  },
  ...(document ? { clientMetadataUrl: document } : {}),
  get clientMetadata() {
    return {
      client_name: "TypeScript SDK",
      redirect_uris: [redirect],
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
      token_endpoint_auth_method: "none",
    };
  },
  state: () => (kept.state = crypto.randomUUID()),
  clientInformation: () => kept.client,
  saveClientInformation: (client) => void (kept.client = client),
  tokens: () => kept.tokens,
  saveTokens: (tokens) => {
    kept.tokens = tokens;
    kept.saved = (kept.saved ?? 0) + 1;
  },
  redirectToAuthorization: (address) => void (kept.address = String(address)),
  saveCodeVerifier: (verifier) => void (kept.verifier = verifier),
  codeVerifier: () => kept.verifier,
  invalidateCredentials: (what) => {
    if (what === "all" || what === "tokens") delete kept.tokens;
    if (what === "all" || what === "client") delete kept.client;
  },
};

const make = () => new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
let transport = make();
let client = new Client({ name: "smcp-test", version: "1.0.0" });

// What the SDK leaves to its user: send the person away, compare the state, and try again with what came back.
async function asking(work) {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof UnauthorizedError) && error?.cause?.constructor?.name !== "UnauthorizedError") throw error;
    say({ open: kept.address });
    const came = new URLSearchParams((await told()).came);
    if (came.get("state") !== kept.state) throw new Error("the answer is another login's");
    await transport.finishAuth(came);
    return asking(work);
  }
}

async function connect() {
  transport = make();
  client = new Client({ name: "smcp-test", version: "1.0.0" });
  await client.connect(transport);
}

const call = async () => (await client.callTool({ name: "do", arguments: { act: "echo", text: "hello" } })).content[0].text;

await asking(connect);
say({ done: "connect", scope: kept.tokens.scope, client: kept.client?.client_id ?? document });
for (;;) {
  const step = await told();
  if (step.do === "end") break;
  try {
    if (step.do === "expire") kept.tokens = { ...kept.tokens, access_token: "gone" };
    if (step.do === "narrow") kept.tokens = step.tokens;
    const before = kept.saved;
    const text = await asking(call);
    say({ done: step.do, text, saved: kept.saved - before, scope: kept.tokens.scope });
  } catch (error) {
    say({ done: step.do, error: String(error?.message ?? error) });
  }
}
await client.close();
process.exit(0);
