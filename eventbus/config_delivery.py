"""How failing messages are tried again, and when their dead letters are held. Validated at birth, as all settings."""

from __future__ import annotations

import builtins
import random
from collections.abc import Callable, Iterable
from pkgutil import resolve_name
from typing import Any

from attrs import field, frozen

from .config_fields import flag, integer, number, optional_integer
from .errors import ConfigError
from .threads import Pauses

ErrorTypes = tuple[type[BaseException], ...]


def _error_types(value: object) -> object:
    """Classes, or their names: "ValueError", "shop.errors:Broken", several with commas between them."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, type):
        value = (value,)
    if not isinstance(value, Iterable):
        return value
    return tuple([_named(one) if isinstance(one, str) else one for one in value])


def _named(name: str) -> object:
    if hasattr(builtins, name):
        return getattr(builtins, name)
    try:
        return resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"there is no exception class {name!r}: name it 'package.module:Class'") from error


def _are_error_types(instance: object, attribute: Any, value: object) -> None:
    if not isinstance(value, tuple) or not all(
        isinstance(one, type) and issubclass(one, BaseException) for one in value
    ):
        raise ConfigError(f"{attribute.name} must be exception classes, not {value!r}")


@frozen(kw_only=True)
class RetryConfig:
    """How a message is tried again whose handler has failed; its key waits meanwhile, and no other.

    max_attempts: starts of the handler in one process, the first one included, until the message is a dead letter;
    None for no limit. initial_backoff, max_backoff: seconds between two of them. backoff_factor: growth from one pause
    to the next. jitter: the part of a pause that chance may cut off, 0 to 1; it only shortens.
    retry_on: exception classes that are tried again, and others not at all. give_up_on: those of them that are not,
    all the same. Both may be given by name ("package.module:Class").
    """

    max_attempts: int | None = optional_integer(5)
    initial_backoff: float = number(0.1)
    max_backoff: float = number(5.0)
    backoff_factor: float = number(2.0, low=1.0)
    jitter: float = number(0.1, high=1.0)
    retry_on: ErrorTypes = field(default=(BaseException,), converter=_error_types, validator=_are_error_types)
    give_up_on: ErrorTypes = field(default=(), converter=_error_types, validator=_are_error_types)

    def __attrs_post_init__(self) -> None:
        if self.max_backoff < self.initial_backoff:
            raise ConfigError(
                f"max_backoff ({self.max_backoff:g} s) is less than initial_backoff ({self.initial_backoff:g} s)"
            )

    def is_final(self, error: BaseException, failures: int) -> bool:
        """Whether a message is not tried again that has failed so often, with this error last."""
        if not isinstance(error, self.retry_on) or isinstance(error, self.give_up_on):
            return True
        return self.max_attempts is not None and failures >= self.max_attempts

    def pause_after(self, failures: int, chance: Callable[[], float] = random.random) -> float:
        """Seconds until the next attempt after so many failures, from 1 on."""
        pauses = Pauses(self.initial_backoff, self.backoff_factor, self.max_backoff)
        return pauses.after(failures) * (1.0 - self.jitter * chance())


@frozen(kw_only=True)
class GuardConfig:
    """When a subscription stops making dead letters, because it is rather the handler that is broken.

    enabled: False has every message that fails leave. share: the part of the last `window` messages that may become
    dead letters, once `least` of them were seen to. initial_pause, max_pause: seconds until one more message is tried,
    doubling each time that it fails; nothing else is handled meanwhile. The first that succeeds ends it.
    """

    enabled: bool = flag(True)
    share: float = number(0.5, high=1.0)
    window: int = integer(200)
    least: int = integer(20)
    initial_pause: float = number(10.0, above=True)
    max_pause: float = number(60.0, above=True)

    def __attrs_post_init__(self) -> None:
        if self.max_pause < self.initial_pause:
            raise ConfigError(f"max_pause ({self.max_pause:g} s) is less than initial_pause ({self.initial_pause:g} s)")
        if self.least > self.window:
            raise ConfigError(f"least ({self.least}) is more than window ({self.window})")
