//! What a code means before its zero point and its scale.

/// The values of four bits with an exponent of two and a mantissa of one (E2M1, OCP's MX formats).
pub const E2M1_LEVELS: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// A number format of codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    /// The code less this.
    Less(u8),
    /// Two's complement in 8 bits.
    Signed,
    /// 4 bits with an exponent of two.
    E2m1,
    /// 8 bits with an exponent of four and no infinity (E4M3FN).
    E4m3,
}

impl Number {
    /// The values of all codes.
    pub(super) fn levels(self) -> [f32; 256] {
        let value = |code: u8| match self {
            Number::Less(zero) => f32::from(code) - f32::from(zero),
            Number::Signed => f32::from(code as i8),
            Number::E2m1 => E2M1_LEVELS[usize::from(code & 15)],
            Number::E4m3 => e4m3(code),
        };
        std::array::from_fn(|code| value(code as u8))
    }
}

/// A sign, four bits of exponent with bias 7 (0: no implicit one), three of mantissa; all seven set
/// are NaN.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (code & 127, exponent) {
        (127, _) => f32::NAN,
        (_, 0) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code >> 7 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

/// The power of two whose exponent is stored with a bias of 127 (E8M0); `None` for 255, which is no
/// number.
pub(super) fn power_of_two(byte: u8) -> Option<f32> {
    match byte {
        255 => None,
        0 => Some(f32::from_bits(1 << 22)), // 2^-127, below the normal numbers
        _ => Some(f32::from_bits(u32::from(byte) << 23)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bits_with_an_exponent_of_four() {
        let levels = Number::E4m3.levels();
        assert_eq!(levels[0x7e], 448.0, "the largest");
        assert_eq!(levels[0x38], 1.0);
        assert_eq!(levels[0x08], 2f32.powi(-6), "the smallest normal");
        assert_eq!(levels[0x01], 2f32.powi(-9), "the smallest");
        assert!(levels[0x7f].is_nan() && levels[0xff].is_nan());
        assert!((0..127).all(|code| levels[code] < levels[code + 1] || code == 126));
        assert!((0..127).all(|code| levels[code] == -levels[code + 128]));
    }

    #[test]
    fn exponents_are_powers_of_two() {
        for (byte, exponent) in [(0, -127), (1, -126), (127, 0), (128, 1), (254, 127)] {
            let wanted = 2f64.powi(exponent);
            assert_eq!(power_of_two(byte).map(f64::from), Some(wanted), "{byte}");
        }
        assert_eq!(power_of_two(255), None);
    }
}
