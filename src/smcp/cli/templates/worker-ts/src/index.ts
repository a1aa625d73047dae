// An MCP server that keeps notes, as a Worker. `npm install` brings the types that an editor wants; SMCP needs none.
import { createMcpHandler, McpServer } from "@modelcontextprotocol/server";
import * as z from "zod";

interface Env {
  NOTES: KVNamespace;
  GREETING: string;
}

function build(env: Env): McpServer {
  const server = new McpServer({ name: "server-name", version: "0.1.0" });

  server.registerTool(
    "greet",
    {
      description: "Greets somebody.",
      inputSchema: z.object({ name: z.string() }),
      annotations: { readOnlyHint: true },
    },
    async ({ name }) => ({ content: [{ type: "text", text: `${env.GREETING}, ${name}!` }] }),
  );

  server.registerTool(
    "write_note",
    {
      description: "Keeps a note under a title; one that is there already is replaced.",
      inputSchema: z.object({ title: z.string().min(1).max(200), text: z.string().max(100_000) }),
      annotations: { idempotentHint: true },
    },
    async ({ title, text }) => {
      await env.NOTES.put(title, text);
      return { content: [{ type: "text", text: `Kept as '${title}'.` }] };
    },
  );

  server.registerTool(
    "read_note",
    {
      description: "Gives the note with this title.",
      inputSchema: z.object({ title: z.string() }),
      annotations: { readOnlyHint: true },
    },
    async ({ title }) => {
      const text = await env.NOTES.get(title);
      if (text === null) return { content: [{ type: "text", text: `There is no note '${title}'.` }], isError: true };
      return { content: [{ type: "text", text }] };
    },
  );

  server.registerTool(
    "list_notes",
    { description: "Lists the titles of all notes.", annotations: { readOnlyHint: true } },
    async () => {
      const titles: string[] = [];
      for (let cursor: string | undefined; ; ) {
        const page: KVNamespaceListResult<unknown> = await env.NOTES.list({ cursor });
        titles.push(...page.keys.map((one) => one.name));
        if (page.list_complete) break;
        cursor = page.cursor;
      }
      return { content: [{ type: "text", text: titles.join("\n") || "There are no notes." }] };
    },
  );

  return server;
}

export default {
  fetch(request, env) {
    return createMcpHandler(() => build(env)).fetch(request);
  },
} satisfies ExportedHandler<Env>;
