//! The attention mask as lists for the attention kernels: blocks of at most 64 queries (or keys),
//! each with the runs of at most 64 keys (or queries) that any of its rows sees (or is seen by).
//! Plain integers, made on the host once a plan and uploaded.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// Most rows of a block or a run.
pub const ROWS: usize = 64;

/// Consecutive rows of k and v at consecutive positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRun {
    /// First row in k and v.
    pub row: usize,
    /// Rows.
    pub len: usize,
    /// Position of the first row.
    pub position: usize,
}

/// Consecutive queries and the keys that they may see, of which each query sees those with `query
/// position - window < key position <= query position`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// First row in q.
    pub row: usize,
    /// Rows.
    pub len: usize,
    /// Position of the first query.
    pub position: usize,
    /// The keys: those of a segment and its ancestors, or the pages of a cached sequence.
    pub keys: Vec<KeyRun>,
}

impl Span {
    /// `len` queries from `row` on over a paged cache of `held` keys, at positions 0.. in pages of
    /// `page` rows: key i lies in row `table[i / page] * page + i % page`. The last query is at the
    /// last key's position. Adjacent pages become one run.
    ///
    /// # Errors
    /// Pages of no rows, a table too short, more queries than keys.
    pub fn paged(row: usize, len: usize, table: &[u32], page: usize, held: usize) -> Result<Span> {
        let has = table.len().saturating_mul(page);
        if page == 0 || held > has || len > held {
            return Err(Error::rule(format!(
                "{len} queries on {held} keys in {} pages of {page} rows",
                table.len()
            )));
        }
        let mut keys: Vec<KeyRun> = Vec::new();
        for (i, number) in table[..held.div_ceil(page)].iter().enumerate() {
            let position = i * page;
            let (row, n) = (*number as usize * page, page.min(held - position));
            match keys.last_mut() {
                Some(last) if last.row + last.len == row => last.len += n,
                _ => keys.push(KeyRun {
                    row,
                    len: n,
                    position,
                }),
            }
        }
        Ok(Span {
            row,
            len,
            position: held - len,
            keys,
        })
    }
}

/// The lists as the kernels read them: upload `blocks` and `runs` as i32.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    /// Each block: first row, rows, position of the first row, and its range of `runs` (first,
    /// end). Blocks with the most work come first.
    pub blocks: Vec<[i32; 5]>,
    /// Each run: first row, rows, position of the first row.
    pub runs: Vec<[i32; 3]>,
}

fn small(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| {
        Error::rule(format!(
            "attention counts rows and positions up to 2^31 - 1, got {n}"
        ))
    })
}

impl Lists {
    /// Blocks of the `rows` queries with the keys that each sees, in the order of the span's runs.
    /// Queries of no span get blocks without keys.
    ///
    /// # Errors
    /// Spans that overlap or exceed the rows, a number over 2^31 - 1.
    pub fn queries(spans: &[Span], rows: usize, window: Option<usize>) -> Result<Lists> {
        let mut lists = Lists::default();
        for span in spans {
            small(span.position + span.len)?;
            for from in (0..span.len).step_by(ROWS) {
                let count = ROWS.min(span.len - from);
                let (first, start) = (span.position + from, lists.runs.len());
                for run in &span.keys {
                    lists.see(run, first, first + count - 1, window)?;
                }
                lists.block(span.row + from, count, first, start)?;
            }
        }
        lists.complete(rows)
    }

    /// The inverse of a list of queries: blocks of the `rows` keys with the queries that see any of
    /// them. Keys that no query sees get blocks without queries, so that their gradients become
    /// zeros.
    ///
    /// # Errors
    /// Runs of keys that overlap without being equal (tiles must be the same for all spans), or
    /// exceed the rows.
    pub fn keys(&self, rows: usize) -> Result<Lists> {
        type Block = (i32, i32, Vec<[i32; 3]>);
        let mut found: BTreeMap<i32, Block> = BTreeMap::new();
        let mut blocks = self.blocks.clone();
        blocks.sort_unstable();
        for [row, count, position, first, end] in blocks {
            for [key, keys, at] in &self.runs[first as usize..end as usize] {
                let block = found.entry(*key).or_insert((*keys, *at, Vec::new()));
                if (block.0, block.1) != (*keys, *at) {
                    return Err(Error::rule(format!(
                        "keys from row {key} on are seen as {keys} at position {at} and as {} at {}",
                        block.0, block.1
                    )));
                }
                block.2.push([row, count, position]);
            }
        }
        let mut lists = Lists::default();
        for (row, (count, position, queries)) in found {
            let start = lists.runs.len();
            lists.runs.extend(queries);
            lists.block(row as usize, count as usize, position as usize, start)?;
        }
        lists.complete(rows)
    }

    /// Adds the tiles of a run of which queries at positions `first..=last` see any key. Tiles are
    /// counted from the run's beginning.
    fn see(
        &mut self,
        run: &KeyRun,
        first: usize,
        last: usize,
        window: Option<usize>,
    ) -> Result<()> {
        small(run.row + run.len)?;
        small(run.position + run.len)?;
        let low = window.map_or(0, |w| (first + 1).saturating_sub(w));
        for from in (0..run.len).step_by(ROWS) {
            let count = ROWS.min(run.len - from);
            let position = run.position + from;
            if position <= last && position + count > low {
                self.runs
                    .push([small(run.row + from)?, count as i32, position as i32]);
            }
        }
        Ok(())
    }

    fn block(&mut self, row: usize, count: usize, position: usize, start: usize) -> Result<()> {
        self.blocks.push([
            small(row)?,
            small(count)?,
            small(position)?,
            small(start)?,
            small(self.runs.len())?,
        ]);
        Ok(())
    }

    /// Adds blocks for the rows that have none, and sorts by work: a long block started last would
    /// run alone.
    fn complete(mut self, rows: usize) -> Result<Lists> {
        self.blocks.sort_unstable();
        let mut next = 0;
        let end = small(rows)?;
        let mut gaps = Vec::new();
        for [row, count, ..] in self.blocks.iter().copied().chain([[end, 0, 0, 0, 0]]) {
            if row < next || row > end || count > end - row {
                return Err(Error::rule(format!(
                    "rows {row}..{} of {rows}, of which those before {next} are taken",
                    i64::from(row) + i64::from(count)
                )));
            }
            while next < row {
                let count = (row - next).min(ROWS as i32);
                gaps.push([next, count, 0, 0, 0]);
                next += count;
            }
            next = row + count;
        }
        self.blocks.extend(gaps);
        let runs = &self.runs;
        let work = |b: &[i32; 5]| -> i64 {
            let own = &runs[b[3] as usize..b[4] as usize];
            own.iter().map(|r| i64::from(r[1])).sum()
        };
        self.blocks
            .sort_by_cached_key(|b| (std::cmp::Reverse(work(b)), b[0]));
        Ok(self)
    }
}
