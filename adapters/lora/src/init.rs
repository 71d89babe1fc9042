//! Initial values of an adapter: uniform random numbers that are a pure function of (seed, name,
//! index).

/// `n` numbers in [0, 1) with 24 random bits each.
///
/// state_i = (seed xor fnv1a64(name)) + (i + 1) · 0x9E3779B97F4A7C15 (mod 2^64), then splitmix64's
/// finaliser; the top 24 bits over 2^24. The PyTorch peer has the same definition, so both start
/// training from the same values.
pub fn splitmix(seed: u64, name: &str, n: usize) -> impl Iterator<Item = f64> {
    let base = seed ^ fnv1a64(name.as_bytes());
    (1..=n as u64).map(move |i| {
        (mix(base.wrapping_add(i.wrapping_mul(GOLDEN))) >> 40) as f64 / (1u64 << 24) as f64
    })
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// splitmix64's finaliser.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The `i`-th 64-bit word of a stream.
pub(crate) fn word(base: u64, i: u64) -> u64 {
    mix(base.wrapping_add(i.wrapping_add(1).wrapping_mul(GOLDEN)))
}

fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    })
}
