"""The chat template for bases that ship without one."""

from __future__ import annotations

__all__ = ["PLAIN_TEMPLATE"]

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '### ' + message['role'] | capitalize + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)
"""Headed sections; the end of an answer is the tokenizer's end-of-text token, so no token is added to the vocabulary."""
