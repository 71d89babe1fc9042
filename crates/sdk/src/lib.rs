//! What a Randori plugin is written against. See `seam` for the traits both sides meet at.
pub mod seam;
