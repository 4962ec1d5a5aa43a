"""OpenAI's Responses API: background mode, streams that are continued after a sequence number, cancelling."""

from unspool.http.dialects.responses.inputs import chat_tools
from unspool.http.dialects.responses.projection import Responses
from unspool.http.dialects.responses.routes import routes

__all__ = ["Responses", "chat_tools", "routes"]
