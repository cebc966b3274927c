"""Which group protocol the consumers speak: learned from the brokers, as librdkafka says nothing.

Against brokers without KIP-848 a consumer of that protocol looks for its coordinator for ever, without an error.
"""

from __future__ import annotations

from .... import log
from ....errors import ConfigError

logger = log.get(__name__)

CONSUMER_GROUP_HEARTBEAT = 68


class GroupProtocol:
    """Which protocol the consumers of one backend speak. name: "consumer" (KIP-848) or "classic".

    wanted: one of them, or "auto".
    """

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._refused = False
        self.name = "classic" if wanted == "classic" else "consumer"

    def learn(self, apis: frozenset[int] | None) -> None:
        """Choose by what a broker knows; None, when none said so: the classic protocol is everywhere."""
        known = apis is not None and CONSUMER_GROUP_HEARTBEAT in apis
        if self._wanted == "consumer" and apis is not None and not known:
            raise ConfigError("group_protocol is 'consumer', which these brokers do not know: use 'auto' or 'classic'")
        if self._wanted == "auto":
            self.name = "consumer" if known and not self._refused else "classic"

    @property
    def may_fall_back(self) -> bool:
        """Whether a refusal by the brokers ends in the classic protocol."""
        return self._wanted == "auto" and self.name == "consumer"

    def refuse(self) -> None:
        """The brokers know the consumer protocol, and have it switched off."""
        self._refused = True
        self.name = "classic"
