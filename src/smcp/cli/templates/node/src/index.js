// An MCP server over stdio, run by Node.js.
import { McpServer } from "@modelcontextprotocol/server";
import { serveStdio } from "@modelcontextprotocol/server/stdio";
import { z } from "zod";

serveStdio(() => {
  const server = new McpServer({ name: "server-name", version: "0.1.0" });
  server.registerTool(
    "greet",
    {
      description: "Greets somebody.",
      inputSchema: z.object({ name: z.string() }),
      annotations: { readOnlyHint: true },
    },
    async ({ name }) => ({ content: [{ type: "text", text: `${process.env.GREETING ?? "Hello"}, ${name}!` }] }),
  );
  return server;
});
