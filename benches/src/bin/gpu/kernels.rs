//! The card's peak rates, and how near single kernels come to them. Buffers are rotated through
//! more memory than any cache holds.

use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use randori_cuda::{
    Float, Ptr,
    gpu::{
        Gpu,
        product::{Matrix, Product},
        ptr,
    },
    ops::{
        attention::{Attention, BackwardInputs, BackwardOutputs, DeviceLists},
        gguf::Gguf,
        matvec, nf4,
        norm::RmsNorm,
        product4,
        tiles::{KeyRun, Lists, Span},
    },
};
use randori_qlora::{Nf4Scales, QuantMatrix};

use super::{Sizes, random, say, seconds};

/// Bytes that a rotation goes through at least: several times an H100's cache.
const ROTATED: usize = 256 << 20;

pub fn all(gpu: &Gpu, sizes: &Sizes) {
    let n = sizes.count("product");
    let note = format!("{n}^3");
    say("product", product(gpu, n) / 1e12, "TFLOP/s", &note);
    let copy = copy(gpu, sizes.count("copy_mib") << 20);
    quantised(gpu, sizes, copy);
    norm(gpu, sizes.count("rows"), sizes.model("hidden_size"), copy);
    attention(gpu, sizes);
}

/// How many sets of so many bytes a rotation takes.
fn sets(bytes: usize) -> usize {
    // tiny sizes only exercise the code
    if bytes < 1 << 16 {
        return 2;
    }
    ROTATED.div_ceil(bytes).clamp(2, 64)
}

/// Random bf16 values on the GPU.
fn halves(gpu: &Gpu, seed: u64, dims: &[usize]) -> Tensor {
    let n = dims.iter().product();
    let near = Tensor::from_vec(random(seed, n), dims, &Device::Cpu).unwrap();
    let near = near.to_dtype(DType::BF16).unwrap();
    near.to_device(&gpu.device()).unwrap()
}

/// `n` copies, each in its own memory.
fn copies(gpu: &Gpu, of: &Tensor, n: usize) -> Vec<Tensor> {
    let bytes = of.elem_count() * of.dtype().size_in_bytes();
    let copy = |_| {
        let to = gpu.room(of.dims(), of.dtype()).unwrap();
        gpu.copy(at(of), at(&to), bytes).unwrap();
        to
    };
    (0..n).map(copy).collect()
}

fn at(t: &Tensor) -> Ptr {
    ptr(t).unwrap()
}

/// The rate of bf16 products, which the passes' shares refer to, in operations a second (a
/// multiply-add is two).
pub fn product(gpu: &Gpu, n: usize) -> f64 {
    let (a, b) = (halves(gpu, 1, &[n, n]), halves(gpu, 2, &[n, n]));
    let count = sets(3 * 2 * n * n);
    let (a, b) = (copies(gpu, &a, count), copies(gpu, &b, count));
    let c: Vec<Tensor> = (0..count)
        .map(|_| gpu.room(&[n, n], DType::BF16).unwrap())
        .collect();
    let rows = |t: &Tensor| Matrix::rows(at(t), Float::Bf16, n);
    let s = seconds(gpu, |i| {
        let i = i % count;
        // by the weight's transpose, as in a forward pass
        let product = Product {
            m: n,
            n,
            k: n,
            a: rows(&a[i]),
            b: rows(&b[i]).t(),
            c: rows(&c[i]),
            alpha: 1.0,
            beta: 0.0,
        };
        gpu.multiply(&product).unwrap();
    });
    2.0 * (n as f64).powi(3) / s
}

fn copy(gpu: &Gpu, bytes: usize) -> f64 {
    let from = halves(gpu, 3, &[bytes / 2]);
    let to = gpu.room(&[bytes / 2], DType::BF16).unwrap();
    let s = seconds(gpu, |_| gpu.copy(at(&from), at(&to), bytes).unwrap());
    let rate = 2.0 * bytes as f64 / s;
    say("copy", rate / 1e9, "GB/s", "bytes read and written");
    rate
}

fn share(rate: f64, of: f64) -> String {
    format!("{:.0} % of the copy", 100.0 * rate / of)
}

/// A matrix of 4-bit codes on the GPU.
struct Codes {
    rows: usize,
    columns: usize,
    block: usize,
    tensors: [Tensor; 5],
    offset: f32,
    nested: usize,
}

