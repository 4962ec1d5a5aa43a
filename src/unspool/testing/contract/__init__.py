"""The contract suite: what every back end must show, as tests that a back end's own test module imports.

A new back end is one fixture. In its test module:

    from unspool.testing.contract import *

    @pytest.fixture
    def backend():
        return MyBackend()          # see `Backend`: a name, `make`, `close`

It needs pytest with pytest-asyncio in its `auto` mode. Everything runs with the transport as it is and with one that
loses, delays, doubles and reorders hints.
"""

from __future__ import annotations

import pytest

_MODULES = (
    "abort",
    "failure",
    "idempotency",
    "keeping",
    "kit",
    "lifecycle",
    "replacement",
    "resume",
    "resumption",
    "sources",
    "store",
    "subscribers",
    "tenants",
)
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))

from unspool.testing.contract.abort import TestAbort  # noqa: E402
from unspool.testing.contract.failure import TestCapacity, TestFailure  # noqa: E402
from unspool.testing.contract.idempotency import TestAccess, TestIdempotency  # noqa: E402
from unspool.testing.contract.keeping import TestStoreLease, TestStoreListings, TestStoreRetention  # noqa: E402
from unspool.testing.contract.kit import Backend, cluster, hints, manager, store  # noqa: E402
from unspool.testing.contract.lifecycle import TestEarlyEvents, TestLifecycle  # noqa: E402
from unspool.testing.contract.replacement import TestReplacement  # noqa: E402
from unspool.testing.contract.resume import TestResume  # noqa: E402
from unspool.testing.contract.resumption import TestResumption  # noqa: E402
from unspool.testing.contract.sources import TestSources  # noqa: E402
from unspool.testing.contract.store import TestStoreCreate, TestStoreSeal, TestStoreWrite  # noqa: E402
from unspool.testing.contract.subscribers import TestSubscribers  # noqa: E402
from unspool.testing.contract.tenants import TestStoreTenants, TestTenants  # noqa: E402

__all__ = [
    "Backend",
    "TestAbort",
    "TestAccess",
    "TestCapacity",
    "TestEarlyEvents",
    "TestFailure",
    "TestIdempotency",
    "TestLifecycle",
    "TestReplacement",
    "TestResume",
    "TestResumption",
    "TestSources",
    "TestStoreCreate",
    "TestStoreLease",
    "TestStoreListings",
    "TestStoreRetention",
    "TestStoreSeal",
    "TestStoreTenants",
    "TestStoreWrite",
    "TestSubscribers",
    "TestTenants",
    "cluster",
    "hints",
    "manager",
    "store",
]
