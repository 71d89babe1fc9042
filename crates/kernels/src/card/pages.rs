//! The KV cache on a GPU: pages of 64 tokens, handed to slots as they grow and taken back when a
//! slot is cleared. Every block's keys and values lie in one pool each; all blocks share the slots'
//! tables, since all grow alike.

use candle_core::{DType, Tensor};
use randori_cuda::{
    gpu::{self, Gpu},
    ops::{
        decode::{Pages, Sequences},
        tiles::Span,
    },
};

use super::attention;
use crate::{Cache, Entry, Error, Heads, PAGE, Result, cache::Held, rows as sizes};

/// New tokens of one sequence up to which it counts as decoding.
const FEW: usize = 4;
/// Pages whose rows an i32 can number.
const MOST: usize = (1 << 31) / PAGE;

/// Keys and values of one call of attention: (pages · 64, kv_heads · dim).
struct Pool {
    k: Tensor,
    v: Tensor,
}

/// The cache.
#[derive(Default)]
pub struct Paged {
    /// By block, then call of attention inside the block.
    pools: Vec<Vec<Pool>>,
    /// Each slot's pages.
    tables: Vec<Vec<u32>>,
    /// Pages that were taken once.
    free: Vec<u32>,
    /// The first that never was.
    next: usize,
    /// How many there are, taken or free.
    pages: usize,
    /// The step that is under way.
    step: Option<Step>,
}

/// What a step's calls of attention share.
struct Step {
    places: Tensor,
    sequences: Tensor,
    tables: Tensor,
    width: usize,
    count: usize,
    most_queries: usize,
    most_keys: usize,
    spans: Vec<Span>,
    sights: attention::Sights,
}

impl Paged {
    /// With pages for sequences of these tokens.
    pub fn new(blocks: usize, longest: &[usize]) -> Paged {
        let mut pools = Vec::new();
        pools.resize_with(blocks, Vec::new);
        let pages = longest.iter().map(|tokens| tokens.div_ceil(PAGE));
        Paged {
            pools,
            tables: vec![Vec::new(); longest.len()],
            pages: pages.fold(0, usize::saturating_add).min(MOST),
            ..Paged::default()
        }
    }

    /// Takes a slot's pages back.
    pub fn clear(&mut self, slot: usize) {
        if let Some(table) = self.tables.get_mut(slot) {
            self.free.extend(table.drain(..).rev());
        }
    }

    /// Bytes of all pools.
    pub fn bytes(&self) -> usize {
        let of = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        let pools = self.pools.iter().flatten();
        pools.map(|p| of(&p.k) + of(&p.v)).sum()
    }

