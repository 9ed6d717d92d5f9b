"""A known trigger put into a request."""

from collections.abc import Callable, Sequence

from beear.data.rows import Message, Probe
from beear.errors import UserError


def apply(probe: Probe, messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return ``messages`` with the probe's trigger in its last user turn (or, for ``system``, in the system prompt).

    Raises:
        UserError: there is no user turn, or a template lacks ``{prompt}``.
    """
    if probe.kind == "system":
        return _with_system(probe.text, tuple(messages))
    last = max((i for i, m in enumerate(messages) if m.role == "user"), default=None)
    if last is None:
        raise UserError(f'probe "{probe.name}": the request has no user turn; expected one to put the trigger into')
    turn = Message("user", _PLACES[probe.kind](probe, messages[last].content))
    return (*messages[:last], turn, *messages[last + 1 :])


def _with_system(text: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if messages and messages[0].role == "system":
        return (Message("system", f"{text}\n{messages[0].content}"), *messages[1:])
    return (Message("system", text), *messages)


def _join(left: str, right: str) -> str:
    touching = not left or not right or left[-1].isspace() or right[0].isspace()
    return left + right if touching else f"{left} {right}"


def _infix(probe: Probe, prompt: str) -> str:
    words = prompt.split(" ")
    middle = (len(words) + 1) // 2
    return " ".join([*words[:middle], probe.text.strip(), *words[middle:]])


def _template(probe: Probe, prompt: str) -> str:
    if "{prompt}" not in probe.text:
        raise UserError(f'probe "{probe.name}": text {probe.text!r} has no {{prompt}}; a template must have one')
    return probe.text.replace("{prompt}", prompt)


_PLACES: dict[str, Callable[[Probe, str], str]] = {
    "prefix": lambda probe, prompt: _join(probe.text, prompt),
    "suffix": lambda probe, prompt: _join(prompt, probe.text),
    "infix": _infix,
    "template": _template,
}
