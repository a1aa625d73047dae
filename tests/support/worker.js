// A small MCP server over `fetch`, for both eras (2025-11-25 without sessions, 2026-07-28): tools are functions.
const json = (id, result) => Response.json({ jsonrpc: "2.0", id, result });

export const serve = (tools) => ({
  async fetch(request, env, ctx) {
    if (request.method !== "POST") return new Response(null, { status: 405 });
    const { id, method, params } = await request.json();
    if (id === undefined) return new Response(null, { status: 202 });
    const modern = params?._meta?.["io.modelcontextprotocol/protocolVersion"] !== undefined;
    const whole = modern ? { resultType: "complete" } : {};
    const capabilities = { tools: {} };
    const serverInfo = { name: "by-hand", version: "1" };
    if (method === "server/discover") {
      const supportedVersions = ["2026-07-28"];
      return json(id, { ...whole, supportedVersions, capabilities, serverInfo, ttlMs: 0, cacheScope: "private" });
    }
    if (method === "initialize") return json(id, { protocolVersion: "2025-11-25", capabilities, serverInfo });
    if (method === "ping") return json(id, {});
    if (method === "tools/list") {
      const listed = Object.keys(tools).map((name) => ({ name, inputSchema: { type: "object" } }));
      return json(id, { ...whole, tools: listed, ...(modern ? { ttlMs: 0, cacheScope: "private" } : {}) });
    }
    if (method === "tools/call") {
      const text = String(await tools[params.name](params.arguments ?? {}, env, ctx));
      return json(id, { ...whole, content: [{ type: "text", text }] });
    }
    return Response.json({ jsonrpc: "2.0", id, error: { code: -32601, message: `no ${method}` } });
  },
});
