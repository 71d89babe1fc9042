//! [`Shapes`], kernels that compute nothing: each returns the shape of its result and counts what
//! the one of the same name in `Cpu` or `Card` takes, bytes in a [`Ledger`] and multiply-adds in a
//! [`Work`]. Bytes are counted as long as the tensor exists, as in a real pass.
//!
//! What depends on values that are not there is counted at its worst: tokens are spread evenly over
//! the experts, as many of which compute as tokens can choose; picked rows are copied; a weight's
//! norms that are computed again cost as much as the first time.
pub mod ledger;
mod machine;
mod matrix;
mod placeholder;
mod work;

use randori_sdk::seam::{Binary, RopeSpec, RouteSpec, Unary};

pub use ledger::Ledger;
pub use machine::Shapes;
pub use matrix::{BaseWeight, Holding, Matrix};
pub use placeholder::Placeholder;
pub use work::Work;

use self::{ledger::Allocation, placeholder::Axes};
use crate::{
    Error, ExpertOutput, ExpertTokens, Gain, Heads, Kernels, Norm, Result,
    cpu::delta::{self, Sizes},
    rows,
};

/// A low-rank update without values.
#[derive(Clone, Copy)]
pub struct Update {
    /// Its rank.
    pub rank: usize,
}

/// A tensor that is offloaded to the host's memory.
pub struct Offloaded {
    dims: Axes,
    /// Its memory on the device, before it was copied down and after it came back.
    here: Option<Placeholder>,
}

/// Tokens routed evenly to experts.
pub struct Routing {
    tokens: usize,
    experts: usize,
    /// Experts chosen, by all tokens together.
    choices: usize,
}

/// Defines kernels that write into an existing tensor and take neither memory nor products.
macro_rules! in_place {
    ($($name:ident($($argument:ty),*);)*) => {
        $(fn $name(&self, $(_: $argument),*) -> Result<()> {
            Ok(())
        })*
    };
}

impl Kernels for Shapes {
    type Tensor = Placeholder;
    type Matrix = Matrix;
    type Update = Update;
    type RopeTable = Allocation;
    type NormStats = Allocation;
    type SoftmaxStats = Allocation;
    type Routing = Routing;
    /// The number of them.
    type Indices = usize;
    type ChunkTargets = ();
    /// The number of rows.
    type Plan = usize;
    type Cache = ();
    type Offloaded = Offloaded;

    in_place! {
        scatter(&Placeholder, &usize, &Placeholder);
        add_onto(&Placeholder, &Placeholder);
        add_bias(&Placeholder, &Placeholder);
        bias_gradient(&Placeholder, &Placeholder);
        scale_columns(&Placeholder, &Gain);
        magnitude_gradient(&Placeholder, Option<&Placeholder>, &Placeholder, &Gain, &Placeholder);
        scale_gradient(&Placeholder, &Allocation, &Placeholder, &Placeholder);
        add_weighted(&Routing, &ExpertTokens<Self>, &Placeholder, &Placeholder);
        log_probs(&Placeholder, &[f64], &(), &mut [f64]);
        logits_gradient(&Placeholder, &[f64], &(), &(dyn Fn(usize) -> f64 + Sync));
        scatter_slopes(&Placeholder, &usize, &(), &[f64], &Placeholder);
    }

    fn row_count(&self, plan: &usize) -> usize {
        *plan
    }
    /// A GPU's are uploaded where they are looked up, and freed again.
    fn tokens(&self, plan: &usize) -> Result<Placeholder> {
        Ok(Placeholder {
            memory: self.allocate_f32(if self.card.is_some() { 0 } else { *plan }),
            dims: [*plan][..].into(),
            ids: true,
        })
    }
    fn count(&self, indices: &usize) -> usize {
        *indices
    }
    fn compose(&self, _: Option<&usize>, inner: &usize) -> usize {
        *inner
    }
    fn gather(&self, x: &Placeholder, rows: &usize) -> Result<Placeholder> {
        let mut dims = x.dims.to_vec();
        dims[0] = *rows;
        Ok(self.values(&dims))
    }
    fn pick(&self, x: &Placeholder, rows: &usize) -> Result<Placeholder> {
        self.gather(x, rows)
    }
    fn zeros(&self, dims: &[usize], _: &Placeholder) -> Result<Placeholder> {
        Ok(self.values(dims))
    }
    fn zero_gradient(&self, dims: &[usize], _: &Placeholder) -> Result<Placeholder> {
        Ok(self.tensor(self.allocate_f32(dims.iter().product()), dims))
    }

