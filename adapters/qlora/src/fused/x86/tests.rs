use super::*;

#[test]
fn both_widths_equal_f64_sums_over_the_dequantised_rows() {
    use candle_core::{Device, Tensor, quantized::QTensor};
    if choose(GgmlDType::Q4_0).is_none() {
        eprintln!("skipped: no AVX2 here");
        return;
    }
    let value = |i: usize, m: usize| ((i * 7919 + m) % 1009) as f32 / 1009.0 - 0.4;
    let (rows, k) = (37usize, 512usize);
    let w: Vec<f32> = (0..rows * k).map(|i| value(i, 11)).collect();
    let w = Tensor::from_vec(w, (rows, k), &Device::Cpu).unwrap();
    let narrow: [Run; 8] = all!(run256);
    for (dtype, narrow) in FORMATS.into_iter().zip(narrow) {
        let q = QTensor::quantize(&w, dtype).unwrap();
        let data = q.data().unwrap();
        let plain: Vec<f32> = q
            .dequantize(&Device::Cpu)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        for n in 1..=4usize {
            let x: Vec<f32> = (0..n * k).map(|i| value(i, 3)).collect();
            let got = product(dtype, &data, (rows, k), &x).unwrap();
            let sums: Vec<f32> = x.chunks_exact(GROUP).map(|b| b.iter().sum()).collect();
            let mut by_row = vec![0f32; rows * n];
            // SAFETY: AVX-512 implies AVX2; shapes are as in `product`.
            unsafe { narrow(&data, data.len() / rows, &x, &sums, &mut by_row) };
            for i in 0..n {
                for r in 0..rows {
                    let want: f64 = (0..k)
                        .map(|c| f64::from(x[i * k + c]) * f64::from(plain[r * k + c]))
                        .sum();
                    for got in [got[i * rows + r], by_row[r * n + i]] {
                        assert!(
                            (f64::from(got) - want).abs() < 2e-5,
                            "{dtype:?} {n}: {got} for {want}"
                        );
                    }
                }
            }
        }
    }
}
