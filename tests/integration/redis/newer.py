"""Fields of a stored job as a newer version may write them: in a rolling deploy, both versions share a store."""

from __future__ import annotations

NEWER = {
    "a status": ("status", "queued"),
    "a policy of a task": ("task", '{"name":"n","args":{},"resume":"always"}'),
    "a limit of another type": ("limits", '{"stall":"10 minutes"}'),
    "no owner": ("owner", "{}"),
    "an id of another type": ("settled", "yesterday"),
}
"""What a newer version may have stored that this one cannot read: field and value of the job."""

TOLERATED = {
    "an unknown field": ("brandnew", "x"),
    "a new limit": ("limits", '{"stall":600.0,"duration":0.0,"log_bytes":67108864,"new":1}'),
    "a longer request for a stop": ("abort", '["u",null,1.0,{"new":true}]'),
    "a longer owner": ("owner", '["u",null,"team"]'),
    "metadata of another type": ("m:title", '{"text":"T"}'),
}
"""What a newer version may have stored that this one must be able to pass over."""
