#!/usr/bin/env bash
# langgraph 1.2.24 (langgraph-prebuilt 1.1.3), ToolNode: what `request.override(tool=...)` puts in the place
# of another tool is given the hidden arguments of the tool that the model named, and not its own.
#
# A tool wrapper may run another tool than the one that was called. If the replacement declares a
# ToolRuntime and the name in the call is that of no registered tool, it gets one. If the name is a
# registered tool's, even of one that has nothing injected, the same replacement is turned down:
# "runtime: Field required. Please fix the error and try again", which no model can. So whoever routes
# a call to another tool (or prices what runs) finds that it depends on the name it came under.
#
# Output seen:
#   named nowhere: success x, ToolRuntime
#   named as a registered tool: error, runtime: Field required
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet langgraph==1.2.24 langgraph-prebuilt==1.1.3 langchain-core==1.8.3

cat > "$folder/case.py" <<'PYTHON'
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime


@tool
def registered(prompt: str) -> str:
    """Write."""
    return prompt


@tool
def replacement(prompt: str, runtime: ToolRuntime) -> str:
    """Write with the runtime."""
    return f"{prompt}, {type(runtime).__name__}"


def instead(request, execute):
    return execute(request.override(tool=replacement))


def run(name):
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([registered], wrap_tool_call=instead))
    graph.add_edge("__start__", "tools")
    call = {"name": name, "args": {"prompt": "x"}, "id": "1"}
    state = graph.compile().invoke({"messages": [AIMessage("", tool_calls=[call])]})
    return state["messages"][-1]


nowhere, named = run("nowhere"), run("registered")
print("named nowhere:", nowhere.status, nowhere.text)
print("named as a registered tool:", named.status + ",", named.text.splitlines()[1].strip())
assert (nowhere.status, nowhere.text) == ("success", "x, ToolRuntime")
assert named.status == "error"
assert "runtime: Field required" in named.text
PYTHON
"$folder/venv/bin/python" "$folder/case.py"
