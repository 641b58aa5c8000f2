"""Changes to the syntax tree of a chat template before it is compiled: what the sandbox counts and measures."""

from __future__ import annotations

from typing import Any

from jinja2 import ext, nodes
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer


class GenerationTag(ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks assistant text for training masks; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares an instance variable

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class Instrument(NodeTransformer):
    """Puts `environment.step()` into every loop, loop condition and macro, and makes `~`, literals, slices and `*args`
    calls of `environment.tilde`, `literal`, `part` and `unpacked`."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock)):
            node.body.insert(0, nodes.ExprStmt(_environment_call("step")))
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(_environment_call("step"), node.test)
        if isinstance(node, nodes.Concat):
            return _environment_call("tilde", *node.nodes)
        if isinstance(node, (nodes.List, nodes.Dict)) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
            return _environment_call("literal", node)
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            return _environment_call("part", node)
        if isinstance(node, (nodes.Call, nodes.Filter, nodes.Test)) and node.dyn_args is not None:
            node.dyn_args = _environment_call("unpacked", node.dyn_args)
        return node


def _environment_call(name: str, *args: nodes.Expr) -> nodes.Call:
    # An attribute of the environment has no name in the template, so that the template cannot shadow it.
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)
