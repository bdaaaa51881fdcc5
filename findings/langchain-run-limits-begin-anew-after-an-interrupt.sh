#!/usr/bin/env bash
# langchain 1.5.2 (langgraph 1.2.24, langchain-core 1.8.3); read and run November 2026.
#
# `run_limit` of ToolCallLimitMiddleware and of ModelCallLimitMiddleware is to bound what one user message
# sets off. Its counter is kept out of the checkpoints, so it is empty whenever a paused run is resumed:
# an agent that stops for a human's approval has its whole `run_limit` again after every answer, and one
# whose every tool call is approved has no limit at all, of its tools or of its model. The limit works as
# long as it is tried without approvals. `thread_limit`, which is in the checkpoints, holds.
#
# Output seen (one user message; a model that asks for 6 calls of a tool, one after the other):
#   run_limit=2, no approvals: 2 calls ran, the model was asked 3 times
#   run_limit=2, each call approved: 6 calls ran, the model was asked 7 times
#   thread_limit=2, each call approved: 2 calls ran, the model was asked 3 times
#
# Exits 0 while that is so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet langchain==1.5.2 langgraph==1.2.24 langchain-core==1.8.3

"$folder/venv/bin/python" - <<'PYTHON'
import sys

from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ToolCallLimitMiddleware,
)
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command


class Model(GenericFakeChatModel):
    def bind_tools(self, tools, **kwargs):
        return self


def run(approvals, limit):
    """How many calls of the tool ran, and how often the model was asked, for one user message."""
    ran, asked = [], []

    @tool
    def search(page: int) -> str:
        """Search."""
        ran.append(page)
        return "found"

    def replies():
        for page in range(1, 7):
            asked.append(page)
            call = {"name": "search", "args": {"page": page}, "id": str(page)}
            yield AIMessage("", tool_calls=[call])
        asked.append("the end")
        yield AIMessage("Done.")

    middleware = [
        ToolCallLimitMiddleware(**{limit: 2}, exit_behavior="end"),
        ModelCallLimitMiddleware(**{limit: 3}),
    ]
    if approvals:
        middleware.append(HumanInTheLoopMiddleware(interrupt_on={"search": True}))
    agent = create_agent(
        Model(messages=replies()), [search], middleware=middleware, checkpointer=InMemorySaver()
    )
    thread = {"configurable": {"thread_id": "1"}}
    answer = Command(resume={"decisions": [{"type": "approve"}]})
    state = agent.invoke({"messages": [("user", "Search.")]}, thread)
    while "__interrupt__" in state:
        state = agent.invoke(answer, thread)
    return len(ran), len(asked)


plain = run(approvals=False, limit="run_limit")
approved = run(approvals=True, limit="run_limit")
thread = run(approvals=True, limit="thread_limit")
said = "{} calls ran, the model was asked {} times"
print("run_limit=2, no approvals:", said.format(*plain))
print("run_limit=2, each call approved:", said.format(*approved))
print("thread_limit=2, each call approved:", said.format(*thread))
sys.exit((plain, approved, thread) != ((2, 3), (6, 7), (2, 3)))
PYTHON
