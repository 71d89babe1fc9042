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

/// Defines methods that call the function of the same name in a module.
macro_rules! call {
    ($($module:ident::$name:ident($($argument:ident: $kind:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $kind),*) -> Result<$result> {
            $module::$name($($argument),*)
        })*
    };
}
pub(crate) use call;

/// The methods of [`Kernels`] that are written alike for every [`OnCandle`]: those without a
/// kernel, and those whose kernel has the same name everywhere. Expanded inside `impl Kernels` of
/// `Cpu` and `Card`, each of whose modules brings the functions that are named here.
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
        fn route(
            &self,
            router: &Tensor,
            bias: Option<&Tensor>,
            route: &RouteSpec,
        ) -> Result<Self::Routing> {
            Self::Routing::new(router, bias, route)
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

        fn rope_table(&self, plan: &Self::Plan, spec: &RopeSpec) -> Result<Self::RopeTable> {
            rope::table(spec, plan)
        }
        $crate::on_candle::call! {
            layout::gather(x: &Tensor, rows: &Self::Indices) -> Tensor;
            layout::narrow(x: &Tensor, start: usize, len: usize) -> Tensor;
            layout::widen(dy: &Tensor, start: usize, width: usize) -> Tensor;
            layout::concat(xs: &[Tensor]) -> Tensor;
            linear::lookup_gradient(ids: &Self::Indices, dy: &Tensor, dtable: &Tensor) -> ();
            linear::weight_gradient(x: &Tensor, dy: &Tensor, dw: &Tensor) -> ();
            linear::add_bias(y: &Tensor, bias: &Tensor) -> ();
            linear::bias_gradient(dy: &Tensor, db: &Tensor) -> ();
            low_rank::add_update(x: &Tensor, update: &Self::Update, y: &Tensor) -> Tensor;
            low_rank::update_backward(
                x: &Tensor, xa: &Tensor, update: &Self::Update, dy: &Tensor, gradients: [&Tensor; 2]
            ) -> Tensor;
            low_rank::update_input_gradient(u: &Tensor, update: &Self::Update, dx: &Tensor) -> ();
            dora::scale_columns(y: &Tensor, gain: &Gain) -> ();
            dora::magnitude_gradient(
                y: &Tensor, bias: Option<&Tensor>, dy: &Tensor, gain: &Gain, dm: &Tensor
            ) -> ();
            norm::norm(
                x: &Tensor, w: &Tensor, bias: Option<&Tensor>, norm: Norm, eps: f64
            ) -> (Tensor, Self::NormStats);
            norm::norm_backward(
                x: &Tensor, w: &Tensor, norm: Norm, stats: &Self::NormStats, dy: &Tensor
            ) -> Tensor;
            norm::scale_gradient(
                x: &Tensor, stats: &Self::NormStats, dy: &Tensor, dw: &Tensor
            ) -> ();
            rope::rotate(x: &Tensor, table: &Self::RopeTable, back: bool) -> Tensor;
            elementwise::add_onto(a: &Tensor, b: &Tensor) -> ();
            elementwise::unary(op: Unary, x: &Tensor) -> Tensor;
            elementwise::unary_backward(op: Unary, saved: &Tensor, dy: &Tensor) -> Tensor;
            elementwise::binary(op: Binary, a: &Tensor, b: &Tensor) -> Tensor;
            elementwise::binary_backward_b(
                op: Binary, a: Option<&Tensor>, b: Option<&Tensor>, b_dims: &[usize], dy: &Tensor
            ) -> Tensor;
            elementwise::swiglu(g: &Tensor, u: &Tensor) -> Tensor;
            elementwise::swiglu_backward(
                g: &Tensor, u: &Tensor, dy: &Tensor
            ) -> (Tensor, Tensor);
            elementwise::affine(x: &Tensor, mul: f32, add: f32) -> Tensor;
            logprob::log_sum_exp(logits: &Tensor) -> Vec<f64>;
            logprob::log_probs(
                logits: &Tensor, sums: &[f64], targets: &Self::ChunkTargets, out: &mut [f64]
            ) -> ();
            logprob::logits_gradient(
                logits: &Tensor, sums: &[f64], targets: &Self::ChunkTargets,
                slope: &(dyn Fn(usize) -> f64 + Sync)
            ) -> ();
        }
    };
}
pub(crate) use on_candle;
