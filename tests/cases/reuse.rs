//! An artefact is reused only for the same inputs.
