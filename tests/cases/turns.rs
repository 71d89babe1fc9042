//! Conversations become the token ids that transformers' apply_chat_template makes.
