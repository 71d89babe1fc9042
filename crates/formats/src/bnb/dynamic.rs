//! bitsandbytes' dynamic maps: the values of the 256 codes of 8-bit scales and 8-bit moments (arXiv
//! 2110.02861, section 3).

use std::sync::{Arc, LazyLock};

/// For each decade 10^-6 … 1, the midpoints of 2^i equal parts of (0.1, 1) and their negatives,
/// with 0 and 1; ascending.
pub(super) static SIGNED: LazyLock<Arc<[f32; 256]>> = LazyLock::new(|| Arc::new(map(true)));
static UNSIGNED: LazyLock<[f32; 256]> = LazyLock::new(|| map(false));

/// The signed map: for each decade 10^-6 … 1, the midpoints of 2^i equal parts of (0.1, 1) and
/// their negatives, with 0 and 1; ascending.
pub fn signed_map() -> &'static [f32; 256] {
    &SIGNED
}

/// The unsigned map: twice as many parts per decade, no negatives; ascending.
pub fn unsigned_map() -> &'static [f32; 256] {
    &UNSIGNED
}

fn map(signed: bool) -> [f32; 256] {
    let mut map = vec![0.0, 1.0];
    for i in 0..7i32 {
        let parts = if signed { 1u32 << i } else { 2 << i };
        // torch.linspace(0.1, 1) in f32, with a fused multiply-add, from the nearer end
        let (low, high) = (0.1f32, 1.0f32);
        let width = (high - low) / parts as f32;
        let edge = |k: u32| {
            if k < parts.div_ceil(2) {
                width.mul_add(k as f32, low)
            } else {
                width.mul_add(-((parts - k) as f32), high)
            }
        };
        for k in 0..parts {
            let middle = 10f64.powi(i - 6) as f32 * ((edge(k) + edge(k + 1)) / 2.0);
            map.push(middle);
            if signed {
                map.push(-middle);
            }
        }
    }
    map.sort_by(f32::total_cmp);
    std::array::from_fn(|i| map[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compared with its definition, in f64.
    #[test]
    fn the_unsigned_map_has_twice_the_parts_and_no_negatives() {
        let mut want = vec![0.0, 1.0];
        for i in 0..7 {
            let parts = 2 << i;
            let middle =
                |k| 10f64.powi(i - 6) * (0.1 + 0.9 * (f64::from(k) + 0.5) / f64::from(parts));
            want.extend((0..parts).map(middle));
        }
        want.sort_by(f64::total_cmp);
        assert_eq!(want.len(), 256);
        for (got, want) in unsigned_map().iter().zip(want) {
            assert!(
                (f64::from(*got) - want).abs() <= 2e-7 * want,
                "{got} {want}"
            );
        }
    }

    #[test]
    fn zero_has_a_code_of_its_own() {
        assert_eq!((signed_map()[127], unsigned_map()[0]), (0.0, 0.0));
        assert!(signed_map().is_sorted() && unsigned_map().is_sorted());
    }
}