    fn token_ids(&self, _: &str, x: &Placeholder, _: usize) -> Result<usize, String> {
        Ok(x.dims[0])
    }
    fn lookup(&self, table: &Matrix, ids: &usize) -> Result<Placeholder> {
        Ok(self.values(&[*ids, table.shape.1]))
    }
    /// A GPU adds in f32, so it widens dy first.
    fn lookup_gradient(&self, _: &usize, dy: &Placeholder, _: &Placeholder) -> Result<()> {
        if self.card == Some(2) {
            self.ledger.touch(4 * dy.count() as u64);
        }
        Ok(())
    }
    fn product(&self, x: &Placeholder, w: &Matrix) -> Result<Placeholder> {
        let n = rows(&x.dims).0;
        let y = self.values(&[n, w.shape.0]);
        self.ledger.touch(self.product_scratch(w, n));
        self.count_product(w, n);
        Ok(y)
    }
    fn product_backward(&self, dy: &Placeholder, w: &Matrix) -> Result<Placeholder> {
        let n = rows(&dy.dims).0;
        let dx = self.values(&[n, w.shape.1]);
        self.ledger.touch(self.backward_scratch(w));
        self.count_product(w, n);
        Ok(dx)
    }
    fn weight_gradient(&self, x: &Placeholder, dy: &Placeholder, _: &Placeholder) -> Result<()> {
        self.count_multiply_adds((x.count() * rows(&dy.dims).1) as u64);
        Ok(())
    }

    fn add_update(&self, x: &Placeholder, update: &Update, y: &Placeholder) -> Result<Placeholder> {
        let (n, inputs) = rows(&x.dims);
        self.count_multiply_adds((n * update.rank * (inputs + rows(&y.dims).1)) as u64);
        Ok(self.values(&[n, update.rank]))
    }
    /// The gradients to B, to x Aᵀ and to A.
    fn update_backward(
        &self,
        x: &Placeholder,
        _: &Placeholder,
        update: &Update,
        dy: &Placeholder,
        _: [&Placeholder; 2],
    ) -> Result<Placeholder> {
        let ((n, inputs), (_, outputs)) = (rows(&x.dims), rows(&dy.dims));
        self.count_multiply_adds((n * update.rank * (2 * outputs + inputs)) as u64);
        Ok(self.values(&[n, update.rank]))
    }
    fn update_input_gradient(&self, u: &Placeholder, _: &Update, dx: &Placeholder) -> Result<()> {
        self.count_multiply_adds((u.count() * rows(&dx.dims).1) as u64);
        Ok(())
    }
    fn has_dropout(&self, _: &usize) -> bool {
        self.drops
    }
    fn apply_dropout(
        &self,
        _: &usize,
        x: &Placeholder,
        _: f32,
        _: Option<&usize>,
        _: u64,
    ) -> Result<Placeholder> {
        self.like(x)
    }

    /// The statistics are two numbers a row; of RMSNorm on a GPU, one.
    fn norm(
        &self,
        x: &Placeholder,
        _: &Placeholder,
        _: Option<&Placeholder>,
        norm: Norm,
        _: f64,
    ) -> Result<(Placeholder, Allocation)> {
        let y = self.like(x)?;
        let alone = matches!(norm, Norm::Rms { .. }) && self.card.is_some();
        let each = if alone { 1 } else { 2 };
        Ok((y, self.allocate_f32(each * rows(&x.dims).0)))
    }
    fn norm_backward(
        &self,
        x: &Placeholder,
        _: &Placeholder,
        _: Norm,
        _: &Allocation,
        _: &Placeholder,
    ) -> Result<Placeholder> {
        self.like(x)
    }

