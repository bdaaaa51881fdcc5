#!/usr/bin/env bash
# pydantic-ai-slim 2.68.0 (PyPI); read and run November 2026.
#
# `ToolApproved(override_args=...)` is how an approver changes what a tool is called with. The change holds
# for one attempt: if that attempt is deferred again (a tool with `requires_approval=True` whose toolset or
# body raises ApprovalRequired too, as a limit of the price does), the new request carries the arguments
# that the model wrote, beside the metadata made of the changed ones. Who approves it plainly runs the
# model's arguments: the first approver's change is gone, and no error or warning says so.
#
# Output seen (the model asks to pay 500, the first approver makes it 50, the second one agrees):
#   first request:  {'amount': 500}, metadata None
#   second request: {'amount': 500}, metadata {'price': 50}
#   paid: [500]
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pydantic-ai-slim==2.68.0

"$folder/venv/bin/python" - <<'PYTHON'
import sys

from pydantic_ai import (
    Agent,
    ApprovalRequired,
    DeferredToolRequests,
    DeferredToolResults,
    FunctionToolset,
    ModelResponse,
    TextPart,
    ToolApproved,
    ToolCallPart,
)
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.toolsets import WrapperToolset

paid, requests = [], []
tools = FunctionToolset()


@tools.tool_plain(requires_approval=True)
def pay(amount: int) -> str:
    """Pay."""
    paid.append(amount)
    return "paid"


class Priced(WrapperToolset):
    """Asks once more, for the price."""

    async def call_tool(self, name, tool_args, ctx, tool):
        if ctx.tool_call_metadata != {"agreed": True}:
            raise ApprovalRequired(metadata={"price": tool_args["amount"]})
        return await super().call_tool(name, tool_args, ctx, tool)


def model(messages, info):
    if any(part.part_kind == "tool-return" for part in messages[-1].parts):
        return ModelResponse([TextPart("done")])
    return ModelResponse([ToolCallPart("pay", {"amount": 500}, tool_call_id="1")])


agent = Agent(
    FunctionModel(model), toolsets=[Priced(tools)], output_type=[str, DeferredToolRequests]
)


def run(prompt=None, history=None, results=None):
    result = agent.run_sync(prompt, message_history=history, deferred_tool_results=results)
    if isinstance(result.output, DeferredToolRequests):
        (call,) = result.output.approvals
        requests.append((call.args, result.output.metadata.get("1")))
    return result.all_messages()


changed = DeferredToolResults(approvals={"1": ToolApproved(override_args={"amount": 50})})
agreed = DeferredToolResults(approvals={"1": True}, metadata={"1": {"agreed": True}})
history = run("Pay the bill")
history = run(history=history, results=changed)
run(history=history, results=agreed)
print("first request:  {}, metadata {}".format(*requests[0]))
print("second request: {}, metadata {}".format(*requests[1]))
print("paid:", paid)
asked = {"amount": 500}
sys.exit((requests, paid) != ([(asked, None), (asked, {"price": 50})], [500]))
PYTHON
