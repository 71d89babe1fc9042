//! NF4 against bitsandbytes itself: the bytes that golden/nf4.py had it make.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, safetensors::load};
use randori_qlora::{NF4_LEVELS, Nf4Matrix, Nf4Parts, Nf4Scales, QuantMatrix};

type Golden = HashMap<String, Tensor>;

fn goldens() -> Vec<Golden> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/nf4.safetensors");
    let many = std::env::var("RANDORI_NF4_CASES").ok();
    [Some(own.to_string()), many]
        .into_iter()
        .flatten()
        .map(|path| load(path, &Device::Cpu).unwrap())
        .collect()
}

fn bytes(t: &Tensor) -> Vec<u8> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// f32 as bits, so that nothing is equal but by being the same.
fn bits(t: &Tensor) -> Vec<u32> {
    let all: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
    all.into_iter().map(f32::to_bits).collect()
}

fn parts(w: &Tensor, double: bool) -> Nf4Parts {
    match QuantMatrix::nf4(w, double).unwrap() {
        QuantMatrix::Nf4(m) => m.parts().clone(),
        QuantMatrix::Gguf(_) => panic!("not NF4"),
    }
}

fn of(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

/// Whether scales quantised twice are the golden's.
fn same_double(golden: &Golden, name: &str, got: &Nf4Parts) {
    let at = |part: &str| &golden[&format!("{name}.{part}")];
    let Nf4Scales::Double {
        codes,
        scales,
        offset,
        map,
        block,
    } = &got.scales
    else {
        panic!("{name}: not quantised twice");
    };
    assert_eq!(of(&[*offset]), bits(at("offset")), "{name}: offset");
    assert_eq!(of(scales), bits(at("nested")), "{name}: nested absmax");
    assert_eq!(*codes, bytes(at("absmax8")), "{name}: absmax codes");
    assert_eq!(*block, 256);
    assert_eq!(of(&map[..]), bits(&golden["map"]), "the dynamic map");
}

#[test]
fn bytes_are_those_of_bitsandbytes() {
    let mut cases = 0;
    for golden in goldens() {
        assert_eq!(of(&NF4_LEVELS), bits(&golden["levels"]));
        for name in golden.keys().filter_map(|k| k.strip_suffix(".w")) {
            let at = |part: &str| &golden[&format!("{name}.{part}")];
            let plain = parts(at("w"), false);
            assert_eq!(plain.codes, bytes(at("codes")), "{name}: codes");
            let Nf4Scales::Plain(absmax) = &plain.scales else {
                panic!("{name}: not plain");
            };
            assert_eq!(of(absmax), bits(at("absmax")), "{name}: absmax");
            let double = parts(at("w"), true);
            assert_eq!(double.codes, plain.codes);
            same_double(&golden, name, &double);
            cases += 1;
        }
    }
    assert!(cases >= 17, "{cases}");
}

#[test]
fn values_are_those_of_bitsandbytes() {
    let golden = &goldens()[0];
    let mut cases = 0;
    for name in golden.keys().filter_map(|k| k.strip_suffix(".values")) {
        let w = &golden[&format!("{name}.w")];
        let want = &golden[&format!("{name}.values")];
        // stored parts, taken as they are, dequantise to the same values
        let stored = Nf4Matrix::from_parts(parts(w, true)).unwrap();
        let got = QuantMatrix::Nf4(stored).dequantise().unwrap();
        let got: Vec<f32> = got.flatten_all().unwrap().to_vec1().unwrap();
        let want: Vec<f32> = want.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(got, want, "{name}");
        cases += 1;
    }
    assert!(cases >= 9, "{cases}");
}

/// A million weights by a formula: more scales than one level of the mean's cascade adds.
#[test]
fn many_scales_have_bitsandbytes_mean() {
    let golden = &goldens()[0];
    let size = golden["formula.size"].to_vec1::<i64>().unwrap()[0] as u64;
    let w: Vec<f32> = (0..size)
        .map(|i| ((i * 2_654_435_761 % (1 << 32)) >> 8) as f32 / (1 << 24) as f32 - 0.5)
        .collect();
    let w = Tensor::from_vec(w, (size as usize / 1024, 1024), &Device::Cpu).unwrap();
    let got = parts(&w, true);
    same_double(golden, "formula", &got);
    let weigh = |(i, c): (usize, &u8)| i64::from(*c) * (i as i64 % 65_521 + 1);
    let sum: i64 = got.codes.iter().enumerate().map(weigh).sum();
    assert_eq!(
        golden["formula.sum"].to_vec1::<i64>().unwrap(),
        [sum],
        "codes"
    );
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let w = Tensor::ones((4, 64), DType::F32, &Device::Cpu).unwrap();
    let good = parts(&w, true);
    let refused = |change: &dyn Fn(&mut Nf4Parts)| {
        let mut parts = good.clone();
        change(&mut parts);
        Nf4Matrix::from_parts(parts).err().unwrap().to_string()
    };
    assert!(refused(&|p| p.block = 48).contains("blocks of 48"));
    assert!(refused(&|p| p.block = 0).contains("blocks of 0"));
    assert!(refused(&|p| p.block = 128).contains("4 entries"));
    assert!(refused(&|p| p.rows = usize::MAX).contains("not 128 bytes"));
    assert!(refused(&|p| p.columns = 63).contains("not 128 bytes"));
    assert!(refused(&|p| p.levels[3] = f32::NAN).contains("not finite"));
    let nested = |p: &mut Nf4Parts| {
        let Nf4Scales::Double { scales, .. } = &mut p.scales else {
            panic!("not double");
        };
        scales.push(1.0);
    };
    assert!(refused(&nested).contains("nested_absmax has 2"));
    let plain = |p: &mut Nf4Parts| p.scales = Nf4Scales::Plain(vec![1.0; 3]);
    assert!(refused(&plain).contains("absmax has 3"));
    // other blocks and levels are fine where they fit
    let mut wide = good.clone();
    wide.block = 256;
    wide.levels[7] = 0.01;
    wide.scales = Nf4Scales::Plain(vec![2.0]);
    let wide = QuantMatrix::Nf4(Nf4Matrix::from_parts(wide).unwrap());
    assert_eq!(wide.format(), "fp4");
    let values: Vec<f32> = wide
        .dequantise()
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    assert_eq!(values, [2.0; 256]);
}
