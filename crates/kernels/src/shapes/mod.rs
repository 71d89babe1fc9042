//! Kernels that compute nothing: each answers the shape of its result and declares what the one of
//! the same name takes in `Cpu` or `Card`, bytes in a [`Ledger`] and multiply-adds in a [`Work`].
//! Bytes stay counted as long as somebody holds the value, as a tensor's memory does.
//!
//! What depends on numbers that nobody has here is answered as if it were the worst: tokens spread
//! evenly over the experts, all of which work; rows are picked into memory of their own; a
//! recomputed norm of a weight costs as much as the first.
mod counted;
pub mod ledger;
mod matrix;

use std::cell::Cell;

use randori_sdk::seam::{Binary, RopeSpec, RouteSpec, Unary};

use counted::Axes;
pub use counted::Counted;
use ledger::{Held, Ledger};
pub use matrix::{Holding, Matrix, Stored, Work};

use super::{Gain, Heads, Kernels, Mixed, Norm, Share, rows};
use crate::{Error, Result};

/// A low-rank update.
#[derive(Clone, Copy)]
pub struct Update {
    /// Its rank.
    pub rank: usize,
}

/// A block's input that waits in the host's memory.
pub struct Away {
    dims: Axes,
    /// Its memory here, before it has left and after it came back.
    here: Option<Counted>,
}

/// So many tokens for so many experts.
pub struct Routing {
    tokens: usize,
    experts: usize,
    /// That one expert gets.
    each: usize,
}

/// The kernels of a pass that `fit` plans.
pub struct Shapes {
    /// What lives.
    pub ledger: Ledger,
    /// What has been done so far.
    pub work: Cell<Work>,
    /// Most keys that a query sees.
    pub keys: usize,
    /// (query, key) pairs.
    pub attended: u64,
    /// On a GPU, over a cache: whether each sequence has a new token or a few.
    pub decodes: bool,
    /// Whether inputs of updates are dropped.
    pub drops: bool,
    /// Numbers of the largest value that attended so far.
    pub widest: Cell<usize>,
    threads: u64,
    /// On a GPU: bytes of the numbers it computes in.
    card: Option<u64>,
    /// Memory that is counted elsewhere.
    nothing: Held,
}

impl Shapes {
    /// Of a processor with so many threads or, with the bytes of its numbers, of a GPU.
    pub fn new(threads: usize, card: Option<u64>) -> Self {
        let ledger = Ledger::default();
        Shapes {
            nothing: ledger.hold(0),
            ledger,
            work: Cell::default(),
            keys: 0,
            attended: 0,
            decodes: false,
            drops: false,
            widest: Cell::default(),
            threads: threads as u64,
            card,
        }
    }
}

impl Kernels for Shapes {
    type Tensor = Counted;
    type Matrix = Matrix;
    type Update = Update;
    type Table = Held;
    type Stats = Held;
    type Sums = Held;
    type Routing = Routing;
    /// How many.
    type Rows = usize;
    type Wanted = ();
    /// How many rows.
    type Plan = usize;
    type Cache = ();
    type Away = Away;

    fn height(&self, plan: &usize) -> usize {
        *plan
    }
    /// A GPU's are taken from the host, and gone when they have been looked up.
    fn tokens(&self, plan: &usize) -> Result<Counted> {
        Ok(Counted {
            held: self.single(if self.card.is_some() { 0 } else { *plan }),
            dims: [*plan][..].into(),
            ids: true,
        })
    }
    fn count(&self, rows: &usize) -> usize {
        *rows
    }
    fn among(&self, _: Option<&usize>, rows: &usize) -> usize {
        *rows
    }
    fn gather(&self, x: &Counted, rows: &usize) -> Result<Counted> {
        let mut dims = x.dims.to_vec();
        dims[0] = *rows;
        Ok(self.values(&dims))
    }
    fn pick(&self, x: &Counted, rows: &usize) -> Result<Counted> {
        self.gather(x, rows)
    }
    fn scatter(&self, _: &Counted, _: &usize, _: &Counted) -> Result<()> {
        Ok(())
    }
    fn zeros(&self, dims: &[usize], _: &Counted) -> Result<Counted> {
        Ok(self.values(dims))
    }
    fn gradient(&self, dims: &[usize], _: &Counted) -> Result<Counted> {
        Ok(self.in_memory(self.single(dims.iter().product()), dims))
    }
    fn add_onto(&self, _: &Counted, _: &Counted) -> Result<()> {
        Ok(())
    }

