//! A backend that computes shapes and records its calls, and the paths of the tests' plugins.
#![allow(dead_code)] // each test program uses a part of it

use std::{collections::BTreeMap, path::PathBuf};

use randori_host::{Host, SearchPath};
use randori_sdk::seam::{
    Architecture, AttnSpec, Backend, Binary, Id, OpResult, RopeSpec, RouteSpec, Unary,
};

/// A plugin's library beside this test program.
pub fn library(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let file = format!(
        "{}randori_plugin_{name}{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    exe.with_file_name(file)
}

/// A host with the stock plugins, found as a user's binary finds them.
pub fn stock() -> Host {
    Host::discover(&SearchPath::standard()).unwrap()
}

/// A host with nothing but the given files.
pub fn only(files: &[PathBuf]) -> Result<Host, randori_host::Error> {
    Host::discover(&SearchPath {
        dirs: Vec::new(),
        files: files.to_vec(),
    })
}

/// A host with the plugin that misbehaves.
pub fn misbehave() -> Host {
    only(&[library("misbehave")]).unwrap()
}

/// Shapes in, shapes out. `tokens` is an axis of `rows` entries.
pub struct Recorder {
    rows: usize,
    shapes: Vec<Vec<usize>>,
    /// Ops in order, with their arguments.
    pub ops: Vec<String>,
    /// Every weight asked for, by full name, with its shape.
    pub weights: BTreeMap<String, Vec<usize>>,
    /// What crosses blocks, with its shape.
    carried: BTreeMap<String, Vec<usize>>,
    /// If not empty, every other weight is missing.
    pub only: Vec<String>,
    /// An op that panics.
    pub panics_at: Option<&'static str>,
}

impl Recorder {
    pub fn new(rows: usize) -> Self {
        Recorder {
            rows,
            shapes: Vec::new(),
            ops: Vec::new(),
            weights: BTreeMap::new(),
            carried: BTreeMap::new(),
            only: Vec::new(),
            panics_at: None,
        }
    }

    /// An input: (rows, …).
    pub fn input(&mut self, trailing: &[usize]) -> Id {
        self.born([&[self.rows], trailing].concat())
    }

    pub fn shape(&self, id: Id) -> &[usize] {
        &self.shapes[id as usize - 1]
    }

    fn born(&mut self, shape: Vec<usize>) -> Id {
        self.shapes.push(shape);
        self.shapes.len() as Id
    }

    fn see(&mut self, op: &'static str, what: String) {
        if self.panics_at == Some(op) {
            panic!("the backend was asked to panic at {op}");
        }
        self.ops.push(format!("{op} {what}").trim().to_owned());
    }

    fn weight(&mut self, name: String, shape: Vec<usize>) -> Result<(), String> {
        if !self.only.is_empty() && !self.only.contains(&name) {
            return Err(format!("the checkpoint has no {name}"));
        }
        let before = self
            .weights
            .entry(name.clone())
            .or_insert_with(|| shape.clone());
        if *before != shape {
            return Err(format!(
                "{name} was asked for as {before:?} and as {shape:?}"
            ));
        }
        Ok(())
    }

    fn last(&self, id: Id) -> Result<usize, String> {
        if id as usize > self.shapes.len() {
            return Err(format!("tensor {id} does not exist"));
        }
        self.shape(id).last().copied().ok_or("no axes".to_owned())
    }

    fn with_last(&mut self, id: Id, tail: &[usize]) -> Id {
        let shape = self.shape(id);
        let shape = [&shape[..shape.len() - 1], tail].concat();
        self.born(shape)
    }
}

impl Backend for Recorder {
    fn embed(&mut self, name: &str, ids: Id, vocab: usize, width: usize) -> OpResult {
        self.see("embed", name.into());
        self.weight(format!("{name}.weight"), vec![vocab, width])?;
        let shape = [self.shape(ids), &[width]].concat();
        Ok(self.born(shape))
    }

    fn linear(&mut self, name: &str, x: Id, out: usize, bias: bool) -> OpResult {
        self.see("linear", name.into());
        let inputs = self.last(x)?;
        self.weight(format!("{name}.weight"), vec![out, inputs])?;
        if bias {
            self.weight(format!("{name}.bias"), vec![out])?;
        }
        Ok(self.with_last(x, &[out]))
    }

    fn rms_norm(&mut self, name: &str, x: Id, eps: f64, plus: f32) -> OpResult {
        self.see("rms_norm", format!("{name} {eps} {plus}"));
        let width = self.last(x)?;
        if !name.is_empty() {
            self.weight(format!("{name}.weight"), vec![width])?;
        }
        Ok(self.with_last(x, &[width]))
    }

    fn layer_norm(&mut self, name: &str, x: Id, eps: f64, bias: bool) -> OpResult {
        self.see("layer_norm", format!("{name} {eps} {bias}"));
        let width = self.last(x)?;
        self.weight(format!("{name}.weight"), vec![width])?;
        Ok(self.with_last(x, &[width]))
    }

    fn rope(&mut self, x: Id, rope: &RopeSpec) -> OpResult {
        self.see("rope", format!("{:?} {}", rope.inv_freq, rope.interleaved));
        let d = self.last(x)?;
        if 2 * rope.inv_freq.len() > d {
            return Err(format!("{} pairs of {d} features", rope.inv_freq.len()));
        }
        Ok(self.with_last(x, &[d]))
    }

    fn attention(&mut self, q: Id, k: Id, v: Id, attn: &AttnSpec) -> OpResult {
        let AttnSpec {
            window,
            scale,
            softcap,
            sinks,
            chunk,
        } = attn;
        let mut what = format!("window {window:?} scale {scale:?} softcap {softcap:?}");
        if let Some(sinks) = sinks {
            what.push_str(&format!(" sinks {:?}", self.shape(*sinks)));
        }
        if let Some(chunk) = chunk {
            what.push_str(&format!(" chunk {chunk}"));
        }
        self.see("attention", what);
        let shape = [&self.shape(q)[..2], &self.shape(v)[2..]].concat();
        for id in [q, k, v] {
            if self.shape(id).len() != 3 {
                return Err(format!(
                    "wants (tokens, heads, head_dim), got {:?}",
                    self.shape(id)
                ));
            }
        }
        Ok(self.born(shape))
    }

    fn moe(
        &mut self,
        router: Id,
        x: Id,
        route: &RouteSpec,
        expert: &mut dyn FnMut(&mut dyn Backend, usize, Id) -> Id,
    ) -> OpResult {
        self.see("moe", format!("{route:?}"));
        let experts = self.last(router)?;
        let shape = self.shape(x).to_vec();
        for index in 0..experts {
            let rows = self.born(shape.clone());
            if expert(self, index, rows) == 0 {
                return Err(format!("expert {index} failed"));
            }
        }
        Ok(self.born(shape))
    }

    fn unary(&mut self, op: Unary, x: Id) -> OpResult {
        self.see("unary", format!("{op:?}"));
        let shape = self.shape(x).to_vec();
        Ok(self.born(shape))
    }

    fn binary(&mut self, op: Binary, a: Id, b: Id) -> OpResult {
        self.see("binary", format!("{op:?}"));
        let (a, b) = (self.shape(a).to_vec(), self.shape(b));
        if a != b {
            return Err(format!("{a:?} and {b:?} do not fit"));
        }
        Ok(self.born(a))
    }

    fn affine(&mut self, x: Id, mul: f64, add: f64) -> OpResult {
        self.see("affine", format!("{mul} {add}"));
        let shape = self.shape(x).to_vec();
        Ok(self.born(shape))
    }

    fn unflatten(&mut self, x: Id, n: usize) -> OpResult {
        self.see("unflatten", n.to_string());
        let width = self.last(x)?;
        if n == 0 || width % n != 0 {
            return Err(format!("{width} features are not {n} heads"));
        }
        Ok(self.with_last(x, &[n, width / n]))
    }

    fn flatten(&mut self, x: Id) -> OpResult {
        self.see("flatten", String::new());
        let shape = self.shape(x);
        let (n, d) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let shape = [&shape[..shape.len() - 2], &[n * d]].concat();
        Ok(self.born(shape))
    }

    fn narrow(&mut self, x: Id, start: usize, len: usize) -> OpResult {
        self.see("narrow", format!("{start} {len}"));
        let width = self.last(x)?;
        if start + len > width {
            return Err(format!("{start}+{len} of {width}"));
        }
        Ok(self.with_last(x, &[len]))
    }

    fn concat(&mut self, xs: &[Id]) -> OpResult {
        self.see("concat", xs.len().to_string());
        let width = xs.iter().map(|&x| self.last(x)).sum::<Result<_, _>>()?;
        Ok(self.with_last(xs[0], &[width]))
    }

    fn delta_rule(&mut self, q: Id, _: Id, v: Id, strength: Id, decay: Id) -> OpResult {
        let of = |id| self.shape(id).to_vec();
        let shapes = format!("{:?} {:?} {:?}", of(q), of(strength), of(decay));
        let shape = of(v);
        self.see("delta_rule", shapes);
        Ok(self.born(shape))
    }

    fn conv(&mut self, name: &str, x: Id, taps: usize, bias: bool) -> OpResult {
        self.see("conv", format!("{name} {taps}"));
        let width = self.last(x)?;
        self.weight(format!("{name}.weight"), vec![width, 1, taps])?;
        if bias {
            self.weight(format!("{name}.bias"), vec![width])?;
        }
        Ok(self.with_last(x, &[width]))
    }

    fn param(&mut self, name: &str, shape: &[usize]) -> OpResult {
        self.see("param", name.into());
        self.weight(name.into(), shape.to_vec())?;
        Ok(self.born([&[1], shape].concat()))
    }

    fn carry(&mut self, name: &str, x: Id) -> OpResult {
        self.see("carry", name.into());
        self.carried.insert(name.into(), self.shape(x).to_vec());
        Ok(x)
    }

    fn carried(&mut self, name: &str) -> OpResult {
        self.see("carried", name.into());
        let shape = self.carried.get(name).cloned();
        Ok(self.born(shape.ok_or(format!("nothing is carried by {name}"))?))
    }
}

/// A whole forward pass over shapes: the logits' shape.
pub fn forward(arch: &dyn Architecture, r: &mut Recorder) -> Result<Vec<usize>, String> {
    let ids = r.input(&[]);
    let mut x = arch.embed(r, ids)?;
    for layer in 0..arch.layers() {
        x = arch.block(r, layer, x)?;
    }
    let logits = arch.head(r, x)?;
    Ok(r.shape(logits).to_vec())
}
