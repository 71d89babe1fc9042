//! The paged KV cache of a GPU: pages of 64 tokens, given to slots as they grow and taken back when
//! a slot is cleared. Each call of attention has pools of keys and values of its own; all of them
//! share the slots' page tables, since they grow alike.

use candle_core::Tensor;
use randori_cuda::{
    gpu::{self, Gpu},
    ops::tiles::Span,
};

use super::lists::ListsByWindow;
use crate::{Entry, Error, PAGE, Result, rows as sizes};

/// Most pages: their rows are numbered by an i32.
const MOST: usize = (1 << 31) / PAGE;

/// Keys and values of one call of attention, (pages · 64, kv_heads · dim) each.
pub struct Pool {
    /// Keys.
    pub k: Tensor,
    /// Values.
    pub v: Tensor,
}

/// A paged cache.
#[derive(Default)]
pub struct Paged {
    /// By block, then call of attention inside the block.
    pools: Vec<Vec<Pool>>,
    /// Each slot's pages, in order.
    tables: Vec<Vec<u32>>,
    /// Pages that were taken back.
    free: Vec<u32>,
    /// The first page that was never given.
    next: usize,
    /// Number of pages, given or not.
    pages: usize,
    /// The current step.
    step: Option<Step>,
}

/// The inputs that all calls of attention of a step share.
pub struct Step {
    /// The pool's row of each new row: i32.
    pub rows: Tensor,
    /// The sequences, as [`Sequences::list`](randori_cuda::ops::decode::Sequences::list).
    pub sequences: Tensor,
    /// The page tables: i32 (slots, width).
    pub tables: Tensor,
    /// Entries of a slot's table.
    pub width: usize,
    /// Number of sequences.
    pub count: usize,
    /// Most new tokens of a sequence.
    pub most_queries: usize,
    /// Most tokens of a sequence, the new ones included.
    pub most_keys: usize,
    /// The attention mask.
    pub spans: Vec<Span>,
    /// The mask as lists.
    pub lists: ListsByWindow,
}

impl Paged {
    /// A cache with enough pages for sequences of these lengths.
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

    /// Begins a step: gives its new tokens pages, and uploads the shared inputs.
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
        let (mut rows, mut sequences, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        for e in entries {
            let (old, table) = (lens[e.slot], &self.tables[e.slot]);
            let row = |i: usize| (table[i / PAGE] as usize * PAGE + i % PAGE) as i32;
            rows.extend((old..old + e.len).map(row));
            let numbers = [e.row, e.len, old + e.len, e.slot];
            sequences.extend(numbers.map(|n| n as i32));
            spans.push(Span::paged(e.row, e.len, table, PAGE, old + e.len)?);
        }
        self.step = Some(Step {
            rows: gpu.upload(&rows)?,
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
            lists: Default::default(),
        });
        Ok(())
    }

    /// Ends the step.
    pub fn end(&mut self) {
        self.step = None;
    }

    /// A free page. If there is none (sequences are longer than announced), the number of pages
    /// grows by a quarter.
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

    /// The pool of a call of attention, (block, call), and the current step; the pool is made or
    /// enlarged to hold all pages of rows like those of k.
    pub fn pool(
        &mut self,
        (layer, call): (usize, usize),
        k: &Tensor,
    ) -> Result<(&Pool, Option<&Step>)> {
        let (rows, pools) = (self.pages * PAGE, &mut self.pools[layer]);
        match pools.get(call) {
            None => pools.push(Pool::grow(None, rows, k)?),
            Some(p) if p.k.dims()[0] < rows => pools[call] = Pool::grow(Some(p), rows, k)?,
            Some(_) => {}
        }
        Ok((&pools[call], self.step.as_ref()))
    }

    /// The pool of a call of attention that has appended this step's keys and values.
    ///
    /// # Errors
    /// A call that has not.
    pub fn held(&self, (layer, call): (usize, usize)) -> Result<(&Pool, Option<&Step>)> {
        let pools = self.pools.get(layer);
        let pool = pools.and_then(|calls| calls.get(call));
        let pool = pool.ok_or_else(|| Error::rule("no call of attention has cached these keys"))?;
        Ok((pool, self.step.as_ref()))
    }
}

impl Pool {
    /// A pool of `rows` rows like those of `like`, which begins with the old one's.
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
