// Lists and calls tools with @modelcontextprotocol/client: `node modern.mjs <url> <legacy|auto|2026-07-28> <tool> <arguments>`.
// The key comes in the environment (SMCP_TEST_BEARER); the answer goes to standard output as one JSON object.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [url, mode, tool, args] = process.argv.slice(2);
const negotiation = mode === "legacy" || mode === "auto" ? mode : { pin: mode };
const client = new Client({ name: "smcp-test", version: "1.0.0" }, { versionNegotiation: { mode: negotiation } });
const transport = new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { Authorization: `Bearer ${process.env.SMCP_TEST_BEARER}` } },
});
await client.connect(transport);
const { tools } = await client.listTools();
const called = await client.callTool({ name: tool, arguments: JSON.parse(args) });
console.log(
  JSON.stringify({
    version: client.getNegotiatedProtocolVersion(),
    tools: tools.map(({ name }) => name),
    content: called.content,
    isError: called.isError === true,
  }),
);
await client.close();
