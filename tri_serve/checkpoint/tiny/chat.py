"""The chat format of the tiny checkpoint: the special tokens, and the template that lays messages out.

Each message is its role's token, its text and ``<|end|>``; the last role token invites the assistant to answer.
``<|end|>`` is also the end-of-sequence token, so an engine stops where the turn does.
"""

from __future__ import annotations

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (PAD, END, SYSTEM, USER, ASSISTANT)
"""In the order of their ids, from 0."""

# `developer` is what newer OpenAI clients call the system role.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- set role = "system" if message["role"] == "developer" else message["role"] -%}
    {%- if role not in ("system", "user", "assistant") -%}
        {{- raise_exception("the roles are system, user and assistant, not " + message["role"]) -}}
    {%- endif -%}
    {{- "<|" + role + "|>" + message["content"] + "<|end|>" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|assistant|>" -}}
{%- endif -%}
"""


def render_chat(messages: list[tuple[str, str]], *, add_generation_prompt: bool = True) -> str:
    """What ``CHAT_TEMPLATE`` makes of ``(role, text)`` messages; for training and tests, without Jinja."""
    text = "".join(f"<|{role}|>{content}{END}" for role, content in messages)
    return text + ASSISTANT if add_generation_prompt else text
