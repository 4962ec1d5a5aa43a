-- One statement per paragraph. Amounts are nano-USD, times have a zone.

CREATE TABLE account (
    account_id TEXT NOT NULL PRIMARY KEY,
    posted BIGINT NOT NULL DEFAULT 0,
    held BIGINT NOT NULL DEFAULT 0 CHECK (held >= 0),
    floor BIGINT NOT NULL DEFAULT 0
)

CREATE TABLE hold (
    generation TEXT NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account (account_id),
    remaining BIGINT NOT NULL CHECK (remaining >= 0),
    state TEXT NOT NULL CHECK (state IN ('open', 'closed')),
    expires_at TIMESTAMPTZ NOT NULL,
    epoch BIGINT NOT NULL
)

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
    usage JSONB,
    usage_hash TEXT,
    raw JSONB,
    price_version TEXT,
    unit_prices JSONB,
    cost_nano BIGINT CHECK (cost_nano >= 0),
    context JSONB NOT NULL,
    started_at TIMESTAMPTZ NOT NULL,
    settled_at TIMESTAMPTZ,
    CHECK ((state = 'settled') = (source IS NOT NULL))
)

CREATE INDEX model_call_generation ON model_call (generation, started_at)

CREATE INDEX model_call_account ON model_call (account_id)

CREATE INDEX model_call_started ON model_call (started_at) WHERE state = 'started'

CREATE TABLE entry (
    key TEXT NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account (account_id),
    generation TEXT,
    kind TEXT NOT NULL CHECK (kind IN ('charge', 'trueup', 'grant', 'refill', 'adjust')),
    amount BIGINT NOT NULL,
    balance_after BIGINT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
)

CREATE INDEX entry_account ON entry (account_id, created_at, key)

CREATE INDEX entry_created ON entry (created_at, key)

CREATE INDEX entry_generation ON entry (generation)

CREATE FUNCTION entry_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'entries are append-only';
END
$$

CREATE TRIGGER entry_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON entry
    FOR EACH STATEMENT EXECUTE FUNCTION entry_is_append_only()

CREATE TABLE outbox (
    key TEXT NOT NULL PRIMARY KEY REFERENCES entry (key),
    target TEXT NOT NULL,
    payload JSONB NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at TIMESTAMPTZ NOT NULL,
    leased_until TIMESTAMPTZ,
    delivered_at TIMESTAMPTZ
)

CREATE INDEX outbox_due ON outbox (target, next_at) WHERE delivered_at IS NULL
