//! GGUF blocks: bit for bit candle's whole-tensor dequantisation; products against plain ones.

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use randori_formats::gguf::Block;
use randori_qlora::{GgufMatrix, QuantMatrix, decode};

const FORMATS: [GgmlDType; 8] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

fn noise(seed: u64, shape: (usize, usize)) -> Tensor {
    let mut s = seed;
    let v: Vec<f32> = (0..shape.0 * shape.1)
        .map(|_| {
            s = s
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(v, shape, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    values(t).iter().map(|v| v.to_bits()).collect()
}

fn close(a: &Tensor, b: &Tensor) {
    let worst = values(a)
        .iter()
        .zip(values(b))
        .map(|(x, y)| (x - y).abs())
        .fold(0f32, f32::max);
    assert!(worst < 2e-4, "differs by {worst}");
}

#[test]
fn every_format_decodes_to_ggufs_values() {
    let golden = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../crates/formats/tests/fixtures/blocks.safetensors"
    );
    let golden = candle_core::safetensors::load(golden, &Device::Cpu).unwrap();
    for block in Block::ALL {
        let bytes: Vec<u8> = golden[block.name()].to_vec1().unwrap();
        let ours = decode(block, &bytes).unwrap();
        let ours: Vec<u32> = ours.iter().map(|v| v.to_bits()).collect();
        let theirs = bits(&golden[&format!("{}.values", block.name())]);
        assert_eq!(ours, theirs, "{block:?}");
    }
}

#[test]
fn dequantisation_is_candles() {
    for dtype in FORMATS {
        let q = QTensor::quantize(&noise(1, (37, 768)), dtype).unwrap();
        let want = bits(&q.dequantize(&Device::Cpu).unwrap());
        let m = QuantMatrix::gguf(q, None).unwrap();
        assert_eq!(bits(&m.dequantise().unwrap()), want, "{dtype:?}");
        let some = bits(&m.rows(&[36, 0, 5, 5]).unwrap());
        let picked: Vec<u32> = [36, 0, 5, 5]
            .iter()
            .flat_map(|&r| want[r * 768..(r + 1) * 768].to_vec())
            .collect();
        assert_eq!(some, picked, "{dtype:?}");
    }
}

/// Blocks that no quantiser makes (all bits set, NaN-free scales of any sign) must agree too.
#[test]
fn dequantisation_of_arbitrary_bytes_is_candles() {
    for dtype in FORMATS {
        let (blocks, size) = (64, dtype.type_size());
        let bytes: Vec<u8> = (0..blocks * size)
            .map(|i| {
                let v = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
                // keep every second byte's exponent bits low, so that no half-precision scale is
                // infinite or NaN
                if i % 2 == 1 {
                    (v as u8) & 0xbf
                } else {
                    v as u8
                }
            })
            .collect();
        let columns = dtype.block_size() * 4;
        let storage =
            candle_core::quantized::QStorage::from_data(bytes.clone().into(), &Device::Cpu, dtype)
                .unwrap();
        let want = QTensor::new(storage, (16, columns))
            .unwrap()
            .dequantize(&Device::Cpu)
            .unwrap();
        let m = QuantMatrix::Gguf(GgufMatrix::new(dtype, 16, columns, &bytes, None).unwrap());
        assert_eq!(bits(&m.dequantise().unwrap()), bits(&want), "{dtype:?}");
    }
}

#[test]
fn products_are_those_of_the_dequantised_matrix() {
    for dtype in FORMATS {
        for (n, outputs, inputs) in [(1, 300, 768), (9, 37, 512), (70, 520, 256)] {
            let q = QTensor::quantize(&noise(2, (outputs, inputs)), dtype).unwrap();
            let w = q.dequantize(&Device::Cpu).unwrap();
            let m = QuantMatrix::gguf(q, None).unwrap();
            let (x, dy) = (noise(3, (n, inputs)), noise(4, (n, outputs)));
            close(&m.forward(&x).unwrap(), &x.matmul(&w.t().unwrap()).unwrap());
            close(&m.backward(&dy).unwrap(), &dy.matmul(&w).unwrap());
        }
    }
}

#[test]
fn rows_in_another_order() {
    let q = QTensor::quantize(&noise(5, (4, 256)), GgmlDType::Q8_0).unwrap();
    let plain = values(&q.dequantize(&Device::Cpu).unwrap());
    let m = QuantMatrix::gguf(q, Some(vec![2, 0, 3, 1])).unwrap();
    let want: Vec<f32> = [2, 0, 3, 1]
        .iter()
        .flat_map(|&r| plain[r * 256..(r + 1) * 256].to_vec())
        .collect();
    assert_eq!(values(&m.dequantise().unwrap()), want);
    let q = QTensor::quantize(&noise(5, (4, 256)), GgmlDType::Q8_0).unwrap();
    let e = QuantMatrix::gguf(q, Some(vec![2, 0, 2, 1]))
        .err()
        .unwrap()
        .to_string();
    assert!(e.contains("no permutation"), "{e}");
}

#[test]
fn results_do_not_depend_on_threads() {
    let q = QTensor::quantize(&noise(6, (700, 512)), GgmlDType::Q4_1).unwrap();
    let m = QuantMatrix::gguf(q, None).unwrap();
    let (x, dy) = (noise(7, (33, 512)), noise(8, (33, 700)));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            (
                bits(&m.forward(&x).unwrap()),
                bits(&m.backward(&dy).unwrap()),
            )
        })
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(5));
}

#[test]
fn misfits_are_errors() {
    let check = |r: randori_qlora::Result<GgufMatrix>, words: &str| {
        let e = r.err().unwrap().to_string();
        assert!(e.contains(words), "{e}");
    };
    check(
        GgufMatrix::new(GgmlDType::Q4_1, 2, 33, &[], None),
        "multiple of 32 weights, not 33",
    );
    check(
        GgufMatrix::new(GgmlDType::Q4_1, 2, 32, &[0; 39], None),
        "2 x 20 bytes, not 39",
    );
    check(
        GgufMatrix::new(GgmlDType::Q4_1, usize::MAX, 32, &[0; 39], None),
        "not 39",
    );
    check(
        GgufMatrix::new(GgmlDType::Q2K, 1, 256, &[], None),
        "not supported",
    );
    let q = QTensor::quantize(&noise(5, (4, 256)), GgmlDType::Q8_0).unwrap();
    let m = QuantMatrix::gguf(q, None).unwrap();
    assert!(
        m.forward(&noise(1, (2, 255)))
            .unwrap_err()
            .to_string()
            .contains("255 features")
    );
    assert!(
        m.backward(&noise(1, (2, 256)))
            .unwrap_err()
            .to_string()
            .contains("wants 4")
    );
    assert!(m.rows(&[4]).unwrap_err().to_string().contains("row 4"));
}
