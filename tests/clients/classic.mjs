// Lists and calls tools with @modelcontextprotocol/sdk 1.x: `node classic.mjs <url> <tool> <arguments>`.
// The key comes in the environment (SMCP_TEST_BEARER); the answer goes to standard output as one JSON object.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, tool, args] = process.argv.slice(2);
const client = new Client({ name: "smcp-test", version: "1.0.0" });
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { Authorization: `Bearer ${process.env.SMCP_TEST_BEARER}` } },
});
await client.connect(transport);
const { tools } = await client.listTools();
const called = await client.callTool({ name: tool, arguments: JSON.parse(args) });
console.log(
  JSON.stringify({
    version: transport.protocolVersion,
    tools: tools.map(({ name }) => name),
    content: called.content,
    isError: called.isError === true,
  }),
);
await transport.terminateSession();
await client.close();
