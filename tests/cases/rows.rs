//! What a data file says reaches the model, or is counted.
