-- One statement per paragraph. Amounts are nano-USD, times microseconds since 1970.

CREATE TABLE account (
    account_id TEXT NOT NULL PRIMARY KEY,
    posted INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
    floor INTEGER NOT NULL DEFAULT 0
) STRICT

CREATE TABLE hold (
    generation TEXT NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account (account_id),
    remaining INTEGER NOT NULL CHECK (remaining >= 0),
    state TEXT NOT NULL CHECK (state IN ('open', 'closed')),
    expires_at INTEGER NOT NULL,
    epoch INTEGER NOT NULL
) STRICT

CREATE INDEX hold_open ON hold (expires_at) WHERE state = 'open'

CREATE TABLE model_call (
    call_id TEXT NOT NULL PRIMARY KEY,
    generation TEXT NOT NULL,
    agent TEXT NOT NULL,
    step TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    account_id TEXT NOT NULL REFERENCES account (account_id),
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('started', 'settled')),
    source TEXT CHECK (source IN ('provider', 'estimate', 'void')),
    usage TEXT,
    usage_hash TEXT,
    raw TEXT,
    price_version TEXT,
    unit_prices TEXT,
    cost_nano INTEGER CHECK (cost_nano >= 0),
    context TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    settled_at INTEGER,
    CHECK ((state = 'settled') = (source IS NOT NULL))
) STRICT

CREATE INDEX model_call_generation ON model_call (generation, started_at)

CREATE INDEX model_call_account ON model_call (account_id)

CREATE INDEX model_call_started ON model_call (started_at) WHERE state = 'started'

CREATE TABLE entry (
    key TEXT NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account (account_id),
    generation TEXT,
    kind TEXT NOT NULL CHECK (kind IN ('charge', 'trueup', 'grant', 'refill', 'adjust')),
    amount INTEGER NOT NULL,
    balance_after INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT

CREATE INDEX entry_account ON entry (account_id, created_at, key)

CREATE INDEX entry_created ON entry (created_at, key)

CREATE INDEX entry_generation ON entry (generation)

CREATE TRIGGER entry_keeps BEFORE UPDATE ON entry BEGIN
    SELECT RAISE(ABORT, 'entries are append-only');
END

CREATE TRIGGER entry_stays BEFORE DELETE ON entry BEGIN
    SELECT RAISE(ABORT, 'entries are append-only');
END

CREATE TABLE outbox (
    key TEXT NOT NULL PRIMARY KEY REFERENCES entry (key),
    target TEXT NOT NULL,
    payload TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER NOT NULL,
    leased_until INTEGER,
    delivered_at INTEGER
) STRICT

CREATE INDEX outbox_due ON outbox (target, next_at) WHERE delivered_at IS NULL
