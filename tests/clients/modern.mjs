// Uses a server with @modelcontextprotocol/client 2.x: `node modern.mjs <url> <mode> <calls> [look]`.
// The mode is legacy, auto, 2026-07-28, or an older version to offer in the handshake.
// The key comes in the environment (SMCP_TEST_BEARER); what was seen goes to standard output as one JSON object.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

import * as person from "./person.mjs";

const [url, mode, calls, look] = process.argv.slice(2);
const older = mode < "2026-07-28";
const negotiation = mode === "legacy" || mode === "auto" ? mode : older ? "legacy" : { pin: mode };
const client = new Client(
  { name: "smcp-test", version: "1.0.0" },
  {
    capabilities: person.capabilities,
    versionNegotiation: { mode: negotiation },
    ...(older ? { supportedProtocolVersions: [mode] } : {}),
  },
);
client.setRequestHandler("elicitation/create", person.elicit);
client.setRequestHandler("sampling/createMessage", person.sample);
client.setRequestHandler("roots/list", person.roots);
client.setNotificationHandler("notifications/message", person.log);
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { Authorization: `Bearer ${process.env.SMCP_TEST_BEARER}` } },
});
await client.connect(transport);
const version = client.getNegotiatedProtocolVersion();
const modern = version >= "2026-07-28";
if (look) {
  if (!modern) await client.ping();
  if (!modern) await client.setLoggingLevel("info");
  await person.look(client);
}
// In the modern era log messages are asked for by each request.
const meta = modern && look ? { _meta: { "io.modelcontextprotocol/logLevel": "info" } } : {};
await person.use(client, JSON.parse(calls), (params, options) => client.callTool({ ...params, ...meta }, options));
console.log(JSON.stringify({ version, ...person.seen }));
await client.close();
