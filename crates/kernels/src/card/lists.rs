//! Attention masks on a GPU, as lists of tiles ([`randori_cuda::ops::tiles`]): made on the host
//! from spans and uploaded once a pass.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use randori_cuda::{
    gpu::{Gpu, ptr},
    ops::{
        attention::DeviceLists,
        tiles::{Lists, Span},
    },
};

use crate::Result;

/// Lists in a GPU's memory.
pub struct Uploaded {
    blocks: Tensor,
    count: usize,
    runs: Tensor,
}

impl Uploaded {
    fn new(lists: &Lists) -> Result<Uploaded> {
        let gpu = Gpu::open()?;
        let mut runs = lists.runs.concat();
        if runs.is_empty() {
            runs.push(0); // an address at least
        }
        Ok(Uploaded {
            blocks: gpu.upload(&lists.blocks.concat())?,
            count: lists.blocks.len(),
            runs: gpu.upload(&runs)?,
        })
    }

    /// The lists' addresses, as a kernel takes them.
    pub fn addresses(&self) -> Result<DeviceLists> {
        Ok(DeviceLists {
            blocks: ptr(&self.blocks)?,
            count: self.count,
            runs: ptr(&self.runs)?,
        })
    }
}

/// The lists of a pass for one size of window and of chunk: the keys of each block of queries and,
/// once a backward pass has asked for it, the inverse.
pub struct WindowLists {
    sizes: (usize, Option<usize>),
    lists: Lists,
    /// Blocks of queries.
    pub queries: Uploaded,
    keys: Mutex<Option<Arc<Uploaded>>>,
}

/// The lists of a pass, one for each size of window and of chunk used so far.
pub type ListsByWindow = Mutex<Vec<Arc<WindowLists>>>;

impl WindowLists {
    /// The lists for these `sizes` of window and of chunk among `known`; if there are none yet,
    /// they are made from the spans of the pass's `rows` queries, cut by chunks.
    pub fn of(
        known: &ListsByWindow,
        rows: usize,
        sizes: (usize, Option<usize>),
        spans: impl FnOnce() -> Vec<Span>,
    ) -> Result<Arc<WindowLists>> {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lists) = known.iter().find(|l| l.sizes == sizes) {
            return Ok(lists.clone());
        }
        let (window, _) = sizes;
        let limit = (window != usize::MAX).then_some(window);
        let lists = Lists::queries(&spans(), rows, limit)?;
        let new = Arc::new(WindowLists {
            sizes,
            queries: Uploaded::new(&lists)?,
            lists,
            keys: Mutex::default(),
        });
        known.push(new.clone());
        Ok(new)
    }

    /// The inverse: blocks of the `rows` keys with the queries that see them.
    pub fn keys(&self, rows: usize) -> Result<Arc<Uploaded>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = &*keys {
            return Ok(keys.clone());
        }
        let new = Arc::new(Uploaded::new(&self.lists.keys(rows)?)?);
        Ok(keys.insert(new).clone())
    }

    /// Pairs of query and key in the tiles, which is what the kernels compute.
    pub fn pairs(&self) -> usize {
        let of = |b: &[i32; 5]| {
            let runs = &self.lists.runs[b[3] as usize..b[4] as usize];
            b[1] as usize * runs.iter().map(|r| r[1] as usize).sum::<usize>()
        };
        self.lists.blocks.iter().map(of).sum()
    }
}
