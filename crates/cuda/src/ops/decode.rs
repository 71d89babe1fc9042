//! Attention of a few new queries per sequence over a paged cache, and appending rows to that cache
//! (kernels/attention_decode.cu). For many queries per sequence (a prompt) use
//! [`Attention::forward`] with [`Span::paged`](super::tiles::Span::paged).

use super::attention::Attention;
use crate::{Arg, Error, Float, Grid, Launch, Ptr, Result, int};

/// Keys of one thread block. Chunks are cut by position in the sequence, so that results do not
/// depend on the batch.
pub const CHUNK: usize = 512;
/// Rows of one block; a row is a (query, head of the group).
const MERGE: usize = 16;

/// A paged cache: key i of slot s lies in row `tables[s][i / page] * page + i % page`, at position
/// i.
#[derive(Debug, Clone, Copy)]
pub struct Pages {
    /// Keys (rows, kv_heads, dim).
    pub k: Ptr,
    /// Values (rows, kv_heads, dim).
    pub v: Ptr,
    /// Page numbers of each slot: i32 (slots, pages). Entries behind a sequence's last key are not
    /// read.
    pub tables: Ptr,
    /// Entries of a slot's table.
    pub pages: usize,
    /// Rows of a page; a power of two is fastest.
    pub page: usize,
}

/// The sequences that have new queries.
#[derive(Debug, Clone, Copy)]
pub struct Sequences {
    /// i32 (count, 4): first row in q, number of queries, number of keys, slot. The queries are at
    /// the positions of the last keys, which are already in the cache.
    pub list: Ptr,
    /// Number of sequences.
    pub count: usize,
    /// Most queries of one sequence.
    pub queries: usize,
    /// Most keys of one sequence.
    pub keys: usize,
}

impl Attention {
    /// Sizes in f32 values of [`Attention::decode`]'s scratch `parts` and `weights`.
    pub fn decode_room(&self, keys: usize) -> (usize, usize) {
        match keys.div_ceil(CHUNK) {
            0 | 1 => (0, 0),
            chunks => {
                let rows = chunks * self.tokens * self.heads;
                (rows * self.dim, rows)
            }
        }
    }

    /// Writes out (tokens, heads, dim) for q of that shape; every row of q belongs to a sequence.
    /// `parts` and `weights` are scratch of [`Attention::decode_room`] values.
    ///
    /// # Errors
    /// Sizes that no kernel supports; as [`Launch::launch`].
    #[allow(clippy::too_many_arguments)] // tensors by name
    pub fn decode(
        &self,
        on: &dyn Launch,
        q: Ptr,
        cache: &Pages,
        sequences: &Sequences,
        out: Ptr,
        parts: Ptr,
        weights: Ptr,
    ) -> Result<()> {
        let compiled = self.compiled()?;
        if sequences.count == 0 || sequences.queries == 0 {
            return Ok(());
        }
        if cache.page == 0 || sequences.keys > cache.pages * cache.page {
            return Err(Error::rule(format!(
                "{} keys in {} pages of {} rows",
                sequences.keys, cache.pages, cache.page
            )));
        }
        let chunks = sequences.keys.div_ceil(CHUNK).max(1);
        let rows = (sequences.queries * (self.heads / self.kv_heads)).div_ceil(MERGE);
        let blocks = sequences.count * self.kv_heads;
        int(blocks)?;
        if chunks > 65535 || rows > 65535 {
            return Err(Error::rule(format!(
                "decoding takes up to 65535 chunks of {CHUNK} keys and of {MERGE} rows, got {chunks} and {rows}"
            )));
        }
        let mut grid = Grid::line(blocks, 128).shared(self.decode_shared(compiled));
        grid.blocks = [blocks as u32, rows as u32, chunks as u32];
        let pointers = [
            q,
            cache.k,
            cache.v,
            out,
            parts,
            weights,
            sequences.list,
            cache.tables,
        ];
        let mut args: Vec<Arg> = pointers.map(Arg::from).to_vec();
        args.extend([int(cache.pages)?, int(cache.page)?]);
        args.extend(self.sizes()?);
        let suffix = self.float.suffix();
        on.launch(
            &format!("attention_decode_{compiled}_{suffix}"),
            grid,
            &args,
        )?;
        if chunks == 1 {
            return Ok(());
        }
        let rows = self.tokens * self.heads;
        let sizes = [int(rows)?, int(chunks)?, int(self.dim)?];
        let mut args: Vec<Arg> = [parts, weights, out].map(Arg::from).to_vec();
        args.extend(sizes);
        let grid = Grid::line(rows.div_ceil(8), 256);
        on.launch(&format!("attention_join_{suffix}"), grid, &args)
    }

    /// Bytes of shared memory: 16 rows of q, a tile of 16 keys (in bf16 also one of 16 values) for
    /// each of 4 warps, and 272 floats for each.
    fn decode_shared(&self, compiled: usize) -> usize {
        let (tiles, padding) = match self.float {
            Float::F32 => (1, 4),
            Float::Bf16 if compiled.is_multiple_of(64) => (2, 0),
            Float::Bf16 => (2, 8),
        };
        let row = (compiled + padding) * self.float.bytes();
        MERGE * (1 + 4 * tiles) * row + 4 * 272 * 4
    }

    /// Copies row i of k and v (rows, kv_heads, dim) to row `places[i]` (i32) of the cache; rows
    /// with a negative place are skipped. Places must differ.
    ///
    /// # Errors
    /// As [`Attention::forward`].
    #[allow(clippy::too_many_arguments)] // tensors by name
    pub fn append(
        &self,
        on: &dyn Launch,
        k: Ptr,
        v: Ptr,
        places: Ptr,
        rows: usize,
        k_cache: Ptr,
        v_cache: Ptr,
    ) -> Result<()> {
        self.compiled()?;
        if rows == 0 {
            return Ok(());
        }
        int(rows)?;
        let width = self.kv_heads * self.dim;
        let threads = (width * self.float.bytes()).div_ceil(16);
        let grid = Grid::line(rows, threads.next_multiple_of(32).min(256) as u32);
        let pointers = [k, v, k_cache, v_cache, places];
        let mut args: Vec<Arg> = pointers.map(Arg::from).to_vec();
        args.push(int(width)?);
        let kernel = format!("attention_append_{}", self.float.suffix());
        on.launch(&kernel, grid, &args)
    }
}