impl Codes {
    fn new(gpu: &Gpu, of: &QuantMatrix) -> Codes {
        let QuantMatrix::Nf4(m) = of else {
            panic!("not NF4");
        };
        let p = m.parts();
        let Nf4Scales::Double {
            codes,
            scales,
            offset,
            map,
            block,
        } = &p.scales
        else {
            panic!("not doubly quantised");
        };
        Codes {
            rows: p.rows,
            columns: p.columns,
            block: p.block,
            tensors: [
                gpu.upload(&p.codes).unwrap(),
                gpu.upload(&p.levels).unwrap(),
                gpu.upload(codes).unwrap(),
                gpu.upload(scales).unwrap(),
                gpu.upload(map.as_slice()).unwrap(),
            ],
            offset: *offset,
            nested: *block,
        }
    }

    fn view(&self) -> nf4::Nf4 {
        let [codes, levels, blocks, scales, map] = &self.tensors;
        nf4::Nf4 {
            rows: self.rows,
            columns: self.columns,
            block: self.block,
            codes: at(codes),
            levels: at(levels),
            scales: nf4::Scales::Double {
                codes: at(blocks),
                scales: at(scales),
                map: at(map),
                offset: self.offset,
                block: self.nested,
            },
        }
    }
}

fn quantised(gpu: &Gpu, sizes: &Sizes, copy: f64) {
    let shape = |i: usize| sizes.0["matrix"][i].as_u64().expect("a shape") as usize;
    let (rows, columns) = (shape(0), shape(1));
    let weights = random(4, rows * columns).iter().map(|v| 0.04 * v).collect();
    let weights = Tensor::from_vec::<_, f32>(weights, (rows, columns), &Device::Cpu).unwrap();
    let q = QuantMatrix::nf4(&weights, true).unwrap();
    let held = q.bytes() as f64;
    let count = sets(q.bytes());
    let matrices: Vec<Codes> = (0..count).map(|_| Codes::new(gpu, &q)).collect();

    let y: Vec<Tensor> = (0..sets(2 * rows * columns))
        .map(|_| gpu.room(&[rows, columns], DType::BF16).unwrap())
        .collect();
    let s = seconds(gpu, |i| {
        let (w, y) = (matrices[i % count].view(), &y[i % y.len()]);
        w.dequantise(gpu, Float::Bf16, 0..rows, at(y)).unwrap();
    });
    let rate = (held + 2.0 * (rows * columns) as f64) / s;
    say("nf4", rate / 1e9, "GB/s", &share(rate, copy));

    let few = Few {
        gpu,
        shape: (rows, columns),
        copy,
    };
    few.run("matvec", held, &|i, given| {
        let m = matrices[i % count].view();
        match given {
            Asked::Few(rows) => matvec::nf4(gpu, &m, rows),
            Asked::Many(rows) => product4::nf4(gpu, &m, rows),
        }
        .unwrap();
    });

    let blocks = QTensor::quantize(&weights, GgmlDType::Q4K).unwrap();
    let data = blocks.data().unwrap();
    let copies: Vec<Tensor> = (0..count).map(|_| gpu.upload(&data[..]).unwrap()).collect();
    few.run("matvec q4_k", data.len() as f64, &|i, given| {
        let m = Gguf {
            dtype: GgmlDType::Q4K,
            rows,
            columns,
            data: at(&copies[i % count]),
        };
        match given {
            Asked::Few(rows) => matvec::gguf(gpu, &m, rows),
            Asked::Many(rows) => product4::gguf(gpu, &m, rows),
        }
        .unwrap();
    });
}

/// Operands of a product of few rows or many.
enum Asked {
    Few(matvec::Operands),
    Many(product4::Operands),
}

/// Products of one row and of more with a matrix.
struct Few<'a> {
    gpu: &'a Gpu,
    shape: (usize, usize),
    copy: f64,
}

impl Few<'_> {
    fn run(&self, name: &str, held: f64, product: &dyn Fn(usize, &Asked)) {
        let (rows, columns) = self.shape;
        for n in [1, matvec::MOST, product4::MOST] {
            let x = halves(self.gpu, 5, &[n, columns]);
            let y = self.gpu.room(&[n, rows], DType::BF16).unwrap();
            let (x, y) = (at(&x), at(&y));
            let parts = [product4::Encoding::Nf4, product4::Encoding::Blocks]
                .map(|s| s.parts(n, rows, columns));
            let parts = self.gpu.room(&[parts[0].max(parts[1]).max(1)], DType::F32);
            let parts = parts.unwrap();
            let given = match n <= matvec::MOST {
                true => Asked::Few(matvec::Operands {
                    float: Float::Bf16,
                    n,
                    x,
                    y,
                }),
                false => Asked::Many(product4::Operands {
                    n,
                    x,
                    y,
                    parts: at(&parts),
                }),
            };
            let s = seconds(self.gpu, |i| product(i, &given));
            let rate = held / s;
            let note = format!("{}; {:.1} µs", share(rate, self.copy), 1e6 * s);
            say(&format!("{name} {n}"), rate / 1e9, "GB/s", &note);
        }
    }
}

