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
"""Headed sections; an answer ends with the tokenizer's end-of-text token, so the vocabulary stays as it is."""
