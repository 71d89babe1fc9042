//! [`OnCandle`], the kinds of kernels that compute on candle's tensors, and what their
//! implementations of [`Kernels`] have in common.

use std::rc::Rc;

use candle_core::Tensor;

use crate::{Cache, ChunkTarget, Kernels, Plan, Result, Weight};

/// Kernels that compute on candle's tensors: those that a player can run on.
pub trait OnCandle:
    Kernels<
        Tensor = Tensor,
        Matrix = Weight,
        Update = randori_lora::Update,
        Indices = Rc<[u32]>,
        ChunkTargets = Vec<ChunkTarget>,
        Plan = Plan,
        Cache = Cache,
    >
{
    /// The dot product of each row (the first axis) of a and of b.
    fn row_dots(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;
    /// onto\[rows\[i\]\] += factors\[i\] · x\[i\], in order; without factors they are 1.
    fn scatter_by(
        &self,
        x: &Tensor,
        rows: &[u32],
        factors: Option<&[f32]>,
        onto: &Tensor,
    ) -> Result<()>;
}

/// The methods of [`Kernels`] that are written alike for every [`OnCandle`]: those without a kernel,
/// and those whose kernel has the same name everywhere. Expanded inside `impl Kernels` of `Cpu` and
/// `Card`, each of whose modules brings the functions that are named here.
macro_rules! on_candle {
    () => {
        type Tensor = candle_core::Tensor;
        type Matrix = $crate::Weight;
        type Update = randori_lora::Update;
        type Routing = $crate::route::Routing;
        type Indices = std::rc::Rc<[u32]>;
        type ChunkTargets = Vec<$crate::ChunkTarget>;
        type Plan = $crate::Plan;
        type Cache = $crate::Cache;

        fn row_count(&self, plan: &Self::Plan) -> usize {
            plan.positions.len()
        }
        fn tokens(&self, plan: &Self::Plan) -> Result<Tensor> {
            let cpu = &candle_core::Device::Cpu; // a kernel gets them from there
            Ok(Tensor::from_slice(&plan.ids, plan.ids.len(), cpu)?)
        }
        fn count(&self, indices: &Self::Indices) -> usize {
            indices.len()
        }
        fn compose(&self, outer: Option<&Self::Indices>, inner: &Self::Indices) -> Self::Indices {
            $crate::tensors::compose(outer, inner)
        }
        fn token_ids(
            &self,
            embed: &str,
            x: &Tensor,
            vocab: usize,
        ) -> Result<Self::Indices, String> {
            $crate::tensors::token_ids(embed, x, vocab)
        }
        fn pick(&self, x: &Tensor, rows: &Self::Indices) -> Result<Tensor> {
            match rows.len() < x.dims()[0] {
                true => self.gather(x, rows),
                false => Ok(x.clone()),
            }
        }
        fn scatter(&self, x: &Tensor, rows: &Self::Indices, onto: &Tensor) -> Result<()> {
            self.scatter_by(x, rows, None, onto)
        }
        fn zeros(&self, dims: &[usize], like: &Tensor) -> Result<Tensor> {
            Ok(Tensor::zeros(dims, like.dtype(), like.device())?)
        }
        fn zero_gradient(&self, dims: &[usize], like: &Tensor) -> Result<Tensor> {
            let float = candle_core::DType::F32;
            Ok(Tensor::zeros(dims, float, like.device())?)
        }
        fn has_dropout(&self, plan: &Self::Plan) -> bool {
            plan.dropout.is_some()
        }
        fn apply_dropout(
            &self,
            plan: &Self::Plan,
            x: &Tensor,
            p: f32,
            rows: Option<&Self::Indices>,
            salt: u64,
        ) -> Result<Tensor> {
            let keys = plan.keys(rows);
            // a token's heads, where a projection goes over each of them, share one mask
            let by_token = x.reshape((keys.len(), x.elem_count() / keys.len().max(1)))?;
            Ok(elementwise::dropout(&by_token, p, &keys, salt)?.reshape(x.dims())?)
        }
        fn route(&self, router: &Tensor, route: &RouteSpec) -> Result<Self::Routing> {
            Self::Routing::new(router, route)
        }
        fn tokens_of(&self, routing: &Self::Routing, expert: usize) -> Option<ExpertTokens<Self>> {
            routing.tokens_of(expert)
        }
        fn add_weighted(
            &self,
            routing: &Self::Routing,
            tokens: &ExpertTokens<Self>,
            y: &Tensor,
            out: &Tensor,
        ) -> Result<()> {
            let weights = routing.weights(&tokens.choices);
            self.scatter_by(y, &tokens.rows, Some(&weights), out)
        }
        fn mix_backward(
            &self,
            routing: &Self::Routing,
            experts: &[ExpertOutput<Self>],
            router: bool,
            dout: &Tensor,
        ) -> Result<(Vec<Option<Tensor>>, Option<Tensor>)> {
            routing.backward(self, experts, router, dout)
        }
        fn scatter_slopes(
            &self,
            d: &Tensor,
            rows: &Self::Indices,
            targets: &Self::ChunkTargets,
            slopes: &[f64],
            onto: &Tensor,
        ) -> Result<()> {
            let factors: Vec<f32> = targets.iter().map(|t| slopes[t.target] as f32).collect();
            self.scatter_by(d, rows, Some(&factors), onto)
        }

        fn gather(&self, x: &Tensor, rows: &Self::Indices) -> Result<Tensor> {
            layout::gather(x, rows)
        }
        fn add_onto(&self, a: &Tensor, b: &Tensor) -> Result<()> {
            elementwise::add_onto(a, b)
        }
        fn lookup_gradient(&self, ids: &Self::Indices, dy: &Tensor, dtable: &Tensor) -> Result<()> {
            linear::lookup_gradient(ids, dy, dtable)
        }
        fn weight_gradient(&self, x: &Tensor, dy: &Tensor, dw: &Tensor) -> Result<()> {
            linear::weight_gradient(x, dy, dw)
        }
        fn add_bias(&self, y: &Tensor, bias: &Tensor) -> Result<()> {
            linear::add_bias(y, bias)
        }
        fn bias_gradient(&self, dy: &Tensor, db: &Tensor) -> Result<()> {
            linear::bias_gradient(dy, db)
        }
        fn add_update(&self, x: &Tensor, update: &Self::Update, y: &Tensor) -> Result<Tensor> {
            low_rank::add_update(x, update, y)
        }
        fn update_backward(
            &self,
            x: &Tensor,
            xa: &Tensor,
            update: &Self::Update,
            dy: &Tensor,
            gradients: [&Tensor; 2],
        ) -> Result<Tensor> {
            low_rank::backward(x, xa, update, dy, gradients)
        }
        fn update_input_gradient(
            &self,
            u: &Tensor,
            update: &Self::Update,
            dx: &Tensor,
        ) -> Result<()> {
            low_rank::input_gradient(u, &update.a, dx)
        }
        fn scale_columns(&self, y: &Tensor, gain: &Gain) -> Result<()> {
            dora::scale_columns(y, gain)
        }
        fn magnitude_gradient(
            &self,
            y: &Tensor,
            bias: Option<&Tensor>,
            dy: &Tensor,
            gain: &Gain,
            dm: &Tensor,
        ) -> Result<()> {
            dora::magnitude_gradient(y, bias, dy, gain, dm)
        }
        fn norm(
            &self,
            x: &Tensor,
            w: &Tensor,
            bias: Option<&Tensor>,
            norm: Norm,
            eps: f64,
        ) -> Result<(Tensor, Self::NormStats)> {
            norm::forward(x, w, bias, norm, eps)
        }
        fn norm_backward(
            &self,
            x: &Tensor,
            w: &Tensor,
            norm: Norm,
            stats: &Self::NormStats,
            dy: &Tensor,
        ) -> Result<Tensor> {
            norm::backward(x, w, norm, stats, dy)
        }
        fn scale_gradient(
            &self,
            x: &Tensor,
            stats: &Self::NormStats,
            dy: &Tensor,
            dw: &Tensor,
        ) -> Result<()> {
            norm::scale_gradient(x, stats, dy, dw)
        }
        fn rope_table(&self, plan: &Self::Plan, spec: &RopeSpec) -> Result<Self::RopeTable> {
            rope::table(spec, &plan.positions)
        }
        fn rotate(&self, x: &Tensor, table: &Self::RopeTable, back: bool) -> Result<Tensor> {
            rope::rotate(x, table, back)
        }
        fn unary(&self, op: Unary, x: &Tensor) -> Result<Tensor> {
            elementwise::unary(op, x)
        }
        fn unary_backward(&self, op: Unary, saved: &Tensor, dy: &Tensor) -> Result<Tensor> {
            elementwise::unary_backward(op, saved, dy)
        }
        fn binary(&self, op: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
            elementwise::binary(op, a, b)
        }
        fn binary_backward_b(
            &self,
            op: Binary,
            a: Option<&Tensor>,
            b: Option<&Tensor>,
            b_dims: &[usize],
            dy: &Tensor,
        ) -> Result<Tensor> {
            elementwise::binary_backward_b(op, a, b, b_dims, dy)
        }
        fn swiglu(&self, g: &Tensor, u: &Tensor) -> Result<Tensor> {
            elementwise::swiglu(g, u)
        }
        fn swiglu_backward(&self, g: &Tensor, u: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
            elementwise::swiglu_backward(g, u, dy)
        }
        fn affine(&self, x: &Tensor, mul: f32, add: f32) -> Result<Tensor> {
            elementwise::affine(x, mul, add)
        }
        fn narrow(&self, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
            layout::narrow(x, start, len)
        }
        fn widen(&self, dy: &Tensor, start: usize, width: usize) -> Result<Tensor> {
            layout::widen(dy, start, width)
        }
        fn concat(&self, xs: &[Tensor]) -> Result<Tensor> {
            layout::concat(xs)
        }
        fn log_sum_exp(&self, logits: &Tensor) -> Result<Vec<f64>> {
            logprob::log_sum_exp(logits)
        }
        fn log_probs(
            &self,
            logits: &Tensor,
            sums: &[f64],
            targets: &Self::ChunkTargets,
            out: &mut [f64],
        ) -> Result<()> {
            logprob::log_probs(logits, sums, targets, out)
        }
        fn logits_gradient(
            &self,
            logits: &Tensor,
            sums: &[f64],
            targets: &Self::ChunkTargets,
            slope: &(dyn Fn(usize) -> f64 + Sync),
        ) -> Result<()> {
            logprob::logits_gradient(logits, sums, targets, slope)
        }
    };
}
pub(crate) use on_candle;