fn norm(gpu: &Gpu, rows: usize, width: usize, copy: f64) {
    let of = halves(gpu, 6, &[rows, width]);
    let count = sets(2 * 2 * rows * width);
    let x = copies(gpu, &of, count);
    let y = copies(gpu, &of, count);
    let w = gpu.upload(&random(7, width)).unwrap();
    let inverse = gpu.room(&[rows], DType::F32).unwrap();
    let norm = RmsNorm {
        float: Float::Bf16,
        rows,
        width,
        eps: 1e-5,
        plus: 0.0,
    };
    let s = seconds(gpu, |i| {
        let (x, y) = (&x[i % count], &y[i % count]);
        norm.forward(gpu, at(x), at(&w), at(y), at(&inverse))
            .unwrap();
    });
    let rate = 4.0 * (rows * width) as f64 / s;
    say("norm", rate / 1e9, "GB/s", &share(rate, copy));
}

/// Uploaded lists; the tensors are held with them.
fn upload_lists(gpu: &Gpu, lists: &Lists) -> (DeviceLists, [Tensor; 2]) {
    let blocks: Vec<i32> = lists.blocks.as_flattened().to_vec();
    let runs: Vec<i32> = lists.runs.as_flattened().to_vec();
    let held = [gpu.upload(&blocks).unwrap(), gpu.upload(&runs).unwrap()];
    let on_device = DeviceLists {
        blocks: at(&held[0]),
        count: lists.blocks.len(),
        runs: at(&held[1]),
    };
    (on_device, held)
}

/// The mask of one causal sequence.
fn causal(tokens: usize) -> Lists {
    let whole = KeyRun {
        row: 0,
        len: tokens,
        position: 0,
    };
    let span = Span {
        row: 0,
        len: tokens,
        position: 0,
        keys: vec![whole],
    };
    Lists::queries(&[span], tokens, None).unwrap()
}

/// One causal sequence.
fn attention(gpu: &Gpu, sizes: &Sizes) {
    let (tokens, heads) = (sizes.count("rows"), sizes.model("num_attention_heads"));
    let (kv_heads, dim) = (sizes.model("num_key_value_heads"), sizes.model("head_dim"));
    let a = Attention {
        float: Float::Bf16,
        tokens,
        heads,
        kv_heads,
        dim,
        scale: 1.0 / (dim as f32).sqrt(),
        window: None,
        softcap: None,
    };
    let lists = causal(tokens);
    let (queries, _queries) = upload_lists(gpu, &lists);
    let (keys, _keys) = upload_lists(gpu, &lists.keys(tokens).unwrap());

    let (n, m) = (tokens * heads * dim, tokens * kv_heads * dim);
    let count = sets(2 * (2 * n + 2 * m));
    let many = |seed, n: usize| copies(gpu, &halves(gpu, seed, &[n]), count);
    let [q, dout, out, dq] = [8, 9, 10, 11].map(|seed| many(seed, n));
    let [k, v, dk, dv] = [12, 13, 14, 15].map(|seed| many(seed, m));
    let lse: Vec<Tensor> = (0..count)
        .map(|_| gpu.room(&[heads, tokens], DType::F32).unwrap())
        .collect();
    let delta = gpu.room(&[heads, tokens], DType::F32).unwrap();
    let forward = |i: usize| {
        let i = i % count;
        let (q, k, v) = (at(&q[i]), at(&k[i]), at(&v[i]));
        a.forward(gpu, q, k, v, queries, at(&out[i]), at(&lse[i]))
            .unwrap();
    };
    // what a causal mask leaves; two products forward, five backward
    let pairs = (tokens * (tokens + 1) / 2 * heads) as f64;
    let product = 2.0 * pairs * dim as f64;
    let what = format!("{tokens} tokens, {heads}/{kv_heads} heads of {dim}, causal");
    let s = seconds(gpu, forward);
    say(
        "attention forward",
        2.0 * product / s / 1e12,
        "TFLOP/s",
        &what,
    );
    (0..count).for_each(forward); // every set's results, for the way back
    let s = seconds(gpu, |i| {
        let i = i % count;
        let inputs = BackwardInputs {
            q: at(&q[i]),
            k: at(&k[i]),
            v: at(&v[i]),
            out: at(&out[i]),
            lse: at(&lse[i]),
            dout: at(&dout[i]),
        };
        let outputs = BackwardOutputs {
            q: at(&dq[i]),
            k: at(&dk[i]),
            v: at(&dv[i]),
            delta: at(&delta),
        };
        a.backward(gpu, &inputs, queries, keys, &outputs).unwrap();
    });
    say(
        "attention backward",
        5.0 * product / s / 1e12,
        "TFLOP/s",
        &what,
    );
}