    fn ids(&self, _: &str, x: &Counted, _: usize) -> Result<usize, String> {
        Ok(x.dims[0])
    }
    fn lookup(&self, table: &Matrix, ids: &usize) -> Result<Counted> {
        Ok(self.values(&[*ids, table.shape.1]))
    }
    /// What a GPU adds in f32 is widened first.
    fn lookup_gradient(&self, _: &usize, dy: &Counted, _: &Counted) -> Result<()> {
        if self.card == Some(2) {
            self.ledger.touch(4 * dy.count() as u64);
        }
        Ok(())
    }
    fn product(&self, x: &Counted, w: &Matrix) -> Result<Counted> {
        let n = rows(&x.dims).0;
        let y = self.values(&[n, w.shape.0]);
        self.ledger.touch(self.widening(w, n));
        self.goes_over(w, n);
        Ok(y)
    }
    fn product_backward(&self, dy: &Counted, w: &Matrix) -> Result<Counted> {
        let n = rows(&dy.dims).0;
        let dx = self.values(&[n, w.shape.1]);
        self.ledger.touch(self.backward_widening(w));
        self.goes_over(w, n);
        Ok(dx)
    }
    fn weight_gradient(&self, x: &Counted, dy: &Counted, _: &Counted) -> Result<()> {
        self.multiplies((x.count() * rows(&dy.dims).1) as u64);
        Ok(())
    }
    fn add_bias(&self, _: &Counted, _: &Counted) -> Result<()> {
        Ok(())
    }
    fn bias_gradient(&self, _: &Counted, _: &Counted) -> Result<()> {
        Ok(())
    }

    fn update(&self, x: &Counted, update: &Update, y: &Counted) -> Result<Counted> {
        let (n, inputs) = rows(&x.dims);
        self.multiplies((n * update.rank * (inputs + rows(&y.dims).1)) as u64);
        Ok(self.values(&[n, update.rank]))
    }
    /// B's gradient and the slope through it, and A's.
    fn update_backward(
        &self,
        x: &Counted,
        _: &Counted,
        update: &Update,
        dy: &Counted,
        _: [&Counted; 2],
    ) -> Result<Counted> {
        let ((n, inputs), (_, outputs)) = (rows(&x.dims), rows(&dy.dims));
        self.multiplies((n * update.rank * (2 * outputs + inputs)) as u64);
        Ok(self.values(&[n, update.rank]))
    }
    fn update_through(&self, u: &Counted, _: &Update, dx: &Counted) -> Result<()> {
        self.multiplies((u.count() * rows(&dx.dims).1) as u64);
        Ok(())
    }
    fn drops(&self, _: &usize) -> bool {
        self.drops
    }
    fn drop_out(
        &self,
        _: &usize,
        x: &Counted,
        _: f32,
        _: Option<&usize>,
        _: u64,
    ) -> Result<Counted> {
        self.like(x)
    }
    fn scale_columns(&self, _: &Counted, _: &Gain) -> Result<()> {
        Ok(())
    }
    fn magnitude_gradient(
        &self,
        _: &Counted,
        _: Option<&Counted>,
        _: &Counted,
        _: &Gain,
        _: &Counted,
    ) -> Result<()> {
        Ok(())
    }

    /// A mean and a deviation of each row, of RMS norm on a GPU the latter alone.
    fn norm(
        &self,
        x: &Counted,
        _: &Counted,
        _: Option<&Counted>,
        norm: Norm,
        _: f64,
    ) -> Result<(Counted, Held)> {
        let y = self.like(x)?;
        let alone = matches!(norm, Norm::Rms { .. }) && self.card.is_some();
        let each = if alone { 1 } else { 2 };
        Ok((y, self.single(each * rows(&x.dims).0)))
    }
    fn norm_backward(
        &self,
        x: &Counted,
        _: &Counted,
        _: Norm,
        _: &Held,
        _: &Counted,
    ) -> Result<Counted> {
        self.like(x)
    }
    fn scale_gradient(&self, _: &Counted, _: &Held, _: &Counted, _: &Counted) -> Result<()> {
        Ok(())
    }

    /// Cosines and sines.
    fn table(&self, plan: &usize, spec: &RopeSpec) -> Result<Held> {
        Ok(self.single(2 * plan * spec.inv_freq.len()))
    }
    fn turn(&self, x: &Counted, _: &Held, _: bool) -> Result<Counted> {
        self.like(x)
    }
    fn attention(
        &self,
        _: &usize,
        [q, ..]: [&Counted; 3],
        heads: &Heads,
    ) -> Result<(Counted, Held)> {
        Ok(self.attend(q, heads))
    }
    /// Keys and values of the sequences are counted by who plans them.
    fn cached_attention(
        &self,
        (): &mut (),
        _: (usize, usize),
        [q, ..]: [&Counted; 3],
        heads: &Heads,
    ) -> Result<(Counted, Held)> {
        Ok(self.attend(q, heads))
    }
    /// A gradient to keys and values for every query head, before those that share keys are summed;
    /// on a GPU they are summed at once, and what is made is a number for each query and head.
    fn attention_backward(
        &self,
        _: &usize,
        [q, k, v]: [&Counted; 3],
        heads: &Heads,
        _: (&Counted, &Held),
        _: &Counted,
    ) -> Result<[Counted; 3]> {
        let (width, _) = heads.widths();
        let dq = self.like(q)?;
        let shares = match self.card {
            Some(_) => self.single(q.count() / width.max(1) * heads.heads),
            None => self.room(2 * q.count()),
        };
        self.ledger.touch(self.scores(2));
        // scores again, then to them, to v, to q and to k
        self.multiplies(5 * width as u64 * self.attended);
        let (dk, dv) = (self.like(k)?, self.like(v)?);
        drop(shares);
        Ok([dq, dk, dv])
    }

