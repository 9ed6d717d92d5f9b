"""Follows a message's text through a chat template, so that a test of it is found behind aliases and macros too."""

from dataclasses import dataclass, field

from jinja2 import nodes

FIELDS = {"content", "text", "reasoning_content"}
FLATTENERS = {"tojson", "string", "join", "list", "pprint"}
PASSES = 30
WHOLE_METHODS = {"values", "items"}


@dataclass
class Flow:
    """Names in a template that hold a message's text (``text``) or whole messages (``messages``).

    ``complete`` is False where aliases of aliases went on for more rounds than an honest template needs.
    """

    text: set[str] = field(default_factory=lambda: set(FIELDS))
    messages: set[str] = field(default_factory=lambda: {"messages", "message"})
    complete: bool = True

    @classmethod
    def of(cls, tree: nodes.Template) -> "Flow":
        """Follow assignments, loops and macro calls until nothing new is found."""
        flow = cls()
        for _ in range(PASSES):
            if not flow._step(tree):
                return flow
        return cls(complete=False)

    def reads_text(self, node: nodes.Node) -> bool:
        """Whether evaluating an expression looks at a message's text."""
        return any(self._is_text(part) for part in [node, *node.find_all(nodes.Node)])

    def _is_text(self, part: nodes.Node) -> bool:
        if isinstance(part, nodes.Name):
            return part.name in self.text
        if isinstance(part, nodes.Getattr):
            return part.attr in self.text
        if isinstance(part, nodes.Const):
            return isinstance(part.value, str) and part.value in FIELDS
        if isinstance(part, nodes.Filter) and part.name in FLATTENERS and part.node is not None:
            return self._holds_messages(part.node)
        if isinstance(part, nodes.Call) and isinstance(part.node, nodes.Getattr) and part.node.attr in WHOLE_METHODS:
            return self._holds_messages(part.node.node)
        return False

    def _holds_messages(self, node: nodes.Node) -> bool:
        return any(isinstance(part, nodes.Name) and part.name in self.messages for part in [node, *node.find_all(nodes.Name)])

    def _step(self, tree: nodes.Template) -> bool:
        before = len(self.text) + len(self.messages)
        for assign in tree.find_all(nodes.Assign):
            self._bind(assign.target, assign.node)
        for loop in tree.find_all(nodes.For):
            self._bind(loop.target, loop.iter)
        for block in tree.find_all(nodes.AssignBlock):
            if any(self.reads_text(item) for item in block.body):
                self._add(block.target, self.text)
        for macro in tree.find_all(nodes.Macro):
            for call in tree.find_all(nodes.Call):
                if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
                    self._pass(macro, call)
        return len(self.text) + len(self.messages) > before

    def _pass(self, macro: nodes.Macro, call: nodes.Call) -> None:
        for parameter, argument in zip(macro.args, call.args, strict=False):
            self._bind(parameter, argument)
        named = {parameter.name: parameter for parameter in macro.args}
        for keyword in call.kwargs:
            if keyword.key in named:
                self._bind(named[keyword.key], keyword.value)

    def _bind(self, target: nodes.Node, value: nodes.Node) -> None:
        if self.reads_text(value):
            self._add(target, self.text)
        elif self._holds_messages(value) and not any(value.find_all(nodes.Filter)) and not isinstance(value, nodes.Const):
            self._add(target, self.messages)

    @staticmethod
    def _add(target: nodes.Node, names: set[str]) -> None:
        for part in [target, *target.find_all((nodes.Name, nodes.NSRef))]:
            if isinstance(part, nodes.Name):
                names.add(part.name)
            elif isinstance(part, nodes.NSRef):
                names.add(part.attr)
