"""Search spaces, one file per model family: dotted config path to search domain.

A file has ``ARCHITECTURES``, the architectures it is chosen for; ``SPACE``, what every search of the family tries; and
``ASKED``, what it tries when asked (``search.also``). :mod:`beear.search.space` finds the files by listing this folder.
The ranges are starting points with their reasons: where a reason says *guess*, nobody has measured it yet.
"""
