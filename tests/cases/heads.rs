//! A tied head is two uses of one weight; PEFT adapters that touch head, embeddings or whole modules.
