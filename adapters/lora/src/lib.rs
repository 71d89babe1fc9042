//! To be written: see the contract.
/// LoRA settings.
pub struct LoraSpec;
