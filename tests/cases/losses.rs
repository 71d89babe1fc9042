//! Losses over a step's whole batch, and trainings that cannot learn.
