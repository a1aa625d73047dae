// Who sits behind a client of Node: answers what servers ask, uses what they offer, and tells what was seen.

export const capabilities = { elicitation: { form: {}, url: {} }, sampling: { tools: {} }, roots: {} };

// What is told in the end, as one JSON object on standard output.
export const seen = { said: {}, asked: [], logged: [], progress: [] };

export function elicit({ params }) {
  seen.asked.push(params.mode === "url" ? "url" : "form");
  if (params.mode === "url") return { action: "accept" };
  const fields = Object.entries(params.requestedSchema.properties);
  return { action: "accept", content: Object.fromEntries(fields.map(([name, { type }]) => [name, type === "boolean" ? true : "Ada"])) };
}

// A model that says Paris, or uses the first tool it is given and then repeats what came of it.
export function sample({ params }) {
  seen.asked.push("sampling");
  const last = [params.messages.at(-1).content].flat().at(-1);
  const turn = (content, stopReason) => ({ role: "assistant", model: "a model of the tests", content, stopReason });
  if (last.type === "tool_result") return turn({ type: "text", text: last.content[0].text }, "endTurn");
  if (!params.tools) return turn({ type: "text", text: "Paris" }, "endTurn");
  return turn([{ type: "tool_use", id: "use-1", name: params.tools[0].name, input: { city: "Paris" } }], "toolUse");
}

export function roots() {
  seen.asked.push("roots");
  return { roots: [{ uri: "file:///project", name: "project" }] };
}

export function log({ params }) {
  seen.logged.push(params.data);
}

// Looks at everything that the fixture server offers beside its tools.
export async function look(client) {
  seen.resources = (await client.listResources()).resources.map(({ uri }) => uri);
  seen.resource = (await client.readResource({ uri: "test://static-text" })).contents[0].text;
  seen.prompts = (await client.listPrompts()).prompts.map(({ name }) => name);
  const name = "test_prompt_with_arguments";
  seen.prompt = (await client.getPrompt({ name, arguments: { arg1: "one", arg2: "two" } })).messages[0].content.text;
  const asked = { ref: { type: "ref/prompt", name }, argument: { name: "arg1", value: "par" } };
  seen.completed = (await client.complete(asked)).completion.values;
}

// Lists the tools and makes `calls`, [[tool, arguments], …]; `call` is the SDK's way to make one.
export async function use(client, calls, call) {
  seen.tools = (await client.listTools()).tools.map(({ name }) => name);
  for (const [name, args] of calls) {
    // Between rounds of input_required the SDK of 2.x reports progress of its own, without a total.
    const onprogress = ({ progress, total }) => total !== undefined && seen.progress.push([progress, total]);
    const called = await call({ name, arguments: args }, { onprogress });
    seen.said[name] = called.content.filter(({ type }) => type === "text").map(({ text }) => text);
    seen.isError = called.isError === true;
    if (called.structuredContent) seen.structured = called.structuredContent;
  }
}
