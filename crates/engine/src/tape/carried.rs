//! Values that cross blocks: what the calls of a pass hand on to later ones, and the gradients that
//! come back to it.

use std::collections::BTreeMap;

use randori_kernels::Shaped;

use crate::trace::TracedCarried;

/// What the calls of a pass have handed on so far, by name.
pub(crate) type Carried<T> = BTreeMap<String, CarriedValue<T>>;

/// The gradients to carried values, of the calls that took them and have run backward.
pub(crate) type CarriedGrads<T> = BTreeMap<String, Grad<T>>;

/// A value that crosses blocks.
pub(crate) struct CarriedValue<T> {
    /// (tokens, trailing axes…)
    pub(super) tensor: T,
    /// Whether a gradient must reach it.
    pub(super) needs: bool,
    pub(super) kept: Kept,
}

/// The call of attention, by block and number inside it, whose keys in the cache a value is, and
/// the one whose values.
pub(super) type Kept = [Option<(usize, usize)>; 2];

/// The gradient to one value, as far as it is known.
pub(crate) struct Grad<T> {
    pub(super) tensor: T,
    /// Whether nobody else holds its memory, so that more may be added in place.
    pub(super) owned: bool,
}

/// What is carried, as a run on shapes knows it.
pub(crate) fn shapes<T: Shaped>(carried: &Carried<T>) -> Vec<TracedCarried> {
    let one = |(name, value): (&String, &CarriedValue<T>)| {
        TracedCarried::outside(name, value.tensor.dims().get(1..).unwrap_or(&[]))
    };
    carried.iter().map(one).collect()
}
