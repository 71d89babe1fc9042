//! What the ops of one pass share: the player, every row's position, who may attend to whom, rotary tables, dropout.

use std::{borrow::Cow, cell::RefCell, rc::Rc, sync::Arc};

use candle_core::Tensor;
use randori_sdk::seam::RopeSpec;

use super::Gains;
use crate::{
    Error, Packed, Params, Player, Result, Segment,
    inputs::Probe,
    kernels::{
        Values,
        attention::{Keys, Span},
        rope::Table,
    },
    rng::{self, Stream},
};

/// Rows of a segment and their place in the sequence.
#[derive(Debug, Clone, Copy)]
struct Run {
    row: usize,
    len: usize,
    position: usize,
}

/// A segment with all that it may see: its ancestors, outermost first, then itself.
struct Sight {
    own: Run,
    seen: Vec<Run>,
    tree: usize,
}

/// One forward (and backward) pass.
pub(crate) struct Pass<'a> {
    pub(crate) player: &'a Player,
    /// The player's own tensors, where the pass runs.
    pub(super) params: Arc<Params>,
    /// Token ids by row.
    pub(crate) ids: Vec<u32>,
    /// Place in its sequence, by row.
    pub(crate) positions: Vec<u32>,
    sights: Vec<Sight>,
    /// Who sees whom, as a GPU's kernels read it.
    #[cfg(feature = "cuda")]
    pub(crate) gpu_sights: crate::kernels::gpu::attention::Sights,
    tables: RefCell<Vec<(RopeSpec, Rc<Table>)>>,
    pub(super) gains: Arc<Gains>,
    /// Key of each row's dropout masks; `None`: no dropout.
    pub(crate) dropout: Option<Vec<u64>>,
    /// Keeps what the projections get to multiply.
    pub(crate) probe: Option<Rc<Probe>>,
    /// The embedding that the head shares in the base, where the player may have learnt something
    /// of one of the two.
    pub(super) tied: Option<String>,
}

impl<'a> Pass<'a> {
    /// A pass over a packed micro-batch.
    pub(crate) fn packed(player: &'a Player, plan: &Packed, dropout: Option<u64>) -> Result<Self> {
        plan.check()?;
        let mut positions = vec![0; plan.ids.len()];
        let mut sights: Vec<Sight> = Vec::with_capacity(plan.segments.len());
        for (i, segment) in plan.segments.iter().enumerate() {
            let own = Run {
                row: segment.start,
                len: segment.len,
                position: segment.position,
            };
            let (mut seen, tree) = match segment.parent {
                Some(parent) => (sights[parent].seen.clone(), sights[parent].tree),
                None => (Vec::new(), i),
            };
            seen.push(own);
            sights.push(Sight { own, seen, tree });
            for (row, position) in (own.row..own.row + own.len).zip(own.position as u32..) {
                positions[row] = position;
            }
        }
        let dropout = dropout.map(|seed| row_keys(plan, seed));
        Ok(Pass {
            player,
            params: player.at_hand()?,
            ids: plan.ids.clone(),
            positions,
            sights,
            #[cfg(feature = "cuda")]
            gpu_sights: Default::default(),
            tables: RefCell::default(),
            gains: Arc::default(),
            dropout,
            probe: None,
            tied: tied(player)?,
        })
    }