    fn rope_table(&self, plan: &usize, spec: &RopeSpec) -> Result<Allocation> {
        Ok(self.allocate_f32(2 * plan * spec.inv_freq.len()))
    }
    fn rotate(&self, x: &Placeholder, _: &Allocation, _: bool) -> Result<Placeholder> {
        self.like(x)
    }
    fn attention(
        &self,
        _: &usize,
        [q, ..]: [&Placeholder; 3],
        _: Option<&Placeholder>,
        heads: &Heads,
    ) -> Result<(Placeholder, Allocation)> {
        Ok(self.attend(q, heads))
    }
    /// The cache itself is counted by the caller.
    fn cached_attention(
        &self,
        (): &mut (),
        _: (usize, usize),
        q: &Placeholder,
        _: Option<[&Placeholder; 2]>,
        _: Option<&Placeholder>,
        heads: &Heads,
    ) -> Result<(Placeholder, Allocation)> {
        Ok(self.attend(q, heads))
    }
    /// The processor allocates gradients to keys and values for every query head, before it sums
    /// those of heads that share keys. A GPU sums directly, and allocates a number for each query
    /// and head.
    fn attention_backward(
        &self,
        _: &usize,
        [q, k, v]: [&Placeholder; 3],
        heads: &Heads,
        _: (&Placeholder, &Allocation),
        _: &Placeholder,
    ) -> Result<[Placeholder; 3]> {
        let ((width, _), (values, _)) = (heads.widths(), heads.value_widths());
        let (dq, queries) = (self.like(q)?, q.dims[0]);
        let scratch = match self.card {
            Some(_) => self.allocate_f32(queries * heads.heads),
            None => self.allocate(queries * (width + values)),
        };
        self.ledger.touch(self.scores(2));
        // the scores again, then the gradients to q and to k; those to the scores and to v
        self.count_multiply_adds((3 * width + 2 * values) as u64 * self.attended);
        let (dk, dv) = (self.like(k)?, self.like(v)?);
        drop(scratch);
        Ok([dq, dk, dv])
    }
    fn sinks_gradient(
        &self,
        sinks: &Placeholder,
        _: &Heads,
        _: (&Placeholder, &Allocation),
        _: &Placeholder,
    ) -> Result<Placeholder> {
        self.like(sinks)
    }

    fn convolve(&self, _: &usize, x: &Placeholder, w: &Placeholder) -> Result<Placeholder> {
        self.conv(x, w)
    }
    /// The states themselves are counted by the caller.
    fn cached_convolve(
        &self,
        (): &mut (),
        _: (usize, usize),
        x: &Placeholder,
        w: &Placeholder,
    ) -> Result<Placeholder> {
        self.conv(x, w)
    }
    fn convolve_backward(
        &self,
        _: &usize,
        w: &Placeholder,
        dy: &Placeholder,
    ) -> Result<Placeholder> {
        self.conv(dy, w)
    }
    /// Parts of it for every 64 rows, which are then summed.
    fn taps_gradient(
        &self,
        _: &usize,
        _: &Placeholder,
        dy: &Placeholder,
        dw: &Placeholder,
    ) -> Result<()> {
        let parts = dy.dims[0].div_ceil(64) + 1;
        self.ledger.touch(4 * (parts * dw.count()) as u64);
        self.count_multiply_adds((dy.dims[0] * dw.count()) as u64);
        Ok(())
    }

    fn delta_rule(&self, _: &usize, inputs: [&Placeholder; 5]) -> Result<Placeholder> {
        self.scan(inputs)
    }
    /// The states themselves are counted by the caller.
    fn cached_delta_rule(
        &self,
        (): &mut (),
        _: (usize, usize),
        inputs: [&Placeholder; 5],
    ) -> Result<Placeholder> {
        self.scan(inputs)
    }
    fn delta_rule_backward(
        &self,
        _: &usize,
        inputs: [&Placeholder; 5],
        _: &Placeholder,
    ) -> Result<[Placeholder; 5]> {
        let sizes = Sizes::of(&inputs[0].dims, &inputs[2].dims)?;
        let [q, k, v, beta, gate] = inputs.map(|input| self.values(&input.dims));
        self.ledger.touch(self.threads * sizes.scratch(self.keys));
        self.count_scan(&sizes, delta::BACKWARD);
        Ok([q, k, v, beta, gate])
    }

