"""Uses a server with fastmcp: `python fast.py <url> <legacy|auto|2026-07-28> <calls> [look]`.

The key comes in the environment (SMCP_TEST_BEARER); what was seen goes to standard output as one JSON object.
"""

import asyncio
import json
import os
import sys
from typing import Any

import mcp_types as types
from fastmcp import Client
from mcp.client import session

# By itself the client takes a server for one of the older era whose first word needs more than 10 s.
session.DISCOVER_TIMEOUT_SECONDS = 240.0

seen: dict[str, Any] = {"said": {}, "asked": [], "logged": [], "progress": []}


async def elicit(message: str, response_type: Any, params: Any, context: Any) -> Any:
    """Fill in the form, or go to the address."""
    seen["asked"].append("form" if isinstance(params, types.ElicitRequestFormParams) else "url")
    if not isinstance(params, types.ElicitRequestFormParams):
        return types.ElicitResult(action="accept")
    fields = params.requested_schema["properties"].items()
    return {name: True if one["type"] == "boolean" else "Ada" for name, one in fields}


async def sample(messages: list[types.SamplingMessage], params: Any, context: Any) -> Any:
    """A model that says Paris, or uses the first tool it is given and then repeats what came of it."""
    seen["asked"].append("sampling")
    last = messages[-1].content_as_list[-1]
    told = {"role": "assistant", "model": "a model of the tests"}
    if isinstance(last, types.ToolResultContent):
        return types.CreateMessageResult(**told, content=last.content[0])
    if not params.tools:
        return "Paris"
    use = types.ToolUseContent(id="use-1", name=params.tools[0].name, input={"city": "Paris"})
    return types.CreateMessageResultWithTools(**told, content=[use], stop_reason="toolUse")


async def roots(context: Any) -> list[str]:
    """Show one folder."""
    seen["asked"].append("roots")
    return ["file:///project"]


async def log(params: types.LoggingMessageNotificationParams) -> None:
    """Keep a log message."""
    seen["logged"].append(params.data)


async def progress(done: float, total: float | None, message: str | None) -> None:
    """Keep what is reported."""
    seen["progress"].append([done, total])


async def look(client: Client, *, modern: bool) -> None:
    """Everything that the fixture server offers beside its tools."""
    if not modern:
        await client.ping()
        await client.set_logging_level("info")
    seen["resources"] = [str(one.uri) for one in await client.list_resources()]
    seen["resource"] = (await client.read_resource("test://static-text"))[0].text
    seen["prompts"] = [one.name for one in await client.list_prompts()]
    name = "test_prompt_with_arguments"
    seen["prompt"] = (await client.get_prompt(name, {"arg1": "one", "arg2": "two"})).messages[0].content.text
    asked = types.PromptReference(name=name)
    seen["completed"] = (await client.complete(asked, {"name": "arg1", "value": "par"})).values


async def main(url: str, mode: str, calls: list[tuple[str, dict[str, Any]]], *, all_of_it: bool) -> None:
    """Connect, look around, make the calls, tell."""
    client = Client(
        url,
        auth=os.environ["SMCP_TEST_BEARER"],
        mode=mode,
        roots=roots,
        sampling_handler=sample,
        sampling_capabilities=types.SamplingCapability(tools=types.SamplingToolsCapability()),
        elicitation_handler=elicit,
        log_handler=log,
    )
    async with client:
        seen["version"] = client.protocol_version
        if all_of_it:
            await look(client, modern=seen["version"] >= "2026-07-28")
        seen["tools"] = [tool.name for tool in await client.list_tools()]
        for name, arguments in calls:
            called = await client.call_tool(name, arguments, progress_handler=progress, raise_on_error=False)
            seen["said"][name] = [one.text for one in called.content if one.type == "text"]
            seen["isError"] = called.is_error
            if called.structured_content:
                seen["structured"] = called.structured_content
    print(json.dumps(seen))


asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), all_of_it=len(sys.argv) > 4))
