// An MCP server as a Worker, without a package: the protocol is JSON in a POST. SMCP translates for newer clients.
const VERSIONS = ["2025-11-25", "2025-06-18", "2025-03-26"];
const TOOLS = [
  {
    name: "greet",
    description: "Greets somebody.",
    inputSchema: { type: "object", properties: { name: { type: "string" } }, required: ["name"] },
    annotations: { readOnlyHint: true },
  },
];

class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

function call(params, env) {
  if (params.name !== "greet") throw new Refused(-32602, "There is no such tool.");
  return { content: [{ type: "text", text: `${env.GREETING}, ${params.arguments?.name}!` }] };
}

function answer(method, params, env) {
  switch (method) {
    case "initialize":
      return {
        protocolVersion: VERSIONS.includes(params.protocolVersion) ? params.protocolVersion : VERSIONS[0],
        capabilities: { tools: {} },
        serverInfo: { name: "server-name", version: "0.1.0" },
      };
    case "ping":
      return {};
    case "tools/list":
      return { tools: TOOLS };
    case "tools/call":
      return call(params, env);
    default:
      throw new Refused(-32601, "Method not found");
  }
}

export default {
  async fetch(request, env) {
    if (request.method !== "POST") return new Response(null, { status: 405, headers: { allow: "POST" } });
    const { id, method, params = {} } = await request.json();
    // A notification wants no answer.
    if (id === undefined) return new Response(null, { status: 202 });
    try {
      return Response.json({ jsonrpc: "2.0", id, result: answer(method, params, env) });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      return Response.json({ jsonrpc: "2.0", id, error: { code: error.code, message: error.message } });
    }
  },
};
