// Lists and calls tools over the transport of MCP 2024-11-05, with the package that older clients embed
// (@modelcontextprotocol/sdk 1.x), the way they find out: `node oldsse.mjs <url> <tool> <arguments>` tries Streamable
// HTTP at <url> and falls back. The key comes in the environment (SMCP_TEST_BEARER); the answer goes to standard output
// as one JSON object.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, tool, args] = process.argv.slice(2);
const options = { requestInit: { headers: { Authorization: `Bearer ${process.env.SMCP_TEST_BEARER}` } } };
let fellBack = false;
let client = new Client({ name: "smcp-test", version: "1.0.0" });
try {
  await client.connect(new StreamableHTTPClientTransport(new URL(url), options));
} catch {
  fellBack = true;
  client = new Client({ name: "smcp-test", version: "1.0.0" });
  await client.connect(new SSEClientTransport(new URL(url), options));
}
const { tools } = await client.listTools();
const called = await client.callTool({ name: tool, arguments: JSON.parse(args) });
console.log(
  JSON.stringify({
    version: fellBack ? "sse" : "http",
    tools: tools.map(({ name }) => name),
    content: called.content,
    isError: called.isError === true,
  }),
);
await client.close();
