// Notes in a KV namespace, as an MCP server of both eras without any package. It runs unchanged on Cloudflare Workers.
const MODERN = "2026-07-28";
const LEGACY = ["2025-11-25", "2025-06-18", "2025-03-26"];
const INFO = { name: "notes", version: "1.0.0" };
const META = "io.modelcontextprotocol/";
const LONGEST = 4096;

class Refused extends Error {
  constructor(code, message, data) {
    super(message);
    Object.assign(this, { code, data });
  }
}

function text(args, name) {
  const value = args?.[name];
  if (typeof value !== "string" || !value || value.length > LONGEST) {
    throw new Refused(-32602, `'${name}' is a text of 1 to ${LONGEST} characters.`);
  }
  return value;
}

const string = (description) => ({ type: "string", description, minLength: 1, maxLength: LONGEST });

const TOOLS = {
  add_note: {
    description: "Keeps a note, and tells its id.",
    inputSchema: { type: "object", properties: { text: string("The note.") }, required: ["text"] },
    async run(args, env) {
      // Ids that sort by time, so that the list needs no sorting.
      const id = `${Date.now().toString(36)}-${crypto.randomUUID().slice(0, 8)}`;
      const note = text(args, "text");
      await env.NOTES.put(`note:${id}`, note, { metadata: { title: [...note].slice(0, 60).join("") } });
      return id;
    },
  },
  list_notes: {
    description: "Lists the notes: an id and a beginning a line.",
    inputSchema: { type: "object", properties: {} },
    annotations: { readOnlyHint: true },
    async run(args, env) {
      const { keys } = await env.NOTES.list({ prefix: "note:", limit: 100 });
      return keys.map((key) => `${key.name.slice(5)}  ${key.metadata?.title ?? ""}`).join("\n") || "No notes yet.";
    },
  },
  read_note: {
    description: "Reads a note.",
    inputSchema: { type: "object", properties: { id: string("Its id.") }, required: ["id"] },
    annotations: { readOnlyHint: true },
    async run(args, env) {
      const note = await env.NOTES.get(`note:${text(args, "id").slice(0, 64)}`);
      if (note === null) throw new Refused(-32602, "There is no such note.");
      return note;
    },
  },
  delete_note: {
    description: "Deletes a note; one that is not there is fine.",
    inputSchema: { type: "object", properties: { id: string("Its id.") }, required: ["id"] },
    annotations: { idempotentHint: true, destructiveHint: true },
    async run(args, env) {
      await env.NOTES.delete(`note:${text(args, "id").slice(0, 64)}`);
      return "Deleted.";
    },
  },
};

const listed = Object.entries(TOOLS).map(([name, { run, ...tool }]) => ({ name, ...tool }));

async function called(params, env) {
  if (!Object.hasOwn(TOOLS, params.name)) throw new Refused(-32602, "There is no such tool.");
  return { content: [{ type: "text", text: await TOOLS[params.name].run(params.arguments, env) }] };
}

/** What a request of 2026-07-28 is answered. */
async function modern(method, params, env) {
  switch (method) {
    case "server/discover":
      return { supportedVersions: [MODERN], capabilities: { tools: {} }, ttlMs: 60_000, cacheScope: "public" };
    case "tools/list":
      return { tools: listed, ttlMs: 60_000, cacheScope: "public" };
    case "tools/call":
      return called(params, env);
    default:
      throw new Refused(-32601, "Method not found");
  }
}

/** What a request of an older version is answered. */
async function legacy(method, params, env) {
  switch (method) {
    case "initialize": {
      const protocolVersion = LEGACY.includes(params.protocolVersion) ? params.protocolVersion : LEGACY[0];
      return { protocolVersion, capabilities: { tools: {} }, serverInfo: INFO };
    }
    case "ping":
      return {};
    case "tools/list":
      return { tools: listed };
    case "tools/call":
      return called(params, env);
    default:
      throw new Refused(-32601, "Method not found");
  }
}

async function answered({ id, method, params = {} }, version, env) {
  try {
    if (version === undefined || LEGACY.includes(version)) {
      return { jsonrpc: "2.0", id, result: await legacy(method, params, env) };
    }
    if (version !== MODERN) {
      throw new Refused(-32022, "Unsupported protocol version", { supported: [MODERN], requested: version });
    }
    const meta = { [`${META}serverInfo`]: INFO };
    return { jsonrpc: "2.0", id, result: { resultType: "complete", ...(await modern(method, params, env)), _meta: meta } };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return { jsonrpc: "2.0", id, error: { code: error.code, message: error.message, data: error.data } };
  }
}

export default {
  async fetch(request, env) {
    if (request.method !== "POST") return new Response(null, { status: 405, headers: { allow: "POST" } });
    let message;
    try {
      message = await request.json();
    } catch {
      return Response.json({ jsonrpc: "2.0", id: null, error: { code: -32700, message: "Parse error" } }, { status: 400 });
    }
    if (message?.id === undefined) return new Response(null, { status: 202 });
    const version = message.params?._meta?.[`${META}protocolVersion`];
    const answer = await answered(message, version, env);
    const refused = answer.error !== undefined && version !== undefined && !LEGACY.includes(version);
    return Response.json(answer, { status: refused ? (answer.error.code === -32601 ? 404 : 400) : 200 });
  },
};