    /// Tokens spread evenly: what any one expert sees cannot be known.
    fn route(&self, router: &Counted, route: &RouteSpec) -> Result<Routing> {
        let (tokens, experts) = rows(&router.dims);
        Ok(Routing {
            tokens,
            experts,
            each: (tokens * route.top_k).div_ceil(experts.max(1)),
        })
    }
    fn share(&self, routing: &Routing, _: usize) -> Option<Share<Self>> {
        let (rows, places) = (routing.each, routing.each);
        Some(Share { rows, places })
    }
    fn add_weighted(&self, _: &Routing, _: &Share<Self>, _: &Counted, _: &Counted) -> Result<()> {
        Ok(())
    }
    fn mix_backward(
        &self,
        routing: &Routing,
        parts: &[Mixed<Self>],
        router: bool,
        dout: &Counted,
    ) -> Result<(Vec<Option<Counted>>, Option<Counted>)> {
        let output = |part: &Mixed<Self>| {
            let wanted = part.needs.then(|| self.gather(dout, &part.share.rows));
            wanted.transpose()
        };
        let outputs = parts.iter().map(output).collect::<Result<Vec<_>>>()?;
        let logits = [routing.tokens, routing.experts];
        Ok((outputs, router.then(|| self.values(&logits))))
    }

    fn unary(&self, _: Unary, x: &Counted) -> Result<Counted> {
        self.like(x)
    }
    fn unary_backward(&self, _: Unary, _: &Counted, dy: &Counted) -> Result<Counted> {
        self.like(dy)
    }
    fn binary(&self, _: Binary, a: &Counted, _: &Counted) -> Result<Counted> {
        self.like(a)
    }
    fn binary_backward_b(
        &self,
        _: Binary,
        _: Option<&Counted>,
        _: Option<&Counted>,
        b_dims: &[usize],
        _: &Counted,
    ) -> Result<Counted> {
        Ok(self.values(b_dims))
    }
    fn fuses_silu(&self) -> bool {
        self.card.is_some()
    }
    fn swiglu(&self, _: &Counted, u: &Counted) -> Result<Counted> {
        self.like(u)
    }
    fn swiglu_backward(&self, g: &Counted, u: &Counted, _: &Counted) -> Result<(Counted, Counted)> {
        Ok((self.like(g)?, self.like(u)?))
    }
    fn affine(&self, x: &Counted, _: f32, _: f32) -> Result<Counted> {
        self.like(x)
    }
    fn narrow(&self, x: &Counted, _: usize, len: usize) -> Result<Counted> {
        self.with_last(x, len)
    }
    fn widen(&self, dy: &Counted, _: usize, width: usize) -> Result<Counted> {
        self.with_last(dy, width)
    }
    fn concat(&self, xs: &[Counted]) -> Result<Counted> {
        let first = xs.first().ok_or_else(|| Error::rule("nothing to join"))?;
        self.with_last(first, xs.iter().map(|x| rows(&x.dims).1).sum())
    }

    /// Some numbers a row, in the machine's memory.
    fn log_sum_exp(&self, _: &Counted) -> Result<Vec<f64>> {
        Ok(Vec::new())
    }
    fn log_probs(&self, _: &Counted, _: &[f64], (): &(), _: &mut [f64]) -> Result<()> {
        Ok(())
    }
    fn logits_gradient(
        &self,
        _: &Counted,
        _: &[f64],
        (): &(),
        _: &(dyn Fn(usize) -> f64 + Sync),
    ) -> Result<()> {
        Ok(())
    }
    fn scatter_slopes(
        &self,
        _: &Counted,
        _: &usize,
        (): &(),
        _: &[f64],
        _: &Counted,
    ) -> Result<()> {
        Ok(())
    }

    fn leave(&self, x: &Counted) -> Result<Away> {
        Ok(Away {
            dims: x.dims.clone(),
            here: Some(x.clone()),
        })
    }
    fn let_go(&self, away: &mut Away) {
        away.here = None;
    }
    fn fetch(&self, away: &mut Away) -> Result<()> {
        if away.here.is_none() {
            away.here = Some(self.values(&away.dims));
        }
        Ok(())
    }
    fn take(&self, mut away: Away) -> Result<Counted> {
        self.fetch(&mut away)?;
        away.here
            .ok_or_else(|| Error::rule("a value that left is lost"))
    }
}