    /// Pages for the new tokens of a step, and where they go.
    pub fn begin(&mut self, entries: &[Entry], lens: &[usize]) -> Result<()> {
        for e in entries {
            let wanted = (lens[e.slot] + e.len).div_ceil(PAGE);
            while self.tables[e.slot].len() < wanted {
                let page = self.page();
                self.tables[e.slot].push(page);
            }
        }
        let gpu = Gpu::open()?;
        let width = self.tables.iter().map(Vec::len).max().unwrap_or(0);
        let mut tables = vec![0i32; (self.tables.len() * width).max(1)];
        for (slot, table) in self.tables.iter().enumerate() {
            for (i, page) in table.iter().enumerate() {
                tables[slot * width + i] = *page as i32;
            }
        }
        let (mut places, mut sequences, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        for e in entries {
            let (old, table) = (lens[e.slot], &self.tables[e.slot]);
            let place = |i: usize| (table[i / PAGE] as usize * PAGE + i % PAGE) as i32;
            places.extend((old..old + e.len).map(place));
            let numbers = [e.row, e.len, old + e.len, e.slot];
            sequences.extend(numbers.map(|n| n as i32));
            spans.push(Span::paged(e.row, e.len, table, PAGE, old + e.len)?);
        }
        self.step = Some(Step {
            places: gpu.upload(&places)?,
            sequences: gpu.upload(&sequences)?,
            tables: gpu.upload(&tables)?,
            width,
            count: entries.len(),
            most_queries: entries.iter().map(|e| e.len).max().unwrap_or(0),
            most_keys: entries
                .iter()
                .map(|e| lens[e.slot] + e.len)
                .max()
                .unwrap_or(0),
            spans,
            sights: Default::default(),
        });
        Ok(())
    }

    /// The step is over.
    pub fn end(&mut self) {
        self.step = None;
    }

    /// A page; when none is free (nobody said how many there would be), there are a quarter more of
    /// them.
    fn page(&mut self) -> u32 {
        if let Some(page) = self.free.pop() {
            return page;
        }
        if self.next == self.pages {
            self.pages += (self.pages / 4).max(8);
        }
        self.next += 1;
        (self.next - 1) as u32
    }
}

impl Pool {
    /// With room for so many rows; what it held stays where it was.
    fn grow(old: Option<&Pool>, rows: usize, like: &Tensor) -> Result<Pool> {
        let grown = |old: Option<&Tensor>| -> Result<Tensor> {
            let gpu = Gpu::open()?;
            let dims = [rows, sizes(like.dims()).1];
            // rows that nobody wrote are never read: a key is behind its slot's length
            let new = gpu.room(&dims, like.dtype())?;
            if let Some(old) = old {
                let bytes = old.elem_count() * old.dtype().size_in_bytes();
                gpu.copy(gpu::ptr(old)?, gpu::ptr(&new)?, bytes)?;
            }
            Ok(new)
        };
        Ok(Pool {
            k: grown(old.map(|p| &p.k))?,
            v: grown(old.map(|p| &p.v))?,
        })
    }
}

impl Cache {
    /// Appends the new rows of k and v, then attends with the new queries over what the slots hold.
    pub(super) fn attend(
        &mut self,
        (layer, call): (usize, usize),
        [q, k, v]: [&Tensor; 3],
        h: &Heads,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let elsewhere = || Error::rule("this cache is not on the GPU");
        let Held::Card(paged) = &mut self.held else {
            return Err(elsewhere());
        };
        let n = k.dims()[0];
        let width = h.kv_heads * h.dim;
        let flat = k.reshape((n, width))?;
        let (rows, pools) = (paged.pages * PAGE, &mut paged.pools[layer]);
        match pools.get(call) {
            None => pools.push(Pool::grow(None, rows, &flat)?),
            Some(p) if p.k.dims()[0] < rows => {
                pools[call] = Pool::grow(Some(p), rows, &flat)?;
            }
            Some(_) => {}
        }
        let pool = &pools[call];
        let step = paged.step.as_ref().ok_or_else(elsewhere)?;
        let gpu = Gpu::open()?;
        let a = attention::sizes(q, h)?;
        let (to_k, to_v) = (gpu::ptr(&pool.k)?, gpu::ptr(&pool.v)?);
        let places = gpu::ptr(&step.places)?;
        a.append(gpu, gpu::ptr(k)?, gpu::ptr(v)?, places, n, to_k, to_v)?;
        if step.most_queries > FEW {
            let spans = || step.spans.clone();
            return attention::by_lists([q, &pool.k, &pool.v], h, &step.sights, spans);
        }
        let out = gpu.room(q.dims(), q.dtype())?; // every row is some sequence's
        let (parts, weights) = a.decode_room(step.most_keys);
        let parts = gpu.room(&[parts.max(1)], DType::F32)?;
        let weights = gpu.room(&[weights.max(1)], DType::F32)?;
        let pages = Pages {
            k: to_k,
            v: to_v,
            tables: gpu::ptr(&step.tables)?,
            pages: step.width,
            page: PAGE,
        };
        let sequences = Sequences {
            list: gpu::ptr(&step.sequences)?,
            count: step.count,
            queries: step.most_queries,
            keys: step.most_keys,
        };
        let room = (gpu::ptr(&parts)?, gpu::ptr(&weights)?);
        a.decode(
            gpu,
            gpu::ptr(q)?,
            &pages,
            &sequences,
            gpu::ptr(&out)?,
            room.0,
            room.1,
        )?;
        crate::work::count((2 * h.heads, step.most_keys * step.count, h.dim));
        Ok((out, None))
    }
}