    /// Spreads tokens evenly, since the true numbers depend on values.
    fn route(
        &self,
        router: &Placeholder,
        _: Option<&Placeholder>,
        route: &RouteSpec,
    ) -> Result<Routing> {
        let (tokens, experts) = rows(&router.dims);
        Ok(Routing {
            tokens,
            experts,
            choices: tokens * route.top_k,
        })
    }
    fn tokens_of(&self, routing: &Routing, expert: usize) -> Option<ExpertTokens<Self>> {
        // of fewer choices than experts each goes to another one
        let each = routing.choices.div_ceil(routing.experts.max(1));
        (expert < routing.choices).then_some(ExpertTokens {
            rows: each,
            choices: each,
        })
    }
    fn mix_backward(
        &self,
        routing: &Routing,
        experts: &[ExpertOutput<Self>],
        router: bool,
        dout: &Placeholder,
    ) -> Result<(Vec<Option<Placeholder>>, Option<Placeholder>)> {
        let output = |e: &ExpertOutput<Self>| {
            let needed = e.needs.then(|| self.gather(dout, &e.tokens.rows));
            needed.transpose()
        };
        let outputs = experts.iter().map(output).collect::<Result<Vec<_>>>()?;
        let logits = [routing.tokens, routing.experts];
        Ok((outputs, router.then(|| self.values(&logits))))
    }

    fn unary(&self, _: Unary, x: &Placeholder) -> Result<Placeholder> {
        self.like(x)
    }
    fn unary_backward(&self, _: Unary, _: &Placeholder, dy: &Placeholder) -> Result<Placeholder> {
        self.like(dy)
    }
    fn binary(&self, _: Binary, a: &Placeholder, _: &Placeholder) -> Result<Placeholder> {
        self.like(a)
    }
    fn binary_backward_b(
        &self,
        _: Binary,
        _: Option<&Placeholder>,
        _: Option<&Placeholder>,
        b_dims: &[usize],
        _: &Placeholder,
    ) -> Result<Placeholder> {
        Ok(self.values(b_dims))
    }
    fn fuses_silu(&self) -> bool {
        self.card.is_some()
    }
    fn swiglu(&self, _: &Placeholder, u: &Placeholder) -> Result<Placeholder> {
        self.like(u)
    }
    fn swiglu_backward(
        &self,
        g: &Placeholder,
        u: &Placeholder,
        _: &Placeholder,
    ) -> Result<(Placeholder, Placeholder)> {
        Ok((self.like(g)?, self.like(u)?))
    }
    fn affine(&self, x: &Placeholder, _: f32, _: f32) -> Result<Placeholder> {
        self.like(x)
    }
    fn narrow(&self, x: &Placeholder, _: usize, len: usize) -> Result<Placeholder> {
        self.with_last(x, len)
    }
    fn widen(&self, dy: &Placeholder, _: usize, width: usize) -> Result<Placeholder> {
        self.with_last(dy, width)
    }
    fn concat(&self, xs: &[Placeholder]) -> Result<Placeholder> {
        let first = xs.first().ok_or_else(|| Error::rule("nothing to join"))?;
        self.with_last(first, xs.iter().map(|x| rows(&x.dims).1).sum())
    }

    /// A few bytes a row in the machine's memory, which are not counted.
    fn log_sum_exp(&self, _: &Placeholder) -> Result<Vec<f64>> {
        Ok(Vec::new())
    }

    fn offload(&self, x: &Placeholder) -> Result<Offloaded> {
        Ok(Offloaded {
            dims: x.dims.clone(),
            here: Some(x.clone()),
        })
    }
    fn release(&self, offloaded: &mut Offloaded) {
        offloaded.here = None;
    }
    fn fetch(&self, offloaded: &mut Offloaded) -> Result<()> {
        if offloaded.here.is_none() {
            offloaded.here = Some(self.values(&offloaded.dims));
        }
        Ok(())
    }
    fn take(&self, mut offloaded: Offloaded) -> Result<Placeholder> {
        self.fetch(&mut offloaded)?;
        offloaded
            .here
            .ok_or_else(|| Error::rule("an offloaded tensor was not fetched"))
    }
}
