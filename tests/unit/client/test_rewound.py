"""A store that has lost the end of a log: the follower takes the snapshot that says so, and then the end."""

from __future__ import annotations

from random import Random

from unspool.client.follow import Following


def block(offset: int, type: str, data: str) -> bytes:
    return f"event: {type}\ndata: {data}\nid: 1-{offset}\n\n".encode()


def test_a_rewound_snapshot_is_taken_and_the_end_after_it() -> None:
    """Its offset lies before what was delivered already; any other sync from before is passed over."""
    following = Following("s", after=0, generation=None, snapshot=False, random=Random(1))
    got = list(following.feed(b"".join(block(offset, "text.delta", '{"text":"x"}') for offset in range(1, 6))))
    assert [record.offset for record in got] == [1, 2, 3, 4, 5]
    assert list(following.feed(block(3, "sync", '{"offset":3}'))) == []
    got = list(following.feed(block(3, "sync", '{"offset":3,"reason":"rewound"}') + block(4, "failed", "{}")))
    assert [(record.offset, record.type) for record in got] == [(3, "sync"), (4, "failed")]
    assert following.ended
