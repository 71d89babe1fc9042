//! A micro-batch as a flat run of tokens: packed, not padded, a pair's prompt computed once.

use randori_kernels::{Error, Lengths, Plan, Result, Run, SegmentMask};

use crate::rng::{self, Stream};

/// A stretch of consecutive tokens that attends to its parent (whole) and, causally, to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// First row.
    pub start: usize,
    /// Rows.
    pub len: usize,
    /// The segment it continues (a prompt); `None` for a root.
    pub parent: Option<usize>,
    /// Position of its first token (root: 0; child: the parent's length).
    pub position: usize,
    /// The pair or example it belongs to, whatever else is in the plan: masks of dropout go by it.
    pub item: u64,
    /// 0: a prompt; k: the item's k-th response.
    pub response: u64,
}

/// One response token whose log-prob is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The row whose hidden state predicts it.
    pub row: usize,
    /// The token.
    pub token: u32,
    /// Which sequence (response) it belongs to, counted from 0 over the plan.
    pub seq: usize,
}

/// A packed micro-batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// (tokens)
    pub ids: Vec<u32>,
    /// In row order; a parent precedes its children.
    pub segments: Vec<Segment>,
    /// Response tokens in order of `seq`, then position.
    pub targets: Vec<Target>,
    /// How many responses.
    pub seqs: usize,
    /// The architecture's [`Trace::border`](crate::Trace::border): responses on different sides of
    /// it do not share their prompt, which is computed for each side.
    pub border: Option<usize>,
}

/// Whether a prompt and its response are longer than the border.
fn is_long(border: Option<usize>, prompt: &[u32], response: &[u32]) -> bool {
    border.is_some_and(|border| prompt.len() + response.len() > border)
}

impl Packed {
    /// An empty micro-batch of a player whose architecture has this [border](crate::Trace::border).
    pub fn with_border(border: Option<usize>) -> Self {
        Packed {
            border,
            ..Packed::default()
        }
    }

    /// Adds a prompt and any number of responses that share it (one: SFT and scoring; two: a pair,
    /// real first). The first token of each response is predicted by the prompt's last row.
    /// `prompt` must not be empty.
    pub fn push(&mut self, prompt: &[u32], responses: &[&[u32]]) {
        let roots = self.segments.iter().filter(|s| s.parent.is_none());
        self.push_item(roots.count() as u64, prompt, responses);
    }

    /// The same with the item's number: see [`Segment::item`].
    pub fn push_item(&mut self, item: u64, prompt: &[u32], responses: &[&[u32]]) {
        if responses.is_empty() {
            self.push_prompt(item, prompt);
        }
        let mut root = None;
        for (number, response) in responses.iter().enumerate() {
            let long = is_long(self.border, prompt, response);
            let segment = match root {
                Some((segment, side)) if side == long => segment,
                _ => self.push_prompt(item, prompt),
            };
            root = Some((segment, long));
            self.push_response(segment, number as u64 + 1, response);
        }
    }

    /// Adds a prompt's rows; their segment.
    fn push_prompt(&mut self, item: u64, prompt: &[u32]) -> usize {
        self.segments.push(Segment {
            start: self.ids.len(),
            len: prompt.len(),
            parent: None,
            position: 0,
            item,
            response: 0,
        });
        self.ids.extend_from_slice(prompt);
        self.segments.len() - 1
    }

    /// Adds the rows and targets of the prompt's `number`-th response.
    fn push_response(&mut self, root: usize, number: u64, response: &[u32]) {
        let prompt = &self.segments[root];
        let (item, position) = (prompt.item, prompt.len);
        let (last, start) = (prompt.start + prompt.len - 1, self.ids.len());
        // the last response token predicts nothing, so it need not be computed
        let len = response.len().saturating_sub(1);
        for (i, &token) in response.iter().enumerate() {
            let row = if i == 0 { last } else { start + i - 1 };
            self.targets.push(Target {
                row,
                token,
                seq: self.seqs,
            });
        }
        if len > 0 {
            self.segments.push(Segment {
                start,
                len,
                parent: Some(root),
                position,
                item,
                response: number,
            });
            self.ids.extend_from_slice(&response[..len]);
        }
        self.seqs += 1;
    }

    /// How many rows [`Packed::push_item`] makes of a prompt and its responses.
    pub(crate) fn count_rows(border: Option<usize>, prompt: &[u32], responses: &[&[u32]]) -> usize {
        let side = |response: &&[u32]| is_long(border, prompt, response);
        let sides: Vec<bool> = responses.iter().map(side).collect();
        let prompts = 1 + sides.windows(2).filter(|pair| pair[0] != pair[1]).count();
        let rows = responses.iter().map(|r| r.len().saturating_sub(1));
        prompts * prompt.len() + rows.sum::<usize>()
    }

