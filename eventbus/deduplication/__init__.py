"""Handling once: `eventbus.deduplicate` and where it keeps its marks."""

from .dbapi import DbApiStore, TransactionStore
from .middleware import Deduplication, deduplicate
from .stores import Claim, MemoryStore, RemoteStore, Store

__all__ = [
    "Claim",
    "DbApiStore",
    "Deduplication",
    "MemoryStore",
    "RemoteStore",
    "Store",
    "TransactionStore",
    "deduplicate",
]
