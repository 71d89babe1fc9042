//! Base weights from GGUF: block formats that no product reads, models split over several files.

use std::path::{Path, PathBuf};

use crate::model::*;
use randori_engine::weights::{Dtype, LoadOptions, Quant, Source, open};
use randori_formats::gguf::{self, Block, Kind, TensorSpec, Value, model as file};

type Stored = Vec<(TensorSpec, Vec<u8>)>;

/// The model's tensors as a file stores them: projections in IQ4_NL.
fn stored(embedding: Block) -> Stored {
    let one = |(name, t): (&String, &candle_core::Tensor)| {
        let kind = match (t.rank(), name.as_str()) {
            (1, _) => Kind::Dense(Dtype::F32),
            (_, "model.embed_tokens.weight") => Kind::Block(embedding),
            _ => Kind::Block(Block::Iq4Nl),
        };
        let rows = match name.as_str() {
            name if name.contains("q_proj") => values(&permute(t, HEADS)),
            name if name.contains("k_proj") => values(&permute(t, KV_HEADS)),
            _ => values(t),
        };
        let bytes = match kind {
            Kind::Dense(dtype) => dtype.encode(name, &rows).unwrap(),
            Kind::Block(block) => randori_qlora::encode(block, &rows).unwrap(),
        };
        (TensorSpec::new(&gguf_name(name), t.dims(), kind), bytes)
    };
    tensors().iter().map(one).collect()
}

fn write(path: &Path, more: &[(&str, i128)], tensors: &[(TensorSpec, Vec<u8>)]) {
    let [family] = &families();
    let mut keys = file::keys(&config(), family, VOCAB).unwrap();
    let more = more.iter();
    keys.extend(more.map(|(key, number)| ((*key).to_string(), Value::Int(*number))));
    gguf::write(path, true, &keys, tensors).unwrap();
}

fn options(quant: Option<Quant>) -> LoadOptions {
    LoadOptions {
        quant,
        dtype: Dtype::F32,
    }
}

#[test]
fn blocks_that_no_product_reads_are_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path, &[], &stored(Block::Q8_0));
    let checkpoint = || open(Source::Gguf(path.clone()), &families()).unwrap();
    let notes = checkpoint().notes().join("\n");
    assert!(notes.contains("no product reads (14 in IQ4_NL)"), "{notes}");
    let plain = load(checkpoint(), options(None)).unwrap();
    let kept = load(checkpoint(), options(Some(Quant::Gguf))).unwrap();
    let nf4 = load(checkpoint(), options(Some(Quant::Nf4 { double: false }))).unwrap();
    for (name, t) in &tensors() {
        let want = match (t.rank(), name.as_str()) {
            (1, _) => values(t),
            (_, embedding) => {
                let block = match embedding {
                    "model.embed_tokens.weight" => Block::Q8_0,
                    _ => Block::Iq4Nl,
                };
                let bytes = randori_qlora::encode(block, &values(t)).unwrap();
                randori_qlora::decode(block, &bytes).unwrap()
            }
        };
        assert_eq!(weight(&plain, name), want, "{name}");
        assert_eq!(weight(&kept, name), want, "{name}");
        let (held, four) = match name.as_str() {
            "model.embed_tokens.weight" => ("q8_0", "f32"),
            name if name.contains("_proj") => ("f32", "nf4"),
            _ => ("f32", "f32"),
        };
        assert_eq!(kept.weights[name].format(), held, "{name}");
        assert_eq!(nf4.weights[name].format(), four, "{name}");
    }
    // nothing of this file can be kept
    write(&path, &[], &stored(Block::Iq4Nl));
    let e = load(checkpoint(), options(Some(Quant::Gguf))).err();
    let e = e.unwrap().to_string();
    assert!(e.contains("IQ4_NL ones, which are only decoded"), "{e}");
}

#[test]
fn a_factor_beside_a_matrix_is_multiplied_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let up = "model.layers.1.mlp.up_proj.weight";
    let mut all = stored(Block::Q8_0);
    let read = |all: &Stored| {
        write(&path, &[], all);
        let checkpoint = open(Source::Gguf(path.clone()), &families()).unwrap();
        load(checkpoint, options(None)).unwrap()
    };
    let before = read(&all);
    for (name, number) in [("scale", 0.3f32), ("input_scale", 7.0)] {
        let spec = TensorSpec::new(
            &format!("blk.1.ffn_up.{name}"),
            &[1],
            Kind::Dense(Dtype::F32),
        );
        all.push((spec, number.to_le_bytes().to_vec()));
    }
    let after = read(&all);
    for name in tensors().keys() {
        let factor = if name == up { 0.3 } else { 1.0 };
        let want: Vec<f32> = weight(&before, name).iter().map(|v| v * factor).collect();
        assert_eq!(weight(&after, name), want, "{name}");
    }
}

#[test]
fn a_model_in_three_files_is_the_model_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.gguf");
    let all = stored(Block::Q8_0);
    write(&whole, &[], &all);
    let parts: Vec<PathBuf> = (1..=3)
        .map(|n| dir.path().join(format!("model-0000{n}-of-00003.gguf")))
        .collect();
    let shares = all.chunks(all.len().div_ceil(3));
    for (i, (path, share)) in parts.iter().zip(shares).enumerate() {
        let split = [
            ("split.no", i as i128),
            ("split.count", 3),
            ("split.tensors.count", all.len() as i128),
        ];
        write(path, &split, share);
    }
    let opened = |path: &Path| open(Source::Gguf(path.to_path_buf()), &families());
    let checkpoint = opened(&parts[0]).unwrap();
    assert_eq!(checkpoint.files(), parts);
    let ours = load(checkpoint, options(Some(Quant::Gguf))).unwrap();
    let theirs = load(opened(&whole).unwrap(), options(Some(Quant::Gguf))).unwrap();
    for name in tensors().keys() {
        assert_eq!(weight(&ours, name), weight(&theirs, name), "{name}");
        assert_eq!(ours.weights[name].format(), theirs.weights[name].format());
    }
    let fails = |path: &Path| opened(path).err().unwrap().to_string();
    assert!(fails(&parts[1]).contains("give the first"));
    std::fs::remove_file(&parts[2]).unwrap();
    let e = fails(&parts[0]);
    assert!(e.contains("part 3 cannot be opened"), "{e}");
}
