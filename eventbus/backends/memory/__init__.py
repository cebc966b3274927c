"""A broker inside this process: the same interface, for development and tests, shared by name.

Topics live as long as the process; the name finds them: `memory://orders`. Outages on demand are in
`eventbus.testing.memory`.
"""

from .backend import MemoryBackend

__all__ = ["MemoryBackend"]
