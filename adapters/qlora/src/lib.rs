//! To be written: see the contract.
/// A frozen quantised matrix.
pub struct QuantMatrix;
