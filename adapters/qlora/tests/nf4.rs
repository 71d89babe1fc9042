//! NF4 against its definition: levels, blocks over the flattened matrix, the known error of a
//! normal distribution.

use candle_core::{Device, Tensor};
use randori_qlora::QuantMatrix;

/// The 16 levels as bitsandbytes' documentation prints them.
const LEVELS: [f64; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

fn tensor(v: Vec<f32>, shape: (usize, usize)) -> Tensor {
    Tensor::from_vec(v, shape, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Normal numbers: the sum of 12 uniform ones, less 6.
fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed;
    let mut uniform = || {
        s = s
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (s >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n)
        .map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
        .collect()
}

/// Block by block in f64: nearest level times the largest magnitude.
fn by_definition(w: &[f32]) -> Vec<f64> {
    w.chunks(64)
        .flat_map(|block| {
            let scale = block
                .iter()
                .fold(0.0, |m: f64, v| m.max(f64::from(*v).abs()));
            block.iter().map(move |&v| {
                let near = |a: &&f64, b: &&f64| {
                    (*a * scale - f64::from(v))
                        .abs()
                        .total_cmp(&(*b * scale - f64::from(v)).abs())
                };
                LEVELS.iter().min_by(near).unwrap() * scale
            })
        })
        .collect()
}

#[test]
fn plain_scales_follow_the_definition() {
    // 100 columns: blocks straddle rows; 7 x 100 is no multiple of 64
    for shape in [(7, 100), (64, 64), (3, 33)] {
        let w = normal(shape.0 * shape.1, 1);
        let m = QuantMatrix::nf4(&tensor(w.clone(), shape), false).unwrap();
        for (got, want) in values(&m.dequantise().unwrap())
            .iter()
            .zip(by_definition(&w))
        {
            assert!(
                (f64::from(*got) - want).abs() < 1e-6,
                "{got} against {want}"
            );
        }
    }
}

#[test]
fn levels_survive_exactly_and_sizes_are_right() {
    let w: Vec<f32> = (0..64 * 128)
        .map(|i| LEVELS[(i * 7 + 15) % 16] as f32)
        .collect();
    let m = QuantMatrix::nf4(&tensor(w.clone(), (64, 128)), false).unwrap();
    assert_eq!(values(&m.dequantise().unwrap()), w);
    assert_eq!(m.bytes(), 64 * 128 / 2 + 128 * 4);
    let double = QuantMatrix::nf4(&tensor(w, (64, 128)), true).unwrap();
    // a byte a block, one scale for 256 of them, the offset
    assert_eq!(double.bytes(), 64 * 128 / 2 + 128 + 4 + 4);
}

#[test]
fn double_quantisation_costs_little() {
    let w = normal(512 * 256, 2);
    let error = |double: bool| {
        let q = values(
            &QuantMatrix::nf4(&tensor(w.clone(), (512, 256)), double)
                .unwrap()
                .dequantise()
                .unwrap(),
        );
        let (e, n) = w.iter().zip(&q).fold((0.0, 0.0), |(e, n), (a, b)| {
            (e + f64::from(a - b).powi(2), n + f64::from(a * a))
        });
        (e / n).sqrt()
    };
    let (plain, double) = (error(false), error(true));
    // NF4's relative error on normal weights is 9 to 10 %; 8-bit scales add a hundredth of that
    assert!((0.085..0.105).contains(&plain), "{plain}");
    assert!(double > plain && double < plain * 1.02, "{plain} {double}");
}

#[test]
fn zeros_and_bad_values() {
    let m = QuantMatrix::nf4(
        &Tensor::zeros((2, 64), candle_core::DType::F32, &Device::Cpu).unwrap(),
        true,
    )
    .unwrap();
    assert!(values(&m.dequantise().unwrap()).iter().all(|&v| v == 0.0));
    let mut w = vec![1f32; 128];
    w[65] = f32::NAN;
    let e = QuantMatrix::nf4(&tensor(w, (2, 64)), true)
        .err()
        .unwrap()
        .to_string();
    assert!(e.contains("(1, 1) is NaN"), "{e}");
}

#[test]
fn products_are_those_of_the_dequantised_matrix() {
    for (n, outputs, inputs) in [(1, 130, 192), (40, 300, 576), (5, 33, 100)] {
        let m = QuantMatrix::nf4(
            &tensor(normal(outputs * inputs, 3), (outputs, inputs)),
            true,
        )
        .unwrap();
        let w = m.dequantise().unwrap();
        let (x, dy) = (
            tensor(normal(n * inputs, 4), (n, inputs)),
            tensor(normal(n * outputs, 5), (n, outputs)),
        );
        let close = |a: Tensor, b: Tensor| {
            let worst = values(&a)
                .iter()
                .zip(values(&b))
                .map(|(x, y)| (x - y).abs() / (1.0 + y.abs()))
                .fold(0f32, f32::max);
            assert!(worst < 1e-4, "{worst}");
        };
        close(m.forward(&x).unwrap(), x.matmul(&w.t().unwrap()).unwrap());
        close(m.backward(&dy).unwrap(), dy.matmul(&w).unwrap());
    }
}
