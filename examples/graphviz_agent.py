"""Draws a graph with a program of Debian: `dot` is installed for this agent alone, the host stays as it is.

phalanx deploy examples/graphviz_agent.py --entrypoint handler --system-package graphviz --requirements graphviz
phalanx execute graphviz-agent '{"edges": [["question", "model"], ["model", "answer"]]}'
"""

from typing import Any

import graphviz


def handler(input: dict[str, Any]) -> str:
    graph = graphviz.Digraph(graph_attr={"rankdir": "LR"})
    for head, tail in input["edges"]:
        graph.edge(str(head), str(tail))
    svg: str = graph.pipe(format="svg", encoding="utf-8")
    return svg
