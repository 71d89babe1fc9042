//! Chat templates render as Python's jinja2 renders them; tokenizers as transformers loads them.
