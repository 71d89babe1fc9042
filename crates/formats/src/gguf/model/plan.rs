//! Plan of a model's GGUF file: metadata and tensors, before any value is read.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use randori_sdk::{
    dialect::{Module, Place, Size, Values},
    seam::Family,
};
use serde_json::Value;

use super::{
    config::Model,
    names::{self, Named},
    quant::{GgufQuant, Role, Shape},
};
use crate::{
    Dtype, Error, Result, Swap,
    gguf::{self, GgufTokenizer, Kind, TensorSpec, Writer},
};

/// Options of a GGUF model file.
#[derive(Debug, Clone)]
pub struct GgufOptions {
    /// Formats of the matrices, as llama.cpp mixes them. Rows that blocks of 256 do not divide get
    /// Q5_0 for Q4_K and Q8_0 for Q6_K, as there.
    pub quant: GgufQuant,
    /// Replace an existing file.
    pub replace: bool,
    /// Value of `general.name`.
    pub name: String,
}

/// Summary of what was written.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufReport {
    /// Number of tensors.
    pub tensors: usize,
    /// Size of the file.
    pub bytes: u64,
    /// Number of tensors by ggml format.
    pub kinds: BTreeMap<String, usize>,
    /// Remarks for the user, in whole sentences.
    pub notes: Vec<String>,
}

const EMBEDDING: &str = "token_embd.weight";

/// A tensor of the plan.
#[derive(Debug)]
pub struct Planned {
    /// Hugging Face's name; of a stack those of its experts, in order.
    pub parts: Vec<String>,
    /// Its name, shape and format in the file.
    pub spec: TensorSpec,
    /// What the file stores for each of the model's values.
    pub values: Values,
    /// In which other order the file has rows or columns of a part.
    pub order: Option<Swap>,
    /// The shape of each part.
    pub shape: Vec<usize>,
    role: Role,
    position: usize,
}

impl Planned {
    fn columns(&self) -> usize {
        self.spec.shape.last().copied().unwrap_or(0)
    }
}

/// Planned contents of a model's file.
#[derive(Debug)]
pub struct Plan {
    /// Tensors: embedding first, layers in order.
    pub tensors: Vec<Planned>,
    metadata: Vec<(String, gguf::Value)>,
    divisors: Vec<(&'static str, Vec<f32>)>,
    notes: Vec<String>,
}

impl Plan {
    /// Plans the file of a model of this family with this `config` and these tensors (Hugging
    /// Face's names and shapes). Where the embedding has more rows than the tokenizer has tokens,
    /// tokens are added.
    ///
    /// # Errors
    /// A model that its GGUF architecture cannot express, a tensor that is missing or unknown, more
    /// tokens than rows.
    pub fn new(
        config: &Value,
        family: &Family,
        list: Vec<(String, Vec<usize>)>,
        tokenizer: Option<&GgufTokenizer>,
        options: &GgufOptions,
    ) -> Result<Plan> {
        let mut model = Model::new(config, family)?;
        model.measure(&list)?;
        let mut tensors = planned(list, &model)?;
        let embedding = tensors.iter().find(|t| t.spec.name == EMBEDDING);
        let rows = embedding.map_or(0, |t| t.spec.shape[0]);
        let keys = model.keys(rows);
        let shape = Shape::new(&keys, tensors.iter().map(|t| t.role));
        for t in &mut tensors {
            t.spec.kind = options.quant.choose(t.role, t.columns(), &shape);
        }
        let name = tokenizer.map_or(options.name.clone(), |t| t.title(&options.name));
        let mut metadata = about(
            model.gguf.architecture,
            "model",
            &name,
            options.quant.file_type(),
        );
        metadata.extend(keys);
        if let Some(tokenizer) = tokenizer {
            metadata.extend(tokenizer.padded(rows)?.keys());
        }
        let mut notes = std::mem::take(&mut model.notes);
        notes.extend(other_blocks(&tensors, options.quant, &shape));
        Ok(Plan {
            tensors,
            metadata,
            divisors: model.rope_tensors(),
            notes,
        })
    }

    /// Creates the file; the plan's tensors must follow in order.
    ///
    /// # Errors
    /// As [`Writer::create`].
    pub fn create(&self, out: &Path, replace: bool) -> Result<Writer> {
        let mut coming: Vec<TensorSpec> = self.divisors.iter().map(factors).collect();
        coming.extend(self.tensors.iter().map(|t| t.spec.clone()));
        let mut writer = Writer::create(out, replace, &self.metadata, coming)?;
        for (name, divisors) in &self.divisors {
            writer.begin(name)?;
            writer.write(&Dtype::F32.encode(name, divisors)?)?;
        }
        Ok(writer)
    }

    /// Bytes of the tensors that [`Plan::create`] itself writes, and of all tensors.
    pub fn bytes(&self) -> (u64, u64) {
        let begun: u64 = self.divisors.iter().map(|d| factors(d).bytes()).sum();
        let tensors = self.tensors.iter().map(|t| t.spec.bytes());
        (begun, begun + tensors.sum::<u64>())
    }