    /// Its rows as a pass goes over them: who sees whom, and with a seed, who is dropped.
    ///
    /// # Errors
    /// A plan that breaks its rules.
    pub(crate) fn to_plan(&self, dropout: Option<u64>) -> Result<Plan> {
        self.check()?;
        let mut positions = vec![0; self.ids.len()];
        let mut masks: Vec<SegmentMask> = Vec::with_capacity(self.segments.len());
        for (i, segment) in self.segments.iter().enumerate() {
            let own = Run {
                row: segment.start,
                len: segment.len,
                position: segment.position,
            };
            let (mut keys, tree) = match segment.parent {
                Some(parent) => (masks[parent].keys.clone(), masks[parent].tree),
                None => (Vec::new(), i),
            };
            keys.push(own);
            masks.push(SegmentMask {
                queries: own,
                keys,
                tree,
            });
            for (row, position) in (own.row..own.row + own.len).zip(own.position as u32..) {
                positions[row] = position;
            }
        }
        let dropout = dropout.map(|seed| self.row_keys(seed));
        Ok(Plan {
            lengths: self.lengths(),
            ..Plan::packed(self.ids.clone(), positions, masks, dropout)
        })
    }

    /// How many tokens the sequences have that each row belongs to: a segment that ends one counts
    /// its tokens and that which its last row predicts, a prompt those of its responses.
    fn lengths(&self) -> Vec<Lengths> {
        let last = |s: &Segment| s.start + s.len - 1;
        // what each row predicts that no segment goes on with
        let mut ends = vec![0usize; self.ids.len()];
        self.targets.iter().for_each(|t| ends[t.row] += 1);
        for parent in self.segments.iter().filter_map(|s| s.parent) {
            let row = last(&self.segments[parent]);
            ends[row] = ends[row].saturating_sub(1);
        }
        let mut of: Vec<Option<Lengths>> = vec![None; self.segments.len()];
        for (i, s) in self.segments.iter().enumerate().rev() {
            let end = ends[last(s)] > 0;
            if end || of[i].is_none() {
                let own = s.position + s.len + usize::from(end);
                of[i] = Some(Lengths::of(own).with(of[i]));
            }
            if let (Some(parent), Some(lengths)) = (s.parent, of[i]) {
                of[parent] = Some(lengths.with(of[parent]));
            }
        }
        let rows = self.segments.iter().zip(of);
        rows.flat_map(|(s, lengths)| std::iter::repeat_n(lengths, s.len))
            .flatten()
            .collect()
    }

    /// A key for every row: who it is, wherever it stands.
    fn row_keys(&self, seed: u64) -> Vec<u64> {
        let of_segment = |s: &Segment| {
            let (item, response, first) = (s.item, s.response, s.position as u64);
            (0..s.len as u64)
                .map(move |i| rng::word(Stream::Dropout, seed, [item, response, first + i, 0]))
        };
        self.segments.iter().flat_map(of_segment).collect()
    }

    /// Rules a pass relies on: segments tile the rows in order, parents come first, positions
    /// continue their parents, targets lie inside.
    fn check(&self) -> Result<()> {
        let mut row = 0;
        if self.ids.is_empty() {
            return Err(Error::rule("a micro-batch must hold at least one token"));
        }
        for (i, s) in self.segments.iter().enumerate() {
            let position = match s.parent {
                None => 0,
                Some(p) if p < i => self.segments[p].position + self.segments[p].len,
                Some(p) => {
                    return Err(Error::rule(format!(
                        "segment {i} comes before its parent {p}"
                    )));
                }
            };
            if s.start != row || s.len == 0 || s.position != position {
                return Err(Error::rule(format!(
                    "segment {i} must hold rows from {row} on at positions from {position} on, not {} from {} at {}",
                    s.len, s.start, s.position
                )));
            }
            row += s.len;
        }
        if row != self.ids.len() {
            return Err(Error::rule(format!(
                "the segments hold {row} rows, but there are {} tokens",
                self.ids.len()
            )));
        }
        match self
            .targets
            .iter()
            .find(|t| t.row >= row || t.seq >= self.seqs)
        {
            Some(t) => Err(Error::rule(format!(
                "a target at row {} of sequence {} lies outside {row} rows and {} sequences",
                t.row, t.seq, self.seqs
            ))),
            None => Ok(()),
        }
    }
}
