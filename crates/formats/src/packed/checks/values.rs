//! Values, as the formats' own packages compute them: difference 0.

use half::f16;
use randori_sdk::dialect::{Layout, Stack};

use super::*;
use crate::{
    Format,
    bnb::{Nf4Parts, Nf4Scales},
    experts::unstack,
    packed::{Exact, Packed},
};

/// Cases that products read as they are, and how; all others are decoded.
const EXACT: [(&str, Exact); 11] = [
    ("gptq-4-sym", Exact::Four { block: 32 }),
    ("gptq-4-row", Exact::Four { block: 32 }),
    ("gptq-2-sym", Exact::Four { block: 32 }),
    ("gptq-8-sym", Exact::Eight),
    ("ct-pack-2", Exact::Four { block: 32 }),
    ("ct-pack-3", Exact::Four { block: 32 }),
    ("ct-pack-3-whole", Exact::Four { block: 32 }),
    ("ct-pack-4", Exact::Four { block: 32 }),
    ("ct-pack-4-rows", Exact::Four { block: 32 }),
    ("ct-pack-8", Exact::Eight),
    ("ct-int", Exact::Eight),
];

const PARTS: [&str; 2] = ["{}.gate", "{}.up"];

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_value_is_the_packages() {
    let mut exact = Vec::new();
    for name in names().iter().filter(|name| *name != "mxfp4") {
        let mut case = case(name);
        join(&mut case.index, &case.config).unwrap();
        let tensors: Vec<&String> = case.index.tensors.keys().collect();
        assert_eq!(tensors, ["m.weight"], "{name}");
        let stored = &case.index.tensors["m.weight"];
        exact.extend(compare(name, &case.index, stored, &case.values));
    }
    let mut wanted: Vec<_> = EXACT.iter().map(|(n, e)| (n.to_string(), *e)).collect();
    exact.sort_by(|a, b| a.0.cmp(&b.0));
    wanted.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(exact, wanted);
}

/// gpt-oss's order: gate and up take turns. In a stack of rows they follow one another.
#[test]
fn experts_are_read_out_of_a_stack() {
    for (layout, rows) in [
        (Layout::Interleaved, [[0, 2, 4], [1, 3, 5]]),
        (Layout::Columns, [[0, 1, 2], [3, 4, 5]]),
        (Layout::Rows, [[0, 1, 2], [3, 4, 5]]),
    ] {
        let mut case = case("mxfp4");
        join(&mut case.index, &case.config).unwrap();
        let stack = &case.index.tensors["m.experts"];
        assert_eq!(stack.shape, [3, 6, 64]);
        unstack(&mut case.index, &[Stack::new("experts", &PARTS, layout)]).unwrap();
        assert_eq!(case.index.tensors.len(), 6);
        for expert in 0..3 {
            for (part, rows) in ["gate", "up"].into_iter().zip(rows) {
                let stored = &case.index.tensors[&format!("m.{expert}.{part}")];
                let row = |row: usize| &case.values[(expert * 6 + row) * 64..][..64];
                let values: Vec<f32> = rows.iter().flat_map(|&r| row(r)).copied().collect();
                let name = format!("mxfp4 {expert}.{part}");
                let found = compare(&name, &case.index, stored, &values);
                assert_eq!(found, Some((name, Exact::Four { block: 32 })));
            }
        }
    }
}

/// Compares values, and those of the format of products that has exactly them, which is answered.
fn compare(name: &str, index: &Index, stored: &Stored, values: &[f32]) -> Option<(String, Exact)> {
    let Format::Packed(packed) = &stored.format else {
        panic!("{name}: {}", stored.format);
    };
    let bytes = bytes(index, stored);
    let reader = packed.reader(name, &bytes).unwrap();
    let mut ours = vec![0.0; stored.shape.iter().product()];
    reader.fill(0..stored.shape[0], &mut ours);
    assert_eq!(bits(&ours), bits(values), "{name}");
    // a piece in the middle is the same
    let columns = stored.shape[1];
    let mut piece = vec![0.0; 2 * columns];
    reader.fill(1..3, &mut piece);
    assert_eq!(bits(&piece), bits(&values[columns..3 * columns]), "{name}");
    assert!(packed.reader(name, &bytes[1..]).is_err());
    let exact = packed.exact()?;
    let kept = match exact {
        Exact::Four { block } => four(packed, &reader.four(block), exact),
        Exact::Eight => eight(packed, &reader.eight(), exact),
    };
    assert_eq!(bits(&kept), bits(values), "{name} as {exact:?}");
    Some((name.to_string(), exact))
}

/// The values of a matrix in blocks of 4-bit codes.
fn four(packed: &Packed, parts: &Nf4Parts, exact: Exact) -> Vec<f32> {
    parts.check().unwrap();
    assert_eq!(packed.exact_bytes(exact), parts.bytes() as u64);
    let Nf4Scales::Plain(scales) = &parts.scales else {
        panic!("scales in 8 bits");
    };
    let codes = parts.codes.iter().flat_map(|b| [b >> 4, b & 15]);
    let value = |(i, code): (usize, u8)| parts.levels[usize::from(code)] * scales[i / parts.block];
    codes.enumerate().map(value).collect()
}

/// The values of blocks of Q8_0.
fn eight(packed: &Packed, blocks: &[u8], exact: Exact) -> Vec<f32> {
    assert_eq!(packed.exact_bytes(exact), blocks.len() as u64);
    let values = |block: &[u8; 34]| {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let codes = block[2..].iter();
        let values = codes.map(|code| scale * f32::from(*code as i8));
        values.collect::<Vec<f32>>()
    };
    blocks.as_chunks::<34>().0.iter().flat_map(values).collect()
}

#[test]
fn quantised_activations_are_told_of() {
    let told = |name: &str| {
        let mut case = case(name);
        join(&mut case.index, &case.config).unwrap()
    };
    for name in ["gptq-4-sym", "awq-4", "ct-pack-4", "mxfp4"] {
        assert_eq!(told(name), None, "{name}");
    }
    for name in ["fp8-blocks", "fbgemm", "ct-int", "ct-float"] {
        let note = told(name).unwrap();
        assert!(note.contains("quantises activations too"), "{note}");
    }
    let mut kv = case("ct-pack-4");
    kv.config["quantization_config"]["kv_cache_scheme"] = json!({"num_bits": 8});
    let scale = kv.index.tensors["m.weight_scale"].clone();
    kv.index.tensors.insert("self_attn.k_scale".into(), scale);
    assert!(join(&mut kv.index, &kv.config).unwrap().is_some());
    assert_eq!(kv.index.tensors.len(), 1);
}
