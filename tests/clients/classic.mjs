// Uses a server with @modelcontextprotocol/sdk 1.x: `node classic.mjs <url> <mode> <calls> [look]`.
// There is one mode, legacy: this SDK offers the newest version that it knows, and can be told no other.
// The key comes in the environment (SMCP_TEST_BEARER); what was seen goes to standard output as one JSON object.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";

import * as person from "./person.mjs";

const [url, , calls, look] = process.argv.slice(2);
const client = new Client({ name: "smcp-test", version: "1.0.0" }, { capabilities: person.capabilities });
client.setRequestHandler(ElicitRequestSchema, person.elicit);
client.setRequestHandler(CreateMessageRequestSchema, person.sample);
client.setRequestHandler(ListRootsRequestSchema, person.roots);
client.setNotificationHandler(LoggingMessageNotificationSchema, person.log);
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { Authorization: `Bearer ${process.env.SMCP_TEST_BEARER}` } },
});
await client.connect(transport);
if (look) {
  await client.ping();
  await client.setLoggingLevel("info");
  await person.look(client);
}
await person.use(client, JSON.parse(calls), (params, options) => client.callTool(params, undefined, options));
console.log(JSON.stringify({ version: transport.protocolVersion, ...person.seen }));
await transport.terminateSession();
await client.close();
