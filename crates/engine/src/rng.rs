//! Random numbers as a pure function of where they are used: no state, so no result depends on
//! batching, on the order of work or on how often a run was killed. Philox4x64-10 (Salmon et al.,
//! SC 2011).

/// What a number is for: streams of one seed are independent of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// Drawing tokens.
    Sampling = 0,
    /// Order of the examples in an epoch.
    Shuffle = 1,
    /// Seeds of LoRA's dropout masks.
    Dropout = 2,
    /// Held-out prompts drawn again, for the intervals of what is measured on them.
    Resample = 3,
}

/// A uniform number in [0, 1) with 53 random bits, for drawing token `position` of response
/// `sequence`. `draw` 0 is the host's; samplers of the same position use 1, 2, ….
pub fn uniform(seed: u64, iteration: u64, sequence: u64, position: u64, draw: u64) -> f64 {
    unit(word(
        Stream::Sampling,
        seed,
        [iteration, sequence, position, draw],
    ))
}

/// 64 random bits at `counter` of a seed's stream.
pub fn word(stream: Stream, seed: u64, counter: [u64; 4]) -> u64 {
    philox(counter, [seed, stream as u64])[0]
}

/// An order of `0..n` for one epoch (Fisher-Yates).
pub fn permutation(seed: u64, epoch: u64, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let u = unit(word(Stream::Shuffle, seed, [epoch, i as u64, 0, 0]));
        order.swap(i, (u * (i + 1) as f64) as usize);
    }
    order
}

/// The top 53 bits as a fraction: exact, and never 1.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// One block of Philox4x64-10.
fn philox(mut c: [u64; 4], mut k: [u64; 2]) -> [u64; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD2E7_470E_E14C_6C93, 0xCA5A_8263_9512_1157];
    const WEYL: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xBB67_AE85_84CA_A73B];
    for round in 0..10 {
        if round > 0 {
            k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
        }
        let (high0, low0) = wide(MULTIPLIERS[0], c[0]);
        let (high1, low1) = wide(MULTIPLIERS[1], c[2]);
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0];
    }
    c
}

/// The 128-bit product as (high, low).
fn wide(a: u64, b: u64) -> (u64, u64) {
    let product = a as u128 * b as u128;
    ((product >> 64) as u64, product as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // Random123's kat_vectors, philox4x64 10 rounds
        assert_eq!(
            philox([0; 4], [0; 2]),
            [
                0x16554d9eca36314c,
                0xdb20fe9d672d0fdc,
                0xd7e772cee186176b,
                0x7e68b68aec7ba23b
            ]
        );
        assert_eq!(
            philox([u64::MAX; 4], [u64::MAX; 2]),
            [
                0x87b092c3013fe90b,
                0x438c3c67be8d0224,
                0x9cc7d7c69cd777b6,
                0xa09caebf594f0ba0
            ]
        );
        assert_eq!(
            philox(
                [
                    0x243f6a8885a308d3,
                    0x13198a2e03707344,
                    0xa4093822299f31d0,
                    0x082efa98ec4e6c89
                ],
                [0x452821e638d01377, 0xbe5466cf34e90c6c]
            ),
            [
                0xa528f45403e61d95,
                0x38c72dbd566e9788,
                0xa5a1610e72fd18b5,
                0x57bd43b5e52b7fe6
            ]
        );
    }

    /// Mean, variance and a chi-square over 64 cells, walking along each coordinate in turn.
    #[test]
    fn every_coordinate_walks_a_uniform_sequence() {
        let n = 64_000u64;
        for axis in 0..5 {
            let (mut sum, mut squares, mut cells, mut lagged, mut before) =
                (0.0, 0.0, [0u32; 64], 0.0, 0.5);
            for i in 0..n {
                let mut at = [7, 1, 2, 3, 0];
                at[axis] = i;
                let u = uniform(at[0], at[1], at[2], at[3], at[4]);
                assert!((0.0..1.0).contains(&u));
                sum += u;
                squares += (u - 0.5) * (u - 0.5);
                lagged += (u - 0.5) * (before - 0.5);
                before = u;
                cells[(u * 64.0) as usize] += 1;
            }
            let n = n as f64;
            let expected = n / 64.0;
            let chi: f64 = cells
                .iter()
                .map(|&c| (c as f64 - expected).powi(2) / expected)
                .sum();
            // 5 standard deviations each: 1/sqrt(12 n), sqrt(1/180/n), chi-square with 63 degrees,
            // 1/(12 sqrt n)
            assert!(
                (sum / n - 0.5).abs() < 5.0 / (12.0 * n).sqrt(),
                "axis {axis}: mean {}",
                sum / n
            );
            assert!(
                (squares / n - 1.0 / 12.0).abs() < 5.0 / (180.0 * n).sqrt(),
                "axis {axis}"
            );
            assert!(
                (chi - 63.0).abs() < 5.0 * 126f64.sqrt(),
                "axis {axis}: chi-square {chi}"
            );
            assert!(
                (lagged / n).abs() < 5.0 / 12.0 / n.sqrt(),
                "axis {axis}: lag-1 {}",
                lagged / n
            );
        }
    }

    #[test]
    fn streams_and_seeds_differ() {
        let a = word(Stream::Sampling, 1, [0; 4]);
        assert_ne!(a, word(Stream::Shuffle, 1, [0; 4]));
        assert_ne!(a, word(Stream::Sampling, 2, [0; 4]));
    }

    #[test]
    fn a_permutation_is_one_and_epochs_differ() {
        let order = permutation(3, 0, 100);
        assert_ne!(order, permutation(3, 1, 100));
        assert_ne!(order, permutation(4, 0, 100));
        assert_eq!(order, permutation(3, 0, 100));
        let mut sorted = order;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert!(permutation(3, 0, 0).is_empty());
    }

    /// All six orders of three are equally likely: chi-square with 5 degrees.
    #[test]
    fn permutations_are_uniform() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..6000 {
            *counts.entry(permutation(11, epoch, 3)).or_insert(0u32) += 1;
        }
        let chi: f64 = counts
            .values()
            .map(|&c| (c as f64 - 1000.0).powi(2) / 1000.0)
            .sum();
        assert_eq!(counts.len(), 6);
        assert!(chi < 25.0, "{chi}");
    }
}
