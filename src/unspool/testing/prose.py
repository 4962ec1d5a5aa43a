"""The answers that a scripted model makes up: Markdown with everything in it that a client must show."""

from __future__ import annotations

from random import Random
from typing import Final

_QUESTION_LENGTH: Final = 120

_REASONING: Final = (
    "The question is “{topic}” — first, what does the reader know already? Probably the outline, not the details.",
    "Let me think about “{topic}”. A short answer first, then the reasons, then something to try.",
    "So this is about “{topic}”. The order matters here: what it is, why it holds, how one would check it.",
)
_MORE_REASONING: Final = (
    " An example will say more than another definition. I shall keep it small enough to read at a glance.",
    " I should not pretend to know more than I do: I am a script, and the answer has to say so.",
    " Three points are enough; whoever wants more will ask.",
)
_OPENINGS: Final = (
    (
        "You asked about **“{topic}”**. This answer comes from a script rather than from a model, so take its form "
        "seriously and its content lightly."
    ),
    (
        "About **“{topic}”**: I am a scripted model, which means that I answer at once, the same way every time, and "
        "without knowing anything."
    ),
    (
        "**“{topic}”** — a fair question. A real model would answer it; I only show what its answer looks like on "
        "the way to you."
    ),
)
_BODIES: Final = (
    (
        "Every piece of this text is a record in a log before it reaches you. What you see is that log, read from your "
        "own position: a reload, a second tab or another device reads the same records, each of them once."
    ),
    (
        "The run that writes these words does not know who is reading. It goes on when you close the page, and it is "
        "still there — finished, perhaps — when you come back."
    ),
    (
        "Nothing here depends on the connection that you opened. When it breaks, your client says how far it came, and "
        "continues with the very next character."
    ),
)
_POINTS: Final = (
    "**Reload** the page in the middle of a sentence: nothing is lost, nothing is said twice.",
    "**Open a second tab**: it catches up and then keeps pace with this one.",
    "**Press stop**: the answer ends at once, keeps what it said, and counts what it used.",
    "**Switch off the network** for a moment: the text continues where it broke off.",
    "**Look from another device**: same place, same words, naïve café and 日本語 and 🧵 included.",
)
_CODE: Final = (
    'async for record in manager.follow("conv-71", user="u-1", after=position):\n    position = record.offset',
    'job = await manager.start("conv-71", run, user="u-1")\nprint(job.key)  # conv-71/1',
    'outcome = await manager.abort("conv-71", user="u-1")\nprint(outcome)',
)
_CLOSINGS: Final = (
    "That is all there is to say about it without a model. Ask again: the same words will give the same answer.",
    "If something of this looked wrong on your screen, it is the screen: the text is the same on every run.",
    "Ask me something else, and compare. Only the seed and your messages decide what I say.",
)


def compose(question: str, random: Random) -> tuple[str, str]:
    """Reasoning and an answer in Markdown to `question`: some paragraphs, a list and a block of code."""
    topic = " ".join(question.split()) or "nothing in particular"
    if len(topic) > _QUESTION_LENGTH:
        topic = topic[: _QUESTION_LENGTH - 1].rstrip() + "…"
    bodies = random.sample(_BODIES, 2)
    paragraphs = [
        random.choice(_OPENINGS),
        bodies[0],
        "Some things to try while it is still running:",
        "\n".join(f"- {point}" for point in random.sample(_POINTS, 3)),
        bodies[1],
        f"```python\n{random.choice(_CODE)}\n```",
        random.choice(_CLOSINGS),
    ]
    reasoning = random.choice(_REASONING) + random.choice(_MORE_REASONING)
    # Not str.format: a question may hold braces.
    return reasoning.replace("{topic}", topic), "\n\n".join(paragraphs).replace("{topic}", topic)
