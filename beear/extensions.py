"""Tables of what others may add to: methods, measures and attacks.

A table holds the product's own members and those that installed packages offer as Python entry points. For instance a
package whose pyproject.toml says

    [project.entry-points."beear.methods"]
    crow = "my_package.crow:METHOD"

adds a method named ``crow`` without a change to this repository.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, Protocol, TypeVar

from beear.errors import UserError


class Named(Protocol):
    """A member of a table."""

    @property
    def name(self) -> str:
        """What commands, configuration and reports call it."""
        ...


M = TypeVar("M", bound=Named)


class Table(Mapping[str, M], Generic[M]):
    """Members by name: the built-in ones in their own order, then those of other packages, sorted.

    Entry points are looked up when the table is first read, so that importing one costs nothing.
    """

    def __init__(self, group: str, kind: type[M], builtin: Sequence[M], taken: Collection[str] = ()) -> None:
        """``group`` is the entry points' group, such as ``beear.methods``; every member is an instance of ``kind``.

        ``taken``: names that no package may give a member, such as those of configuration fields that it would replace.
        """
        self.group, self._kind, self.builtin, self.taken = group, kind, tuple(builtin), frozenset(taken)

    @cached_property
    def added(self) -> tuple[M, ...]:
        """The members that other packages bring.

        Raises:
            UserError: one cannot be imported, is of another kind, or has a name that is taken.
        """
        found: list[M] = []
        taken = self.taken | {member.name for member in self.builtin}
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            member = self._load(point)
            if member.name in taken:
                raise UserError(f'{_whence(point)}: "{member.name}" is taken in {self.group}; expected a name of its own')
            taken |= {member.name}
            found.append(member)
        return tuple(found)

    @cached_property
    def _members(self) -> dict[str, M]:
        return {member.name: member for member in (*self.builtin, *self.added)}

    def __getitem__(self, name: str) -> M:
        """Return the member of that name."""
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._members)

    def __len__(self) -> int:
        """Return how many members there are."""
        return len(self._members)

    def _load(self, point: EntryPoint) -> M:
        try:
            member = point.load()
        # A stranger's package may fail in any way while it is imported.
        except Exception as error:
            raise UserError(f"{_whence(point)}: it cannot be loaded ({type(error).__name__}: {error})") from error
        if not isinstance(member, self._kind):
            raise UserError(f"{_whence(point)}: found {type(member).__name__}, expected {self._kind.__name__}")
        return member


def _whence(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "an installed package"
    return f'entry point "{point.name}" ({point.value}) of {package}'
