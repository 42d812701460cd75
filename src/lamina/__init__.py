"""lamina keeps an open language model improving on its owner's machine, one LoRA layer at a time."""

__version__ = "0.1.0"