    /// The report of a written file with this size.
    pub fn report(self, bytes: u64) -> GgufReport {
        let mut kinds = BTreeMap::new();
        let divisors = self.divisors.iter().map(|d| factors(d).kind);
        let of_tensors = self.tensors.iter().map(|t| t.spec.kind);
        for kind in divisors.chain(of_tensors) {
            *kinds.entry(kind.name().to_string()).or_default() += 1;
        }
        GgufReport {
            tensors: kinds.values().sum(),
            bytes,
            kinds,
            notes: self.notes,
        }
    }
}

fn factors((name, divisors): &(&'static str, Vec<f32>)) -> TensorSpec {
    TensorSpec::new(name, &[divisors.len()], Kind::Dense(Dtype::F32))
}

/// Plans every tensor's position and role, embedding first, layers in order; refuses an
/// incomplete model.
fn planned(list: Vec<(String, Vec<usize>)>, model: &Model) -> Result<Vec<Planned>> {
    let own_head = list.iter().any(|(name, _)| name == "lm_head.weight");
    if !model.tied && !own_head {
        return Err(Error::rule(
            "the model has no lm_head.weight, and its configuration does not tie it to the embedding",
        ));
    }
    let embedding = list.iter().find(|(hf, _)| {
        let named = names::tensor(&model.gguf, hf);
        named.is_some_and(|named| named.name == EMBEDDING)
    });
    let rows = embedding.and_then(|(_, shape)| shape.first().copied());
    let mut plan: Vec<Planned> = Vec::with_capacity(list.len());
    let mut stacks: BTreeMap<String, Vec<Expert>> = BTreeMap::new();
    for (hf, shape) in list {
        if hf.ends_with("rotary_emb.inv_freq") {
            continue; // old checkpoints store what the config determines
        }
        let Some(named) = names::tensor(&model.gguf, &hf) else {
            return Err(Error::rule(format!(
                "{hf} is no tensor that GGUF's {} has a name for",
                model.gguf.architecture
            )));
        };
        check_shape(&hf, &shape, model, &named, rows)?;
        let head = match named.name.as_str() {
            "output.weight" => true,
            EMBEDDING | "per_layer_token_embd.weight" => !own_head,
            _ => false,
        };
        // to ggml a matrix of one row is a vector
        let vector = shape.len() == 1 || (named.expert.is_none() && shape[0] == 1);
        let role = Role::of(&named.name, vector, head);
        let stored = match (named.module.squeezed, shape.as_slice()) {
            (true, &[channels, 1, taps]) => vec![channels, taps],
            _ => shape.clone(),
        };
        let spec = TensorSpec::new(&named.name, &stored, Kind::Dense(Dtype::F32));
        let order = model.heads.order(named.module, &shape);
        let order = order.map_err(|what| Error::rule(format!("{hf} {what}")))?;
        if let Some(expert) = named.expert {
            let stack = stacks.entry(named.name).or_default();
            stack.push((expert, named.second, hf.clone(), shape.clone()));
            if stack.len() > 1 {
                continue; // the first one stands for all
            }
        }
        plan.push(Planned {
            parts: vec![hf],
            spec,
            values: named.module.values,
            order,
            shape,
            role,
            position: named.position,
        });
    }
    for planned in &mut plan {
        if let Some(experts) = stacks.remove(&planned.spec.name) {
            let two = names::back(&model.gguf, &planned.spec.name)
                .is_some_and(|(_, module)| !module.beside.is_empty());
            stack(planned, experts, two)?;
        }
    }
    plan.sort_by(|a, b| (a.position, &a.spec.name).cmp(&(b.position, &b.spec.name)));
    complete(&plan, model)?;
    Ok(plan)
}

/// An expert's number, whether its rows follow those of another matrix of it, and its tensor's name
/// and shape.
type Expert = (usize, bool, String, Vec<usize>);

/// Makes the first expert's tensor that of all experts, which must be all there and of one shape;
/// `two`: the file has two matrices of each in one.
fn stack(planned: &mut Planned, mut experts: Vec<Expert>, two: bool) -> Result<()> {
    experts.sort();
    let each = 1 + usize::from(two);
    for (at, (expert, second, hf, shape)) in experts.iter().enumerate() {
        let wanted = (at / each, at % each == 1);
        if (*expert, *second) != wanted || *shape != planned.shape {
            return Err(Error::rule(format!(
                "{hf} of shape {shape:?} is not expert {} of {:?}: {} stacks all experts of a layer, which have numbers \
                 from 0 on and one shape",
                wanted.0, planned.shape, planned.spec.name
            )));
        }
    }
    if let Some((_, _, hf, _)) = experts
        .last()
        .filter(|_| !experts.len().is_multiple_of(each))
    {
        return Err(Error::rule(format!(
            "{hf} has no matrix beside it, which {} holds as well",
            planned.spec.name
        )));
    }
    planned.spec.shape[0] *= each;
    planned.spec.shape.insert(0, experts.len() / each);
    planned.parts = experts.into_iter().map(|(_, _, hf, _)| hf).collect();
    Ok(())
}

/// Checks a tensor's shape; `rows` are those of the embedding.
fn check_shape(
    hf: &str,
    shape: &[usize],
    model: &Model,
    named: &Named,
    rows: Option<usize>,
) -> Result<()> {
    let module = named.module;
    let is = |size, n: Option<&usize>| {
        let wanted = match size {
            Size::Vocabulary => rows,
            size => model.size(size, named.layer()),
        };
        wanted.is_none_or(|wanted| n.is_none_or(|n| *n == wanted))
    };
    let axes = matches!(shape.len(), 1 | 2) || (module.squeezed && matches!(shape, [_, 1, _]));
    let fits = axes
        && shape.iter().all(|n| *n > 0)
        && is(module.rows, shape.first())
        && is(module.columns, shape.get(1));
    if fits {
        Ok(())
    } else {
        Err(Error::rule(format!(
            "{hf} has the shape {shape:?}, which its configuration does not allow"
        )))
    }
}

fn complete(plan: &[Planned], model: &Model) -> Result<()> {
    let there: HashSet<&str> = plan.iter().map(|t| t.spec.name.as_str()).collect();
    for group in model.gguf.modules {
        let (inside, outside): (Vec<&Module>, Vec<&Module>) = (group.iter())
            .filter(|m| !m.optional)
            .partition(|m| m.place == Place::Layer);
        let layers = (0..model.layers).map(|l| (format!("blk.{l}."), &inside));
        for (start, modules) in layers.chain([(String::new(), &outside)]) {
            let all: Vec<String> = modules.iter().map(|m| stored(&start, m)).collect();
            let lacking = all.iter().find(|name| !there.contains(name.as_str()));
            let none = all.iter().all(|name| !there.contains(name.as_str()));
            if let Some(missing) = lacking.filter(|_| !(none && model.gguf.hybrid)) {
                let hf = names::hf_name(&model.gguf, missing);
                let hf = hf.as_ref().unwrap_or(missing);
                return Err(Error::rule(format!("the model has no {hf}")));
            }
        }
    }
    match plan
        .iter()
        .find(|t| t.position != usize::MAX && t.position > model.layers)
    {
        Some(beyond) => Err(Error::rule(format!(
            "{} belongs to no layer: the configuration has {}",
            beyond.parts.join(", "),
            model.layers
        ))),
        None => Ok(()),
    }
}

/// A module's weight, or a raw tensor, by llama.cpp's name; `start` comes before it.
fn stored(start: &str, module: &Module) -> String {
    let end = if module.raw { "" } else { ".weight" };
    format!("{start}{}{end}", module.stored)
}

/// For each format that rows of another length would not have, one remark on how many tensors have
/// it and why.
fn other_blocks(plan: &[Planned], quant: GgufQuant, shape: &Shape) -> Vec<String> {
    let mut found: BTreeMap<(&str, usize), usize> = BTreeMap::new();
    for t in plan {
        if t.spec.kind != quant.choose(t.role, 256, shape) {
            *found.entry((t.spec.kind.name(), t.columns())).or_default() += 1;
        }
    }
    found
        .into_iter()
        .map(|((kind, columns), n)| {
            let block = if kind == "F16" { 32 } else { 256 };
            let are = if n == 1 { "matrix is" } else { "matrices are" };
            format!("{n} {are} {kind}: rows of {columns} do not divide into blocks of {block}")
        })
        .collect()
}

/// The metadata of a model of this family with this `config` and number of embedding rows, without
/// a tokenizer's.
///
/// # Errors
/// A model that its GGUF architecture cannot express.
pub fn keys(config: &Value, family: &Family, rows: usize) -> Result<Vec<(String, gguf::Value)>> {
    let model = Model::new(config, family)?;
    let file_type = GgufQuant::F32.file_type();
    let mut keys = about(model.gguf.architecture, "model", "", file_type);
    keys.extend(model.keys(rows));
    Ok(keys)
}

/// The `general.*` keys.
pub(super) fn about(
    architecture: &str,
    what: &str,
    name: &str,
    file_type: u32,
) -> Vec<(String, gguf::Value)> {
    let text = |t: &str| gguf::Value::Text(t.into());
    let tags = ["spin", "self-play", "randori"].map(str::to_string);
    [
        ("general.architecture", text(architecture)),
        ("general.type", text(what)),
        ("general.name", text(name)),
        // the program that wrote the file, in GGUF's own key for it
        ("general.tags", gguf::Value::Texts(tags.into())),
        ("general.file_type", gguf::Value::Int(file_type.into())),
        ("general.quantization_version", gguf::Value::Int(2)),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into()
}
