//! The methods of [`Kernels`](crate::Kernels) that are the same wherever candle's tensors lie: what
//! needs no kernel, and what each side has a kernel for under the same name. Expanded inside
//! `impl Kernels` of `cpu` and `card`, each of which has the modules that it names.

macro_rules! on_candle {
    () => {
        type Tensor = candle_core::Tensor;
        type Matrix = $crate::Weight;
        type Update = randori_lora::Update;
        type Routing = $crate::route::Routing;
        type Rows = std::rc::Rc<[u32]>;
        type Wanted = Vec<$crate::Wanted>;
        type Plan = $crate::Plan;
        type Cache = $crate::Cache;

        fn height(&self, plan: &Self::Plan) -> usize {
            plan.positions.len()
        }
        fn tokens(&self, plan: &Self::Plan) -> Result<Tensor> {
            $crate::tensors::tokens(&plan.ids)
        }
        fn count(&self, rows: &Self::Rows) -> usize {
            rows.len()
        }
        fn among(&self, outer: Option<&Self::Rows>, rows: &Self::Rows) -> Self::Rows {
            $crate::tensors::among(outer, rows)
        }
        fn ids(&self, embed: &str, x: &Tensor, vocab: usize) -> Result<Self::Rows, String> {
            $crate::tensors::ids(embed, x, vocab)
        }
        fn pick(&self, x: &Tensor, rows: &Self::Rows) -> Result<Tensor> {
            match rows.len() < x.dims()[0] {
                true => self.gather(x, rows),
                false => Ok(x.clone()),
            }
        }
        fn scatter(&self, x: &Tensor, rows: &Self::Rows, onto: &Tensor) -> Result<()> {
            self.scatter_by(x, rows, None, onto)
        }
        fn zeros(&self, dims: &[usize], like: &Tensor) -> Result<Tensor> {
            Ok(Tensor::zeros(dims, like.dtype(), like.device())?)
        }
        fn gradient(&self, dims: &[usize], like: &Tensor) -> Result<Tensor> {
            let float = candle_core::DType::F32;
            Ok(Tensor::zeros(dims, float, like.device())?)
        }
        fn drops(&self, plan: &Self::Plan) -> bool {
            plan.dropout.is_some()
        }
        fn route(&self, router: &Tensor, route: &RouteSpec) -> Result<Self::Routing> {
            Self::Routing::new(router, route)
        }
        fn share(&self, routing: &Self::Routing, expert: usize) -> Option<Share<Self>> {
            routing.share(expert)
        }
        fn add_weighted(
            &self,
            routing: &Self::Routing,
            share: &Share<Self>,
            y: &Tensor,
            out: &Tensor,
        ) -> Result<()> {
            let weights = routing.weights(&share.places);
            self.scatter_by(y, &share.rows, Some(&weights), out)
        }
        fn mix_backward(
            &self,
            routing: &Self::Routing,
            parts: &[Mixed<Self>],
            router: bool,
            dout: &Tensor,
        ) -> Result<(Vec<Option<Tensor>>, Option<Tensor>)> {
            routing.backward(self, parts, router, dout)
        }
        fn scatter_slopes(
            &self,
            d: &Tensor,
            rows: &Self::Rows,
            wanted: &Self::Wanted,
            slopes: &[f64],
            onto: &Tensor,
        ) -> Result<()> {
            $crate::tensors::scatter_slopes(self, d, rows, wanted, slopes, onto)
        }

        fn gather(&self, x: &Tensor, rows: &Self::Rows) -> Result<Tensor> {
            layout::gather(x, rows)
        }
        fn add_onto(&self, a: &Tensor, b: &Tensor) -> Result<()> {
            elementwise::add_onto(a, b)
        }
        fn lookup_gradient(&self, ids: &Self::Rows, dy: &Tensor, dtable: &Tensor) -> Result<()> {
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
        fn update(&self, x: &Tensor, update: &Self::Update, y: &Tensor) -> Result<Tensor> {
            low_rank::forward(x, update, y)
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
        fn update_through(&self, u: &Tensor, update: &Self::Update, dx: &Tensor) -> Result<()> {
            low_rank::through(u, &update.a, dx)
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
        ) -> Result<(Tensor, Self::Stats)> {
            norm::forward(x, w, bias, norm, eps)
        }
        fn norm_backward(
            &self,
            x: &Tensor,
            w: &Tensor,
            norm: Norm,
            stats: &Self::Stats,
            dy: &Tensor,
        ) -> Result<Tensor> {
            norm::backward(x, w, norm, stats, dy)
        }
        fn scale_gradient(
            &self,
            x: &Tensor,
            stats: &Self::Stats,
            dy: &Tensor,
            dw: &Tensor,
        ) -> Result<()> {
            norm::scale_gradient(x, stats, dy, dw)
        }
        fn table(&self, plan: &Self::Plan, spec: &RopeSpec) -> Result<Self::Table> {
            rope::table(spec, &plan.positions)
        }
        fn turn(&self, x: &Tensor, table: &Self::Table, back: bool) -> Result<Tensor> {
            rope::turn(x, table, back)
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
            wanted: &Self::Wanted,
            out: &mut [f64],
        ) -> Result<()> {
            logprob::log_probs(logits, sums, wanted, out)
        }
        fn logits_gradient(
            &self,
            logits: &Tensor,
            sums: &[f64],
            wanted: &Self::Wanted,
            slope: &(dyn Fn(usize) -> f64 + Sync),
        ) -> Result<()> {
            logprob::logits_gradient(logits, sums, wanted, slope)
        }
    };
}
pub(super) use on_candle;
