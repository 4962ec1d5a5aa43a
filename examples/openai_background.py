"""A background response that is dropped in the middle and continued, with OpenAI's own client.

    make demo                                                       # in another terminal; prints its URL
    python examples/openai_background.py http://127.0.0.1:8000 "Tell me about rivers"

Needs `pip install openai`. A server with a token wants it in UNSPOOL_TOKEN.
"""

from __future__ import annotations

import os
import sys
import time
import uuid

from openai import APIConnectionError, OpenAI

ENDS = ("response.completed", "response.failed", "response.incomplete")


def main(base_url: str, question: str) -> None:
    client = OpenAI(base_url=f"{base_url.rstrip('/')}/v1", api_key=os.environ.get("UNSPOOL_TOKEN", "none"))
    response_id, position, ended = "", -1, False

    # However often this request is sent, it is one response.
    key = {"Idempotency-Key": str(uuid.uuid4())}
    with client.responses.create(input=question, background=True, stream=True, extra_headers=key) as stream:
        for event in stream:
            position = event.sequence_number
            if event.type == "response.created":
                response_id = event.response.id
            elif event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
                break
    print(f"\n--- dropped after {position}; the answer goes on without us ---")
    time.sleep(1)
    print(f"--- {client.responses.retrieve(response_id).status}; back again ---")

    while not ended:
        try:
            with client.responses.retrieve(response_id, stream=True, starting_after=position) as stream:
                for event in stream:
                    position = event.sequence_number
                    ended = event.type in ENDS
                    if event.type == "response.output_text.delta":
                        print(event.delta, end="", flush=True)
        except APIConnectionError:
            time.sleep(1)
    response = client.responses.retrieve(response_id)
    tokens = response.usage.total_tokens if response.usage is not None else "an unknown number of"
    print(f"\n--- {response.status}, {tokens} tokens ---")


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv[1:]))
    main(arguments.get(0, "http://127.0.0.1:8000"), arguments.get(1, "Tell me about rivers"))