    /// A pass over new tokens of cached sequences, which know the player's gains already.
    pub(crate) fn cached(
        player: &'a Player,
        ids: Vec<u32>,
        positions: Vec<u32>,
        gains: Arc<Gains>,
    ) -> Result<Self> {
        Ok(Pass {
            player,
            params: player.at_hand()?,
            ids,
            positions,
            sights: Vec::new(),
            #[cfg(feature = "cuda")]
            gpu_sights: Default::default(),
            tables: RefCell::default(),
            gains,
            dropout: None,
            probe: None,
            tied: tied(player)?,
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.positions.len()
    }

    /// The rotary table of this spec for all rows, made once.
    pub(crate) fn table(&self, spec: &RopeSpec) -> Rc<Table> {
        let mut tables = self.tables.borrow_mut();
        if let Some((_, table)) = tables.iter().find(|(s, _)| s == spec) {
            return table.clone();
        }
        let table = Rc::new(Table::new(spec, &self.positions));
        tables.push((spec.clone(), table.clone()));
        table
    }

    /// Calls `use_it` with the spans of a packed pass over k and v, rows of `width` values.
    pub(crate) fn with_spans<T>(
        &self,
        k: &Tensor,
        v: &Tensor,
        width: usize,
        use_it: impl FnOnce(&[Span]) -> Result<T>,
    ) -> Result<T> {
        let (k, v) = (Values::of(k)?, Values::of(v)?);
        let keys = |run: &Run| {
            let place = run.row * width..(run.row + run.len) * width;
            Keys {
                k: &k[place.clone()],
                v: &v[place],
                row: run.row,
                len: run.len,
                position: run.position,
            }
        };
        let spans: Vec<Span> = self
            .sights
            .iter()
            .map(|sight| Span {
                row: sight.own.row,
                len: sight.own.len,
                position: sight.own.position,
                keys: sight.seen.iter().map(keys).collect(),
                tree: sight.tree,
            })
            .collect();
        use_it(&spans)
    }

    /// The spans of a packed pass as plain numbers.
    #[cfg(feature = "cuda")]
    pub(crate) fn device_spans(&self) -> Vec<randori_cuda::ops::tiles::Span> {
        use randori_cuda::ops::tiles::{KeyRun, Span};
        let run = |r: &Run| KeyRun {
            row: r.row,
            len: r.len,
            position: r.position,
        };
        let span = |s: &Sight| Span {
            row: s.own.row,
            len: s.own.len,
            position: s.own.position,
            keys: s.seen.iter().map(run).collect(),
        };
        self.sights.iter().map(span).collect()
    }

    /// x (n, in), of the pass's `rows` (`None`: all), with this projection's dropout mask on it
    /// (also: the gradient to x from the gradient to that).
    pub(crate) fn drop_out(
        &self,
        x: &Tensor,
        projection: &str,
        p: f32,
        rows: Option<&[u32]>,
    ) -> Result<Tensor> {
        let Some(keys) = self.dropout.as_ref().filter(|_| p > 0.0) else {
            return Ok(x.clone());
        };
        let keys: Cow<[u64]> = match rows {
            None => keys.into(),
            Some(rows) => rows.iter().map(|&row| keys[row as usize]).collect(),
        };
        // a token's heads, where a projection goes over each of them, have one mask together
        let by_token = x.reshape((keys.len(), x.elem_count() / keys.len().max(1)))?;
        let salt = fnv1a(projection);
        #[cfg(feature = "cuda")]
        if crate::kernels::gpu::on(x) {
            let masked = crate::kernels::gpu::elementwise::drop_out(&by_token, p, &keys, salt)?;
            return Ok(masked.reshape(x.dims())?);
        }
        let masked = randori_lora::dropout(&by_token, p, &keys, salt);
        Ok(masked
            .map_err(|e| Error::rule(e.to_string()))?
            .reshape(x.dims())?)
    }
}

/// A key for every row of a plan: who it is, wherever it stands.
fn row_keys(plan: &Packed, seed: u64) -> Vec<u64> {
    let of_segment = |s: &Segment| {
        let (item, response, first) = (s.item, s.response, s.position as u64);
        (0..s.len as u64)
            .map(move |i| rng::word(Stream::Dropout, seed, [item, response, first + i, 0]))
    };
    plan.segments.iter().flat_map(of_segment).collect()
}

fn tied(player: &Player) -> Result<Option<String>> {
    let spec = player.lora.as_deref();
    crate::head::embedding_of(player.base.arch.as_ref(), spec, &player.params)
}

/// FNV-1a over a name, 64 bits.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
