//! Casts against the half crate.

use crate::emulator::*;
use half::bf16;
use randori_cuda::{Float, ops::cast::cast};

#[test]
fn casts_round_as_the_half_crate() {
    let Some(on) = emulator() else { return };
    let mut dice = Dice(3);
    for n in [0, 1, 7, 8, 2048 + 3] {
        // any bits but NaNs, whose payload is nobody's business
        let x: Vec<f32> = (0..n)
            .map(|_| f32::from_bits(dice.word() as u32))
            .map(|v| if v.is_nan() { f32::INFINITY } else { v })
            .collect();
        for skip in [0, 1].into_iter().filter(|s| *s <= n) {
            let (from, half, back) = (floats(&x), half_room(n), room(n));
            cast(
                on,
                Float::F32,
                n - skip,
                from.ptr().offset(4 * skip),
                half.ptr(),
            )
            .unwrap();
            let want: Vec<bf16> = x[skip..].iter().map(|v| bf16::from_f32(*v)).collect();
            assert_eq!(half.get()[..n - skip], want);
            assert!(half.get()[n - skip..].iter().all(|v| v.is_nan()));
            cast(
                on,
                Float::Bf16,
                n - skip,
                half.ptr(),
                back.ptr().offset(4 * skip),
            )
            .unwrap();
            for (b, h) in back.get()[skip..].iter().zip(&want) {
                assert_eq!(b.to_bits(), h.to_f32().to_bits());
            }
        }
    }
}
