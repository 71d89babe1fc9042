//! exp, sigmoid, tanh and sums over slices, written for the compiler to vectorise and compiled once
//! for each instruction set. Without fused multiply-add and with a fixed number of lanes, every
//! instruction set gives the same bits.

/// Partial sums of a sum, added pairwise at the end.
const LANES: usize = 16;
/// Values that are summed in f32 before they are added to the f64 total.
pub(super) const RUN: usize = 512;

/// Compiles a function for AVX-512, AVX2 and the baseline; one of them is chosen at run time.
macro_rules! vectorised {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        #[inline]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
                fn wide($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2")]
                fn middle($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match $crate::cpu::math::instructions() {
                    // SAFETY: `instructions` has found the features on this machine.
                    2 => return unsafe { wide($($arg),*) },
                    // SAFETY: as above.
                    1 => return unsafe { middle($($arg),*) },
                    _ => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// The instruction set of this machine: 2 for AVX-512, 1 for AVX2, 0 for neither.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn instructions() -> u8 {
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
    {
        2
    } else if is_x86_feature_detected!("avx2") {
        1
    } else {
        0
    }
}

/// e^x to 2 ulp: with x = n ln 2 + r, a polynomial in r (Cephes) times 2^n. NaN gives NaN; below
/// about -87, where f32 runs out of exponents, the result is 0.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to a whole number
    let t = if x > 88.8 { 88.8 } else { x };
    let t = if t < -87.4 { -87.4 } else { t };
    let shifted = t * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (t - n * 0.693_359_4) - n * -2.121_944_4e-4; // ln 2 in two parts
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let p = p * (r * r) + r + 1.0;
    // 2^(n-1), doubled afterwards: n may be 128, whose power does not fit
    let whole = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let power = f32::from_bits((whole.wrapping_add(126) as u32) << 23);
    if x < -87.3 { 0.0 } else { p * power * 2.0 }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh x: near 0, where the quotient would cancel, a polynomial (Cephes).
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = p * z + 2.063_909e-2;
    p = p * z + -5.373_971_6e-2;
    p = p * z + 1.333_144_2e-1;
    p = p * z + -3.333_328e-1;
    let near = p * z * x + x;
    let size = x.abs();
    let far = (1.0 - 2.0 / (exp(2.0 * size) + 1.0)).copysign(x);
    if size < 0.625 { near } else { far }
}

/// Pairwise sum of the lanes. Never inlined: for its sake the compiler would keep two lanes a
/// register in the loop before it.
#[inline(never)]
fn fold(lanes: [f32; LANES]) -> f32 {
    let mut sums = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

vectorised! {
    /// Σ a·b: runs of [`RUN`] values in f32, their total in f64.
    pub fn dot(a: &[f32], b: &[f32]) -> f64 {
        let mut total = 0.0f64;
        for (a, b) in a.chunks(RUN).zip(b.chunks(RUN)) {
            let mut lanes = [0f32; LANES];
            let (aw, bw) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
            let (ar, br) = (aw.remainder(), bw.remainder());
            for (a, b) in aw.zip(bw) {
                for i in 0..LANES {
                    lanes[i] += a[i] * b[i];
                }
            }
            for (i, (a, b)) in ar.iter().zip(br).enumerate() {
                lanes[i] += a * b;
            }
            total += f64::from(fold(lanes));
        }
        total
    }
}

/// Defines a function that sums f(a) over a slice: runs of [`RUN`] values in f32, their total in
/// f64.
macro_rules! sum_of {
    ($(#[$doc:meta])* $name:ident($a:ident $(, $arg:ident)?) = $f:expr) => {
        vectorised! {
            $(#[$doc])*
            pub fn $name(values: &[f32] $(, $arg: f32)?) -> f64 {
                let mut total = 0.0f64;
                for values in values.chunks(RUN) {
                    let mut lanes = [0f32; LANES];
                    let whole = values.chunks_exact(LANES);
                    let rest = whole.remainder();
                    for values in whole {
                        for i in 0..LANES {
                            let $a = values[i];
                            lanes[i] += $f;
                        }
                    }
                    for (i, &$a) in rest.iter().enumerate() {
                        lanes[i] += $f;
                    }
                    total += f64::from(fold(lanes));
                }
                total
            }
        }
    };
}

sum_of! {
    /// Σ a.
    sum(a) = a
}

sum_of! {
    /// Σ e^(a - shift).
    sum_exp(a, shift) = exp(a - shift)
}

vectorised! {
    /// The largest value; NaN if any is NaN, -∞ for no values.
    pub fn max(a: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let mut bad = [0u32; LANES];
        let whole = a.chunks_exact(LANES);
        let rest = whole.remainder();
        for a in whole {
            for i in 0..LANES {
                bad[i] |= u32::from(a[i].is_nan());
                lanes[i] = if a[i] > lanes[i] { a[i] } else { lanes[i] };
            }
        }
        for (i, &a) in rest.iter().enumerate() {
            bad[i] |= u32::from(a.is_nan());
            lanes[i] = if a > lanes[i] { a } else { lanes[i] };
        }
        let mut best = lanes[0];
        for &lane in &lanes[1..] {
            best = if lane > best { lane } else { best };
        }
        if bad.iter().any(|&b| b != 0) { f32::NAN } else { best }
    }
}

vectorised! {
    /// a = e^(a - shift), in place. Returns their sum.
    pub fn exp_sum(a: &mut [f32], shift: f32) -> f64 {
        let mut total = 0.0f64;
        for a in a.chunks_mut(RUN) {
            let mut lanes = [0f32; LANES];
            let mut whole = a.chunks_exact_mut(LANES);
            for a in &mut whole {
                for i in 0..LANES {
                    a[i] = exp(a[i] - shift);
                    lanes[i] += a[i];
                }
            }
            for (i, a) in whole.into_remainder().iter_mut().enumerate() {
                *a = exp(*a - shift);
                lanes[i] += *a;
            }
            total += f64::from(fold(lanes));
        }
        total
    }
}

vectorised! {
    /// a *= factor.
    pub fn scale(a: &mut [f32], factor: f32) {
        for a in a {
            *a *= factor;
        }
    }
}

vectorised! {
    /// a += factor · b.
    pub fn add_scaled(a: &mut [f32], factor: f32, b: &[f32]) {
        for (a, b) in a.iter_mut().zip(b) {
            *a += factor * b;
        }
    }
}

vectorised! {
    /// a = cap · tanh(a / cap).
    pub fn softcap(a: &mut [f32], cap: f32) {
        for a in a {
            *a = cap * tanh(*a / cap);
        }
    }
}

vectorised! {
    /// a = factor · e^(a - shift).
    pub fn exp_scaled(a: &mut [f32], shift: f32, factor: f32) {
        for a in a {
            *a = factor * exp(*a - shift);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_tanh_are_close_to_f64() {
        let mut worst = (0f64, 0f64);
        for i in -865_000..880_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst.0 = worst.0.max((f64::from(exp(x)) - want).abs() / want);
            let want = f64::from(x).tanh();
            if x != 0.0 {
                worst.1 = worst.1.max((f64::from(tanh(x)) - want).abs() / want.abs());
            }
        }
        assert!(worst.0 < 3e-7 && worst.1 < 3e-7, "{worst:?}");
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan());
        assert_eq!(sigmoid(f32::NEG_INFINITY), 0.0);
        assert_eq!(tanh(50.0), 1.0);
    }

    #[test]
    fn sums_keep_what_f32_would_lose() {
        let ones = vec![0.1f32; 1_000_000];
        assert!((sum(&ones) - 1e6 * f64::from(0.1f32)).abs() < 0.1);
        assert!((dot(&ones, &ones) - 1e4).abs() < 1e-2);
        assert!(max(&[1.0, f32::NAN, 3.0]).is_nan());
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }
}
